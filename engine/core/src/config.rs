//! What a core is told once: its settings.

use alloc::vec::Vec;
use core::fmt;

use crate::NodeId;
use crate::limits::{MAX_MEMBERS, MAX_TIMEOUT_NS, MAX_VOTERS};

/// Timing and identity of one replica's core. Times in nanoseconds.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// All voters: a majority of them elects and commits. This node need not be one: then it follows, and never leads.
    pub voters: Vec<NodeId>,
    /// Members that are sent the log and count for nothing.
    pub learners: Vec<NodeId>,
    /// Shortest election timeout. Also how long a follower that heard from a leader refuses every candidate, and
    /// how long a node that just started refuses them.
    pub election_min_ns: u64,
    /// Longest election timeout. Also how long a leader may go without hearing from a quorum.
    pub election_max_ns: u64,
    /// Where this node's flushes are too slow for these timeouts they are longer, up to this for the longest: at least
    /// `election_max_ns`.
    pub election_limit_ns: u64,
    /// Heartbeat interval, at most half the shortest election timeout.
    pub heartbeat_ns: u64,
    /// After how long a follower is told of a commit index that no frame carries, at most a heartbeat interval. Under
    /// load the next frame carries it; zero tells it at once, by a message before each frame.
    pub news_ns: u64,
    /// Window per follower, in bytes.
    pub window_bytes: u64,
    /// Window per follower, in frames.
    pub window_frames: u32,
    /// Seed of the election jitter. Equal seeds on two nodes do no harm.
    pub seed: u64,
}

/// What is wrong with a [`Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// There must be 1 to [`MAX_VOTERS`] voters.
    VoterCount {
        /// How many there are.
        voters: usize,
    },
    /// There may be at most [`MAX_MEMBERS`] voters and learners together.
    MemberCount {
        /// How many there are.
        members: usize,
    },
    /// A node id is zero, or stands twice among the members.
    BadMember {
        /// Which.
        node: NodeId,
    },
    /// Timeouts must satisfy 0 < 2 * heartbeat <= election min <= election max <= election limit <= a day, and news <=
    /// heartbeat.
    Timeouts,
    /// Both windows must be at least 1.
    Window,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::VoterCount { voters } => write!(f, "{voters} voters: there must be 1 to {MAX_VOTERS}"),
            ConfigError::MemberCount { members } => {
                write!(f, "{members} voters and learners: there may be at most {MAX_MEMBERS}")
            }
            ConfigError::BadMember { node } => write!(f, "member {node}: ids must not be zero, and each must stand once"),
            ConfigError::Timeouts => {
                write!(f, "timeouts must satisfy 0 < 2 * heartbeat <= shortest election timeout <= longest <= their limit <= one day")
            }
            ConfigError::Window => write!(f, "the window per follower must be at least one byte and one frame"),
        }
    }
}

impl core::error::Error for ConfigError {}

impl Config {
    /// Whether a core can run with these settings.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.voters.is_empty() || self.voters.len() > MAX_VOTERS {
            return Err(ConfigError::VoterCount { voters: self.voters.len() });
        }
        let members = self.voters.len() + self.learners.len();
        if members > MAX_MEMBERS {
            return Err(ConfigError::MemberCount { members });
        }
        for (at, node) in self.members().enumerate() {
            if node.0 == 0 || self.members().take(at).any(|earlier| earlier == node) {
                return Err(ConfigError::BadMember { node });
            }
        }
        let ordered = self.heartbeat_ns > 0
            && self.news_ns <= self.heartbeat_ns
            && self.heartbeat_ns <= self.election_min_ns / 2
            && self.election_min_ns <= self.election_max_ns
            && self.election_max_ns <= self.election_limit_ns
            && self.election_limit_ns <= MAX_TIMEOUT_NS;
        if !ordered {
            return Err(ConfigError::Timeouts);
        }
        if self.window_bytes == 0 || self.window_frames == 0 {
            return Err(ConfigError::Window);
        }
        Ok(())
    }

    /// Voters, then learners.
    pub(crate) fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.voters.iter().chain(&self.learners).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Config {
        Config {
            id: NodeId(1),
            voters: alloc::vec![NodeId(1), NodeId(2), NodeId(3)],
            learners: alloc::vec![],
            election_min_ns: 100,
            election_max_ns: 200,
            election_limit_ns: 200,
            heartbeat_ns: 20,
            news_ns: 20,
            window_bytes: 1,
            window_frames: 1,
            seed: 0,
        }
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(good().validate(), Ok(()));
        let bad = |change: fn(&mut Config)| {
            let mut config = good();
            change(&mut config);
            config.validate().err()
        };
        assert_eq!(bad(|c| c.voters.clear()), Some(ConfigError::VoterCount { voters: 0 }));
        assert_eq!(bad(|c| c.voters.extend((4..=10).map(NodeId))), Some(ConfigError::VoterCount { voters: 10 }));
        assert_eq!(bad(|c| c.voters.push(NodeId(2))), Some(ConfigError::BadMember { node: NodeId(2) }));
        assert_eq!(bad(|c| c.voters.push(NodeId(0))), Some(ConfigError::BadMember { node: NodeId(0) }));
        assert_eq!(bad(|c| c.learners.push(NodeId(2))), Some(ConfigError::BadMember { node: NodeId(2) }));
        assert_eq!(bad(|c| c.learners.extend((4..=17).map(NodeId))), Some(ConfigError::MemberCount { members: 17 }));
        assert_eq!(bad(|c| (c.id, c.learners) = (NodeId(9), (4..=16).map(NodeId).collect())), None, "it follows");
        assert_eq!(bad(|c| c.heartbeat_ns = 51), Some(ConfigError::Timeouts));
        assert_eq!(bad(|c| c.news_ns = 21), Some(ConfigError::Timeouts));
        assert_eq!(bad(|c| c.heartbeat_ns = 0), Some(ConfigError::Timeouts));
        assert_eq!(bad(|c| c.election_max_ns = 99), Some(ConfigError::Timeouts));
        assert_eq!(bad(|c| c.election_limit_ns = 199), Some(ConfigError::Timeouts));
        assert_eq!(bad(|c| (c.election_max_ns, c.election_limit_ns) = (u64::MAX, u64::MAX)), Some(ConfigError::Timeouts));
        assert_eq!(bad(|c| c.window_frames = 0), Some(ConfigError::Window));
    }
}
