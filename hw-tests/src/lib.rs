//! Kontiki's suite for real hardware, and the conformance suite of its `Io` backends.
//!
//! A check panics with what it found. This crate depends on the seam alone, so that the simulator can be held to
//! the same checks as the real world.

mod backends;
pub mod conformance;

pub use backends::backends;
