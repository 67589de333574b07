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
mod decay;
mod disk;
mod faults;
mod history;
mod host;
mod inode;
mod judge;
mod late_writes;
pub mod limits;
mod linearize;
mod listener;
mod machine;
mod marks;
mod network;
mod op_class;
mod random;
mod recording;
mod run;
mod shrink;
mod sim;
mod sim_io;
mod sockets;
mod storage;
mod tamper;
mod trace;
mod traffic;
mod workload;
mod world;

pub use cluster::{Cluster, Setup};
pub use conditions::{Conditions, Delay, DiskConditions, MICROSECOND, MILLISECOND, NetworkConditions, ProcessorConditions, SECOND};
pub use disk::{Disk, Unflushed};
pub use faults::{Fault, Faults};
pub use host::{Host, Injection};
pub use judge::{Fate, Judge, Violation};
pub use linearize::{Action, INITIAL, Objection, Operation, check};
pub use marks::marks;
pub use op_class::OpClass;
pub use random::{Odds, Random};
pub use recording::{Observer, Recording};
pub use run::{Extent, Report, run};
pub use shrink::{Shrunk, shrink};
pub use sim::Sim;
pub use sim_io::SimIo;
pub use trace::{Counts, Occurrence, hash_bytes};
pub use workload::{REGISTERS, Workload, command, is_read, key_of, payload, value_of};
