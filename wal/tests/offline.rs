//! The log of a node that does not run, and the format it is in.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use kontiki_core::{Base, LogIndex};
use kontiki_io::Name;
use kontiki_wal::offline::{CopyInfo, FrameInfo, OfflineError, Part, Verdict, examine};
use kontiki_wal::{Chain, Reach, WalError};
use support::{Disk, Node, base};

type Listed = Vec<(u64, u64, u64, u64)>;

fn look(disk: &Disk) -> Result<(Verdict, Listed), OfflineError<()>> {
    look_behind(disk, &[])
}

fn look_behind(disk: &Disk, snapshots: &[Base]) -> Result<(Verdict, Listed), OfflineError<()>> {
    let mut frames = Vec::new();
    let mut read = |name: &Name, offset: u64, into: &mut [u8]| {
        let bytes = disk.contents(name.as_str());
        let from = (offset as usize).min(bytes.len());
        let len = into.len().min(bytes.len() - from);
        into[..len].copy_from_slice(&bytes[from..from + len]);
        Ok(len)
    };
    let mut visit = |frame: FrameInfo<'_>| {
        assert_eq!(kontiki_frame::verify(frame.frame), Ok(frame.header));
        frames.push((frame.segment, frame.offset, frame.stamp.range.from.0, frame.stamp.range.to.0));
    };
    let verdict = examine(&disk.list(), snapshots, &mut read, &mut visit)?;
    Ok((verdict, frames))
}

fn log() -> Disk {
    let mut node = Node::open(Disk::default());
    node.save(2, 1);
    for _ in 0..20 {
        node.append(2, 2, 6000).unwrap();
        assert!(node.run());
    }
    node.close()
}

#[test]
fn an_intact_log() {
    let disk = log();
    let (verdict, frames) = look(&disk).unwrap();
    assert!(verdict.intact());
    assert_eq!((verdict.node.0, verdict.report.frames, verdict.report.last), (2, 20, LogIndex(40)));
    assert_eq!(frames.len(), 20);
    assert_eq!(frames[..2], [(1, 4096, 1, 2), (1, 4096 + 12288, 3, 4)]);
    let parts: Vec<Part> = verdict.segments.iter().map(|segment| segment.part).collect();
    assert_eq!(parts, [Part::Log, Part::Log, Part::Spare, Part::Spare, Part::Spare]);
    assert!(matches!(verdict.hard_state[1], CopyInfo::Intact { sequence: 10, state, .. } if state.term.0 == 2));
    assert!(verdict.report.to_string().starts_with("2 segments, 20 frames"));
}

#[test]
fn damage_is_named_and_nothing_else_is_lost() {
    let mut disk = log();
    disk.flip("log-0000000000000002.seg", 4096 + 12288 + 200, 0);
    let (verdict, frames) = look(&disk).unwrap();
    let damage = verdict.damage().unwrap();
    assert_eq!((damage.segment, damage.offset), (2, 4096 + 12288));
    assert!(!verdict.intact());
    assert_eq!(frames.len(), 11);
    let said = damage.to_string();
    assert!(said.contains("log-0000000000000002.seg, offset 16384") && said.contains("checksum"), "{said}");
}

/// A log behind a snapshot: which segment it begins with, what is left of the one before, and what reaches it.
#[test]
fn a_chain_behind_a_snapshot() {
    let mut node = Node::open(log());
    node.world.plan.hold = Some(|op| matches!(op, kontiki_io::Op::Rename { .. }));
    node.rebase(90, 3, 7).unwrap();
    node.append(2, 4, 6000).unwrap();
    node.run();
    let disk = node.kill();
    let (verdict, frames) = look_behind(&disk, &[base(91, 4)]).unwrap();
    assert!(verdict.intact());
    assert_eq!((verdict.reaches, verdict.report.base), (Reach::Snapshot(base(91, 4)), base(90, 3)));
    assert_eq!(verdict.report.chain, Some(Chain { base: base(90, 3), digest: 7 }));
    assert!(
        verdict.report.to_string().contains("entries 91 to 92") && verdict.report.to_string().contains("a snapshot of entry 90 of term 3")
    );
    assert_eq!(frames, [(3, 4096, 91, 92)]);
    let parts: Vec<Part> = verdict.segments.iter().map(|segment| segment.part).collect();
    assert_eq!(parts[..4], [Part::Spare, Part::Spare, Part::Log, Part::Spare]);
    assert_eq!(verdict.segments[2].header.unwrap().digest, Some(7));
    // Pinned, like the blocks below.
    assert_eq!(
        hex(&disk.contents("log-0000000000000003.seg")[..128]),
        "\
4b746b5340210c680200010000000000\n\
03000000000000000000000000000000\n\
02000000000000000000020000000000\n\
00f00500000000005a00000000000000\n\
03000000000000000200000000000000\n\
0000000000000000c100000000000000\n\
00000000000000000000000007000000\n\
00000000000000000000000000000000\n\
"
    );
    for snapshots in [vec![], vec![base(89, 1)], vec![base(93, 4)], vec![base(90, 2)]] {
        assert_eq!(look_behind(&disk, &snapshots).unwrap().0.reaches, Reach::Nothing, "{snapshots:?}");
    }
    assert_eq!(look(&log()).unwrap().0.reaches, Reach::Beginning);
}

#[test]
fn damaged_hard_states() {
    let mut disk = log();
    disk.flip("hard-state", 9, 0);
    let (verdict, _) = look(&disk).unwrap();
    assert_eq!((verdict.hard_state[0], &verdict.hard_state_error, verdict.intact()), (CopyInfo::Damaged, &None, false));
    disk.flip("hard-state", (4 << 20) + 9, 0);
    let (verdict, frames) = look(&disk).unwrap();
    assert_eq!((verdict.hard_state_error, frames.len()), (Some(WalError::HardStateLost), 20));
}

#[test]
fn not_a_log() {
    assert_eq!(look(&Disk::default()).unwrap_err(), OfflineError::NotALog);
}

fn hex(bytes: &[u8]) -> String {
    bytes.chunks(16).map(|line| line.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n").collect()
}

/// Pins the two blocks that the log has besides frames. See `kontiki-frame`'s golden test.
#[test]
fn golden_blocks() {
    let disk = log();
    let hard_state = disk.contents("hard-state");
    assert_eq!(hard_state[..4096], hard_state[4 << 20..]);
    assert_eq!(
        hex(&hard_state[..176]),
        "\
4b746b48d89478f80200020000000000\n\
0a000000000000000100000000000000\n\
02000000000000000100000000000000\n\
00000200000000000200000000000000\n\
0000000000000000c100000000000000\n\
000000000000000000f0050000000000\n\
01000000000000000500000000000000\n\
000000000000000000f0050000000000\n\
00000000000000000000000000000000\n\
00000000000000000000000000000000\n\
00000000000000000000020000000000\n\
"
    );
    assert!(hard_state[176..4096].iter().all(|&byte| byte == 0));
    let header = disk.contents("log-0000000000000002.seg");
    assert_eq!(
        hex(&header[..112]),
        "\
4b746b53973f5e6f0200000000000000\n\
02000000000000000000000000000000\n\
01000000000000000000020000000000\n\
00f00300000000001400000000000000\n\
02000000000000000200000000000000\n\
0000000000000000c100000000000000\n\
00000000000000000000000000000000\n\
"
    );
    assert!(header[112..4096].iter().all(|&byte| byte == 0));
}
