//! Recovery reads in pieces of 1 MiB: frames that lie across two pieces are found, and found damaged, like any other.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use kontiki_frame::parse_header;
use kontiki_wal::Options;
use kontiki_wal::limits::RECOVERY_READ_BYTES;
use support::{Disk, Node, check_payloads, options};

const NAME: &str = "log-0000000000000001.seg";

fn large() -> Options {
    Options { segment_bytes: 4 << 20, max_frame_bytes: 256 << 10, max_write_bytes: 256 << 10, ..options() }
}

/// A frame in the segment: offset, end, and the last index before it.
type At = (usize, usize, u64);

/// One segment of frames of all sizes, each a write of its own; the last lies across two reads.
fn log() -> (Disk, Vec<At>) {
    let mut node = Node::try_open(Disk::default(), large()).unwrap();
    node.save(1, 1);
    let mut frames: Vec<At> = Vec::new();
    for n in 0.. {
        let before = node.last();
        let block = node.append(1 + n % 3, 1, [30_000, 900, 60_000, 4_000][n as usize % 4]).unwrap();
        assert!(node.run());
        let from = frames.last().map_or(4096, |(_, to, _)| *to);
        frames.push((from, from + block.len(), before));
        if spans(&frames[n as usize]) && from > 2 * RECOVERY_READ_BYTES {
            break;
        }
    }
    let disk = node.kill();
    assert!(frames.iter().all(|(from, _, _)| parse_header(&disk.contents(NAME)[*from..]).is_ok()), "all in one segment");
    (disk, frames)
}

/// Whether recovery's reads, which begin behind the header, cut the frame in two.
fn spans((from, to, _): &At) -> bool {
    (from - 4096) / RECOVERY_READ_BYTES != (to - 4097) / RECOVERY_READ_BYTES
}

#[test]
fn frames_across_two_reads() {
    let (disk, frames) = log();
    assert!(frames.iter().filter(|frame| spans(frame)).count() >= 3);
    let mut node = Node::try_open(disk, large()).unwrap();
    assert_eq!((node.report.damage, node.report.dropped_tail_bytes), (None, 0));
    let (bytes, last) = (node.report.bytes, node.last());
    assert_eq!(bytes as usize, frames.last().unwrap().1 - 4096);
    // All that the report says of the log.
    let (newest, base) = (frames.last().unwrap(), large().segment_bytes);
    let report = &node.report;
    assert_eq!((report.segments, report.frames as usize), (1, frames.len()));
    assert_eq!((report.first.0, report.last.0, report.last_term.0), (1, last, 1));
    assert_eq!((report.end, report.watermark), (base + newest.1 as u64, base + newest.0 as u64), "each frame was durable before the next");
    node.pool = kontiki_mem::Pool::new(1, 256 << 10);
    let entries = node.read_all(1, last).unwrap();
    assert_eq!(entries.len() as u64, last);
    check_payloads(&entries);
}

/// Damage is reported where the frame begins; what lies behind it is searched, and the frame itself is too.
#[test]
fn damage_across_two_reads() {
    let (disk, frames) = log();
    let (newest, older) = frames.split_last().unwrap();
    for &(from, to, before) in older.iter().filter(|frame| spans(frame)) {
        for at in [from + 300, to - 5000] {
            let mut disk = disk.clone();
            disk.flip(NAME, at as u64, 0);
            let node = Node::try_open(disk, large()).unwrap();
            let damage = node.report.damage.unwrap();
            assert_eq!((damage.segment, damage.offset as usize, node.last()), (1, from, before));
            assert_eq!(node.report.dropped_tail_bytes as usize, newest.1 - from);
        }
    }
    // Past every watermark: torn.
    let &(from, to, before) = newest;
    let mut torn = disk.clone();
    torn.flip(NAME, to as u64 - 5000, 0);
    let node = Node::try_open(torn, large()).unwrap();
    assert_eq!((node.report.damage, node.last()), (None, before));
    assert_eq!(node.report.dropped_tail_bytes as usize, to - from);
}
