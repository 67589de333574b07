//! The ring's table of files: data files, so that operations need not look them up; and locks, so that they last as
//! long as the ring, which is until its last operation has ended, whatever became of the process.

use std::os::fd::RawFd;

use io_uring::IoUring;

use crate::errno;
use crate::limits::LOCK_PLACES;

#[derive(Debug)]
pub(super) struct Table {
    /// Free places for data files; none at all if those are not registered.
    files: Vec<u32>,
    /// Free places for locks.
    locks: Vec<u32>,
}

impl Table {
    /// Registers an empty table with the ring. The error is the system's number: without it there are no locks.
    pub(super) fn register(ring: &IoUring, handles: usize, data_files: bool) -> Result<Table, i32> {
        let submitter = ring.submitter();
        let mut files = if data_files { handles } else { 0 };
        loop {
            let size = files + LOCK_PLACES;
            // Sparse tables by name are 5.19's; older kernels take a table full of "none".
            let made = submitter.register_files_sparse(size as u32).or_else(|_| submitter.register_files(&vec![-1; size]));
            match made {
                Ok(()) => break,
                // It may not have more places than the process may have descriptors, and takes memory.
                Err(_) if files > 0 => files /= 2,
                Err(error) => return Err(errno::number(&error)),
            }
        }
        let places = |from: usize, to: usize| (from as u32..to as u32).rev().collect();
        Ok(Table { locks: places(0, LOCK_PLACES), files: places(LOCK_PLACES, LOCK_PLACES + files) })
    }

    /// Puts a data file into the table; none if there is no place, and it goes by its descriptor.
    pub(super) fn enter(&mut self, ring: &IoUring, fd: RawFd) -> Option<u32> {
        let place = self.files.pop()?;
        let entered = set(ring, place, fd).is_ok();
        if !entered {
            self.files.push(place);
        }
        entered.then_some(place)
    }

    /// Puts a lock's descriptor into the table. The error is the system's number.
    pub(super) fn enter_lock(&mut self, ring: &IoUring, fd: RawFd) -> Result<u32, i32> {
        let place = self.locks.pop().ok_or(libc::ENOLCK)?;
        match set(ring, place, fd) {
            Ok(()) => Ok(place),
            Err(errno) => {
                self.locks.push(place);
                Err(errno)
            }
        }
    }

    /// Takes a file or lock out again. On kernels before 6.13 the entry is held until operations that began before are
    /// over.
    pub(super) fn leave(&mut self, ring: &IoUring, place: u32) {
        // Should that fail, the next to come there takes its place.
        let _ = set(ring, place, -1);
        let free = if (place as usize) < LOCK_PLACES { &mut self.locks } else { &mut self.files };
        free.push(place);
    }
}

fn set(ring: &IoUring, place: u32, fd: RawFd) -> Result<(), i32> {
    match ring.submitter().register_files_update(place, &[fd]) {
        Ok(_) => Ok(()),
        Err(error) => Err(errno::number(&error)),
    }
}
