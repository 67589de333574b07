//! What must hold of every run, checked at every effect and after every turn.

use std::collections::BTreeMap;

use kontiki_core::{EntryId, LogIndex, Message, NodeId, Raft, Role, Term};

use super::disk::Disk;
use super::node::{Entry, Node};

#[derive(Clone, Copy, Default)]
struct Seen {
    term: Term,
    /// As the node was told.
    commit: LogIndex,
    /// As the core has it: an installation moves it too.
    core_commit: LogIndex,
}

#[derive(Clone)]
pub(crate) struct Oracle {
    voters: u64,
    /// Election safety: one leader a term.
    leaders: BTreeMap<Term, NodeId>,
    /// One vote a voter and term.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// State machine safety: what is committed at each index, for good. Index 1 stands first.
    pub(crate) committed: Vec<Entry>,
    seen: BTreeMap<NodeId, Seen>,
    /// The greatest term that anyone has led.
    led: Term,
    /// By a leader's term and round: the greatest term that anyone had led when it began.
    rounds: BTreeMap<(Term, u64), Term>,
    /// Durable logs were damaged: a committed entry may be on fewer disks than a majority.
    pub(crate) damaged: bool,
    /// Somebody may have said that it needs a base.
    pub(crate) baseless: bool,
    /// Peers are made up by a script: only what concerns one node is checked.
    pub(crate) forged: bool,
    /// A commit to be looked up on the disks after the turn.
    newly_committed: bool,
    pub(crate) elections: u64,
}

impl Oracle {
    pub(crate) fn new(voters: u64) -> Oracle {
        Oracle {
            voters,
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            committed: Vec::new(),
            seen: BTreeMap::new(),
            led: Term(0),
            rounds: BTreeMap::new(),
            damaged: false,
            baseless: false,
            forged: false,
            newly_committed: false,
            elections: 0,
        }
    }

    /// A node starts: its commit index may begin lower again, and its term where its disk has it.
    pub(crate) fn started(&mut self, id: NodeId, term: Term) {
        self.seen.insert(id, Seen { term, ..Seen::default() });
    }

    pub(crate) fn role(&mut self, node: &Node, role: Role, term: Term) {
        let needs_base = node.raft.as_ref().is_some_and(|raft| raft.needs_base());
        assert!(role == Role::Follower || !needs_base, "n{} needs a base and is {role:?}", node.id());
        if role != Role::Leader || self.forged {
            return;
        }
        self.elections += 1;
        self.led = self.led.max(term);
        let first = *self.leaders.entry(term).or_insert(node.id());
        assert_eq!(first, node.id(), "election safety: two leaders in term {term}");
        assert_eq!(node.disk.record.term, term, "a leader's own term and vote are durable");
        for (at, entry) in self.committed.iter().enumerate() {
            assert_eq!(node.log.get(at), Some(entry), "leader completeness: n{} lacks committed index {}", node.id(), at + 1);
        }
    }

    pub(crate) fn committed(&mut self, node: &Node, index: LogIndex) {
        let seen = self.seen.entry(node.id()).or_default();
        assert!(index > seen.commit, "commit never falls");
        seen.commit = index;
        if self.forged {
            let leads = node.raft.as_ref().is_some_and(|raft| raft.role() == Role::Leader);
            assert!(leads || index.0 <= node.disk.log.len() as u64, "a follower applies what its disk has");
            return;
        }
        assert!(index.0 <= node.log.len() as u64, "n{} committed {index}, past its log", node.id());
        let leads = node.raft.as_ref().is_some_and(|raft| raft.role() == Role::Leader);
        for at in 0..index.0 as usize {
            match self.committed.get(at) {
                Some(entry) => assert_eq!(node.log.get(at), Some(entry), "state machine safety: n{} at {}", node.id(), at + 1),
                None => {
                    assert!(leads, "a leader commits first");
                    self.newly_committed = true;
                    self.committed.push(node.log[at].clone());
                }
            }
            if !leads {
                assert_eq!(
                    node.disk.log.get(at),
                    self.committed.get(at),
                    "n{} applies index {} before its own disk has it",
                    node.id(),
                    at + 1
                );
            }
        }
    }

    /// A snapshot is installed: it holds what is committed, and nothing else.
    pub(crate) fn snapshot(&self, entries: &[Entry]) {
        if !self.forged {
            assert_eq!(Some(entries), self.committed.get(..entries.len()), "a snapshot holds what is committed");
        }
    }

    /// A snapshot is offered. Where the log can serve, only to one that needs a base (hazard H59).
    pub(crate) fn offered(&self, needs: LogIndex, first: LogIndex) {
        assert!(needs < first || self.baseless, "a snapshot instead of what the log holds, from {first}: {needs}");
    }

    /// A node is to end with a report.
    pub(crate) fn diverged(&self, node: &Node, applied: EntryId, term: Term) {
        assert!(self.forged, "n{} has applied {applied} where the log has term {term}: nobody did anything wrong", node.id());
    }

    /// A message is to leave, perhaps once something is durable: a node that lacks what its log presupposes acknowledges
    /// nothing, and votes only where nothing of the log itself is in doubt.
    pub(crate) fn says(&self, from: NodeId, message: &Message, raft: Option<&Raft>) {
        if !raft.is_some_and(Raft::needs_base) {
            return;
        }
        let promise = match message {
            Message::VoteReply { granted: true, .. } | Message::PreVoteReply { granted: true, .. } => raft.is_some_and(Raft::recovering),
            message => matches!(message, Message::Accepted { .. }),
        };
        assert!(!promise, "n{from} needs a base and says {message:?}");
    }

    /// A message leaves: its promise must already be on the disk.
    pub(crate) fn said(&mut self, from: NodeId, to: NodeId, message: &Message, disk: &Disk) {
        let record = &disk.record;
        match *message {
            Message::VoteReply { term, granted: true } => {
                let first = *self.votes.entry((from, term)).or_insert(to);
                assert_eq!(first, to, "n{from} voted twice in term {term}");
                assert!(record.term > term || (record.term == term && record.vote == Some(to)), "a vote that is not durable");
            }
            Message::Vote { term, .. } => {
                assert!(record.term >= term, "a candidacy that is not durable");
            }
            Message::Accepted { term, matched, .. } => {
                assert!(record.term >= term, "an acknowledgement in a term that is not durable");
                assert!(matched.0 <= disk.log.len() as u64, "an acknowledgement of what is not durable");
            }
            Message::HeartbeatReply { term, .. } | Message::Received { term, .. } | Message::Rejected { term, .. } => {
                assert!(record.term >= term, "an answer in a term that is not durable");
            }
            _ => {}
        }
    }

    /// Invariants between turns.
    pub(crate) fn after_turn(&mut self, node: &Node, nodes: &[Node]) {
        let Some(raft) = &node.raft else { return };
        let seen = self.seen.entry(node.id()).or_default();
        assert!(raft.term() >= seen.term, "terms never fall");
        assert!(raft.commit() >= seen.core_commit, "commit never falls");
        (seen.term, seen.core_commit) = (raft.term(), raft.commit());
        assert_eq!(raft.last_index().0, node.log.len() as u64, "core and log agree on the end");
        assert!(raft.durable().0 <= node.disk.log.len() as u64, "durable as the core says is durable on the disk");
        let durable = raft.durable().0 as usize;
        assert_eq!(node.disk.log[..durable], node.log[..durable], "what is durable is what stands");
        for progress in raft.progress() {
            assert!(progress.matched < progress.next && progress.next <= raft.last_index().next());
        }
        if !self.forged && raft.role() == Role::Leader {
            self.rounds_of(raft);
        }
        if std::mem::take(&mut self.newly_committed) && !self.damaged {
            // A majority of one term may have superseded it on the disk by nothing: committed is for good.
            let at = self.committed.len() - 1;
            let holders = nodes.iter().filter(|node| node.disk.log.get(at) == self.committed.get(at)).count() as u64;
            assert!(holders * 2 > self.voters, "index {} is committed but on {holders} disks", at + 1);
        }
    }

    /// What a majority has echoed was begun before anyone led in a later term.
    fn rounds_of(&mut self, raft: &Raft) {
        let (term, round) = (raft.term(), raft.round());
        self.rounds.entry((term, round)).or_insert(self.led);
        let confirmed = raft.confirmed_round().expect("it leads");
        let led = self.rounds.get(&(term, confirmed)).copied();
        assert!(confirmed == 0 || led.is_some_and(|led| led <= term), "round {confirmed} of term {term}: {led:?} had been led");
    }

    /// Log matching over all pairs: an equal entry has equal entries before it.
    pub(crate) fn log_matching(&self, nodes: &[Node]) {
        for (at, a) in nodes.iter().enumerate().filter(|_| !self.forged) {
            for b in nodes.iter().skip(at + 1) {
                for (x, y) in [(&a.log, &b.log), (&a.disk.log, &b.disk.log)] {
                    let equal = x.iter().zip(y).rposition(|(p, q)| p.frame.term == q.frame.term);
                    if let Some(equal) = equal {
                        assert_eq!(x[..=equal], y[..=equal], "log matching: n{} and n{} at {}", a.id(), b.id(), equal + 1);
                    }
                }
            }
        }
    }
}
