//! What one node was seen to write and to say: from that follows what it must hold after a power cut.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use kontiki_core::{EntryId, LogIndex, Message, Time};
use kontiki_frame::{DiskStamp, Kind, entries, parse_header};
use kontiki_io::{Completion, Name, Op, Piece, Token};
use kontiki_net::{Control, ControlPayload};
use kontiki_snapshot::names;

use crate::cluster::workload::value_of;
use crate::recording::Observer;

/// One entry that somebody proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Entry {
    pub(super) index: u64,
    pub(super) term: u64,
    /// The value of its payload, or `None` if the payload is not as proposed.
    pub(super) value: Option<u64>,
}

impl Entry {
    pub(super) fn new(index: LogIndex, term: kontiki_core::Term, payload: &[u8]) -> Entry {
        let (value, intact) = value_of(payload);
        Entry { index: index.0, term: term.0, value: intact.then_some(value) }
    }

    pub(super) fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let words = [self.index, self.term, self.value.unwrap_or(u64::MAX)];
        bytes.as_chunks_mut().0.iter_mut().zip(words).for_each(|(to, word)| *to = word.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; ENTRY_BYTES]) -> Entry {
        let word = |n: usize| bytes.as_chunks().0.get(n).map_or(0, |word| u64::from_le_bytes(*word));
        Entry { index: word(0), term: word(1), value: Some(word(2)).filter(|&value| value != u64::MAX) }
    }

    pub(super) fn id(&self) -> EntryId {
        EntryId { index: LogIndex(self.index), term: kontiki_core::Term(self.term) }
    }
}

const ENTRY_BYTES: usize = 24;

/// What the state machines of a workload were given, whoever it was.
#[derive(Clone, Debug, Default)]
pub(super) struct History(Arc<Mutex<BTreeMap<u64, Entry>>>);

impl History {
    pub(super) fn note(&self, entry: Entry) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(entry.index, entry);
    }

    fn upto(&self, index: u64) -> Vec<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).range(..=index).map(|(_, entry)| *entry).collect()
    }
}

/// A log as a reader sees it. No-ops take an index, and that is all that is seen of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Log {
    pub(super) last: u64,
    pub(super) entries: Vec<Entry>,
}

impl Log {
    /// The entries behind `index`.
    pub(super) fn after(&self, index: u64) -> &[Entry] {
        self.entries.get(self.entries.partition_point(|entry| entry.index <= index)..).unwrap_or_default()
    }

    fn with(&self, frame: &Frame) -> Log {
        let kept = self.entries.iter().filter(|entry| entry.index < frame.from);
        Log { last: frame.to, entries: kept.chain(&frame.entries).copied().collect() }
    }
}

/// A frame of the log, as it was submitted to the disk.
#[derive(Debug)]
struct Frame {
    from: u64,
    to: u64,
    entries: Vec<Entry>,
}

/// A term, and the vote in it; zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ballot {
    pub(super) term: u64,
    pub(super) vote: u64,
}

/// What must be found after a power cut at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Promise {
    /// So many of the frames, at least.
    pub(super) frames: usize,
    /// This ballot, or a later one.
    pub(super) ballot: Ballot,
}

/// What a node did since it was started.
#[derive(Debug, Default)]
pub(super) struct Record {
    id: u64,
    frames: Vec<Frame>,
    /// `logs[n]`: the log with the first `n` frames.
    pub(super) logs: Vec<Log>,
    /// Ballots, as they were submitted to the disk; first the one it started with.
    pub(super) ballots: Vec<Ballot>,
    /// Whether the hard state written last says that it is recovering; `None`: none was written.
    pub(super) recovering: Option<bool>,
    pub(super) promise: Promise,
    /// Frames that took the place of entries.
    pub(super) superseding: u64,
    /// Log writes that are not known to be done, in order: the token, how many frames there are with it, and whether it is done.
    writes: Vec<(Token, usize, bool)>,
    /// The most there ever were.
    pub(super) most_writes: usize,
    /// So many of the frames are known to be on the disk.
    pub(super) durable: usize,
    pub(super) history: History,
    /// Snapshots of its own that got their name, and of other nodes'.
    pub(super) written: u64,
    pub(super) fetched: u64,
}

impl Record {
    /// Of node `id`, which starts with this much.
    pub(super) fn new(id: u64, log: Log, ballot: Ballot) -> Record {
        Record { id, logs: vec![log], ballots: vec![ballot], promise: Promise { frames: 0, ballot }, ..Record::default() }
    }

    /// Everything up to `index` was promised to be durable here.
    pub(super) fn promised(&mut self, index: u64) {
        let frames = self.frames.iter().rposition(|frame| frame.from <= index).map_or(0, |at| at + 1);
        self.promise.frames = self.promise.frames.max(frames);
    }

    fn wrote(&mut self, token: Token, bytes: &[u8]) {
        if bytes.starts_with(b"KtkH") {
            let field = |at: usize| bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes);
            self.recovering = bytes.get(10).map(|flags| flags & 1 != 0);
            self.ballots.push(Ballot { term: field(32), vote: field(40) });
            return;
        }
        let mut rest = bytes;
        while let (Ok(stamp), Ok(header)) = (DiskStamp::parse(rest), parse_header(rest)) {
            let seen = entries(rest, &header, stamp.range).filter(|_| header.kind == Kind::Entries);
            let entries = seen.map(|entry| Entry::new(entry.index, entry.term, entry.payload)).collect();
            let frame = Frame { from: stamp.range.from.0, to: stamp.range.to.0, entries };
            let before = self.logs.last().cloned().unwrap_or_default();
            self.superseding += u64::from(frame.from <= before.last);
            self.logs.push(before.with(&frame));
            self.frames.push(frame);
            rest = rest.get(header.frame_bytes()..).unwrap_or_default();
        }
        if rest.len() < bytes.len() {
            self.writes.push((token, self.frames.len(), false));
            self.most_writes = self.most_writes.max(self.writes.len());
        }
    }

    /// A snapshot gets its name. One of another node's may be found from now on, and then the log begins behind it: as if a frame
    /// with all that it holds took the place of everything.
    fn named(&mut self, from: &Name, to: &Name) {
        let Some(LogIndex(to)) = names::index(to) else { return };
        if from.as_str() == names::NEW {
            self.written += 1;
        } else {
            self.fetched += 1;
            let frame = Frame { from: 1, to, entries: self.history.upto(to) };
            self.logs.push(Log::default().with(&frame));
            self.frames.push(frame);
        }
    }

    fn says(&mut self, message: Message) {
        let (term, votes) = match message {
            // They change nothing here.
            Message::PreVoteReply { .. } | Message::PreVote { .. } => return,
            Message::Vote { term, .. } => (term.0, true),
            Message::VoteReply { term, granted } => (term.0, granted),
            Message::Heartbeat { term, .. }
            | Message::HeartbeatReply { term, .. }
            | Message::Accepted { term, .. }
            | Message::Received { term, .. }
            | Message::Rejected { term, .. } => (term.0, false),
        };
        // Whom a vote went to is on the disk alone, or not at all.
        let for_whom = self.ballots.iter().rev().find(|ballot| ballot.term == term).map_or(u64::MAX, |ballot| ballot.vote);
        let for_whom = if let Message::Vote { .. } = message { self.id } else { for_whom };
        let ballot = Ballot { term, vote: if votes { for_whom } else { 0 } };
        self.promise.ballot = self.promise.ballot.max(ballot);
        if let Message::Accepted { matched, .. } = message {
            self.promised(matched.0);
        }
    }
}

/// A record, as the observer of its node's `Io`.
#[derive(Clone, Debug)]
pub(super) struct Scribe(pub(super) Rc<RefCell<Record>>);

impl Observer for Scribe {
    fn submitted(&mut self, _: Time, token: Token, op: &Op) {
        let mut record = self.0.borrow_mut();
        match op {
            Op::Write { data, .. } => record.wrote(token, data.bytes()),
            Op::Rename { from, to, .. } => record.named(from, to),
            Op::Send { gather, .. } => {
                for piece in &gather.pieces {
                    let Piece::Head(from, to) = piece else { continue };
                    let mut rest = gather.head.bytes().get(*from as usize..*to as usize).unwrap_or_default();
                    while let Ok(Some((control, length))) = Control::decode(rest) {
                        if let ControlPayload::Message(message) = control.payload {
                            record.says(message);
                        }
                        rest = rest.get(length..).unwrap_or_default();
                    }
                }
            }
            _ => {}
        }
    }

    fn completed(&mut self, _: Time, completion: &Completion) {
        let mut record = self.0.borrow_mut();
        if let Some(write) = record.writes.iter_mut().find(|write| write.0 == completion.token && !write.2) {
            write.2 = completion.result.is_ok();
        }
        while record.writes.first().is_some_and(|write| write.2) {
            record.durable = record.writes.remove(0).1;
        }
    }
}
