//! What a process has once, however many groups it takes part in: log files, transport, memory for frames, deadlines.

use kontiki_core::{Incarnation, Time};
use kontiki_io::{Completion, Io, IoErrorKind, tell};
use kontiki_mem::Ring;
use kontiki_net::{Net, NetError, NetEvent};
use kontiki_snapshot::Store;
use kontiki_wal::{Growth, Wal};

use crate::config::Config;
use crate::lack::Lack;
use crate::limits::{self, ROOM_LINES};

pub(super) struct Host {
    pub(super) config: Config,
    pub(super) incarnation: Incarnation,
    /// What recovery found, for people.
    pub(super) recovery: String,
    pub(super) wal: Wal,
    pub(super) store: Store,
    /// Something has happened to the snapshots: what follows is to be submitted.
    pub(super) store_stirred: bool,
    pub(super) net: Net,
    pub(super) ring: Ring,
    /// What the next segment of the log lacks.
    pub(super) lacking: Option<Lack>,
    /// Turns, and sessions opened, since the start.
    pub(super) turns: u64,
    pub(super) sessions: u64,
}

impl Host {
    pub(super) fn new(config: Config, incarnation: Incarnation, recovery: String, wal: Wal, store: Store, net: Net, ring: Ring) -> Host {
        Host { config, incarnation, recovery, wal, store, store_stirred: true, net, ring, lacking: None, turns: 0, sessions: 0 }
    }

    /// When a turn is due for log, snapshots or transport although nothing happens.
    pub(super) fn deadline(&self) -> Time {
        let wal = self.wal.deadline().unwrap_or(Time(u64::MAX));
        let net = self.net.deadline().unwrap_or(Time(u64::MAX));
        let store = self.store.deadline().unwrap_or(Time(u64::MAX));
        net.min(wal).min(store)
    }

    pub(super) fn on_completion(&mut self, completion: Completion, now: Time, io: &mut dyn Io) {
        match (completion.token.0 >> 56) as u8 {
            kontiki_wal::OWNER => self.wal.on_completion(completion, io),
            kontiki_snapshot::OWNER => {
                self.store_stirred = true;
                self.store.on_completion(completion, io);
            }
            kontiki_net::TOKEN_TAG => self.net.on_completion(now, completion, io),
            owner => panic!("a completion for nobody: owner {owner}"),
        }
    }

    /// See [`Replica::poll_listening`](super::Replica::poll_listening).
    pub(super) fn poll_listening(&mut self) -> Option<Result<(), NetError>> {
        match self.net.poll_event()? {
            NetEvent::Listening { addr } => {
                tell!(info, %addr, "listening");
                Some(Ok(()))
            }
            NetEvent::Fatal(error) => Some(Err(error)),
            // Nobody can have connected before the port was open.
            _ => None,
        }
    }

    /// Tells the operator when there is no next segment for the log, and why; and when that is over. What was lacking
    /// and what is, where that is news.
    pub(super) fn watch_space(&mut self, now: Time) -> Option<(Option<Lack>, Option<Lack>)> {
        let lacking = Lack::of(&self.wal);
        let before = std::mem::replace(&mut self.lacking, lacking);
        let same = |lacking: Lack| before.is_some_and(|before| before.is_like(lacking));
        if lacking == before || lacking.is_some_and(same) {
            return None;
        }
        // Where it comes and goes with each segment, not each time.
        if !self.net.admits_lines(ROOM_LINES, None, "room for the log", now) {
            return Some((before, lacking));
        }
        match (lacking, before) {
            (Some(Lack::Resources(error)), _) => {
                tell!(warn, %error, "no next segment for now: once the one in use is full, writes are refused until there is");
            }
            (Some(Lack::Segments), _) => tell!(
                warn,
                "log full: it has as many segments as it can keep track of, and neither the state machine nor two snapshots hold what it could forget"
            ),
            (Some(Lack::Space), _) => {
                tell!(warn, "disk full: once the segment in use is full, writes are refused until there is space for the next");
            }
            (None, Some(Lack::Segments)) => tell!(info, "the log may grow again"),
            (None, Some(Lack::Resources(_))) => tell!(info, "what the next segment lacked is there again"),
            (None, Some(Lack::Space) | None) => tell!(info, "disk space is back"),
        }
        Some((before, lacking))
    }

    /// See [`Replica::begin_close`](super::Replica::begin_close).
    pub(super) fn begin_close(&mut self, now: Time, io: &mut dyn Io) {
        self.net.stop(now, io);
        self.close_files(io);
    }

    /// Submits what log and snapshots have to do on the disk; the log goes first.
    pub(super) fn pump(&mut self, now: Time, io: &mut dyn Io) {
        self.wal.pump(io);
        if std::mem::take(&mut self.store_stirred) || self.store.deadline().is_some_and(|due| due <= now) {
            self.store.pump(io, self.wal.writes_in_flight() > 0);
            // A log that took the next snapshot's space could never forget.
            // Short of anything else, the log will find so itself.
            let growth = match self.store.lacking() {
                _ if self.store.has_space() => Growth::Free,
                Some(error) if error.kind == IoErrorKind::Full => Growth::Full,
                Some(_) => Growth::Free,
                // Tried again: that it was lacking holds until it is there.
                None if self.wal.growth() == Growth::Full => Growth::Full,
                None => Growth::Held,
            };
            if self.wal.set_growth(growth) {
                self.wal.pump(io);
            }
        }
    }

    /// Whether the next snapshot lacks space on the disk.
    pub(super) fn lacks_space(&self) -> bool {
        self.store.lacking().is_some_and(|error| error.kind == IoErrorKind::Full)
    }

    /// The log holds the lock: it is closed last.
    fn close_files(&mut self, io: &mut dyn Io) {
        self.store.close(io);
        if self.store.closed() {
            self.wal.close(io);
        }
    }

    /// See [`Replica::close`](super::Replica::close).
    pub(super) fn close(&mut self, now: Time, io: &mut dyn Io) -> bool {
        while self.wal.next_event().is_some() {}
        while self.net.poll_event().is_some() {}
        while self.store.next_event().is_some() {}
        self.store_stirred = true;
        self.pump(now, io);
        self.close_files(io);
        self.net.tick(now, io, &mut self.ring);
        self.net.idle() && self.wal.closed()
    }

    /// See [`Replica::close_deadline`](super::Replica::close_deadline).
    pub(super) fn close_deadline(&self) -> Time {
        self.wal.deadline().unwrap_or(Time(u64::MAX))
    }

    /// See [`Replica::patience_ns`](super::Replica::patience_ns).
    pub(super) fn patience_ns(&self) -> u64 {
        if self.wal.closed() { limits::CLOSE_NET_NS } else { limits::CLOSE_LOG_NS }
    }
}
