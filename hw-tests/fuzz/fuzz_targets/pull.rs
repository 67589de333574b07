//! A record of a snapshot's connection: what its receiver wants, what its source answers.
#![no_main]

use kontiki_fuzz::{meter, repair};
use kontiki_net::limits::{MAX_WANT_CHUNKS, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_RECORD_BYTES};
use kontiki_net::{SnapshotRecord, SnapshotSays};
use libfuzzer_sys::fuzz_target;

fn check(bytes: &[u8; SNAPSHOT_RECORD_BYTES]) {
    let Ok(record) = SnapshotRecord::decode(bytes) else { return };
    let mut out = [0; SNAPSHOT_RECORD_BYTES];
    record.encode(&mut out);
    assert_eq!(out, *bytes, "one record is written in one way");
    match record.says {
        SnapshotSays::Want(want) => {
            assert!((1..=MAX_WANT_CHUNKS).contains(&want.chunks));
            assert!(want.id.source.0 > 0 && want.id.index.0 > 0 && want.id.term.0 > 0);
            let end = want.offset.checked_add(u64::from(want.chunks) * SNAPSHOT_CHUNK_BYTES as u64);
            assert!(end.is_some() && want.offset.is_multiple_of(SNAPSHOT_CHUNK_BYTES as u64), "{want:?}");
        }
        SnapshotSays::Chunk { id, offset } => {
            assert!(id.source.0 > 0 && offset.is_multiple_of(SNAPSHOT_CHUNK_BYTES as u64));
        }
        SnapshotSays::Which { .. } | SnapshotSays::This { .. } | SnapshotSays::Refused(_) => {}
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = [0; SNAPSHOT_RECORD_BYTES];
    let length = data.len().min(bytes.len());
    bytes[..length].copy_from_slice(&data[..length]);
    meter::within(0, || check(&bytes));
    repair::record(&mut bytes, 12);
    meter::within(0, || check(&bytes));
});
