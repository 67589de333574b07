//! What a killed process had under way: the kernel carries it out all the same, when the process is long gone.
//!
//! A write that io_uring or a worker thread has handed to the kernel is not taken back by SIGKILL. It lands milliseconds later, or seconds on a
//! slow card, and whoever starts in between must not be surprised by it: the lock of the directory is not free before.

use kontiki_io::Op;

use super::storage::is_heavy_frame;
use crate::cluster::marks;
use crate::world::host::LateWrite;
use crate::world::{Happening, World};

impl World {
    /// Takes the writes that are to land later out of what a killed process had under way.
    pub(crate) fn leave_writes_behind(&mut self, host: usize) {
        let conditions = &self.conditions.processor;
        let (odds, late, lock_waits) = (conditions.late_write, conditions.late, conditions.lock_waits);
        let under_way = self.hosts[host].process.operations.iter();
        let writes = under_way.filter(|(_, pending)| pending.started && matches!(pending.op, Op::Write { .. }));
        let writes: Vec<u64> = writes.map(|(&operation, _)| operation).collect();
        for number in writes {
            if !self.hosts[host].disk_random.happens(odds) {
                continue;
            }
            let after_ns = late.draw(&mut self.hosts[host].disk_random);
            let Some(pending) = self.hosts[host].process.operations.remove(&number) else { continue };
            let Op::Write { file, offset, data, durable } = &pending.op else { continue };
            let Some(file) = self.file(host, *file) else { continue };
            let state = &mut self.hosts[host];
            let write = LateWrite { file, offset: *offset, bytes: data.bytes().to_vec(), durable: *durable, boot: state.boot };
            state.late_writes.insert(number, write);
            self.schedule(after_ns, Happening::Land { host, write: number });
        }
        let state = &mut self.hosts[host];
        if lock_waits && !state.late_writes.is_empty() {
            let held = std::mem::take(&mut state.process.locks);
            state.late_locks.extend(held);
        }
    }

    /// A write of the dead ends.
    pub(crate) fn land(&mut self, host: usize, number: u64) {
        // The power may have failed since.
        let Some(write) = self.hosts[host].late_writes.remove(&number) else { return };
        // Its file may be gone, or the disk full: nobody hears of it.
        if self.write(host, write.file, write.offset, &write.bytes, write.durable).is_ok() {
            self.note_hard_state(host, &write.bytes);
            // Nobody is left to mark its end, where it is a heavy frame.
            self.hosts[host].unmarked |= is_heavy_frame(&write.bytes);
            self.marks.add(marks::LATE_WRITE);
            if self.is_current(host, self.hosts[host].boot) {
                self.counts.add("write of the dead under a living process");
            }
        }
        self.record(host, "landed", write.offset, write.bytes.len() as u64, write.boot);
        let state = &mut self.hosts[host];
        if state.late_writes.is_empty() {
            state.late_locks.clear();
        }
    }

    /// The power fails: they count as unflushed, like all that is under way.
    pub(crate) fn abandon_late_writes(&mut self, host: usize) {
        let state = &mut self.hosts[host];
        state.late_locks.clear();
        for write in std::mem::take(&mut state.late_writes).into_values() {
            // As above.
            let _ = state.disk.write(write.file, write.offset, &write.bytes, false, &mut |_| true);
        }
    }
}
