//! What a store is told.

use std::path::PathBuf;

use kontiki_core::{ClusterId, GroupId, Incarnation, NodeId};

/// Where snapshots lie, and whose they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The data directory, which is there and locked.
    pub dir: PathBuf,
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// This node: told of in what it makes.
    pub node: NodeId,
    /// How fast a snapshot is written or fetched at most, in bytes per second; zero: as fast as the log leaves it room.
    pub bytes_per_s: u64,
}

/// What is told of a snapshot that is to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Making {
    /// The last entry whose effects it holds.
    pub base: kontiki_core::Base,
    /// The cluster's lineage.
    pub lineage: u128,
    /// Cluster time of that entry, in ns.
    pub cluster_ns: u64,
    /// Whether the machine's state is in it.
    pub full: bool,
    /// How often this node has started.
    pub incarnation: Incarnation,
}
