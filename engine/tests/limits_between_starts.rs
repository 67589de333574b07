//! What is stored stays readable whatever the configuration says: every limit with a stored side is raised and lowered
//! between two starts. The whole log is applied again; or the start is refused with the value that is needed, and with
//! that value all is there.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::type_complexity)]

mod support;

use kontiki::{Config, Medium, Member, Node, StartError};
use support::{Recorder, free_addrs};

/// Frames of up to 1 MiB, of one entry and of hundreds, over several segments.
fn large(members: &[Member], dir: &std::path::Path) -> Config {
    let mut config = Config::new(0xA11CE, 1, members.to_vec(), dir.join("n1"));
    (config.max_entry_bytes, config.max_frame_bytes, config.segment_bytes) = (900 << 10, 1 << 20, 8 << 20);
    config
}

fn write(config: Config) -> usize {
    let node = Node::builder(config).start(Recorder::default()).unwrap();
    let mut count = 0;
    for size in [64 << 10, 100, 800 << 10] {
        let payloads = vec![vec![7u8; size]; if size > 100_000 { 4 } else { 30 }];
        for _ in 0..2 {
            let (mut tickets, mut taken) = (Vec::new(), 0);
            while taken < payloads.len() {
                taken += node.propose_many(&payloads[taken..], &mut tickets).unwrap_or(0);
            }
            assert!(tickets.into_iter().all(|ticket| ticket.wait().is_ok()));
            count += taken;
        }
    }
    node.shutdown().unwrap();
    count
}

/// Starts, has the whole log applied, takes another entry, and stops.
fn applies_all(config: Config, count: usize, what: &str) -> Result<(), StartError> {
    let machine = Recorder::default();
    let node = Node::builder(config).start(machine.clone())?;
    while node.failure().is_none() && machine.applied.lock().unwrap().len() < count {
        std::thread::yield_now();
    }
    assert!(node.failure().is_none(), "{what}: {:?}", node.failure());
    // (A reply that is cut is an error to its proposer; the entry is applied.)
    while node.propose(b"n").map(|ticket| ticket.wait().is_ok()).is_err() {}
    assert_eq!(machine.applied.lock().unwrap().len(), count + 1, "{what}");
    let sizes: usize = machine.applied.lock().unwrap().iter().map(|(_, payload)| payload.len()).sum();
    assert!(sizes > 2 * 30 * (64 << 10), "{what}");
    node.shutdown().unwrap();
    Ok(())
}

#[test]
fn raised_and_lowered() {
    let members = [Member::new(1, free_addrs(1)[0].into())];
    let dir = tempfile::tempdir().unwrap();
    let base = || large(&members, dir.path());
    let mut count = write(base());
    let changes: [(&str, fn(&mut Config)); 16] = [
        ("max_frame_bytes lowered", |c| (c.max_entry_bytes, c.max_frame_bytes) = (64 << 10, 256 << 10)),
        ("max_frame_bytes at its least, and with it memory", |c| {
            (c.max_entry_bytes, c.max_frame_bytes, c.ring_bytes, c.window_bytes) = (1000, 16 << 10, 256 << 10, 16 << 10);
        }),
        ("max_frame_bytes raised", |c| (c.max_frame_bytes, c.ring_bytes) = (2044 << 10, 32 << 20)),
        ("max_entry_bytes lowered", |c| c.max_entry_bytes = 1),
        ("retention_bytes raised", |c| c.retention_bytes = 1 << 30),
        ("retention_bytes lowered", |c| c.retention_bytes = 0),
        ("reply_bytes lowered", |c| c.reply_bytes = 0),
        ("reply_bytes raised", |c| c.reply_bytes = 4096),
        ("max_in_flight lowered", |c| c.max_in_flight = 1),
        ("max_in_flight raised", |c| c.max_in_flight = 65_536),
        ("ring_bytes raised", |c| c.ring_bytes = 64 << 20),
        ("writes_in_flight lowered", |c| c.writes_in_flight = 1),
        ("writes_in_flight raised", |c| c.writes_in_flight = 16),
        ("medium safe", |c| c.medium = Medium::Safe),
        ("medium lossy", |c| c.medium = Medium::Lossy),
        ("nothing changed", |_| ()),
    ];
    for (what, change) in changes {
        let mut config = base();
        change(&mut config);
        applies_all(config, count, what).unwrap();
        count += 1;
    }
    // The one limit that is fixed: the start names the size that is needed, and with that one everything is there.
    for segment_bytes in [6 << 20, 16 << 20] {
        let refused = applies_all(Config { segment_bytes, ..base() }, count, "segment_bytes").unwrap_err();
        let (needed, text) = ((8u64 << 20).to_string(), refused.to_string());
        assert!(matches!(refused, StartError::Log(_)) && text.contains(&needed) && text.contains("segment_bytes"), "{text}");
    }
    applies_all(base(), count, "segment_bytes set back").unwrap();
    // Longer frames than the segments of this log have room for.
    let refused = applies_all(Config { max_frame_bytes: 2 << 20, ring_bytes: 32 << 20, ..base() }, count, "too long").unwrap_err();
    assert!(refused.to_string().contains("segment_bytes") && refused.to_string().contains("max_frame_bytes"), "{refused}");
}
