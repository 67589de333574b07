//! SIGNATURES ONLY. Pools of aligned buffers of one size.
#![allow(missing_docs, unused_variables, clippy::todo)]
use crate::Block;
/// `count` buffers of `bytes` each, aligned to BLOCK_BYTES (bytes a multiple of 64). Cheap to clone (a handle).
#[derive(Debug, Clone)]
pub struct Pool {}
impl Pool {
    pub fn new(count: usize, bytes: usize) -> Pool { todo!() }
    /// A buffer of the pool's size; None if all are out. Never allocates. Contents are not zeroed after reuse.
    pub fn take(&self) -> Option<PoolBuf> { todo!() }
    pub fn available(&self) -> usize { todo!() }
    pub fn buffer_bytes(&self) -> usize { todo!() }
}
/// A unique buffer; returns to its pool on drop. `Send`. Its length is the pool's.
#[derive(Debug)]
pub struct PoolBuf {}
impl PoolBuf {
    pub fn len(&self) -> usize { todo!() }
    pub fn is_empty(&self) -> bool { todo!() }
    pub fn bytes(&self) -> &[u8] { todo!() }
    pub fn bytes_mut(&mut self) -> &mut [u8] { todo!() }
    /// Shared and frozen; the buffer returns to its pool with the last handle.
    pub fn freeze(self) -> Block { todo!() }
    pub fn as_mut_ptr(&mut self) -> *mut u8 { todo!() }
}
