//! A data directory: hard state and segments, through the same recovery as a start.
#![no_main]

use std::convert::Infallible;

use kontiki_frame::{BLOCK_BYTES, MAX_FRAME_BYTES, entries, verify};
use kontiki_fuzz::image::Image;
use kontiki_fuzz::meter;
use kontiki_wal::limits::RECOVERY_READ_BYTES;
use kontiki_wal::offline::{FrameInfo, OfflineError, Verdict, examine};
use libfuzzer_sys::fuzz_target;

/// A read, a longest frame that is gathered while its buffer doubles, and tables.
const MEMORY: usize = RECOVERY_READ_BYTES + 2 * MAX_FRAME_BYTES;
/// Every block a few times over: a walk goes back at a link, and the search is over each file once.
const READS: usize = 64 + 4 * kontiki_fuzz::image::SEGMENTS;

fn look(image: &Image) -> Result<Verdict, OfflineError<Infallible>> {
    let (mut reads, mut frames, mut end, mut last) = (0, 0, 0, None);
    let mut read = |name: &_, offset, into: &mut [u8]| {
        reads += 1;
        assert!(reads <= READS, "recovery reads in circles");
        Ok(image.read(name, offset, into))
    };
    let mut visit = |info: FrameInfo<'_>| {
        assert_eq!(verify(info.frame), Ok(info.header), "what the walk takes is intact");
        assert_eq!(info.header.check_range(info.stamp.range), Ok(()));
        assert!(info.stamp.position >= end && info.offset >= BLOCK_BYTES as u64, "positions grow, behind the header");
        end = info.stamp.position + info.frame.len() as u64;
        let range = info.stamp.range;
        assert!(last.is_none_or(|last| range.from.0 <= last + 1), "no hole");
        assert_eq!(entries(info.frame, &info.header, range).count() as u64, range.to.0 - range.from.0 + 1);
        last = Some(range.to.0);
        frames += 1;
    };
    let verdict = examine(&image.list(), &[], &mut read, &mut visit)?;
    assert_eq!(
        (verdict.report.frames, last.unwrap_or(verdict.report.last.0)),
        (frames, verdict.report.last.0),
        "the report says what was seen"
    );
    assert!(frames == 0 || verdict.report.end >= end, "the log ends behind its last frame");
    assert!(!verdict.intact() || verdict.report.damage.is_none());
    Ok(verdict)
}

fuzz_target!(|data: &[u8]| {
    let image = Image::new(data);
    let found = meter::within(MEMORY, || look(&image));
    assert_eq!(found, look(&image), "the same files, the same verdict");
});
