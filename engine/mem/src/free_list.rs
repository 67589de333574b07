//! A lock-free stack of free slot numbers: Treiber's stack over a fixed table, its head tagged against ABA.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Bits of a slot's number, in the head and in a ticket's id. What is left is for tags and generations: they come round
/// only after 2^40 steps, which take hours.
pub(crate) const SLOT_BITS: u32 = 24;
const SLOT: u64 = (1 << SLOT_BITS) - 1;
/// No slot: the end of the list.
const NONE: u32 = SLOT as u32;
/// The list was closed: nothing goes in or comes out any more.
const CLOSED: u32 = NONE - 1;
/// Most slots of one list.
pub(crate) const MAX_SLOTS: usize = CLOSED as usize;

/// The free ones among slots `0..slots`. Never allocates after it was made; any thread may use it.
#[derive(Debug)]
pub(crate) struct FreeList {
    /// `tag << 24 | top`. The tag counts changes, so that a compare-exchange which slept through 2^40 of them,
    /// and no other, could be fooled.
    head: AtomicU64,
    next: Box<[AtomicU32]>,
}

/// The tag's high bits fall off: it wraps.
fn word(tag: u64, top: u32) -> u64 {
    tag << SLOT_BITS | u64::from(top)
}

fn parts(word: u64) -> (u64, u32) {
    (word >> SLOT_BITS, (word & SLOT) as u32)
}

/// Slots that were taken out of a list by one step and not given to anyone yet: what is left of them goes back.
struct Taken<'a> {
    list: &'a FreeList,
    at: u32,
    count: usize,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        while self.next().is_some_and(|slot| {
            self.list.push(slot);
            true
        }) {}
    }
}

impl Iterator for Taken<'_> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        self.count = self.count.checked_sub(1)?;
        let slot = self.at;
        // Ours alone now. Whoever is given it may push it, which changes its link: looked up first.
        self.at = self.list.next[slot as usize].load(Ordering::Relaxed);
        Some(slot)
    }
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

    /// Takes up to `most` slots by one step, and gives each to `each`; how many there were. If `each` panics, those
    /// that it was not given yet go back.
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
                    let mut taken = Taken { list: self, at: top, count };
                    for slot in taken.by_ref() {
                        each(slot);
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
