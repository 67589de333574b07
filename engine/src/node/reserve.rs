//! The last of a log's room ([`KEPT_SEGMENTS`](kontiki_wal::limits::KEPT_SEGMENTS)): kept for the first entries of new
//! terms, where no more room can be had.
//!
//! A leader commits nothing before the first entry of its own term, and a replica that has started again applies
//! nothing before a leader commits. So a log that is full to its last block would lead nowhere, apply nothing, and
//! never hear from its state machine that it may forget.

use kontiki_frame::Kind;

use super::group::{Group, Stalled};
use super::host::Host;

impl Group {
    /// Whether what callers propose has no place in the log, and will have none before there is room again.
    pub(super) fn is_out_of_space(&self, host: &Host) -> bool {
        host.wal.out_of_space(host.config.max_frame_bytes)
    }

    /// Whether a leader's frame can be written, or refused, now. What callers proposed to it in its own term leaves
    /// alone what is kept; what it has from earlier ones does not: the first entry of its term comes behind it.
    pub(super) fn has_room_for(&self, host: &Host, frame: &Stalled) -> bool {
        // A deposed leader's is refused, whatever room there is; where it waited, the next leader's would wait behind it.
        if frame.append.leader_term < self.raft.term() {
            return true;
        }
        if self.log_waits() {
            return false;
        }
        let (header, bytes) = (&frame.hand.header, frame.hand.block.len());
        let proposed = header.kind == Kind::Entries && header.meta.term == frame.append.leader_term;
        if proposed { host.wal.can_propose(bytes) } else { host.wal.can_append(bytes) }
    }
}
