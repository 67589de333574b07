//! Kontiki's simulated world: hosts with disks, clocks and a network between them, from one seed.
//!
//! [`Sim`] is the world, [`SimIo`] what one process sees of it: an implementation of [`kontiki_io::Io`] under which the
//! whole engine runs unchanged. It is single-threaded and deterministic: the same seed and the same calls give
//! the same [`Sim::trace_hash`], on every build of the same source.
//!
//! [`Cluster`] puts whole nodes into it, with clients ([`Workload`]) and a [`Judge`]; [`run`] is one seed of that under faults, and the
//! program of this crate runs many.
//!
//! [`crash_points`] cuts the power of a node at every storage operation, in every way, and looks at what comes back.
//!
//! [`Recording`] goes around any `Io`, this one or a real one, and shows every submission and completion to an observer.

mod cluster;
mod conditions;
pub mod crash_points;
mod disk;
mod faults;
mod judge;
pub mod limits;
mod network;
mod random;
mod recording;
mod run;
mod shrink;
mod sim;
mod world;

pub use cluster::marks::marks;
pub use cluster::workload::{REGISTERS, Workload, command, is_read, key_of, payload, value_of};
pub use cluster::{Cluster, Setup};
pub use conditions::{Conditions, Delay, DiskConditions, Harm, MICROSECOND, MILLISECOND, NetworkConditions, ProcessorConditions, SECOND};
pub use disk::{Disk, Unflushed};
pub use faults::{Fault, Faults};
pub use judge::linearize::{Action, INITIAL, Objection, Operation, check};
pub use judge::{Fate, Judge, Violation};
pub use random::{Odds, Random};
pub use recording::{Observer, Recording};
pub use run::{Extent, Report, run};
pub use shrink::{Shrunk, shrink};
pub use sim::Sim;
pub use world::host::{Host, Injection};
pub use world::op_class::OpClass;
pub use world::sim_io::SimIo;
pub use world::trace::{Counts, Occurrence, hash_bytes};
