//! Kontiki's write-ahead log: segmented, checksummed, sans-I/O.
#![forbid(unsafe_code)]

mod append;
mod error;
mod hard_state;
mod index;
mod layout;
pub mod limits;
pub mod names;
pub mod offline;
mod opening;
mod options;
mod prepare;
mod read;
mod recovery;
mod report;
mod saver;
mod segment_header;
mod segments;
mod stream;
mod terms;
mod token;
mod wal;

pub use error::{Cause, Damage, WalError};
pub use hard_state::HardState;
pub use opening::{Opened, Opening};
pub use options::{Medium, Options};
pub use read::{FrameAt, Frames, ReadError};
pub use report::RecoveryReport;
pub use token::OWNER;
pub use wal::{Space, Wal, WalEvent};
