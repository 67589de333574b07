//! What a bad disk does to what it was given: bits rot, writes turn out to have gone astray, reads return what was there before.
//!
//! Raft survives a disk that *loses* things if its node can notice: it then neither votes nor campaigns until it has them again. It does not
//! survive one that loses the end of the log and leaves no trace: with three voters, one that forgets an acknowledged entry and does not
//! know it elects, together with the one that never had it, a leader without it. Checksums cannot help there (nothing is left to check), so no
//! engine can promise anything, and a simulation that demanded it would be wrong. Hence damage is done only where the same disk still holds the
//! evidence:
//!
//! * The log is struck only before the greatest *watermark* that a durable stamp on this disk names (`docs/format.md`). The frame with that stamp
//!   lies behind, and so is never struck itself. A recovery that ends earlier must call it damage.
//! * A write has *gone astray* only in hindsight: not before a later stamp says that it had been durable. Then its place gets back what was there
//!   before it, and its bytes turn up elsewhere, where the same rule allows it. A disk that ends its days before has not lied yet.
//! * Of the hard state one copy is struck while both are the same on the medium: the other has everything. At rest it is the first, which the
//!   next update renews before it touches the second. A write of the hard state never goes astray: with the second copy one update
//!   behind, a torn first one is taken for an update that nobody was told of, and a vote would be forgotten without a trace.
//!
//! What may be struck says nothing about how many disks are; that is drawn in `run/setup.rs`.

use std::collections::BTreeMap;

use kontiki_frame::DiskStamp;
use kontiki_mem::BLOCK_BYTES;

use crate::disk::{Disk, FileId};
use crate::random::Random;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Where the second copy of the hard state lies.
const SECOND_COPY: u64 = 4 << 20;

/// Where damage to one disk leaves evidence, and what is needed to do it.
#[derive(Debug, Default)]
pub(crate) struct Decay {
    /// Position up to which a durable stamp says that the log was durable.
    proven: u64,
    /// Position of the last frame that is durable.
    end: u64,
    /// Position of the first byte of each segment file, as its last use says.
    segments: BTreeMap<FileId, u64>,
    hard_state: Option<FileId>,
    /// What blocks held before they were written last, unless it was zeros.
    earlier: BTreeMap<(FileId, u64), Box<[u8; BLOCK_BYTES]>>,
    /// A write of which it will turn out that it went astray.
    stray: Option<Stray>,
    /// Boot number of the newest hard state.
    incarnation: u64,
    /// The incarnation in which the log was last struck, until its node has everything again: the recovery that ends it sees that.
    struck: Option<u64>,
}

#[derive(Debug)]
struct Stray {
    /// The process that made it.
    boot: u64,
    file: FileId,
    offset: u64,
    before: Vec<u8>,
    bytes: Vec<u8>,
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |field| u64::from_le_bytes(*field))
}

pub(crate) fn contents(disk: &Disk, file: FileId, offset: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    (disk.read(file, offset, &mut bytes) == Ok(length)).then_some(bytes)
}

impl Decay {
    /// Boot number of the newest hard state.
    pub(crate) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Something was lost of what was durable. The first recovery that sees it is that which ends `incarnation`.
    pub(crate) fn strike(&mut self, incarnation: u64) {
        self.struck = Some(incarnation);
    }

    /// An older image of the disk stands in its place: what was known of the newer one is worth nothing.
    pub(crate) fn rolled_back(&mut self) {
        *self = Decay::default();
    }

    /// Whether the disk lacks anything that its node has not fetched again.
    pub(crate) fn is_struck(&self) -> bool {
        self.struck.is_some()
    }

    /// The node has what the recovery at its start missed.
    pub(crate) fn made_good(&mut self) {
        self.struck = self.struck.filter(|&incarnation| incarnation >= self.incarnation);
    }

    /// A write is about to be carried out, durably: keeps what it overwrites. With `astray`, it will have missed its place.
    pub(crate) fn writing(&mut self, disk: &Disk, boot: u64, file: FileId, offset: u64, bytes: &[u8], astray: bool) {
        let before = contents(disk, file, offset, bytes.len());
        for (n, block) in before.iter().flat_map(|before| before.chunks_exact(BLOCK_BYTES)).enumerate() {
            let key = (file, offset / BLOCK + n as u64);
            match block.first_chunk().filter(|block| block.iter().any(|&byte| byte != 0)) {
                Some(block) => drop(self.earlier.insert(key, Box::new(*block))),
                None => drop(self.earlier.remove(&key)),
            }
        }
        if let (true, Some(before), true) = (astray, before, bytes.starts_with(b"KtkD")) {
            self.stray = Some(Stray { boot, file, offset, before, bytes: bytes.to_vec() });
        }
    }

    /// A write is durable: learns what it proves.
    pub(crate) fn written(&mut self, file: FileId, offset: u64, bytes: &[u8]) {
        if bytes.starts_with(b"KtkH") {
            self.hard_state = Some(file);
            self.incarnation = self.incarnation.max(u64_at(bytes, 24));
        } else if bytes.starts_with(b"KtkS") {
            self.segments.insert(file, u64_at(bytes, 16) * u64_at(bytes, 40));
        }
        for (n, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
            if let Ok(stamp) = DiskStamp::parse(block) {
                let base = stamp.position.saturating_sub(offset + n as u64 * BLOCK);
                self.segments.insert(file, base);
                self.proven = self.proven.max(stamp.watermark);
                self.end = self.end.max(stamp.position);
            }
        }
    }

    /// How much of a file, from its beginning, may be struck.
    fn exposed(&self, disk: &Disk, file: FileId) -> u64 {
        let base = self.segments.get(&file).copied().unwrap_or(u64::MAX);
        self.proven.saturating_sub(base).min(disk.length(file))
    }

    /// Position of the last frame that is durable.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The copies of the hard state that are there.
    fn hard_states<'a>(&self, disk: &'a Disk) -> impl Iterator<Item = Vec<u8>> + 'a {
        let copies = self.hard_state.into_iter().flat_map(|file| [0, SECOND_COPY].map(|offset| (file, offset)));
        let read = |(file, offset)| contents(disk, file, offset, BLOCK_BYTES);
        copies.filter_map(read).filter(|copy| copy.starts_with(b"KtkH"))
    }

    /// Number of the segment that the log begins in, by the hard state.
    pub(crate) fn oldest_segment(&self, disk: &Disk) -> u64 {
        self.hard_states(disk).map(|copy| u64_at(&copy, 96)).max().unwrap_or(u64::MAX)
    }

    /// Boot number of the newest hard state there is.
    pub(crate) fn last_boot(&self, disk: &Disk) -> u64 {
        self.hard_states(disk).map(|copy| u64_at(&copy, 24)).max().unwrap_or(u64::MAX)
    }

    /// Position up to which both copies of the hard state say that the log was durable.
    pub(crate) fn noted(&self, disk: &Disk) -> u64 {
        self.hard_states(disk).map(|copy| u64_at(&copy, 120)).min().unwrap_or(0)
    }

    /// Where a segment file begins, if frames stand in it.
    pub(crate) fn with_frames(&self, file: FileId) -> Option<u64> {
        self.segments.get(&file).copied().filter(|&base| base <= self.end)
    }

    /// Where a segment file begins, if all of it lies before what a durable stamp says was durable.
    pub(crate) fn whole_before_watermark(&self, disk: &Disk, file: FileId) -> Option<u64> {
        let base = self.segments.get(&file).copied()?;
        let length = disk.length(file);
        (length > 0 && self.exposed(disk, file) == length).then_some(base)
    }

    /// Whether the two copies of the hard state are the same: then one of them may be struck.
    fn twice_there(&self, disk: &Disk) -> Option<FileId> {
        let file = self.hard_state?;
        let [first, second] = [0, SECOND_COPY].map(|offset| contents(disk, file, offset, BLOCK_BYTES));
        (first.is_some() && first == second).then_some(file)
    }

    fn may_strike(&self, disk: &Disk, file: FileId, offset: u64, bytes: u64) -> bool {
        offset + bytes <= self.exposed(disk, file) || self.twice_there(disk) == Some(file)
    }

    /// One of the bits that are being read has rotted, for good. Where, if it may.
    pub(crate) fn rot(&self, disk: &mut Disk, random: &mut Random, file: FileId, offset: u64, length: usize) -> Option<u64> {
        let (at, bit) = (offset + random.below(length as u64), random.below(8) as u8);
        (self.may_strike(disk, file, at, 1) && disk.flip_in(file, at, bit)).then_some(at)
    }

    /// What was read of one of the blocks is what was there before. Where, if it may, and if that makes a difference.
    pub(crate) fn stale(&self, disk: &Disk, random: &mut Random, file: FileId, offset: u64, into: &mut [u8]) -> Option<u64> {
        let number = random.below(into.len() as u64 / BLOCK);
        let at = offset + number * BLOCK;
        if !offset.is_multiple_of(BLOCK) || !self.may_strike(disk, file, at, BLOCK) {
            return None;
        }
        let block: &mut [u8; BLOCK_BYTES] = into.get_mut((number * BLOCK) as usize..)?.first_chunk_mut()?;
        let before = self.earlier.get(&(file, at / BLOCK)).map_or([0; BLOCK_BYTES], |before| **before);
        let differs = *block != before;
        *block = before;
        differs.then_some(at)
    }

    /// A place that may be struck, for so many bytes: mostly in the log. `updating`: a hard state is being written.
    fn place(&self, disk: &Disk, random: &mut Random, length: u64, updating: bool) -> Option<(FileId, u64)> {
        let hard_state = if random.below(8) == 0 && !updating { self.twice_there(disk) } else { None };
        if let Some(file) = hard_state {
            return (length <= SECOND_COPY).then_some((file, 0));
        }
        let exposed = |file: FileId| self.exposed(disk, file).checked_sub(length).map(|room| room / BLOCK + 1);
        let rooms: Vec<(FileId, u64)> = self.segments.keys().filter_map(|&file| Some((file, exposed(file)?))).collect();
        let mut at = random.below(rooms.iter().map(|(_, room)| room).sum());
        for (file, room) in rooms {
            match at.checked_sub(room) {
                Some(rest) => at = rest,
                None => return Some((file, at * BLOCK)),
            }
        }
        None
    }

    /// A bit rots of what lies there. False if nothing may.
    pub(crate) fn rot_at_rest(&self, disk: &mut Disk, random: &mut Random, updating: bool) -> bool {
        let Some((file, at)) = self.place(disk, random, BLOCK, updating) else { return false };
        disk.flip_in(file, at + random.below(BLOCK), random.below(8) as u8)
    }

    /// It turns out now that a write went astray, if that is proven. Where to.
    pub(crate) fn stray(&mut self, disk: &mut Disk, random: &mut Random, boot: u64, updating: bool) -> Option<u64> {
        let stray = self.stray.take_if(|stray| {
            let base = self.segments.get(&stray.file).copied().unwrap_or(u64::MAX);
            stray.boot != boot || base.saturating_add(stray.offset + stray.bytes.len() as u64) <= self.proven
        })?;
        if stray.boot != boot {
            return None;
        }
        let (file, offset) = self.place(disk, random, stray.bytes.len() as u64, updating)?;
        disk.write(file, offset, &stray.bytes, true, &mut |_| true).ok()?;
        // Last, for the two may overlap.
        disk.write(stray.file, stray.offset, &stray.before, true, &mut |_| true).ok()?;
        Some(offset)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use kontiki_io::Name;

    use super::*;

    const SEGMENT: u64 = 16 * BLOCK;

    /// A frame of one block, as far as its stamp.
    fn frame(position: u64, watermark: u64) -> Vec<u8> {
        let mut block = vec![0x55; BLOCK_BYTES];
        let range = kontiki_core::IndexRange { from: kontiki_core::LogIndex(1), to: kontiki_core::LogIndex(1) };
        let boot = kontiki_core::Incarnation(1);
        DiskStamp { position, generation: 0, boot, range, watermark, node: kontiki_core::NodeId(1) }.write(&mut block);
        block
    }

    struct Bed {
        disk: Disk,
        decay: Decay,
        file: FileId,
        random: Random,
    }

    impl Bed {
        fn new() -> Bed {
            let mut disk = Disk::new(1 << 30);
            disk.open_directory(Path::new("/d"), true).unwrap();
            let (file, _) = disk.open(Path::new("/d"), &Name::new("log").unwrap(), true).unwrap();
            disk.allocate(file, SEGMENT).unwrap();
            Bed { disk, decay: Decay::default(), file, random: Random::new(1) }
        }

        /// The `n`th block of segment 1.
        fn write(&mut self, n: u64, watermark: u64, astray: bool) -> Option<u64> {
            let bytes = frame(SEGMENT + n * BLOCK, watermark);
            self.decay.writing(&self.disk, 7, self.file, n * BLOCK, &bytes, astray);
            self.disk.write(self.file, n * BLOCK, &bytes, true, &mut |_| true).unwrap();
            self.decay.written(self.file, n * BLOCK, &bytes);
            self.decay.stray(&mut self.disk, &mut self.random, 7, false)
        }

        fn holds(&self, n: u64) -> Vec<u8> {
            contents(&self.disk, self.file, n * BLOCK, BLOCK_BYTES).unwrap()
        }
    }

    #[test]
    fn only_what_a_later_stamp_proves_is_struck() {
        let mut bed = Bed::new();
        bed.write(1, SEGMENT, false);
        assert!(!bed.decay.rot_at_rest(&mut bed.disk, &mut bed.random, false));
        bed.write(2, SEGMENT + 2 * BLOCK, false);
        for _ in 0..100 {
            assert!(bed.decay.rot_at_rest(&mut bed.disk, &mut bed.random, false));
            let (file, disk) = (bed.file, &mut bed.disk);
            let at = bed.decay.rot(disk, &mut bed.random, file, 0, SEGMENT as usize);
            assert!(at.is_none_or(|at| at < 2 * BLOCK), "{at:?}");
        }
        assert_eq!(bed.holds(2), frame(SEGMENT + 2 * BLOCK, SEGMENT + 2 * BLOCK));
        assert_ne!(bed.holds(1), frame(SEGMENT + BLOCK, SEGMENT));
    }

    #[test]
    fn a_write_goes_astray_once_it_is_proven() {
        let mut bed = Bed::new();
        bed.write(1, SEGMENT, false);
        assert_eq!(bed.write(2, SEGMENT + BLOCK, true), None);
        assert_eq!(bed.write(3, SEGMENT + 2 * BLOCK, false), None, "its stamp was made too early to prove it");
        let to = bed.write(4, SEGMENT + 4 * BLOCK, false).unwrap();
        assert_eq!(bed.holds(2), [0; BLOCK_BYTES], "what was there before");
        assert!(to == 2 * BLOCK || bed.holds(to / BLOCK) == frame(SEGMENT + 2 * BLOCK, SEGMENT + BLOCK), "{to}");
        assert!(to < 4 * BLOCK);
    }

    #[test]
    fn a_stale_read_is_of_what_was_there_before() {
        let mut bed = Bed::new();
        bed.write(1, SEGMENT, false);
        let old = bed.holds(1);
        bed.write(1, SEGMENT + BLOCK, false);
        bed.write(2, SEGMENT + 2 * BLOCK, false);
        let mut read = bed.holds(1);
        let at = bed.decay.stale(&bed.disk, &mut bed.random, bed.file, BLOCK, &mut read);
        assert_eq!((at, read), (Some(BLOCK), old));
        let mut read = bed.holds(2);
        assert_eq!(bed.decay.stale(&bed.disk, &mut bed.random, bed.file, 2 * BLOCK, &mut read), None, "it is the evidence");
    }

    #[test]
    fn one_copy_of_the_hard_state_is_struck_while_the_other_is_the_same() {
        let mut bed = Bed::new();
        bed.disk.allocate(bed.file, SECOND_COPY + BLOCK).unwrap();
        let mut record = vec![0; BLOCK_BYTES];
        record[..4].copy_from_slice(b"KtkH");
        let write = |bed: &mut Bed, offset| {
            bed.disk.write(bed.file, offset, &record, true, &mut |_| true).unwrap();
            bed.decay.written(bed.file, offset, &record);
        };
        write(&mut bed, 0);
        assert_eq!(bed.decay.twice_there(&bed.disk), None);
        write(&mut bed, SECOND_COPY);
        let (file, disk) = (bed.file, &mut bed.disk);
        assert!(bed.decay.rot(disk, &mut bed.random, file, SECOND_COPY, BLOCK_BYTES).is_some());
        assert!(bed.decay.rot(disk, &mut bed.random, file, 0, BLOCK_BYTES).is_none(), "the other one is gone already");
    }
}
