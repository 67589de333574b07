//! A frame as it comes off the wire or the disk: stamp, header, entries, padding.
#![no_main]

use kontiki_core::{IndexRange, LogIndex};
use kontiki_frame::{
    BLOCK_BYTES, BODY_OFFSET, DiskStamp, ENTRY_LENGTH_BYTES, Header, SESSION_PREFIX_BYTES, WireStamp, entries, parse_header, verify,
};
use kontiki_fuzz::{meter, repair};
use libfuzzer_sys::fuzz_target;

fn check(frame: &[u8]) {
    let (wire, disk) = (WireStamp::parse(frame), DiskStamp::parse(frame));
    assert!(wire.is_err() || disk.is_err(), "one stamp is not the other");
    let header = parse_header(frame);
    let verified = verify(frame);
    if let Ok(verified) = verified {
        assert_eq!(header, Ok(verified), "what verifies has that header");
        assert_eq!(frame.len(), verified.frame_bytes());
        whole(frame, &verified);
    }
    let Ok(header) = header else { return };
    assert!(header.meta.count > 0 && header.meta.first.0 > 0 && header.meta.last() >= header.meta.first);
    let ranges = [wire.map(|stamp| stamp.range), disk.map(|stamp| stamp.range), Ok(header.meta.range())];
    for range in ranges.into_iter().flatten() {
        let walked = entries(frame, &header, range).map(|entry| {
            assert!(range.from <= entry.index && entry.index <= range.to, "outside of the range");
            entry.index
        });
        assert!(walked.count() <= frame.len() / ENTRY_LENGTH_BYTES, "an entry takes up bytes");
        if header.check_range(range).is_ok() && verified.is_ok() {
            assert_eq!(entries(frame, &header, range).count() as u64, range.to.0 - range.from.0 + 1, "every entry of the range is there");
        }
    }
    // A range that no stamp named, at the very ends of the numbers.
    for range in [IndexRange { from: LogIndex(0), to: LogIndex(u64::MAX) }, IndexRange { from: LogIndex(u64::MAX), to: LogIndex(0) }] {
        assert!(entries(frame, &header, range).count() <= frame.len());
    }
}

/// The entries of a verified frame are all of its body.
fn whole(frame: &[u8], header: &Header) {
    let prefix = ENTRY_LENGTH_BYTES + if header.sessions { SESSION_PREFIX_BYTES } else { 0 };
    let mut next = header.meta.first;
    let mut bytes = 0;
    for entry in entries(frame, header, header.meta.range()) {
        assert_eq!((entry.index, entry.term, entry.session.is_some()), (next, header.meta.term, header.sessions));
        next = next.next();
        bytes += prefix + entry.payload.len();
    }
    assert_eq!((next, bytes), (header.meta.last().next(), header.body_bytes as usize));
}

fuzz_target!(|data: &[u8]| {
    meter::within(0, || check(data));
    let mut frame = data.to_vec();
    frame.resize(data.len().next_multiple_of(BLOCK_BYTES).max(BODY_OFFSET), 0);
    repair::frame(&mut frame);
    meter::within(0, || check(&frame));
});
