//! Snapshots at one core, step by step: what it takes, what its log becomes, what it says and when.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::one::*;
use kontiki_core::limits::PENDING_WRITES;
use kontiki_core::{
    Append, Base, Effect, Effects, EntryId, Event, FrameMeta, LogIndex, Message, NodeId, Restored, Role, SessionId, Term, Verdict, WriteId,
};

fn base(index: u64, term: u64) -> Base {
    Base { index: LogIndex(index), term: Term(term), ..Base::default() }
}

/// A follower of n2 in term 3, whose log holds entries 5 to 7 of term 1 and 8 and 9 of term 2, behind entry 4 of term 1.
fn follower(change: impl FnOnce(&mut Restored)) -> One {
    let mut restored = Restored {
        term: Term(3),
        base: base(4, 1),
        runs: vec![(LogIndex(5), Term(1)), (LogIndex(8), Term(2))],
        last: LogIndex(9),
        committed: LogIndex(4),
        ..Restored::default()
    };
    change(&mut restored);
    let mut one = One::start(3, restored);
    one.hear(2, heartbeat(3));
    one
}

fn install(one: &mut One, index: u64, term: u64) -> Effects {
    one.step(Event::Installed { base: base(index, term) })
}

/// The write with which the log begins anew, and behind what.
fn rebases(effects: &Effects) -> Option<(WriteId, Base)> {
    effects.iter().find_map(|e| if let Effect::Rebase { write, base } = e { Some((*write, *base)) } else { None })
}

/// The position acknowledged, if any is.
fn acknowledged(effects: &Effects) -> Option<u64> {
    effects.iter().find_map(|e| match e {
        Effect::Send { message: Message::Accepted { matched, .. }, .. } => Some(matched.0),
        _ => None,
    })
}

fn offers(effects: &Effects) -> Option<(u64, u64)> {
    effects.iter().find_map(|e| if let Effect::OfferSnapshot { needs, first, .. } = e { Some((needs.0, first.0)) } else { None })
}

/// n2's frame of entries `first..=last` of `term`, after one of `prev_term`.
fn frames(first: u64, last: u64, term: u64, prev_term: u64) -> Event {
    let count = (last + 1 - first) as u32;
    let frame = FrameMeta { term: Term(term), first: LogIndex(first), count, prev_term: Term(prev_term) };
    let append = Append { leader_term: Term(3), commit: LogIndex(0), frame, range: frame.range(), round: 0 };
    Event::Append { from: NodeId(2), session: SessionId(2), append }
}

/// H45: the log ends with the snapshot, whatever stood behind it there, and the next frame fits.
#[test]
fn h45_nothing_of_a_conflicting_log_is_kept() {
    let mut one = follower(|_| {});
    let effects = install(&mut one, 8, 3);
    let (write, behind) = rebases(&effects).unwrap();
    assert_eq!((behind, one.raft.last_index()), (base(8, 3), LogIndex(8)), "9 is gone with 8");
    assert!(effects.contains(&Effect::Truncated { from: LogIndex(9) }), "whoever waits there is told");
    let effects = one.step(frames(9, 10, 3, 3));
    assert!(writes(&effects) > Some(write));
    assert_eq!((one.raft.last_index(), one.raft.refusals()), (LogIndex(10), 0));
}

/// A log that holds what the snapshot ends with goes on: nothing of it is given up.
#[test]
fn a_log_that_goes_on_from_a_snapshot_is_kept() {
    for (index, term) in [(4, 1), (7, 1), (8, 2), (9, 2)] {
        let mut one = follower(|_| {});
        assert_eq!(one.raft.judge_snapshot(base(index, term)), Verdict::Takes { log: false }, "{index}");
        let effects = install(&mut one, index, term);
        assert_eq!((rebases(&effects), one.raft.last_index()), (None, LogIndex(9)), "{index}");
        assert_eq!(acknowledged(&effects), Some(index), "as far as the snapshot it equals the leader's: H57");
        assert_eq!(one.raft.commit(), LogIndex(index));
    }
}

/// What a snapshot holds is committed. Not only once the leader says so: nobody may ever take it back.
#[test]
fn an_installation_commits_what_the_snapshot_holds() {
    for (index, term) in [(8, 3), (20, 3)] {
        let mut one = follower(|_| {});
        install(&mut one, index, term);
        assert_eq!((one.raft.commit(), one.raft.commit_here()), (LogIndex(index), LogIndex(index)));
        one.hear(
            2,
            Message::Heartbeat { term: Term(3), commit: LogIndex(5), round: 1, term_start: LogIndex(0), session_commit: LogIndex(0) },
        );
        assert_eq!(one.raft.commit(), LogIndex(index), "a leader that knows less takes nothing back");
    }
}

/// The leader counts what is on the disk: the new log's base, and nothing of the old log's that is not true any more.
#[test]
fn nothing_is_acknowledged_before_the_base_is_durable() {
    let mut one = follower(|_| {});
    // A frame of the old log is on its way as well.
    let before = writes(&one.step(frames(10, 12, 2, 2))).unwrap();
    let effects = install(&mut one, 11, 3);
    let (write, _) = rebases(&effects).unwrap();
    assert!(acknowledged(&effects).is_none_or(|matched| matched <= 4), "{effects:?}");
    assert!(one.raft.durable() <= LogIndex(4));
    let behind = writes(&one.step(frames(12, 12, 3, 3))).unwrap();
    assert_eq!(acknowledged(&one.step(Event::LogDurable { write: before })), None, "what was written before is not of this log");
    assert_eq!(acknowledged(&one.step(Event::LogDurable { write })), Some(11));
    assert_eq!(acknowledged(&one.step(Event::LogDurable { write: behind })), Some(12));
}

/// H51: entries are applied, a snapshot is installed and the log let go of, in any order of their ends. Applied and
/// commit go only forward.
#[test]
fn h51_installed_released_and_written_in_every_order() {
    for released in 0..3 {
        let mut one = follower(|restored| restored.committed = LogIndex(5));
        let frame = writes(&one.step(frames(8, 9, 3, 1))).unwrap();
        let (write, behind) = rebases(&install(&mut one, 12, 3)).unwrap();
        let mut commit = one.raft.commit();
        for (at, durable) in [frame, write].into_iter().enumerate() {
            if released == at {
                // Of the log that is over, and of the one that is there.
                one.raft.compacted(base(5, 1));
                one.raft.compacted(behind);
            }
            let effects = one.step(Event::LogDurable { write: durable });
            let told = effects.iter().any(|e| matches!(e, Effect::Committed { .. }));
            assert!(!told, "what the snapshot holds is not in the log to be applied");
            assert!(one.raft.commit() >= commit);
            commit = one.raft.commit();
        }
        one.raft.compacted(behind);
        let next = writes(&one.step(frames(13, 13, 3, 3))).unwrap();
        one.step(Event::LogDurable { write: next });
        one.hear(
            2,
            Message::Heartbeat { term: Term(3), commit: LogIndex(13), round: 1, term_start: LogIndex(0), session_commit: LogIndex(0) },
        );
        assert_eq!((one.raft.commit(), one.raft.durable(), one.raft.refusals()), (LogIndex(13), LogIndex(13), 0));
        one.raft.compacted(base(13, 3));
    }
}

/// Whatever cannot be of the history that this node knows to be committed.
#[test]
fn what_contradicts_the_committed_is_not_taken() {
    // Verified up to 8 by the leader's frames, committed up to 7.
    let known = || {
        let mut one = follower(|restored| restored.applied = EntryId { index: LogIndex(5), term: Term(1) });
        one.step(frames(8, 8, 2, 1));
        one.hear(
            2,
            Message::Heartbeat { term: Term(3), commit: LogIndex(7), round: 1, term_start: LogIndex(0), session_commit: LogIndex(0) },
        );
        assert_eq!(one.raft.commit_here(), LogIndex(7));
        one
    };
    let cases = [
        ("another entry where one is committed", 6, 2, false),
        ("another where the newest is", 7, 2, false),
        ("another behind which it cannot stand", 7, 3, false),
        ("a term that fell", 12, 0, false),
        ("another base", 4, 2, false),
        ("a term that had fallen by the base", 3, 2, false),
        ("the base", 4, 1, true),
        ("before the base", 3, 1, true),
        ("what is committed", 7, 1, true),
        ("what is not, in its place", 8, 3, true),
        ("past the log", 40, 3, true),
        ("of a term that this node does not know of", 40, 4, true),
        ("past every term", 40, u64::MAX, false),
        ("past every index", u64::MAX, 3, false),
        ("nothing", 0, 0, false),
    ];
    for (what, index, term, taken) in cases {
        let mut one = known();
        let verdict = one.raft.judge_snapshot(base(index, term));
        assert_eq!(verdict != Verdict::Contradicts, taken, "{what}: {verdict:?}");
        if !taken {
            // Nor if it comes all the same.
            let before = (one.raft.last_index(), one.raft.commit(), one.raft.term(), one.raft.refusals() + 1);
            let effects = install(&mut one, index, term);
            assert_eq!(rebases(&effects), None, "{what}");
            assert_eq!((one.raft.last_index(), one.raft.commit(), one.raft.term(), one.raft.refusals()), before, "{what}");
        }
    }
}

/// A snapshot changes neither term nor vote, but that its entries are of no later term than a log's may be.
#[test]
fn an_installation_changes_neither_term_nor_vote() {
    let mut one = follower(|restored| restored.vote = Some(NodeId(2)));
    for (index, term) in [(8, 3), (20, 3)] {
        let effects = install(&mut one, index, term);
        assert!(!effects.iter().any(|e| matches!(e, Effect::PersistHardState { .. })), "{effects:?}");
        assert_eq!((one.raft.term(), one.raft.leader()), (Term(3), Some(NodeId(2))));
    }
    let effects = install(&mut one, 30, 5);
    let saved = effects.iter().find_map(|e| match e {
        Effect::PersistHardState { term, vote, .. } => Some((*term, *vote)),
        _ => None,
    });
    assert_eq!(saved, Some((Term(5), None)), "nobody was voted for in a term that this node had not heard of");
}

/// H56: a node that stands for election has a log that is over. The leader's frames are heard from then on.
#[test]
fn h56_a_candidate_that_is_given_a_snapshot_steps_down() {
    for asks in [Role::PreCandidate, Role::Candidate] {
        let mut one = follower(|_| {});
        match asks {
            Role::Candidate => one.campaign(false),
            _ => {
                one.tick(0);
            }
        }
        assert_eq!(one.raft.role(), asks);
        let term = one.raft.term();
        let effects = install(&mut one, 20, 3);
        assert!(rebases(&effects).is_some());
        assert_eq!((one.raft.role(), one.raft.term()), (Role::Follower, term));
        for peer in [2, 3] {
            one.hear(peer, Message::VoteReply { term, granted: true });
        }
        assert_eq!(one.raft.role(), Role::Follower, "votes for the log that it had");
    }
}

/// Votes and pre-votes, in a term that is new or its own; frames and elections. A node that recovers as well votes for
/// nobody; of another one term, vote and the end of the log are what they were, and votes rest on nothing else.
#[test]
fn without_a_base_nothing_is_acknowledged_and_nobody_stands() {
    for recovering in [false, true] {
        let start = || {
            let baseless =
                |restored: &mut Restored| (restored.needs_base, restored.committed, restored.recovering) = (true, LogIndex(0), recovering);
            let mut one = follower(baseless);
            one.now = one.now.plus_ns(10 * ELECTION_MAX);
            one
        };
        let granted = |effects: &Effects| {
            sends(effects, |m| matches!(m, Message::VoteReply { granted: true, .. } | Message::PreVoteReply { granted: true, .. }))
        };
        let harmless = |effects: &Effects| sends(effects, |m| matches!(m, Message::PreVoteReply { recovering: true, .. }));
        // In term 3 it follows node 2.
        for term in [3, 4] {
            let (term, last_index, last_term) = (Term(term), LogIndex(100), Term(3));
            let mut one = start();
            let effects = one.hear(3, Message::PreVote { term, last_index, last_term });
            assert_eq!(granted(&effects), !recovering && term > Term(3), "{effects:?}");
            assert!(!harmless(&effects), "it may have acknowledged what it lacks: {effects:?}");
            let effects = one.hear(3, Message::PreVote { term: Term(9), last_index: LogIndex(8), last_term: Term(2) });
            assert!(!granted(&effects), "that log ends before this one: {effects:?}");
            for all_answered in [false, true] {
                let effects = start().hear(3, Message::Vote { term, last_index, last_term, all_answered });
                assert_eq!(granted(&effects), !recovering && term > Term(3), "{effects:?}");
            }
        }
        let mut one = start();
        for _ in 0..5 {
            assert!(!asks_for_pre_votes(&one.tick(0)));
        }
        assert_eq!(one.raft.role(), Role::Follower);
        one.hear(
            2,
            Message::Heartbeat { term: Term(3), commit: LogIndex(9), round: 1, term_start: LogIndex(9), session_commit: LogIndex(9) },
        );
        let effects = one.step(frames(10, 10, 3, 2));
        assert_eq!((writes(&effects), acknowledged(&effects), one.raft.recovering()), (None, None, recovering));
        let effects = one.hear(2, heartbeat(3));
        assert!(sends(&effects, |m| matches!(m, Message::HeartbeatReply { needs_base: true, last_index: LogIndex(4), .. })), "{effects:?}");
        // With one, all that ends.
        install(&mut one, 9, 2);
        assert!(!one.raft.needs_base());
        assert!(writes(&one.step(frames(10, 10, 3, 2))).is_some());
    }
}

/// What the log holds behind a lost base may be acknowledged: no snapshot that ends before it takes its place.
#[test]
fn a_log_behind_a_lost_base_is_not_given_up_for_an_older_snapshot() {
    let mut one = follower(|restored| (restored.needs_base, restored.committed) = (true, LogIndex(0)));
    assert_eq!(one.raft.judge_snapshot(base(3, 1)), Verdict::Contradicts);
    install(&mut one, 3, 1);
    assert!(one.raft.needs_base() && one.raft.last_index() == LogIndex(9));
    for (index, term, log) in [(4, 1, false), (7, 1, false), (9, 2, false), (9, 3, true), (10, 2, true)] {
        assert_eq!(one.raft.judge_snapshot(base(index, term)), Verdict::Takes { log }, "{index}@{term}");
    }
}

/// No more writes fit: the log begins anew as soon as one is durable, and nothing is taken for it before.
#[test]
fn an_installation_waits_for_room_among_the_writes() {
    let mut one = follower(|_| {});
    let mut first = None;
    for index in 10..10 + PENDING_WRITES as u64 {
        let write = writes(&one.step(frames(index, index, 2, 2))).unwrap();
        first.get_or_insert(write);
    }
    let (next, write) = (10 + PENDING_WRITES as u64, first.unwrap());
    assert_eq!(rebases(&install(&mut one, next, 3)), None);
    assert_eq!(rebases(&one.step(Event::LogDurable { write })).map(|(_, base)| base), Some(base(next, 3)));
}

/// Of two that come close together the newer counts, whichever comes first.
#[test]
fn the_newest_installation_counts() {
    let mut one = follower(|_| {});
    let first = rebases(&install(&mut one, 12, 3)).unwrap().0;
    let second = rebases(&install(&mut one, 15, 3)).unwrap().0;
    assert_eq!(rebases(&install(&mut one, 13, 3)), None, "the log begins after that");
    assert_eq!(acknowledged(&one.step(Event::LogDurable { write: first })), None, "12 is no end of this log any more");
    assert_eq!(acknowledged(&one.step(Event::LogDurable { write: second })), Some(15));
    assert_eq!((one.raft.commit(), one.raft.refusals()), (LogIndex(15), 0));
}

/// Where the tables do not know the entry's term, the log is asked: the answer decides whether it goes on.
#[test]
fn the_log_is_asked_for_a_term_that_decides() {
    for (found, begins_anew) in [(Some(Term(1)), false), (Some(Term(2)), true), (None, false)] {
        let mut one = follower(|restored| restored.runs = vec![(LogIndex(8), Term(3))]);
        assert_eq!(one.raft.judge_snapshot(base(6, 1)), Verdict::Takes { log: true }, "as far as is known");
        let effects = install(&mut one, 6, 1);
        assert!(effects.contains(&Effect::LookupTerm { index: LogIndex(6) }) && rebases(&effects).is_none());
        let effects = one.step(Event::TermFound { index: LogIndex(6), term: found });
        assert_eq!(rebases(&effects).is_some(), begins_anew, "{found:?}");
        assert_eq!(one.raft.last_index(), LogIndex(if begins_anew { 6 } else { 9 }));
    }
}

/// The turn in which the log says that it lacks the snapshot is the one in which a leader says that it lacks nothing: one
/// of them lied, and what counts as committed stays.
#[test]
fn what_counts_as_committed_by_then_is_not_given_up() {
    let mut one = follower(|restored| {
        restored.runs.remove(0);
        // The state machine is ahead of the log.
        restored.applied = EntryId { index: LogIndex(12), term: Term(2) };
    });
    let effects = install(&mut one, 7, 2);
    assert!(effects.contains(&Effect::LookupTerm { index: LogIndex(7) }) && one.raft.is_installing());
    let Event::Append { from, session, append } = frames(9, 9, 2, 2) else { unreachable!() };
    one.raft.step(one.now, Event::TermFound { index: LogIndex(7), term: Some(Term(1)) }, &mut Effects::new());
    let effects = one.step(Event::Offered { from, session, append });
    assert_eq!((rebases(&effects), one.raft.is_installing(), one.raft.refusals()), (None, false, 1));
    assert_eq!((one.raft.last_index(), one.raft.commit_here()), (LogIndex(9), LogIndex(9)));
}

/// A leader's log holds all that is committed: whatever says otherwise is not taken.
#[test]
fn a_leader_begins_no_log_anew() {
    let mut one = One::start(3, log(6));
    let noop = one.lead(false);
    one.seal(noop);
    for (index, term) in [(5, 2), (20, 2), (20, noop.term.0)] {
        assert_eq!(one.raft.judge_snapshot(base(index, term)), Verdict::Contradicts);
        install(&mut one, index, term);
        assert_eq!((one.raft.role(), one.raft.last_index()), (Role::Leader, LogIndex(7)));
    }
}

/// The same where the log has to be asked first, and where it then says so.
#[test]
fn a_leader_takes_what_its_log_may_hold_and_asks() {
    for (found, refusals) in [(Some(Term(1)), 0), (Some(Term(2)), 1)] {
        let (mut one, _) = leader_with_short_tables();
        assert_eq!(one.raft.judge_snapshot(base(6, 1)), Verdict::Takes { log: false });
        let effects = install(&mut one, 6, 1);
        assert!(effects.contains(&Effect::LookupTerm { index: LogIndex(6) }));
        assert!(one.raft.is_installing());
        let effects = one.step(Event::TermFound { index: LogIndex(6), term: found });
        assert_eq!((rebases(&effects), one.raft.is_installing(), one.raft.refusals()), (None, false, refusals), "{found:?}");
        assert_eq!((one.raft.role(), one.raft.last_index()), (Role::Leader, LogIndex(9)));
    }
}

/// What a log presupposes may be lost while the node runs: from then on it says nothing of what comes behind it.
#[test]
fn a_base_that_is_lost_while_the_node_runs() {
    let mut one = follower(|_| {});
    let write = writes(&one.step(frames(10, 12, 3, 2))).unwrap();
    one.step(Event::BaseLost);
    assert_eq!(acknowledged(&one.step(Event::LogDurable { write })), None);
    install(&mut one, 3, 1);
    assert!(one.raft.needs_base(), "one that ends before the log begins is of no use");
    assert_eq!(acknowledged(&install(&mut one, 9, 2)), Some(12), "what waited is told");
    // A leader, and a candidate, of no state.
    let mut one = One::start(3, Restored { base: base(4, 1), runs: vec![(LogIndex(5), Term(1))], committed: LogIndex(4), ..log(8) });
    one.campaign(false);
    let term = one.raft.term();
    one.step(Event::BaseLost);
    for peer in [2, 3] {
        one.hear(peer, Message::VoteReply { term, granted: true });
    }
    assert_eq!((one.raft.role(), one.raft.term()), (Role::Follower, term));
    let (mut one, term) = leader_with_short_tables();
    one.step(Event::BaseLost);
    assert_eq!((one.raft.role(), one.raft.term(), one.raft.next_frame(1)), (Role::Follower, term, None));
}

/// A leader whose log begins behind 4 and whose tables know no term of entries 5 to 8; its no-op is 9.
fn leader_with_short_tables() -> (One, Term) {
    let restored = Restored { base: base(4, 1), runs: vec![(LogIndex(8), Term(2))], committed: LogIndex(4), term: Term(2), ..log(8) };
    let mut one = One::start(3, restored);
    let noop = one.lead(false);
    one.seal(noop);
    one.step(Event::FramesSent { peer: NodeId(2), session: SessionId(2), to: LogIndex(9), bytes: 4096, frames: 1 });
    (one, noop.term)
}

fn rejected(term: Term, prev: u64, last: u64, conflict: (u64, u64)) -> Message {
    let (conflict_first, conflict_term) = (LogIndex(conflict.0), Term(conflict.1));
    Message::Rejected { term, round: 0, prev: LogIndex(prev), last_index: LogIndex(last), conflict_term, conflict_first }
}

/// H59: the log is tried from its very beginning before a snapshot takes its place, but where that is known to be in
/// vain.
#[test]
fn h59_no_snapshot_before_the_log_was_tried_from_its_beginning() {
    let cases = [
        ("its log is of one term, and where it differs is not known", 30, (1, 1), Some(5)),
        ("what it has of that term begins behind the base", 30, (7, 1), Some(7)),
        ("it has another entry at the base", 30, (3, 3), Some(3)),
        ("it ends before the base", 3, (1, 1), Some(1)),
        ("it ends with the base", 4, (1, 1), Some(5)),
    ];
    for (what, last, conflict, sent) in cases {
        let (mut one, term) = leader_with_short_tables();
        let effects = one.hear(2, rejected(term, 8, last, conflict));
        assert_eq!((sent_from(&effects, 2), offers(&effects)), (sent, None), "{what}");
    }
    // In vain: then it is behind.
    let (mut one, term) = leader_with_short_tables();
    one.hear(2, rejected(term, 8, 30, (1, 1)));
    one.step(Event::FramesSent { peer: NodeId(2), session: SessionId(2), to: LogIndex(5), bytes: 4096, frames: 1 });
    assert_eq!(sent_from(&one.hear(2, rejected(term, 4, 30, (1, 1))), 2), Some(1));
    let effects = one.step(Event::FramesGone { peer: NodeId(2), session: SessionId(2), first: LogIndex(5) });
    assert!(behind(&effects));
    assert_eq!(offers(&effects), Some((1, 5)));
}

/// H59: a follower that the log can serve is sent frames and nothing else, however far behind it is; one that needs a base gets
/// a snapshot that its own log goes on from.
#[test]
fn h59_a_snapshot_is_offered_to_whom_it_helps() {
    let mut one = One::start(3, Restored { base: base(4, 1), runs: vec![(LogIndex(5), Term(1))], committed: LogIndex(4), ..log(1000) });
    let noop = one.lead(false);
    one.seal(noop);
    one.step(Event::FramesSent { peer: NodeId(2), session: SessionId(2), to: LogIndex(1001), bytes: 4096, frames: 1 });
    let effects = one.hear(2, rejected(noop.term, 1000, 4, (1, 1)));
    assert_eq!((sent_from(&effects, 2), offers(&effects)), (Some(5), None));
    for last in [4, 5, 700] {
        one.now = one.now.plus_ns(2 * ELECTION_MAX);
        let effects = one.hear(2, heartbeat_reply(noop.term, last));
        assert_eq!(offers(&effects), None, "its log ends at {last}");
    }
    let needs =
        |index| Message::HeartbeatReply { term: noop.term, round: 0, recovering: false, needs_base: true, last_index: LogIndex(index) };
    for (lost, first) in [(700, 701), (2, 5), (2000, 2001)] {
        one.now = one.now.plus_ns(2 * ELECTION_MAX);
        assert_eq!(offers(&one.hear(2, needs(lost))), Some((lost + 1, first)), "its log begins behind {lost}");
    }
    let paced = one.hear(2, needs(700));
    assert_eq!(offers(&paced), None, "not with each answer");
    assert_eq!(offers(&one.hear(2, heartbeat_reply(noop.term, 700))), None, "it has one now");
}

/// What the state machine had applied at the start is not what the leader's log holds there: by a frame that holds the
/// entry, one that comes after it, and one that comes long after it.
#[test]
fn a_machine_of_another_history_ends_with_a_report() {
    let applied = EntryId { index: LogIndex(7), term: Term(2) };
    let counts = Term(1);
    for (first, last, term, prev_term) in [(6, 7, 1, 1), (7, 9, 1, 1), (8, 9, 2, 1), (9, 10, 2, 2)] {
        let mut one = follower(|restored| (restored.applied, restored.committed) = (applied, LogIndex(7)));
        let effects = one.step(frames(first, last, term, prev_term));
        assert!(effects.contains(&Effect::Diverged { applied, term: counts }), "{first}..{last}: {effects:?}");
        assert_eq!((writes(&effects), acknowledged(&effects)), (None, None), "nothing more is taken");
        assert_eq!(one.raft.refusals(), 1);
    }
    // The same frames, and a machine that applied what the log holds.
    for (first, last, term, prev_term) in [(6, 7, 1, 1), (8, 9, 2, 1), (9, 10, 2, 2)] {
        let mut one = follower(|restored| (restored.applied, restored.committed) = (EntryId { term: counts, ..applied }, LogIndex(7)));
        let effects = one.step(frames(first, last, term, prev_term));
        assert!(!effects.iter().any(|e| matches!(e, Effect::Diverged { .. })), "{first}..{last}: {effects:?}");
        assert_eq!(one.raft.refusals(), 0);
    }
}

/// A snapshot of another history than the machine's is not taken, however new.
#[test]
fn a_snapshot_that_contradicts_the_machine_is_not_taken() {
    let one = follower(|restored| (restored.applied, restored.committed) = (EntryId { index: LogIndex(7), term: Term(2) }, LogIndex(7)));
    for (index, term, taken) in [(7, 1, false), (20, 1, false), (7, 2, true), (20, 2, true)] {
        assert_eq!(one.raft.judge_snapshot(base(index, term)) != Verdict::Contradicts, taken, "{index}@{term}");
    }
}
