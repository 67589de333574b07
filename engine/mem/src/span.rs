//! Neighbouring frozen blocks as one range: what one coalesced write takes.

use crate::Block;

/// Several frozen blocks that lie one after the other, as one range of bytes.
///
/// It holds the first and the last of them. A ring is reclaimed from its ends only, so that pins all between.
#[derive(Debug, Clone)]
pub struct Span {
    first: Block,
    /// `None` while there is only one block.
    last: Option<Block>,
    len: usize,
}

impl Span {
    /// One block.
    pub fn one(block: Block) -> Span {
        Span { len: block.len(), first: block, last: None }
    }

    /// Appends `next`.
    ///
    /// # Errors
    /// Gives `next` back if it does not start where this ends, in the same ring.
    pub fn push(&mut self, next: Block) -> Result<(), Block> {
        if !self.first.is_followed_by(self.len, &next) || self.first.is_empty() || next.is_empty() {
            return Err(next);
        }
        self.len += next.len();
        self.last = Some(next);
        Ok(())
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The contents of all blocks, in order.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range runs from the first block's start to the last one's end. Both are held, and a ring
        // reclaims an extent only if none before it or none after it is held, so none between is reused. All of
        // them were frozen when they were pushed, so nobody writes them.
        unsafe { self.first.range(self.len) }
    }

    /// True if it lies in a ring (registered memory) rather than in a pool.
    pub fn in_ring(&self) -> bool {
        self.first.in_ring()
    }

    /// The first byte's address, valid for reads of the span's length while the span lives.
    pub fn as_ptr(&self) -> *const u8 {
        self.bytes().as_ptr()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{BLOCK_BYTES as B, Pool, Ring, limits};

    fn block(ring: &mut Ring, blocks: usize, value: u8) -> Block {
        let mut block = ring.reserve(blocks * B).unwrap();
        block.bytes_mut().fill(value);
        block.freeze()
    }

    #[test]
    fn neighbours_join_and_stay_pinned() {
        let mut ring = Ring::new(limits::MIN_RING_BYTES, 8).unwrap();
        let mut span = Span::one(block(&mut ring, 2, 1));
        for value in 2..5 {
            span.push(block(&mut ring, 1, value)).unwrap();
        }
        // Neither end is held by anyone else, nor are those between: the span alone pins all five blocks.
        assert_eq!(ring.held(), 5 * B);
        let rest = block(&mut ring, 11, 9);
        assert!(ring.reserve(B).is_none());
        let values: Vec<u8> = span.bytes().chunks(B).map(|b| b[0]).collect();
        assert_eq!(values, [1, 1, 2, 3, 4]);
        assert_eq!((span.len(), span.in_ring(), span.is_empty()), (5 * B, true, false));
        assert_eq!(span.as_ptr(), span.bytes().as_ptr());
        drop(rest);
        let copy = span.clone();
        drop(span);
        assert_eq!(ring.held(), 5 * B);
        drop(copy);
        assert_eq!(ring.held(), 0);
    }

    #[test]
    fn strangers_are_given_back() {
        let mut ring = Ring::new(limits::MIN_RING_BYTES, 8).unwrap();
        let mut other = Ring::new(limits::MIN_RING_BYTES, 8).unwrap();
        let pool = Pool::new(2, B);
        let mut span = Span::one(block(&mut ring, 1, 1));
        let _elsewhere = block(&mut other, 1, 1);
        assert!(span.push(block(&mut other, 1, 2)).is_err(), "another ring");
        assert!(span.push(pool.take().unwrap().freeze()).is_err(), "a pool");
        let gap = block(&mut ring, 1, 2);
        let after = block(&mut ring, 1, 3);
        let after = span.push(after).unwrap_err();
        span.push(gap).unwrap();
        span.push(after).unwrap();
        assert_eq!(span.len(), 3 * B);
        let mut pooled = Span::one(pool.take().unwrap().freeze());
        assert!(pooled.push(pool.take().unwrap().freeze()).is_err(), "pool buffers never join");
        assert!(!pooled.in_ring());
    }

    #[cfg(not(miri))]
    #[test]
    fn a_span_runs_over_the_end_of_the_ring() {
        let mut ring = Ring::new(limits::MIN_RING_BYTES, 8).unwrap();
        let pin = block(&mut ring, 14, 0);
        let mut span = Span::one(block(&mut ring, 2, 1));
        drop(pin);
        span.push(block(&mut ring, 2, 2)).unwrap();
        span.push(block(&mut ring, 2, 3)).unwrap();
        let values: Vec<u8> = span.bytes().chunks(B).map(|b| b[B - 1]).collect();
        assert_eq!(values, [1, 1, 2, 2, 3, 3]);
    }
}
