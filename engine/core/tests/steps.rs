//! One core, stepped by hand: moments that a script's world, which settles after each line, does not stop at.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::one::*;
use kontiki_core::limits::{MAX_INDEX, MAX_TERM, PENDING_WRITES};
use kontiki_core::{Base, Effect, Effects, Event, LogIndex, Message, NodeId, Restored, Role, SessionId, Term, Time};

/// H01: entries of older terms are on a majority's disks, and the leader's own no-op is not even sealed.
#[test]
fn a_leader_commits_nothing_before_its_noop() {
    let mut one = One::start(3, log(2));
    let noop = one.lead(false);
    one.hear(2, Message::Accepted { term: noop.term, round: 0, matched: LogIndex(2) });
    assert_eq!((one.raft.commit(), one.raft.next_frame(1)), (LogIndex(0), None));
    let write = writes(&one.seal(noop)).unwrap();
    assert_eq!(one.raft.next_frame(0), None, "a frame has entries");
    assert_eq!(one.raft.next_frame(1).map(|frame| frame.first), Some(LogIndex(4)));
    one.hear(2, Message::Accepted { term: noop.term, round: 0, matched: LogIndex(3) });
    assert_eq!(one.raft.commit(), LogIndex(0), "not durable here");
    one.step(Event::LogDurable { write });
    assert_eq!(one.raft.commit(), LogIndex(3));
}

/// H35: the batch was sealed as the leader said, and by then it leads no more, in this term or at all.
#[test]
fn a_batch_sealed_too_late_is_void() {
    for deposed in [false, true] {
        let mut one = One::start(3, log(2));
        let noop = one.lead(false);
        one.seal(noop);
        let frame = one.raft.next_frame(1).unwrap();
        if deposed {
            one.hear(2, heartbeat(noop.term.0 + 1));
        } else {
            one.now = one.now.plus_ns(ELECTION_MAX);
            one.step(Event::Tick);
        }
        assert_eq!(one.raft.role(), Role::Follower);
        assert_eq!(writes(&one.seal(frame)), None);
        assert_eq!(one.raft.last_index(), noop.first);
    }
}

/// A leader elected while all recover says that it holds everything only once its no-op is committed.
#[test]
fn a_recovering_leader_recovers_with_its_noop() {
    let mut one = One::start(3, Restored { recovering: true, ..log(2) });
    let noop = one.lead(true);
    assert!(one.raft.recovering());
    let write = writes(&one.seal(noop)).unwrap();
    one.step(Event::LogDurable { write });
    assert!(one.raft.recovering(), "durable here alone");
    one.hear(2, Message::Accepted { term: noop.term, round: 0, matched: noop.first });
    assert!(!one.raft.recovering());
}

/// H31: a vote holds for its term; a pre-vote, only for the session it was given in.
#[test]
fn votes_outlive_a_session_and_pre_votes_do_not() {
    let mut one = One::start(5, log(2));
    one.tick(0);
    let yes = || pre_vote_reply(Term(2), true, false);
    one.hear(2, yes());
    one.connect(2, 12);
    one.hear(3, yes());
    assert_eq!(one.raft.role(), Role::PreCandidate);
    let effects = one.hear_in(2, 12, yes());
    assert_eq!(one.raft.role(), Role::Candidate);
    one.save(&effects);
    let yes = || Message::VoteReply { term: Term(2), granted: true };
    one.hear_in(2, 12, yes());
    one.connect(2, 22);
    one.hear(3, yes());
    assert_eq!(one.raft.role(), Role::Leader);
}

/// H02: a session that opens while a candidate's own vote is on its way to the disk is not asked for one.
#[test]
fn nobody_is_asked_before_the_own_vote_is_durable() {
    let mut one = One::start(3, log(2));
    one.tick(0);
    let effects = one.hear(2, pre_vote_reply(Term(2), true, false));
    let asks = |effects: &Effects| sends(effects, |m| matches!(m, Message::Vote { .. }));
    assert!(!asks(&effects) && !asks(&one.connect(3, 13)));
    assert!(asks(&one.save(&effects)));
}

/// H31: what a follower owes its leader is void with the leader's session, and with no other.
#[test]
fn a_new_session_voids_what_was_owed() {
    for (peer, owed) in [(2, false), (3, true)] {
        let mut one = One::start(3, log(2));
        let mut effects = Effects::new();
        // All within one turn: the frame does not fit, and the session changes before the answer goes.
        one.raft.step(one.now, frame_of(2, 2, 9, 1), &mut effects);
        one.raft.step(one.now, Event::SessionUp { peer: NodeId(peer), session: SessionId(12) }, &mut effects);
        one.raft.flush(one.now, &mut effects);
        assert_eq!(sends(&effects, |m| matches!(m, Message::Rejected { .. })), owed, "session of n{peer}");
    }
}

/// H97: who waits for its own disk, be it for the log or for the hard state, does not stand for election.
#[test]
fn a_slow_disk_does_not_campaign() {
    let mut one = One::start(3, log(2));
    let effects = one.step(frame_of(2, 2, 3, 1));
    one.save(&effects);
    let write = writes(&effects).unwrap();
    // A while later the leader still lives; then it is silent.
    one.now = one.now.plus_ns(ELECTION_MAX);
    one.hear(2, heartbeat(2));
    one.now = one.now.plus_ns(ELECTION_MAX);
    assert!(!asks_for_pre_votes(&one.step(Event::Tick)), "the log is not prompt");
    one.step(Event::LogDurable { write });
    one.now = one.now.plus_ns(ELECTION_MAX);
    one.step(Event::Tick);
    assert_eq!(one.raft.role(), Role::PreCandidate);

    let effects = one.hear(2, heartbeat(7));
    let silent = |one: &mut One| {
        let due = one.now.plus_ns(ELECTION_MAX);
        let mut asked = false;
        while one.now < due {
            one.now = one.now.plus_ns(10 * MS);
            asked |= asks_for_pre_votes(&one.step(Event::Tick));
        }
        asked
    };
    assert!(!silent(&mut one), "the hard state is not durable");
    one.save(&effects);
    assert!(silent(&mut one));
}

/// A write that is merely under way keeps nobody from standing.
#[test]
fn a_busy_disk_campaigns() {
    let mut one = One::start(3, log(2));
    let effects = one.step(frame_of(2, 2, 3, 1));
    one.save(&effects);
    let mut asked = false;
    for _ in 0..ELECTION_MAX / MS - 1 {
        one.now = one.now.plus_ns(MS);
        asked |= asks_for_pre_votes(&one.step(Event::Tick));
    }
    assert!(asked);
}

#[test]
fn terms_and_indexes_end_before_their_type_does() {
    for (term, asks) in [(MAX_TERM - 1, true), (MAX_TERM, false)] {
        let mut one = One::start(3, Restored { term: Term(term), ..log(2) });
        assert_eq!(asks_for_pre_votes(&one.tick(0)), asks, "term {term}");
    }
    let mut one = One::start(3, log(MAX_INDEX - 2));
    let noop = one.lead(false);
    one.seal(noop);
    assert_eq!(one.raft.next_frame(2), None);
    let last = one.raft.next_frame(1).unwrap();
    one.seal(last);
    assert_eq!((one.raft.last_index().0, one.raft.next_frame(1)), (MAX_INDEX, None));
}

#[test]
fn the_table_of_writes_has_an_end() {
    let mut one = One::start(3, log(0));
    for k in 0..PENDING_WRITES as u64 {
        assert!(one.raft.can_append());
        one.step(frame_of(2, 1, k + 1, u64::from(k > 0)));
    }
    assert!(!one.raft.can_append());
    assert_eq!(writes(&one.step(frame_of(2, 1, PENDING_WRITES as u64 + 1, 1))), None);
}

/// A follower whose disk works owes signs of life only while its leader can hear them.
#[test]
fn no_sign_of_life_without_a_session() {
    let mut one = One::start(3, log(2));
    one.step(frame_of(2, 2, 3, 1));
    assert_eq!(one.raft.deadline(), one.now.plus_ns(HEARTBEAT));
    one.step(Event::SessionDown { peer: NodeId(2), session: SessionId(2) });
    assert!(one.raft.deadline() >= one.now.plus_ns(ELECTION_MAX / 2));
}

/// H96: lateness excuses once.
#[test]
fn a_node_that_is_always_late_still_elects() {
    let mut one = One::start(3, log(2));
    assert!(!asks_for_pre_votes(&one.tick(3 * HEARTBEAT)));
    assert!(asks_for_pre_votes(&one.tick(3 * HEARTBEAT)));
}

/// H97: lateness does not excuse a disk that hangs.
#[test]
fn a_late_tick_does_not_excuse_a_hung_disk() {
    let mut one = One::start(3, log(2));
    let noop = one.lead(false);
    one.seal(noop);
    one.now = one.now.plus_ns(3 * ELECTION_MAX + 5 * HEARTBEAT);
    for peer in [2, 3] {
        one.hear(peer, heartbeat_reply(noop.term, 3));
    }
    assert_eq!(one.raft.role(), Role::Leader);
    one.step(Event::Tick);
    assert_eq!(one.raft.role(), Role::Follower);
}

/// A leader whose log begins at 5, and the request for what n2 lacks, which begins at 1.
fn leader_of_a_compacted_log() -> (One, Term) {
    let restored = Restored {
        base: Base { index: LogIndex(4), term: Term(1), ..Base::default() },
        runs: vec![(LogIndex(5), Term(1))],
        committed: LogIndex(4),
        ..log(8)
    };
    let mut one = One::start(3, restored);
    let noop = one.lead(false);
    assert_eq!(sent_from(&one.seal(noop), 2), Some(9));
    one.step(Event::FramesSent { peer: NodeId(2), session: SessionId(2), to: LogIndex(9), bytes: 4096, frames: 1 });
    let (prev, none) = (LogIndex(8), LogIndex(0));
    let effects = one.hear(
        2,
        Message::Rejected { term: noop.term, round: 0, prev, last_index: none, conflict_term: Term(0), conflict_first: LogIndex(1) },
    );
    assert_eq!(sent_from(&effects, 2), Some(1));
    (one, noop.term)
}

fn gone(one: &mut One) -> Effects {
    one.step(Event::FramesGone { peer: NodeId(2), session: SessionId(2), first: LogIndex(5) })
}

#[test]
fn a_follower_behind_is_sent_to_again_once_the_log_has_what_it_lacks() {
    let (mut one, term) = leader_of_a_compacted_log();
    assert!(behind(&gone(&mut one)));
    for (last, sent) in [(0, None), (3, None), (4, Some(5))] {
        assert_eq!(sent_from(&one.hear(2, heartbeat_reply(term, last)), 2), sent, "its log ends at {last}");
    }
    // Behind again, with no more than it had: nothing is sent until it has.
    assert!(!behind(&gone(&mut one)), "told once a session");
    for (last, sent) in [(4, None), (5, Some(6))] {
        assert_eq!(sent_from(&one.hear(2, heartbeat_reply(term, last)), 2), sent, "its log ends at {last}");
    }
}

#[test]
fn frames_that_are_gone_for_an_older_request_count_nothing() {
    let (mut one, term) = leader_of_a_compacted_log();
    // What is asked for changes while the node looks: the follower has it after all.
    assert_eq!(sent_from(&one.hear(2, heartbeat_reply(term, 0)), 2), None);
    one.connect(3, 13);
    one.hear(2, Message::Accepted { term, round: 0, matched: LogIndex(8) });
    let effects = gone(&mut one);
    assert!(!behind(&effects));
    assert_eq!(sent_from(&effects, 2), Some(9));

    let (mut one, term) = leader_of_a_compacted_log();
    one.hear(3, heartbeat(term.0 + 1));
    assert!(!behind(&gone(&mut one)), "it leads no more");
}

/// A follower that reports less than the probe supposes is probed where its log ends; one that reports more is not.
#[test]
fn a_probe_goes_back_to_the_end_of_the_followers_log() {
    let mut one = One::start(3, log(5));
    let noop = one.lead(false);
    one.seal(noop);
    assert_eq!(sent_from(&one.connect(2, 12), 2), Some(6));
    let next = |one: &One| one.raft.progress().find(|p| p.peer == NodeId(2)).map(|p| (p.next.0, p.inflight_bytes));
    for last in [6, 5] {
        one.hear_in(2, 12, heartbeat_reply(noop.term, last));
        assert_eq!(next(&one), Some((6, 0)), "its log ends at {last}");
    }
    one.step(Event::FramesSent { peer: NodeId(2), session: SessionId(12), to: LogIndex(6), bytes: 4096, frames: 1 });
    assert_eq!(next(&one), Some((6, 4096)), "the request was still the one asked for");

    assert_eq!(sent_from(&one.connect(2, 22), 2), Some(6));
    one.hear_in(2, 22, heartbeat_reply(noop.term, 0));
    assert_eq!(next(&one), Some((1, 0)));
}

/// H40: a probe that leaves no trace is sent again after twice the time, up to an election timeout, in steps of
/// heartbeats.
#[test]
fn probes_are_repeated_ever_more_slowly() {
    let mut one = One::start(3, log(5));
    let noop = one.lead(false);
    one.seal(noop);
    let mut effects = one.connect(2, 12);
    let (mut sent, mut gaps) = (one.now, Vec::new());
    while gaps.len() < 6 {
        if sent_from(&effects, 2).is_some() {
            gaps.push(one.now.since(sent) / MS);
            sent = one.now;
            effects = one.step(Event::FramesSent { peer: NodeId(2), session: SessionId(12), to: noop.first, bytes: 4096, frames: 1 });
            continue;
        }
        one.now = one.now.plus_ns(HEARTBEAT);
        let round = one.step(Event::Tick).iter().find_map(|e| match e {
            Effect::Send { to: NodeId(2), message: Message::Heartbeat { round, .. }, .. } => Some(*round),
            _ => None,
        });
        let reply = Message::HeartbeatReply {
            term: noop.term,
            round: round.unwrap(),
            recovering: false,
            needs_base: false,
            last_index: LogIndex(5),
        };
        effects = one.hear_in(2, 12, reply);
    }
    assert_eq!(gaps, [0, 40, 40, 80, 160, 320]);
}

/// A vote that comes without a pre-vote before it, or after things changed since: whoever has applied what its log lost
/// gives it to no shorter log than that, recovering or not.
#[test]
fn no_vote_for_a_log_without_what_was_applied() {
    for (recovering, last, granted) in [(false, 2, false), (false, 3, true), (true, 2, false), (true, 3, true)] {
        let mut one = One::start(3, Restored { committed: LogIndex(3), recovering, ..log(1) });
        one.now = Time(2 * ELECTION_MAX);
        let vote = Message::Vote { term: Term(2), last_index: LogIndex(last), last_term: Term(1), all_answered: recovering };
        let mut effects = one.hear(2, vote);
        if granted {
            effects.extend(one.save(&effects.clone()));
        }
        let voted = sends(&effects, |m| matches!(m, Message::VoteReply { granted: true, .. }));
        assert_eq!(voted, granted, "recovering: {recovering}, a log of {last}");
    }
}

/// A frame that waits for room shows what the log before it is worth: so that some of it can be released, or there
/// never would be room.
#[test]
fn a_waiting_frame_vouches_for_what_is_before_it() {
    let offered = |from, term, index, prev_term| match frame_of(from, term, index, prev_term) {
        Event::Append { from, session, append } => Event::Offered { from, session, append },
        other => panic!("{other:?}"),
    };
    let mut one = One::start(3, Restored { committed: LogIndex(9), ..log(10) });
    assert_eq!(one.raft.commit_here(), LogIndex(0), "a log that was just opened is not vouched for");
    let effects = one.step(offered(2, 1, 11, 1));
    assert!(effects.is_empty() && one.raft.commit_here() == LogIndex(0), "whose frame it is is not known");
    let effects = one.hear(2, heartbeat(1));
    assert!(writes(&effects).is_none());
    let (deadline, term) = (one.raft.deadline(), one.raft.term());
    one.now = one.now.plus_ns(MS);
    for (stranger, of_term) in [(3, 1), (2, 2)] {
        let effects = one.step(offered(stranger, of_term, 11, 1));
        assert!(effects.is_empty() && one.raft.commit_here() == LogIndex(0));
    }
    let effects = one.step(offered(2, 1, 11, 1));
    assert!(effects.is_empty(), "nothing is written, and nothing said: {effects:?}");
    assert_eq!(one.raft.commit_here(), LogIndex(9));
    assert_eq!((one.raft.deadline(), one.raft.term(), one.raft.last_index()), (deadline, term, LogIndex(10)), "it is no sign of life");
    assert_eq!(one.raft.refusals(), 0);
    // Then there is room.
    assert!(writes(&one.step(frame_of(2, 1, 11, 1))).is_some());
}

/// A follower whose election timeout is shorter than this leader's heartbeats are apart would not stay one.
#[test]
fn heartbeats_come_as_often_as_the_most_impatient_follower_needs() {
    let mut one = One::start(3, log(0));
    let noop = one.lead(false);
    one.seal(noop);
    let mut pause = |limit: u64| {
        one.raft.limit_heartbeat(limit);
        one.tick(0);
        let (before, heartbeats) = (one.now, |e: &Effects| e.iter().filter(|e| matches!(e, Effect::Send { .. })).count());
        assert_eq!(heartbeats(&one.tick(0)), 2);
        one.now.since(before)
    };
    assert_eq!(pause(10 * MS), 10 * MS);
    assert_eq!(pause(u64::MAX), HEARTBEAT, "never less often than the configuration says");
    assert_eq!(pause(0), 1);
}

/// Learners are sent the log and count for nothing: neither in an election, nor for the commit index, nor for whether a
/// leader still has a quorum.
#[test]
fn learners_count_for_nothing() {
    let mut one = One::among(vec![1, 2, 3], vec![4, 5, 6], log(0));
    one.tick(0);
    for learner in 4..=6 {
        one.hear(learner, pre_vote_reply(Term(2), true, false));
    }
    assert_eq!(one.raft.role(), Role::PreCandidate);
    let effects = one.hear(3, pre_vote_reply(Term(2), true, false));
    one.save(&effects);
    let term = one.raft.term();
    for learner in 4..=6 {
        one.hear(learner, Message::VoteReply { term, granted: true });
    }
    assert_eq!(one.raft.role(), Role::Candidate);
    let effects = one.hear(3, Message::VoteReply { term, granted: true });
    let noop = effects.iter().find_map(|e| if let Effect::SealNoop { frame } = e { Some(*frame) } else { None }).unwrap();
    let effects = one.seal(noop);
    one.step(Event::LogDurable { write: writes(&effects).unwrap() });
    for learner in 4..=6 {
        one.hear(learner, Message::Accepted { term, round: 0, matched: LogIndex(1) });
    }
    assert_eq!(one.raft.progress().filter(|peer| peer.matched == LogIndex(1)).count(), 3, "they have it");
    assert_eq!(one.raft.commit(), LogIndex(0), "a majority of the voters does not");
    for _ in 0..20 {
        one.now = one.now.plus_ns(ELECTION_MAX / 4);
        one.step(Event::Tick);
        (4..=6).for_each(|learner| drop(one.hear(learner, heartbeat_reply(term, 1))));
    }
    assert_ne!(one.raft.role(), Role::Leader, "without a quorum of voters it steps down");
}

/// A node that is no voter follows, and never asks for votes, even where it has no peers: that is not alone.
#[test]
fn who_is_no_voter_follows() {
    for voters in [vec![2], vec![2, 3]] {
        let mut one = One::among(voters, vec![1], log(0));
        for _ in 0..10 {
            let effects = one.tick(0);
            assert_eq!((one.raft.role(), effects.len()), (Role::Follower, 0));
        }
        one.hear(2, heartbeat(2));
        assert_eq!(one.raft.leader(), Some(NodeId(2)));
        assert!(writes(&one.step(frame_of(2, 2, 1, 0))).is_some(), "it takes the log");
    }
}
