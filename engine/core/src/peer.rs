//! One other member: its session, its answers in an election, its progress under this leader.

use crate::progress::Progress;
use crate::{LogIndex, NodeId, SessionId, Term, Time};

/// A peer's answer to a pre-vote request of the current round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ballot {
    /// It would vote for this node.
    Granted,
    /// It would not.
    Refused,
    /// It may not, as it recovers; its intact log ends here.
    Recovering {
        /// Term of its last intact entry.
        last_term: Term,
        /// Index of its last intact entry.
        last_index: LogIndex,
    },
}

/// One other member.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    /// The current session; messages of any other are ignored.
    pub(crate) session: Option<SessionId>,
    /// What it answered to the pre-vote under way.
    pub(crate) ballot: Option<Ballot>,
    /// It voted for this node in the current term.
    pub(crate) voted: bool,
    /// Leader: the commit index when the session opened.
    pub(crate) session_commit: LogIndex,
    /// Leader: its last sign of life in this term.
    pub(crate) heard: Time,
    /// Leader: when the last heartbeat that wants an answer left; `None`: one is due now.
    pub(crate) heartbeat_at: Option<Time>,
    /// Leader: when frames were last handed to the transport.
    pub(crate) frames_at: Time,
    /// Leader: since when it has not been told of the commit index.
    pub(crate) news_at: Option<Time>,
    /// Leader: it said that it needs a snapshot, whatever its log holds.
    pub(crate) needs_base: bool,
    /// Leader: when it was last offered one in this session.
    pub(crate) offered_at: Option<Time>,
    /// Leader: how far it is.
    pub(crate) progress: Progress,
    /// It spoke as the leader of an older term and is to be told so, once a turn.
    pub(crate) outdated: bool,
}

impl Peer {
    pub(crate) fn new(id: NodeId, now: Time) -> Peer {
        Peer {
            id,
            session: None,
            ballot: None,
            voted: false,
            session_commit: LogIndex(0),
            heard: Time(0),
            heartbeat_at: None,
            frames_at: Time(0),
            news_at: None,
            needs_base: false,
            offered_at: None,
            progress: Progress::new(LogIndex(1), now),
            outdated: false,
        }
    }

    /// When it is told of the commit index, if no frame does so before.
    pub(crate) fn news_due(&self, news_ns: u64) -> Option<Time> {
        self.news_at.map(|since| since.plus_ns(news_ns))
    }

    /// When the next heartbeat is due: traffic stands in for one, but only while the peer answers it.
    pub(crate) fn heartbeat_due(&self, interval_ns: u64) -> Time {
        match self.heartbeat_at {
            Some(at) => at.max(self.frames_at.min(self.heard)).plus_ns(interval_ns),
            None => Time(0),
        }
    }
}
