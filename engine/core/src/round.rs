//! Rounds: until when a leader is known to have led (thesis, section 6.4).
//!
//! A leader counts rounds, from 1 in each of its terms. All that it sends names the present one, and every answer of a
//! follower echoes the highest that it has heard in this term and session. Whoever echoes a round was in the leader's
//! term after that round had begun. So once a majority has, no leader of a later term was elected before it began: what
//! was committed by then, this leader knew. An echo of another term or session says nothing and counts for nothing.
//!
//! A new round begins with each heartbeat that wants an answer; what is sent in between belongs to the round before.

use crate::raft::{Raft, Role};

impl Raft {
    /// The round that what a leader sends now belongs to: to be stamped on frames. Zero before the first.
    pub fn round(&self) -> u64 {
        self.leading.round()
    }

    /// Leader: the highest round that a majority of the voters has echoed; its own counts as echoed at once. Falls where a
    /// follower's session is a new one. `None` for anyone else.
    ///
    /// No leader of a later term had been elected when that round began.
    pub fn confirmed_round(&self) -> Option<u64> {
        let reached = || self.reached_by_quorum(self.round(), |peer| peer.progress.echoed);
        (self.role == Role::Leader).then(reached).flatten()
    }
}
