//! SIGNATURES ONLY. The one place that copies payload bytes, and counts them (per process, relaxed atomics,
//! per-thread-striped so that counting does not bounce a cache line).
#![allow(missing_docs)]
/// Payload bytes copied by the engine in this process so far.
pub fn copied_bytes() -> u64 { 0 }
/// Copies `from` to the start of `to`, counted.
#[allow(dead_code)]
pub(crate) fn copy(to: &mut [u8], from: &[u8]) { to[..from.len()].copy_from_slice(from) }
