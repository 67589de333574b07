//! After start, the log does not allocate: counted while it appends, rotates, recycles, saves and reads.
#![allow(clippy::unwrap_used)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use kontiki_core::{IndexRange, LogIndex};
use kontiki_wal::WalEvent;
use support::{Disk, Node, frame};

thread_local! {
    static COUNT: Cell<Option<usize>> = const { Cell::new(None) };
}

struct Counting;

fn count() {
    // Nothing to count on threads that are going away.
    let _ = COUNT.try_with(|count| count.set(count.get().map(|n| n + 1)));
}

// SAFETY: passes every call on to the system's allocator; counting itself neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the same.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is the same.
        unsafe { System.dealloc(memory, layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is the same.
        unsafe { System.realloc(memory, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations while `act` runs.
fn counted<T>(total: &mut usize, act: impl FnOnce() -> T) -> T {
    COUNT.with(|count| count.set(Some(0)));
    let result = act();
    *total += COUNT.with(|count| count.replace(None)).unwrap();
    result
}

#[test]
fn nothing_is_allocated_while_it_runs() {
    let mut node = Node::open(Disk::default());
    node.run();
    let mut ring = kontiki_mem::Ring::new(1 << 20, 64).unwrap();
    let mut total = 0;
    let mut first = 1;
    for round in 0..400 {
        // The world's own lists grow at first.
        if round == 40 {
            total = 0;
        }
        let (block, meta) = frame(&mut ring, first, 4, 1, u64::from(first > 1), 1500);
        let range = IndexRange { from: LogIndex(first), to: meta.last() };
        first += 4;
        assert!(node.wal.can_append(block.len()));
        let write = node.next_id();
        drop(counted(&mut total, || node.wal.append(write, block, range, meta)));
        let save = node.next_id();
        let state = node.hard_state;
        counted(&mut total, || node.wal.save_hard_state(save, state));
        if round % 3 == 0 {
            let buf = node.pool.take().unwrap();
            let from = node.wal.first_index();
            counted(&mut total, || node.wal.read(1, from, LogIndex(from.0 + 3), buf, &mut node.world)).unwrap();
        }
        loop {
            counted(&mut total, || node.wal.pump(&mut node.world));
            let Some(completion) = node.world.step() else { break };
            counted(&mut total, || node.wal.on_completion(completion, &mut node.world));
            while let Some(event) = counted(&mut total, || node.wal.next_event()) {
                if let WalEvent::Read { result, .. } = event
                    && round > 3
                {
                    assert_eq!(result.unwrap().len(), 1);
                }
            }
        }
        counted(&mut total, || node.wal.release(LogIndex(first - 1)));
    }
    assert_eq!(total, 0, "allocations");
    assert!(node.world.log.iter().any(|op| op.starts_with("rename log-")), "segments were recycled meanwhile");
}
