//! A lock-free stack of free slot numbers: Treiber's stack over a fixed table, its head tagged against ABA.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// No slot: the end of the list.
const NONE: u32 = u32::MAX;
/// The list was closed: nothing goes in or comes out any more.
const CLOSED: u32 = u32::MAX - 1;
/// Most slots of one list.
pub(crate) const MAX_SLOTS: usize = CLOSED as usize;

/// The free ones among slots `0..slots`. Never allocates after it was made; any thread may use it.
#[derive(Debug)]
pub(crate) struct FreeList {
    /// `tag << 32 | top`. The tag counts changes, so that a compare-exchange which slept through 2^32 of them,
    /// and no other, could be fooled.
    head: AtomicU64,
    next: Box<[AtomicU32]>,
}

fn word(tag: u32, top: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(top)
}

fn parts(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

impl FreeList {
    /// All of `0..slots`, zero on top.
    pub(crate) fn full(slots: usize) -> FreeList {
        assert!(slots < MAX_SLOTS, "at most {MAX_SLOTS} slots");
        let next = (1..=slots).map(|n| AtomicU32::new(if n == slots { NONE } else { n as u32 })).collect();
        FreeList { head: AtomicU64::new(word(0, if slots == 0 { NONE } else { 0 })), next }
    }

    /// Takes a slot, if one is free.
    pub(crate) fn pop(&self) -> Option<u32> {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let (tag, top) = parts(head);
            // Also ends at NONE and CLOSED, which are past every table.
            let next = self.next.get(top as usize)?.load(Ordering::Relaxed);
            let new = word(tag.wrapping_add(1), next);
            // Acquire: pairs with the push that put `top` there, so its former user is done with the slot.
            match self.head.compare_exchange_weak(head, new, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => return Some(top),
                Err(now) => head = now,
            }
        }
    }

    /// Takes up to `most` slots by one step, and gives each to `each`; how many there were.
    pub(crate) fn pop_many(&self, most: usize, mut each: impl FnMut(u32)) -> usize {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let (tag, top) = parts(head);
            let (mut rest, mut count) = (top, 0);
            // Others may change what stands below the top as we walk: then the head has changed too, and we begin anew.
            while count < most
                && let Some(next) = self.next.get(rest as usize)
            {
                rest = next.load(Ordering::Relaxed);
                count += 1;
            }
            if count == 0 {
                return 0;
            }
            // Acquire: as in `pop`, for each of them, since every later push is a read-modify-write of the head.
            match self.head.compare_exchange_weak(head, word(tag.wrapping_add(1), rest), Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => {
                    let mut at = top;
                    for _ in 0..count {
                        // Ours alone now. `each` may push it, which changes its link: looked up first.
                        let next = self.next[at as usize].load(Ordering::Relaxed);
                        each(at);
                        at = next;
                    }
                    return count;
                }
                Err(now) => head = now,
            }
        }
    }

    /// Puts a slot back. A slot must come from `pop` and come back once.
    pub(crate) fn push(&self, slot: u32) {
        self.push_chain(slot, slot);
    }

    /// Chains two slots that are to be put back: `next` comes out after `slot`.
    pub(crate) fn chain(&self, slot: u32, next: u32) {
        self.next[slot as usize].store(next, Ordering::Relaxed);
    }

    /// Puts back the slots from `first` to `last`, [chained](FreeList::chain), by one step.
    pub(crate) fn push_chain(&self, first: u32, last: u32) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            let (tag, top) = parts(head);
            if top == CLOSED {
                return;
            }
            self.next[last as usize].store(top, Ordering::Relaxed);
            let new = word(tag.wrapping_add(1), first);
            // Release: all that was done with the slots, and their `next`, come before they are found again.
            match self.head.compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// How many are free, counted one by one: true of a list that nobody changes meanwhile. Zero once closed.
    pub(crate) fn len(&self) -> usize {
        let mut at = parts(self.head.load(Ordering::Acquire)).1;
        let mut count = 0;
        while let Some(next) = self.next.get(at as usize)
            && count < self.next.len()
        {
            count += 1;
            at = next.load(Ordering::Relaxed);
        }
        count
    }

    /// Closes the list for good: `pop` finds nothing from now on. Whatever was popped before is visible to the
    /// caller as its `push` left it.
    pub(crate) fn close(&self) {
        self.head.swap(word(0, CLOSED), Ordering::AcqRel);
    }

    /// True once closed.
    pub(crate) fn is_closed(&self) -> bool {
        parts(self.head.load(Ordering::Relaxed)).1 == CLOSED
    }
}
