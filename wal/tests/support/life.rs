//! A log's life with everything it promises, to be cut short in every way.

use kontiki_core::LogIndex;
use kontiki_wal::Options;

use super::{Node, Random, check_payloads, options};

/// The terms of entries 1, 2, 3, ...
pub type Terms = Vec<u64>;

/// What may be found after a power cut: the last acknowledged, or anything that was asked for since.
#[derive(Clone, Debug)]
pub struct Promised {
    pub logs: Vec<Terms>,
    /// Term and vote.
    pub states: Vec<(u64, u64)>,
    /// Newest boot number that a start has told.
    pub boot: u64,
    /// Entries up to here were released.
    pub released: u64,
}

impl Promised {
    /// Before the first start.
    pub fn nothing() -> Promised {
        Promised { logs: vec![Vec::new()], states: vec![(0, 0)], boot: 0, released: 0 }
    }
}

pub fn small() -> Options {
    Options { segment_bytes: 64 << 10, max_write_bytes: 8 << 10, max_frame_bytes: 16 << 10, ..options() }
}

/// A life: votes, appends over several segments, supersedes, releases, recycles, goes on behind snapshots. Ends early if the power or an
/// operation fails.
pub fn life(node: &mut Node, promised: &mut Promised, seed: u64) -> bool {
    let mut logs = promised.logs.clone();
    let mut states = promised.states.clone();
    let ended = script(node, &mut logs, &mut states, &mut promised.released, seed).is_some();
    let acked = node.log_durable.map_or(0, |durable| node.writes.iter().position(|(write, _)| *write == durable).unwrap() + 1);
    promised.logs = logs.split_off(acked);
    promised.states = states.split_off(node.hard_durable.len());
    ended
}

fn script(node: &mut Node, logs: &mut Vec<Terms>, states: &mut Vec<(u64, u64)>, released: &mut u64, seed: u64) -> Option<()> {
    let mut random = Random(seed);
    let mut term = states.last()?.0.max(1);
    for round in 0..30 {
        let mut log = logs.last()?.clone();
        if round % 5 == 0 {
            term += 1;
            let vote = 1 + random.next() % 3;
            node.save(term, vote);
            states.push((term, vote));
        }
        if matches!(round, 12 | 22 | 27) {
            // A snapshot takes the log's place: of entries that are not there yet, or of others than are there.
            let last = if round == 12 { log.len() + 5 } else { log.len() - 1 };
            log.resize(last, 0);
            log[last - 1] = term;
            *released = (*released).max(last as u64);
            node.rebase(last as u64, term, u128::from(seed))?;
            logs.push(log);
        } else if matches!(round, 6 | 9 | 20 | 25) {
            // A new leader supersedes the newest entries.
            let first = (log.len() - 2) as u64;
            let prev_term = log[first as usize - 2];
            while node.try_append(first, 2, term, prev_term, 2000).is_none() {
                node.wal.poisoned().is_none().then_some(())?;
                node.wal.pump(&mut node.world);
                let completion = node.step()?;
                node.complete(completion);
            }
            log.truncate(first as usize - 1);
            log.extend([term, term]);
            logs.push(log);
        } else {
            for _ in 0..1 + random.next() % 3 {
                let count = 1 + random.next() % 4;
                node.append(count as u32, term, 1500)?;
                log.extend(vec![term; count as usize]);
                logs.push(log.clone());
            }
        }
        if round % 3 == 2 {
            node.run().then_some(())?;
            let upto = node.acked().unwrap_or(0).saturating_sub(3);
            node.wal.release(LogIndex(upto));
            *released = upto.max(*released);
        }
    }
    node.run().then_some(())
}

/// Everything that was promised is there. What is found is what is promised from now on.
pub fn check(node: &mut Node, promised: &mut Promised) {
    assert!(node.boot > promised.boot, "boot {} after {}", node.boot, promised.boot);
    promised.boot = node.boot;
    assert_eq!((node.report.damage, node.report.uncertain, node.hard_state.recovering), (None, false, false), "{}", node.report);
    let state = (node.hard_state.term.0, node.hard_state.vote.map_or(0, |id| id.0));
    assert!(promised.states.contains(&state), "{state:?} is none of {:?}", promised.states);
    promised.states = vec![state];
    let (first, last) = (node.wal.first_index().0, node.last());
    assert!(first <= promised.released + 1, "first {first}, released {}", promised.released);
    let restored = &node.restored;
    assert_eq!((restored.base.next().0, restored.last.0), (first, last));
    let fits = |log: &&Terms| {
        let before = || first.checked_sub(2).map_or(0, |at| log[at as usize]);
        log.len() as u64 == last && restored.base.term.0 == before()
    };
    let candidates: Vec<Terms> = promised.logs.iter().filter(fits).cloned().collect();
    let read = if first > last { Ok(Vec::new()) } else { with_power(node, |node| node.read_all(first, last)) };
    let read = read.unwrap();
    check_payloads(&read);
    let terms: Terms = read.iter().map(|entry| entry.1).collect();
    let found = candidates.into_iter().find(|log| log[first as usize - 1..] == terms[..]);
    promised.logs = vec![found.unwrap_or_else(|| panic!("{first}..={last} {terms:?} is none of {:?}: {}", promised.logs, node.report))];
}

/// Checks are not to be cut short.
pub fn with_power<T>(node: &mut Node, act: impl FnOnce(&mut Node) -> T) -> T {
    let stop_at = node.world.plan.stop_at.take();
    let (done, log) = (node.world.done, node.world.log.len());
    let result = act(node);
    (node.world.plan.stop_at, node.world.done) = (stop_at, done);
    node.world.log.truncate(log);
    result
}
