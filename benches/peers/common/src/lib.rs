//! What the drivers of the peers share, so that the engines differ and nothing around them does: a durable log
//! with group commit, TCP links, the load, the measuring, and the start of the three processes.

pub mod cluster;
pub mod load;
pub mod log;
pub mod payload;
pub mod report;
pub mod segments;
pub mod transport;
pub mod usage;
pub mod wire;

pub use cluster::{Node, Peer, main};
pub use load::{ClosedLoop, Load, Meter};
pub use log::Log;
pub use payload::Payload;
pub use report::Measured;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
