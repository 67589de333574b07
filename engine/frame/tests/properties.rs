//! What holds for every frame.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use kontiki_core::{ClusterId, FrameMeta, GroupId, Incarnation, IndexRange, LogIndex, NodeId, SessionId, Subterm, Term};
use kontiki_frame::{
    BODY_OFFSET, DiskStamp, ENTRY_LENGTH_BYTES, FrameError, Header, Kind, MAX_BODY_BYTES, SECTOR_BYTES, STAMP_BYTES, WireStamp, entries,
    frame_bytes, parse_header, put_entry, seal, verify, was_cut_short,
};
use proptest::prelude::*;

type Payloads = Vec<Vec<u8>>;

fn build(payloads: &Payloads, sessions: bool, first: u64, term: u64) -> (Vec<u8>, Header) {
    let prefix = if sessions { 16 } else { 0 };
    let body: usize = payloads.iter().map(|p| ENTRY_LENGTH_BYTES + prefix + p.len()).sum();
    let mut frame = vec![0xa5; frame_bytes(body)];
    let mut at = BODY_OFFSET;
    for (i, payload) in payloads.iter().enumerate() {
        at = put_entry(&mut frame, at, sessions.then_some((i as u64, 7)), payload).unwrap();
    }
    let header = Header {
        kind: Kind::Entries,
        sessions,
        cluster: ClusterId(u128::MAX - 5),
        group: GroupId(3),
        meta: FrameMeta { term: Term(term), first: LogIndex(first), count: payloads.len() as u32, prev_term: Term(term - 1) },
        subterm: Subterm(u32::MAX),
        cluster_ns: u64::MAX - 1,
        proposed_ns: u64::MAX,
        body_bytes: body as u32,
    };
    seal(&mut frame, &header);
    (frame, header)
}

fn stamps(frame: &[u8], range: IndexRange) -> (DiskStamp, WireStamp, [u8; STAMP_BYTES]) {
    let disk = DiskStamp { position: 8192, generation: 2, boot: Incarnation(3), range, watermark: 4096, node: NodeId(1) };
    let wire = WireStamp { session: SessionId(1), sequence: 2, leader_term: Term(900), commit: LogIndex(4), range, round: 5 };
    let mut out = [0; STAMP_BYTES];
    wire.write(&mut out, frame);
    (disk, wire, out)
}

fn payloads() -> impl Strategy<Value = Payloads> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..40)
}

proptest! {
    #[test]
    fn what_was_sealed_is_read_back(
        payloads in payloads(), sessions: bool, first in 1..u64::MAX - 100, term in 1u64.., cut in (0usize..40, 0usize..40),
    ) {
        let (frame, header) = build(&payloads, sessions, first, term);
        prop_assert_eq!(verify(&frame), Ok(header));
        prop_assert_eq!(parse_header(&frame[..BODY_OFFSET]), Ok(header));
        let (a, b) = (cut.0 % payloads.len(), cut.1 % payloads.len());
        let (from, to) = (a.min(b), a.max(b));
        let range = IndexRange { from: LogIndex(first + from as u64), to: LogIndex(first + to as u64) };
        prop_assert_eq!(header.check_range(range), Ok(()));
        let got: Vec<_> = entries(&frame, &header, range).collect();
        prop_assert_eq!(got.len(), to - from + 1);
        for (i, entry) in (from..=to).zip(got) {
            prop_assert_eq!(entry.index.0, first + i as u64);
            prop_assert_eq!(entry.term, header.meta.term);
            prop_assert_eq!(entry.session, sessions.then_some((i as u64, 7)));
            prop_assert_eq!(entry.payload, &payloads[i][..]);
        }
    }

    /// A frame over zeros of which some sectors were not written: whoever finds one of them empty that was not to be, is
    /// right; and of a frame that was written whole, whatever was lost of it later, nobody says so.
    #[test]
    fn what_was_never_written_is_told_from_what_was_lost(
        runs in prop::collection::vec((0u8..3, 0usize..3000), 1..60), missing in prop::collection::vec(any::<bool>(), 1..400),
        lost in 1usize..400, garbage in 1u8..,
    ) {
        // Whole sectors of zeros are among what was proposed.
        let payloads = runs.into_iter().map(|(byte, bytes)| vec![byte; bytes]).collect();
        let (mut frame, header) = build(&payloads, false, 5, 2);
        frame[..STAMP_BYTES].fill(1);
        prop_assert!(!was_cut_short(&frame, &header));
        let mut torn = frame.clone();
        for (sector, _) in torn.chunks_mut(SECTOR_BYTES).zip(missing.iter().cycle()).skip(1).filter(|(_, missing)| **missing) {
            sector.fill(0);
        }
        prop_assert!(!was_cut_short(&torn, &header) || torn != frame, "what is all there was written");
        let of = lost % (frame.len() / SECTOR_BYTES);
        frame.chunks_mut(SECTOR_BYTES).skip(1).filter(|_| of > 0).nth(of.saturating_sub(1)).into_iter().for_each(|sector| sector.fill(garbage));
        prop_assert!(!was_cut_short(&frame, &header), "lost, not missing");
    }

    /// Of random bytes every missing sector shows.
    #[test]
    fn a_missing_sector_shows(payloads in payloads(), sector in 1usize..40) {
        let (mut frame, header) = build(&payloads, true, 5, 2);
        let used = (BODY_OFFSET + header.body_bytes as usize).div_ceil(SECTOR_BYTES);
        let sector = frame.chunks_mut(SECTOR_BYTES).take(used).skip(1).nth(sector % used.max(2) - (sector % used.max(2)).min(1));
        let Some(sector) = sector else { return Ok(()) };
        let begins = sector[..8] != [0; 8];
        sector.fill(0);
        prop_assert!(was_cut_short(&frame, &header) || !begins || frame.len() > 64 * SECTOR_BYTES);
    }

    #[test]
    fn stamps_are_read_back_and_leave_the_sealed_part_alone(payloads in payloads()) {
        let (mut frame, header) = build(&payloads, false, 5, 2);
        let sealed = frame[STAMP_BYTES..].to_vec();
        let (disk, wire, head) = stamps(&frame, header.meta.range());
        frame[..STAMP_BYTES].copy_from_slice(&head);
        prop_assert_eq!(WireStamp::parse(&frame), Ok(wire));
        prop_assert_eq!(DiskStamp::parse(&frame), Err(FrameError::StampMagic));
        disk.write(&mut frame);
        prop_assert_eq!(DiskStamp::parse(&frame), Ok(disk));
        prop_assert_eq!(WireStamp::parse(&frame), Err(FrameError::StampMagic));
        prop_assert_eq!(&frame[STAMP_BYTES..], &sealed[..]);
    }

    #[test]
    fn hostile_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..9000), magic: bool) {
        if magic && bytes.len() >= BODY_OFFSET {
            bytes[STAMP_BYTES..STAMP_BYTES + 4].copy_from_slice(b"KtkF");
        }
        prop_assert!(verify(&bytes).is_err());
        prop_assert!(DiskStamp::parse(&bytes).is_err());
        prop_assert!(WireStamp::parse(&bytes).is_err());
    }

    /// A body whose lengths lie, under a checksum that is right: a buggy peer's frame.
    #[test]
    fn entries_that_do_not_tile_are_refused(payloads in payloads(), lie in any::<u32>(), at in any::<prop::sample::Index>(), sessions: bool) {
        let (mut frame, header) = build(&payloads, sessions, 1, 1);
        let target = at.index(payloads.len());
        let prefix = if sessions { 16 } else { 0 };
        let offset: usize =
            BODY_OFFSET + payloads[..target].iter().map(|p| ENTRY_LENGTH_BYTES + prefix + p.len()).sum::<usize>();
        prop_assume!(lie as usize != payloads[target].len() + prefix);
        frame[offset..offset + 4].copy_from_slice(&lie.to_le_bytes());
        seal(&mut frame, &header);
        // The lie may by chance tile again over payload bytes; then every entry must still lie in the body.
        match verify(&frame) {
            Err(FrameError::Entry { .. }) => {}
            Ok(header) => prop_assert_eq!(
                entries(&frame, &header, header.meta.range()).count(), payloads.len()),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

/// H98, H84: every byte of a stored frame and of a travelling one, every bit.
#[test]
fn every_flipped_bit_is_found() {
    let (mut frame, header) = build(&vec![vec![1; 50], vec![2; 60]], true, 77, 4);
    let range = header.meta.range();
    let (disk, wire, head) = stamps(&frame, range);
    disk.write(&mut frame);
    for stamp in [None, Some(head)] {
        if let Some(head) = stamp {
            frame[..STAMP_BYTES].copy_from_slice(&head);
        }
        let intact = |frame: &[u8]| {
            let stamped = match stamp {
                None => DiskStamp::parse(frame).map(|s| assert_eq!(s, disk)),
                Some(_) => WireStamp::parse(frame).map(|s| assert_eq!(s, wire)),
            };
            verify(frame).and(stamped).is_ok()
        };
        assert!(intact(&frame));
        for bit in 0..frame.len() * 8 {
            frame[bit / 8] ^= 1 << (bit % 8);
            assert!(!intact(&frame), "bit {bit} flipped unseen");
            frame[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn a_stamp_belongs_to_one_frame() {
    let (mut one, header) = build(&vec![vec![1; 50]], false, 1, 1);
    let (mut other, _) = build(&vec![vec![2; 50]], false, 1, 1);
    let (disk, _, head) = stamps(&one, header.meta.range());
    disk.write(&mut one);
    other[..STAMP_BYTES].copy_from_slice(&one[..STAMP_BYTES]);
    assert_eq!(DiskStamp::parse(&other), Err(FrameError::StampChecksum));
    other[..STAMP_BYTES].copy_from_slice(&head);
    assert_eq!(WireStamp::parse(&other), Err(FrameError::StampChecksum));
}

/// Headers that contradict themselves under a right checksum: what a buggy or hostile peer could send.
#[test]
fn impossible_headers_are_refused() {
    let (frame, _) = build(&vec![vec![1; 50]], false, 1, 1);
    let patch = |at: usize, bytes: &[u8]| {
        let mut frame = frame.clone();
        let header = &mut frame[STAMP_BYTES..BODY_OFFSET];
        header[at..at + bytes.len()].copy_from_slice(bytes);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&header[..4]);
        crc.update(&header[8..]);
        header[4..8].copy_from_slice(&crc.finalize().to_le_bytes());
        verify(&frame).unwrap_err()
    };
    assert_eq!(patch(8, &[2, 0]), FrameError::Version { found: 2 });
    assert_eq!(patch(10, &[0]), FrameError::Kind { found: 0 });
    assert_eq!(patch(10, &[2]), FrameError::Meta, "a no-op with a payload");
    assert_eq!(patch(11, &[2]), FrameError::Reserved);
    assert_eq!(patch(127, &[1]), FrameError::Reserved);
    assert_eq!(patch(20, &0u32.to_le_bytes()), FrameError::Meta, "no entries");
    assert_eq!(patch(20, &u32::MAX.to_le_bytes()), FrameError::Meta, "more entries than bytes");
    assert_eq!(patch(24, &0u64.to_le_bytes()), FrameError::Meta, "term zero");
    assert_eq!(patch(32, &0u64.to_le_bytes()), FrameError::Meta, "index zero");
    assert_eq!(patch(32, &u64::MAX.to_le_bytes()), FrameError::Meta, "index overflow");
    assert_eq!(patch(40, &9u64.to_le_bytes()), FrameError::Meta, "a falling term");
    assert_eq!(patch(16, &u32::MAX.to_le_bytes()), FrameError::Length { expected: MAX_BODY_BYTES, found: u32::MAX as usize });
    assert_eq!(patch(16, &8000u32.to_le_bytes()), FrameError::Length { expected: 8192, found: 4096 });
}
