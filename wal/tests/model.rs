//! Any order of appending, superseding, releasing, reading, restarting: what is read is what a list would hold.
#![allow(clippy::unwrap_used)]

mod support;

use kontiki_core::{Base, IndexRange, LogIndex, Subterm, Term};
use kontiki_wal::{Options, ReadError};
use proptest::prelude::*;
use support::{Disk, Node, check_payloads, options};

#[derive(Clone, Debug)]
enum Act {
    /// Entries at the end, perhaps in a new term; of the frame, so many before and behind do not count.
    Append {
        count: u32,
        size: usize,
        new_term: bool,
        before: u32,
        behind: u32,
    },
    /// Entries from so far back on are superseded, by entries of this term or a newer one.
    Supersede {
        back: u64,
        count: u32,
        raise: u64,
    },
    Release {
        back: u64,
    },
    /// A snapshot takes the log's place, of an entry so far before or behind the end, in a new term.
    Rebase {
        back: u64,
        ahead: u64,
    },
    Read {
        from: u64,
        len: u64,
    },
    Term {
        at: u64,
    },
    Run,
    Restart,
    Kill,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (1..5u32, 0..4000usize, prop::bool::weighted(0.1), 0..3u32, 0..3u32)
            .prop_map(|(count, size, new_term, before, behind)| Act::Append { count, size, new_term, before, behind }),
        4 => (1..30u64, 1..5u32, 0..2u64).prop_map(|(back, count, raise)| Act::Supersede { back, count, raise }),
        2 => (0..40u64).prop_map(|back| Act::Release { back }),
        1 => (0..20u64, 0..30u64).prop_map(|(back, ahead)| Act::Rebase { back, ahead }),
        4 => (0..200u64, 1..50u64).prop_map(|(from, len)| Act::Read { from, len }),
        2 => (0..200u64).prop_map(|at| Act::Term { at }),
        4 => Just(Act::Run),
        1 => Just(Act::Restart),
        1 => Just(Act::Kill),
    ]
}

fn small() -> Options {
    Options { segment_bytes: 96 << 10, retention_bytes: 100 << 10, ..options() }
}

/// Terms of the entries, and the size of their payloads.
#[derive(Default)]
struct Model {
    entries: Vec<(u64, usize)>,
    term: u64,
    committed: u64,
}

impl Model {
    fn term_at(&self, index: u64) -> u64 {
        if index == 0 { 0 } else { self.entries[index as usize - 1].0 }
    }

    fn append(&mut self, node: &mut Node, from: u64, count: u32, term: u64, size: usize, before: u32, behind: u32) {
        let before = u64::from(before).min(from - 1);
        // A leader's frame has one term: entries before must have it too.
        let before = (0..=before).rev().find(|before| (from - before..from).all(|index| self.term_at(index) == term)).unwrap();
        let (first, total) = (from - before, count + before as u32 + behind);
        let range = IndexRange { from: LogIndex(from), to: LogIndex(from + u64::from(count) - 1) };
        let prev_term = self.term_at(first - 1);
        while node.try_append_range(first, total, term, prev_term, size, range).is_none() {
            node.wal.pump(&mut node.world);
            let completion = node.world.step().expect("there will be room");
            node.complete(completion);
        }
        self.entries.truncate(from as usize - 1);
        self.entries.extend(vec![(term, size); count as usize]);
    }

    fn check(&self, node: &mut Node, from: u64, upto: u64) {
        let first = node.wal.first_index();
        let result = node.read_all(from, upto);
        if from < first.0 {
            assert_eq!(result, Err(ReadError::Gone { first }));
        } else if upto > self.entries.len() as u64 {
            assert_eq!(result, Err(ReadError::NotDurable));
        } else {
            let read = result.unwrap();
            check_payloads(&read);
            let got: Vec<(u64, u64, usize)> = read.iter().map(|(index, term, bytes)| (*index, *term, bytes.len())).collect();
            let expected: Vec<_> =
                (from..=upto).map(|index| (index, self.entries[index as usize - 1].0, self.entries[index as usize - 1].1)).collect();
            assert_eq!(got, expected);
        }
    }
}

fn run(acts: &[Act]) {
    let mut node = Node::try_open(Disk::default(), small()).unwrap();
    let mut model = Model { term: 1, ..Model::default() };
    for act in acts.iter().chain([&Act::Kill]) {
        let last = model.entries.len() as u64;
        match *act {
            Act::Append { count, size, new_term, before, behind } => {
                model.term += u64::from(new_term);
                model.append(&mut node, last + 1, count, model.term, size, before, behind);
            }
            Act::Supersede { back, count, raise } => {
                let from = (last + 1).saturating_sub(back).max(model.committed + 1);
                if from > last {
                    continue;
                }
                // The new leader's entries may be of any term from that of the entry before on; it leads in a newer one.
                model.term += 1;
                let term = if raise == 0 { model.term_at(from - 1).max(1) } else { model.term };
                model.append(&mut node, from, count, term, 700, 0, 0);
                let next = model.entries.len() as u64 + 1;
                model.append(&mut node, next, 1, model.term, 10, 0, 0);
            }
            Act::Release { back } => {
                let upto = last.saturating_sub(back).max(model.committed);
                model.committed = upto;
                let before = node.wal.first_index();
                let moved = node.wal.release(LogIndex(upto));
                let first = node.wal.first_index();
                assert!(first >= before && first.0 <= upto + 1);
                assert_eq!(
                    moved,
                    (first > before).then(|| Base { index: first.prev(), term: Term(model.term_at(first.0 - 1)), subterm: Subterm(0) })
                );
            }
            Act::Rebase { back, ahead } => {
                let index = last.saturating_sub(back).max(model.committed) + ahead;
                if index == 0 || index == model.committed {
                    continue;
                }
                model.term += 1;
                node.rebase(index, model.term, u128::from(index)).unwrap();
                model.entries.resize(index as usize, (0, 0));
                model.entries[index as usize - 1].0 = model.term;
                model.committed = index;
                assert_eq!((node.wal.base().index.0, node.last()), (index, index));
            }
            Act::Read { from, len } => {
                node.run();
                let from = 1 + from % (last + 1);
                let upto = (from + len - 1).min(last.max(from));
                model.check(&mut node, from, upto);
            }
            Act::Term { at } => {
                let at = at % (last + 3);
                assert!(node.wal.lookup_term(1, LogIndex(at), &mut node.world));
                node.run();
                let first = node.wal.first_index().0;
                let expected = (at + 1 >= first && at <= last).then(|| Term(model.term_at(at)));
                assert_eq!(node.terms.pop(), Some((1, at, Ok(expected))));
            }
            Act::Run => assert!(node.run()),
            Act::Restart | Act::Kill => {
                assert!(node.run());
                let before = node.wal.first_index();
                let disk = if matches!(act, Act::Kill) { node.kill() } else { node.close() };
                node = Node::try_open(disk, small()).unwrap();
                assert_eq!((node.report.damage, node.report.dropped_tail_bytes, node.last()), (None, 0, last));
                let first = node.wal.first_index();
                assert!(first <= before);
                assert_eq!(node.restored.base.term.0, model.term_at(first.0 - 1));
                let runs = &node.restored.runs;
                assert!(runs.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1), "{runs:?}");
                for (index, term) in runs {
                    assert_eq!(model.term_at(index.0), term.0);
                }
                if first.0 <= last {
                    model.check(&mut node, first.0, last);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn like_a_list(acts in prop::collection::vec(act(), 1..120)) {
        run(&acts);
    }
}
