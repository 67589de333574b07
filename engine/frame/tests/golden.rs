//! Pins the format: these bytes are what nodes in the field have on their disks. If this test fails, the
//! format changed, and needs a new version and a way to read the old one.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use kontiki_core::{ClusterId, FrameMeta, GroupId, Incarnation, IndexRange, LogIndex, NodeId, SessionId, Subterm, Term};
use kontiki_frame::{BLOCK_BYTES, BODY_OFFSET, DiskStamp, Header, Kind, STAMP_BYTES, WireStamp, put_entry, seal, seal_noop};

fn hex(bytes: &[u8]) -> String {
    bytes.chunks(16).map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n").collect()
}

fn frame() -> Vec<u8> {
    let mut frame = vec![0xee; BLOCK_BYTES];
    let at = put_entry(&mut frame, BODY_OFFSET, Some((0x1111, 0x2222)), b"kon").unwrap();
    let end = put_entry(&mut frame, at, Some((0x3333, 0x4444)), b"tiki").unwrap();
    let header = Header {
        kind: Kind::Entries,
        sessions: true,
        cluster: ClusterId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
        group: GroupId(0x55),
        meta: FrameMeta { term: Term(9), first: LogIndex(1000), count: 2, prev_term: Term(8) },
        subterm: Subterm(0x77),
        cluster_ns: 0x0011_2233_4455_6677,
        proposed_ns: 1_700_000_000_000_000_000,
        body_bytes: (end - BODY_OFFSET) as u32,
    };
    seal(&mut frame, &header);
    frame
}

#[test]
fn a_sealed_frame_on_disk() {
    let mut frame = frame();
    DiskStamp {
        position: 0x10_0000,
        generation: 3,
        boot: Incarnation(4),
        range: IndexRange { from: LogIndex(1000), to: LogIndex(1001) },
        watermark: 0xf_0000,
        node: NodeId(2),
    }
    .write(&mut frame);
    assert_eq!(
        hex(&frame[..BODY_OFFSET + 47]),
        "\
4b746b445b18448f0000100000000000\n\
03000000000000000400000000000000\n\
e803000000000000e903000000000000\n\
00000f00000000000200000000000000\n\
4b746b46e430c7720100010102356f8d\n\
2f000000020000000900000000000000\n\
e8030000000000000800000000000000\n\
00002a36fe9c97175500000000000000\n\
100f0e0d0c0b0a090807060504030201\n\
01000000000000007766554433221100\n\
77000000000000000000000000000000\n\
00000000000000000000000000000000\n\
13000000111100000000000022220000\n\
000000006b6f6e140000003333000000\n\
000000444400000000000074696b69\n\
"
    );
    assert!(frame[BODY_OFFSET + 47..].iter().all(|&b| b == 0));
}

#[test]
fn a_wire_stamp() {
    let mut stamp = [0; STAMP_BYTES];
    let range = IndexRange { from: LogIndex(1001), to: LogIndex(1001) };
    WireStamp { session: SessionId(7), sequence: 8, leader_term: Term(10), commit: LogIndex(999), range, round: 11 }
        .write(&mut stamp, &frame());
    assert_eq!(
        hex(&stamp),
        "\
4b746b57042135ba0700000000000000\n\
08000000000000000a00000000000000\n\
e703000000000000e903000000000000\n\
e9030000000000000b00000000000000\n\
"
    );
}

#[test]
fn a_noop() {
    let mut frame = vec![0xee; BLOCK_BYTES];
    let meta = FrameMeta { term: Term(2), first: LogIndex(1), count: 1, prev_term: Term(0) };
    seal_noop(&mut frame, ClusterId(1), GroupId(0), meta, 5);
    assert_eq!(
        hex(&frame[STAMP_BYTES..BODY_OFFSET + 4]),
        "\
4b746b46163bda2c010002001cdf4421\n\
04000000010000000200000000000000\n\
01000000000000000000000000000000\n\
05000000000000000000000000000000\n\
01000000000000000000000000000000\n\
01000000000000000000000000000000\n\
00000000000000000000000000000000\n\
00000000000000000000000000000000\n\
00000000\n\
"
    );
}
