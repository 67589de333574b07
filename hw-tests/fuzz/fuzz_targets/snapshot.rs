//! A snapshot's file, checked as `kontiki snapshot verify` and a fetch check it.
#![no_main]

use std::convert::Infallible;

use kontiki_fuzz::{chunks, meter};
use kontiki_snapshot::limits::{CHUNK_BYTES, DATA_BYTES, RUN_BYTES};
use kontiki_snapshot::offline::{OfflineError, verify};
use kontiki_snapshot::{Check, Info, Part};
use libfuzzer_sys::fuzz_target;

/// A run that is read, and a digest in the making.
const MEMORY: usize = RUN_BYTES + (4 << 10);

fn whole(mut file: &[u8]) -> Result<Info, OfflineError<Infallible>> {
    let read = |into: &mut [u8]| {
        let length = file.len().min(into.len());
        into[..length].copy_from_slice(&file[..length]);
        file = &file[length..];
        Ok(length)
    };
    verify(read, |_| {})
}

/// The same by hand: what is told of the whole, if it is one.
fn walk(file: &[u8]) -> Option<Info> {
    let mut check = Check::new();
    let (mut before, mut bytes) = (Part::Head, [0; 3]);
    for chunk in file.chunks(CHUNK_BYTES) {
        let at = check.offset();
        match check.take(chunk) {
            Ok(chunk) => {
                assert_eq!(check.offset(), at + CHUNK_BYTES as u64);
                assert!(chunk.part >= before && (1..=DATA_BYTES).contains(&chunk.data.len()));
                before = chunk.part;
                if let Some(bytes) = bytes.get_mut((chunk.part as usize).wrapping_sub(2)) {
                    *bytes += chunk.data.len() as u64;
                }
            }
            Err(flaw) => {
                assert_eq!(check.offset(), at, "a chunk that is refused changes nothing");
                assert_eq!(check.take(chunk), Err(flaw));
                return None;
            }
        }
    }
    let info = check.whole()?;
    assert_eq!([info.sections.configuration, info.sections.sessions, info.sections.machine], bytes);
    assert_eq!(info.bytes, file.len() as u64);
    assert!(info.head.full || info.sections.machine == 0);
    assert_eq!(check.head(), Some(&info.head));
    Some(info)
}

fuzz_target!(|data: &[u8]| {
    let file = chunks::file(data);
    let found = meter::within(MEMORY, || whole(&file));
    assert_eq!(found.ok(), walk(&file), "the same file, the same verdict");
});
