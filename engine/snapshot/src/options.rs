//! What a store is told.

use std::path::PathBuf;

use kontiki_core::{ClusterId, GroupId, Incarnation, NodeId};

/// Where snapshots lie, and whose they are.
///
/// ```
/// use kontiki_core::{ClusterId, NodeId};
/// use kontiki_snapshot::Options;
///
/// let options = Options { dir: "/var/lib/product".into(), cluster: ClusterId(7), node: NodeId(1), ..Options::default() };
/// assert_eq!(options.bytes_per_s, 0, "as fast as the log leaves it room");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The data directory, which is there and locked.
    pub dir: PathBuf,
    /// The cluster. A snapshot of another one in the directory is an error.
    pub cluster: ClusterId,
    /// The group. Likewise.
    pub group: GroupId,
    /// This node: the snapshots that it makes say so.
    pub node: NodeId,
    /// How fast a snapshot is written or fetched at most, in bytes per second; zero: as fast as the log leaves it room.
    pub bytes_per_s: u64,
}

/// What a new snapshot is to say of itself, as far as the store does not know it: see [`Store::begin`](crate::Store::begin).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Making {
    /// The last entry whose effects it holds.
    pub base: kontiki_core::Base,
    /// The cluster's lineage; zero until there are configurations.
    pub lineage: u128,
    /// Cluster time of that entry, in ns; zero until there is one.
    pub cluster_ns: u64,
    /// Whether the machine's state is in it. Without it, [`Part::Machine`](crate::Part::Machine) may not be pushed.
    pub full: bool,
    /// How often this node has started, this time included.
    pub incarnation: Incarnation,
}
