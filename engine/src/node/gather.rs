//! When what waits in the open batch becomes a frame.
//!
//! Every frame costs each replica a write, a receive and a wake-up, so a few large ones beat many small ones. But a
//! proposal that waits longer than it saves is late. Three rules:
//!
//! * With nothing under way, at once; a full batch always.
//! * With a frame under way, its commit is waited for, which is near: the callers whom it answers propose again, and
//!   join. Where it is not near (far followers), for twice the time that a write takes here, and then the next frame
//!   goes out behind it.
//! * Callers that were just answered come back within microseconds. A reactor with a thread of its own waits for them
//!   awake ([`Replica::linger`]): that saves the wake-up, and lets all of them in. Where they did not come back the
//!   last times, it does not. (A turn looks for what to seal before it learns of a commit, and the wait stands between
//!   it and the next: so what waits when a commit comes goes out together with what those say whom it answers.)

use kontiki_core::{Role, Time};
use kontiki_io::Io;

use super::group::Group;
use super::host::Host;
use crate::limits::{AMPLE_ENTRIES, ENTRIES_PER_YIELD, LINGER_NS, LULL_NS, MAX_FRAME_ENTRIES, MAX_LINGER_NS, MAX_SULK, MAX_YIELDS};

/// What the rules rest on.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    /// Entries that will wait once all callers that were answered since it last lingered have come back.
    expected: u64,
    /// Until when what waits is held back for the commit of what is under way.
    hold_until: Time,
    /// What a log write takes, smoothed, in ns.
    write_ns: u64,
    /// The last time all came back: worth some patience with those who are late.
    all_came: bool,
    /// Times in a row that nobody came back, and how often not to wait for that.
    missed: u32,
    sulk: u32,
    /// Batches to keep open behind the open one, since the last ones were filled.
    pub(super) ahead: usize,
}

impl Gather {
    /// A log write has taken so long.
    pub(super) fn wrote(&mut self, ns: u64) {
        self.write_ns = if self.write_ns == 0 { ns } else { self.write_ns - self.write_ns / 8 + ns / 8 };
    }

    /// The callers of so many entries are answered now, while so many of others wait.
    pub(super) fn answers(&mut self, count: u32, waiting: u32) {
        if self.expected == 0 {
            self.expected = waiting.into();
        }
        self.expected += u64::from(count);
    }

    /// A batch was sealed.
    pub(super) fn sealed(&mut self, now: Time, count: u32, full: bool) {
        self.expected = self.expected.saturating_sub(count.into());
        self.hold_until = now.plus_ns(2 * self.write_ns);
        self.ahead = if full { (self.ahead + 1).min(kontiki_mem::limits::OPEN_BATCHES - 1) } else { 0 };
    }

    /// Whether lingering is worth a try; counts those that are left out.
    fn has_hope(&mut self) -> bool {
        if self.sulk == 0 {
            return true;
        }
        self.sulk -= 1;
        false
    }

    fn came_back(&mut self, any: bool) {
        if any {
            self.missed = 0;
        } else {
            self.missed += 1;
            self.sulk = 1u32.checked_shl(self.missed).map_or(MAX_SULK, |rounds| rounds.min(MAX_SULK));
        }
    }
}

impl Group {
    /// Whether a sealed batch could go into the log now.
    pub(super) fn may_seal(&self, host: &Host) -> bool {
        // (Several batches may go in one turn: the last of the log's room is looked at before each.)
        self.pending.has_room()
            && self.has_place()
            && host.wal.can_propose(host.config.max_frame_bytes)
            && !self.is_out_of_space(host)
            && self.raft.next_frame(1).is_some()
    }

    /// Whether so much waits that the next batch may as well be begun.
    fn is_full(&self, host: &Host, entries: u32, bytes: usize) -> bool {
        let most = self.neighbours.seal_bytes;
        bytes + host.config.max_entry_bytes.min(most / 4) >= most || entries as usize >= MAX_FRAME_ENTRIES.min(host.config.max_in_flight)
    }

    /// Whether so much waits that a frame of its own is worth what it costs: then it goes out behind the one before,
    /// and its callers' work overlaps with that one's way.
    fn is_ample(&self, host: &Host, entries: u32) -> bool {
        entries >= AMPLE_ENTRIES && host.wal.writes_in_flight() <= 1
    }

    /// Whether a first entry would be sealed at once.
    pub(super) fn is_eager(&self, host: &Host, now: Time) -> bool {
        self.role == Role::Leader
            && host.wal.writes_in_flight() == 0
            && (self.raft.last_index() <= self.commit || now >= self.gather.hold_until)
    }

    /// Whether what waits in the open batch is to be sealed now.
    pub(super) fn wants_seal(&self, host: &Host, now: Time) -> bool {
        let (entries, bytes) = self.shared.batch.waiting();
        entries > 0
            && self.may_seal(host)
            && (self.is_full(host, entries, bytes) || self.is_ample(host, entries) || self.is_eager(host, now))
    }

    /// When what waits is held back no longer, if a turn has to see to that: from then on callers ring.
    pub(super) fn held_until(&self, host: &Host) -> Option<Time> {
        let held = self.role == Role::Leader && !self.shared.is_eager() && host.wal.writes_in_flight() == 0;
        held.then_some(self.gather.hold_until)
    }

    /// Waits, awake and not for long, for callers that were just answered. Whether any came.
    pub(super) fn linger(&mut self, host: &Host, io: &dyn Io) -> bool {
        let expected = self.gather.expected;
        if expected == 0 || self.raft.last_index() > self.commit || !self.gather.has_hope() {
            return false;
        }
        let begun = io.now();
        let (first, spares) = (self.shared.batch.waiting().0, self.shared.batch.spares());
        let (mut seen, mut grown) = (first, begun);
        loop {
            let (entries, bytes) = self.shared.batch.waiting();
            let now = io.now();
            if u64::from(entries) >= expected
                || self.is_full(host, entries, bytes)
                || entries >= AMPLE_ENTRIES
                || self.shared.batch.spares() != spares
            {
                break;
            }
            if entries != seen {
                (seen, grown) = (entries, now);
            }
            let patience = if seen == first || self.gather.all_came { LINGER_NS } else { LULL_NS };
            if now.since(grown) > patience || now.since(begun) > MAX_LINGER_NS {
                break;
            }
            // The caller may be waiting for this very processor. And each look takes the word from whoever is proposing: the more
            // there are to come, the more rarely.
            for _ in 0..=(expected.saturating_sub(entries.into()) / ENTRIES_PER_YIELD).min(MAX_YIELDS) {
                std::thread::yield_now();
            }
        }
        let came = self.shared.batch.waiting().0;
        let any = came != first || self.shared.batch.spares() != spares;
        self.gather.all_came = u64::from(came) >= expected || came < first;
        self.gather.came_back(any);
        self.gather.expected = 0;
        any
    }
}
