//! Memory for frames: what leaves it, and who is waited for before it does.

use kontiki_core::{LogIndex, Time};
use kontiki_io::{Io, tell};
use kontiki_net::Net;

use super::group::Group;
use super::host::Host;

impl Group {
    /// Whether the log's newest frame has a place in memory.
    pub(super) fn has_place(&self) -> bool {
        !self.cache.is_full() || self.cache.may_evict(self.evictable())
    }

    /// What may leave memory, if there is need: it is durable here, and was sent to all followers that are waited for.
    fn evictable(&self) -> LogIndex {
        self.raft.durable().min(self.awaited)
    }

    /// While it leads: up to where followers were sent the log from memory, where they still make progress. Beyond that
    /// the memory is theirs, and callers get `Busy` once it is full: a leader that outruns a follower that is just
    /// a little slower loses it for good once the log no longer holds what it needs. One that made no progress for
    /// `hold_back_ms` is not waited for any more; nor is one that is already read to from the log.
    fn await_followers(&mut self, host: &mut Host, now: Time) {
        let patience_ns = host.config.hold_back_ms * 1_000_000;
        let Some(oldest) = self.cache.first() else { return };
        self.awaited = LogIndex(u64::MAX);
        for peer in self.raft.progress() {
            if !peer.probing && peer.next >= oldest && now.since(peer.advanced) < patience_ns {
                self.awaited = self.awaited.min(peer.next.prev());
            }
        }
    }

    /// Keeps half of the ring free: the oldest frames leave the cache once they are durable. A peer whose
    /// connection still pins old memory then loses the connection; it catches up from the log.
    pub(super) fn make_room(&mut self, host: &mut Host, now: Time, io: &mut dyn Io) {
        self.await_followers(host, now);
        let (wanted, evictable) = (host.ring.capacity() / 2, self.evictable());
        let mut free = host.ring.free();
        while free < wanted && self.cache.evict(evictable) {
            free = host.ring.free();
        }
        if free < host.ring.capacity() / 4 {
            // The ring is reclaimed in order: a peer that reads nothing holds up all of it with a single old frame.
            let too_long = host.config.election_max_ms * 1_000_000;
            let share = (host.ring.capacity() / 4) as u64;
            let pins = |net: &Net, peer| net.pinning(peer).is_some_and(|p| p.bytes > share || now.since(p.since) > too_long);
            let first_that_pins = |net: &Net| net.peers().find(|&peer| pins(net, peer));
            while let Some(peer) = first_that_pins(&host.net) {
                if host.net.admits_lines(1, Some(peer), "does not read", now) {
                    tell!(warn, %peer, "does not read: connection cut, it will catch up from the log");
                }
                host.net.cut(peer, now, io);
            }
        }
    }
}
