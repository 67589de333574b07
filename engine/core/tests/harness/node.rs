//! One simulated node: a core, and what carries out its effects.

use std::collections::VecDeque;

use kontiki_core::{
    Append, Base, Config, Effect, Effects, EntryId, Event, FrameMeta, IndexRange, LogIndex, Message, NodeId, Raft, Restored, Role,
    SessionId, Term, Time, WriteId,
};

use super::disk::{Disk, HardRecord, Written};
use super::net::{Body, Network, Packet};
use super::oracle::Oracle;

/// One log entry: the header of the frame it was sealed in, and its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) frame: FrameMeta,
    pub(crate) value: String,
}

/// A message that waits for a write.
#[derive(Clone, Debug)]
struct Waiting {
    after: WriteId,
    to: NodeId,
    session: SessionId,
    message: Message,
}

/// A snapshot: all that the state machine was given. Index 1 stands first.
pub(crate) type Snapshot = Vec<Entry>;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) config: Config,
    /// `None` while stopped.
    pub(crate) raft: Option<Raft>,
    /// The log as the running node sees it. Index 1 stands first: what was before `compacted` is for the oracles alone.
    pub(crate) log: Vec<Entry>,
    pub(crate) disk: Disk,
    /// A frame that has its place and is not told to the core yet.
    pub(crate) sealing: Vec<Entry>,
    now: Time,
    waiting: Vec<Waiting>,
    /// What the state machine was given. Survives a stop, unless `volatile`.
    pub(crate) machine: Snapshot,
    /// What it may be given.
    to_apply: LogIndex,
    /// It gets its state from the newest snapshot, and nothing else before.
    pub(crate) restoring: bool,
    /// And so it does after a start: not at once.
    pub(crate) restores_late: bool,
    /// The newest two snapshots, oldest first. Durable.
    pub(crate) snapshots: Vec<Snapshot>,
    /// Whom this node was asked to offer one, and where its log begins.
    pub(crate) offers: Vec<(NodeId, LogIndex)>,
    /// A start looks whether anything reaches its log, and says if it is not so.
    pub(crate) looks_for_its_base: bool,
    /// The state machine is volatile: a start gives it the newest snapshot.
    pub(crate) volatile: bool,
    /// The log begins at this index (compaction), for senders.
    pub(crate) compacted: LogIndex,
    /// How many term runs recovery hands over.
    pub(crate) runs_restored: usize,
    /// Frames that the transport takes at once.
    pub(crate) frames_at_once: u32,
    /// Writes that the core ever asked for.
    pub(crate) writes_asked: usize,
    /// How often the log began anew.
    pub(crate) rebased: u64,
    /// What happened, for scripts.
    pub(crate) trace: Vec<String>,
    effects: Effects,
}

impl Node {
    pub(crate) fn new(config: Config) -> Node {
        Node {
            config,
            raft: None,
            log: Vec::new(),
            disk: Disk::new(),
            sealing: Vec::new(),
            now: Time(0),
            waiting: Vec::new(),
            machine: Vec::new(),
            to_apply: LogIndex(0),
            restoring: false,
            restores_late: false,
            snapshots: Vec::new(),
            offers: Vec::new(),
            looks_for_its_base: true,
            volatile: false,
            compacted: LogIndex(1),
            runs_restored: usize::MAX,
            frames_at_once: u32::MAX,
            writes_asked: 0,
            rebased: 0,
            trace: Vec::new(),
            effects: Effects::new(),
        }
    }

    /// The base of a log that begins behind `index`.
    pub(crate) fn base_at(&self, index: LogIndex) -> Base {
        let term = self.log.get((index.0 as usize).wrapping_sub(1)).map_or(Term(0), |entry| entry.frame.term);
        Base { index, term, ..Base::default() }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.config.id
    }

    /// Starts from the disk, as recovery would.
    pub(crate) fn start(&mut self, now: Time) {
        assert!(self.raft.is_none(), "already running");
        self.log = self.disk.log.clone();
        let begins = self.disk.begins;
        self.compacted = begins;
        (self.to_apply, self.restoring) = (LogIndex(0), false);
        let reached = self.is_reached();
        if self.volatile {
            self.machine.clear();
        }
        let began = id_of(&self.machine);
        // Which holds nothing, or lacks what the log presupposes.
        let given = self.machine.len();
        if self.volatile || reached && given < begins.prev().0 as usize {
            self.restore();
        }
        let committed = LogIndex(self.machine.len() as u64);
        if self.restores_late && self.machine.len() > given {
            self.machine.truncate(given);
            self.restoring = true;
        }
        let mut runs: Vec<(LogIndex, Term)> = Vec::new();
        for (at, entry) in self.log.iter().enumerate().skip(begins.prev().0 as usize) {
            if runs.last().is_none_or(|(_, term)| *term != entry.frame.term) {
                runs.push((LogIndex(at as u64 + 1), entry.frame.term));
            }
        }
        let newest = runs.len().saturating_sub(self.runs_restored);
        let restored = Restored {
            term: self.disk.record.term,
            vote: self.disk.record.vote,
            recovering: self.disk.record.recovering,
            base: self.base_at(begins.prev()),
            runs: runs.split_off(newest),
            last: LogIndex(self.log.len() as u64),
            committed,
            applied: began,
            needs_base: self.looks_for_its_base && !reached,
        };
        if let Err(error) = restored.validate() {
            self.trace.push(format!("n{} does not start: {error}", self.id()));
            return;
        }
        self.raft = Some(Raft::new(self.config.clone(), restored, now));
        self.disk.counts_anew();
    }

    /// Whether what the log on the disk presupposes is at hand: a snapshot that it goes on from, or that has to be
    /// installed, or a state machine that has it.
    pub(crate) fn is_reached(&self) -> bool {
        let base = self.disk.begins.prev().0 as usize;
        base == 0 || (!self.volatile && self.machine.len() >= base) || self.snapshots.iter().any(|snapshot| snapshot.len() >= base)
    }

    /// The newest snapshot, if the log does not hold the entry that it ends with: power failed while it was installed.
    pub(crate) fn half_installed(&self) -> Option<Event> {
        let newest = self.snapshots.last()?;
        let lacks = newest.len() as u64 >= self.compacted.prev().0 && self.log.get(newest.len() - 1) != newest.last();
        lacks.then(|| Event::Installed { base: base_of(newest) })
    }

    /// The state machine gets its state from the newest snapshot, if that is ahead of it, and then what waited.
    pub(crate) fn restore(&mut self) {
        if let Some(newest) = self.snapshots.last()
            && newest.len() > self.machine.len()
        {
            self.machine.clone_from(newest);
        }
        self.restoring = false;
        self.apply();
    }

    /// The state machine is given what is committed.
    fn apply(&mut self) {
        let (from, to) = (self.machine.len(), self.to_apply.0 as usize);
        let needs_base = self.raft.as_ref().is_some_and(Raft::needs_base);
        if !self.restoring && !needs_base && from < to {
            assert!(from as u64 + 1 >= self.compacted.0, "a gap between what is applied, {from}, and the log, from {}", self.compacted);
            self.machine.extend_from_slice(&self.log[from..to]);
        }
    }

    /// A snapshot of the state machine as it is now becomes durable.
    pub(crate) fn take_snapshot(&mut self) {
        let state = self.machine.clone();
        self.keep(state);
    }

    /// Whether a snapshot would be one of the newest two.
    pub(crate) fn would_keep(&self, snapshot: &Snapshot) -> bool {
        self.snapshots.len() < 2 || self.snapshots[0].len() <= snapshot.len()
    }

    /// A snapshot is durable under its name. The newest two are kept.
    pub(crate) fn keep(&mut self, snapshot: Snapshot) {
        if !snapshot.is_empty() && !self.snapshots.contains(&snapshot) {
            self.snapshots.push(snapshot);
            self.snapshots.sort_by_key(Vec::len);
            let old = self.snapshots.len().saturating_sub(2);
            self.snapshots.drain(..old);
        }
    }

    /// Up to where the log may be released.
    pub(crate) fn releasable(&self) -> LogIndex {
        let [older, _] = &self.snapshots[..] else { return LogIndex(0) };
        self.raft.as_ref().map_or(LogIndex(0), |raft| raft.commit_here().min(raft.durable()).min(LogIndex(older.len() as u64)))
    }

    /// Stops; the first `kept` writes under way reach the disk all the same, of each kind.
    pub(crate) fn stop(&mut self, kept: usize) {
        self.stop_keeping(kept, kept);
    }

    /// Stops; the first `hard` hard states and the first `log` log writes under way reach the disk all the same.
    pub(crate) fn stop_keeping(&mut self, hard: usize, log: usize) {
        for _ in 0..hard {
            self.disk.complete(true);
        }
        for _ in 0..log {
            self.disk.complete(false);
        }
        self.raft = None;
        self.offers.clear();
        self.sealing.clear();
        self.disk.stop();
        self.waiting.clear();
    }

    /// The node in one line, its followers indented below.
    pub(crate) fn state(&self) -> String {
        let Some(raft) = &self.raft else {
            return format!("n{} down, term {}, log ..{}\n", self.id(), self.disk.record.term, self.disk.log.len());
        };
        let leader = raft.leader().map_or("-".to_string(), |leader| format!("n{leader}"));
        let mut out = format!(
            "n{} {:?} t{} leader {leader}, last {} durable {} commit {}",
            self.id(),
            raft.role(),
            raft.term(),
            raft.last_index(),
            raft.durable(),
            raft.commit()
        );
        let (min, max) = raft.election_timeouts_ns();
        if raft.is_disk_slow() {
            out.push_str(&format!(", waits {} to {} ms", min / 1_000_000, max / 1_000_000));
        }
        if raft.recovering() {
            out.push_str(", recovering");
        }
        if raft.needs_base() {
            out.push_str(", needs a base");
        }
        if raft.refusals() > 0 {
            out.push_str(&format!(", refused {}", raft.refusals()));
        }
        out.push('\n');
        for progress in raft.progress() {
            let mode = if progress.probing { "probe" } else { "replicate" };
            let kib = progress.inflight_bytes / 1024;
            out.push_str(&format!(
                "   n{} matched {} next {} {mode}, {kib} KiB in flight\n",
                progress.peer, progress.matched, progress.next
            ));
        }
        out
    }

    /// Sends what waited for a write that is durable by now.
    pub(crate) fn release(&mut self, _now: Time, net: &mut Network, oracle: &mut Oracle) {
        let durable = self.disk.hard_durable();
        let (ready, waiting): (Vec<Waiting>, Vec<Waiting>) = self.waiting.drain(..).partition(|waiting| waiting.after <= durable);
        self.waiting = waiting;
        for Waiting { to, session, message, .. } in ready {
            self.transmit(to, session, message, net, oracle);
        }
    }

    fn transmit(&mut self, to: NodeId, session: SessionId, message: Message, net: &mut Network, oracle: &mut Oracle) {
        oracle.said(self.id(), to, &message, &self.disk);
        net.send(Packet { from: self.id(), to, session, body: Body::Message(message) });
    }

    /// Steps the events, flushes, and carries out all effects, until nothing follows at once.
    pub(crate) fn turn(&mut self, now: Time, events: Vec<(Event, Vec<Entry>)>, net: &mut Network, oracle: &mut Oracle) {
        self.now = now;
        let mut queue: VecDeque<(Event, Vec<Entry>)> = events.into();
        for _ in 0..10_000 {
            while let Some((event, entries)) = queue.pop_front() {
                self.core(|raft, fx| raft.step(now, event, fx));
                self.carry_out(event, entries, &mut queue, net, oracle);
            }
            self.core(|raft, fx| raft.flush(now, fx));
            self.carry_out(Event::Tick, Vec::new(), &mut queue, net, oracle);
            if queue.is_empty() {
                return;
            }
        }
        panic!("a turn does not end");
    }

    fn core(&mut self, act: impl FnOnce(&mut Raft, &mut Effects)) {
        if let Some(raft) = &mut self.raft {
            act(raft, &mut self.effects);
        }
    }

    fn carry_out(
        &mut self,
        event: Event,
        entries: Vec<Entry>,
        queue: &mut VecDeque<(Event, Vec<Entry>)>,
        net: &mut Network,
        oracle: &mut Oracle,
    ) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::PersistHardState { write, term, vote, recovering } => {
                    self.writes_asked += 1;
                    let needs_base = self.raft.as_ref().is_some_and(Raft::needs_base);
                    assert!(recovering || !self.disk.record.recovering || !needs_base, "without a base nothing is recovered");
                    self.disk.save(write, HardRecord { term, vote, recovering }, self.now);
                }
                Effect::AppendFrame { write, range } => self.append(write, range, &event, &entries),
                Effect::SealNoop { frame } => {
                    queue.push_back((Event::Sealed { frame, bytes: 4096 }, vec![Entry { frame, value: String::new() }]));
                }
                Effect::Send { to, session, message, after } => {
                    oracle.says(self.id(), &message, self.raft.as_ref());
                    match after.filter(|after| *after > self.disk.hard_durable()) {
                        Some(after) => self.waiting.push(Waiting { after, to, session, message }),
                        None => self.transmit(to, session, message, net, oracle),
                    }
                }
                Effect::SendFrames { to, session, from, upto, max_bytes, max_frames } => {
                    queue.push_back((self.send_frames(to, session, from, upto, max_bytes, max_frames, net), Vec::new()));
                }
                Effect::Committed { index } => {
                    self.trace.push(format!("n{} committed {index}", self.id()));
                    oracle.committed(self, index);
                    self.to_apply = index;
                    self.apply();
                }
                Effect::Role { role, term, leader } => {
                    let of = match (role, leader) {
                        (Role::Follower, Some(leader)) => format!(" of n{leader}"),
                        _ => String::new(),
                    };
                    self.trace.push(format!("n{} {role:?}{of} t{term}", self.id()));
                    oracle.role(self, role, term);
                }
                Effect::Truncated { from } => self.trace.push(format!("n{} truncated from {from}", self.id())),
                Effect::LookupTerm { index } => {
                    self.trace.push(format!("n{} looks up {index}", self.id()));
                    let held = self.log.get((index.0 as usize).wrapping_sub(1)).filter(|_| index >= self.compacted);
                    let term = held.map(|entry| entry.frame.term);
                    queue.push_back((Event::TermFound { index, term }, Vec::new()));
                }
                Effect::OfferSnapshot { peer, needs, first, .. } => {
                    self.trace.push(format!("n{} offers n{peer} a snapshot: it needs {needs}, log begins at {first}", self.id()));
                    oracle.offered(needs, first);
                    self.offers.push((peer, first));
                }
                Effect::Rebase { write, base } => self.rebase(write, base),
                Effect::Diverged { applied, term } => {
                    oracle.diverged(self, applied, term);
                    self.trace
                        .push(format!("n{} must end: {applied} was applied, and the log that counts has term {term} there", self.id()));
                }
                Effect::FollowerBehind { peer, needs, first } => {
                    self.trace.push(format!("n{}: n{peer} is behind, needs {needs}, log begins at {first}", self.id()));
                }
            }
        }
        self.effects = effects;
    }

    /// The log begins anew behind the snapshot that was installed last.
    fn rebase(&mut self, write: WriteId, base: Base) {
        self.writes_asked += 1;
        self.rebased += 1;
        let installed = self.snapshots.iter().find(|snapshot| base_of(snapshot) == base);
        self.log = installed.expect("what the log begins behind was installed, and is kept").clone();
        self.trace.push(format!("n{} log begins anew at {}", self.id(), base.next()));
        self.compacted = base.next();
        self.disk.write(write, Written { from: LogIndex(1), entries: self.log.clone(), base: Some(base) }, self.now);
    }

    fn append(&mut self, write: WriteId, range: IndexRange, event: &Event, entries: &[Entry]) {
        self.writes_asked += 1;
        let offered = match event {
            Event::Append { append, .. } => append.range,
            Event::Sealed { frame, .. } => frame.range(),
            other => panic!("nothing to write came with {other:?}"),
        };
        assert!(offered.from <= range.from && range.to <= offered.to, "only what came can be written");
        let from = (range.from.0 - offered.from.0) as usize;
        let to = (range.to.0 - offered.from.0) as usize;
        self.log.truncate(range.from.0 as usize - 1);
        assert_eq!(self.log.len() as u64 + 1, range.from.0, "the log has no gap");
        self.log.extend_from_slice(&entries[from..=to]);
        self.disk.write(write, Written { from: range.from, entries: entries[from..=to].to_vec(), base: None }, self.now);
    }

    /// Hands frames to the network as the reactor would: whole ones, the first narrowed.
    fn send_frames(
        &mut self,
        peer: NodeId,
        session: SessionId,
        from: LogIndex,
        upto: LogIndex,
        max_bytes: u64,
        max_frames: u32,
        net: &mut Network,
    ) -> Event {
        if from < self.compacted {
            return Event::FramesGone { peer, session, first: self.compacted };
        }
        let (mut next, mut bytes, mut frames) = (from.0, 0, 0);
        let (term, commit, round) = self.raft.as_ref().map(|raft| (raft.term(), raft.commit(), raft.round())).expect("it is running");
        while next <= upto.0 && frames < max_frames.min(self.frames_at_once) && (frames == 0 || bytes + 4096 <= max_bytes) {
            let frame = self.log[next as usize - 1].frame;
            let same = self.log[next as usize - 1..].iter().take_while(|entry| entry.frame == frame).count() as u64;
            let to = (next + same - 1).min(upto.0);
            let range = IndexRange { from: LogIndex(next), to: LogIndex(to) };
            let append = Append { leader_term: term, commit, frame, range, round };
            let entries = self.log[next as usize - 1..to as usize].to_vec();
            net.send(Packet { from: self.id(), to: peer, session, body: Body::Frame(append, entries) });
            (next, bytes, frames) = (to + 1, bytes + 4096, frames + 1);
        }
        Event::FramesSent { peer, session, to: LogIndex(next - 1), bytes, frames }
    }
}

/// The last entry of a snapshot.
pub(crate) fn id_of(snapshot: &[Entry]) -> EntryId {
    let term = snapshot.last().map_or(Term(0), |entry| entry.frame.term);
    EntryId { index: LogIndex(snapshot.len() as u64), term }
}

/// What a log behind a snapshot presupposes.
pub(crate) fn base_of(snapshot: &[Entry]) -> Base {
    let EntryId { index, term } = id_of(snapshot);
    Base { index, term, ..Base::default() }
}
