//! Files that are not what they were when their node comes back: gone, in each other's place, as they were earlier, or with something else at
//! the log's end.
//!
//! Only where the same disk still shows it, as in `decay.rs`; and then the node has to notice, at its next start. A segment that went, or that
//! stands in another's place, is missed by its number: by the segments around it, or by the hard state, which names the newest that frames may be
//! in. One that was rolled back looks whole: that shows only where frames are gone from before a watermark that something else names. An intact frame
//! of elsewhere over the last one was never written there. The oldest segment is left alone: without it the log merely begins later, as after a
//! release. So is what is no part of the log any more: released, or given up by a recovery.

use std::collections::BTreeSet;
use std::path::Path;

use kontiki_frame::DiskStamp;
use kontiki_io::Name;
use kontiki_mem::BLOCK_BYTES;

use crate::disk::decay::{Decay, contents, u64_at};
use crate::disk::{Disk, FileId};
use crate::random::Random;
use crate::world::World;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// What is done to a segment file.
#[derive(Clone, Copy, Debug)]
enum Mixup {
    Gone,
    Swapped,
    Copied,
    RolledBack,
    Pasted,
}

impl Mixup {
    const ALL: [Mixup; 5] = [Mixup::Gone, Mixup::Swapped, Mixup::Copied, Mixup::RolledBack, Mixup::Pasted];

    const fn name(self) -> &'static str {
        match self {
            Mixup::Gone => "segment file gone",
            Mixup::Swapped => "segment files in each other's place",
            Mixup::Copied => "segment file in another's place",
            Mixup::RolledBack => "segment file rolled back",
            Mixup::Pasted => "frame of elsewhere over the last one",
        }
    }
}

impl World {
    /// Mixes up a segment file of a node that is down, and counts what was done.
    pub(crate) fn tamper(&mut self, host: usize) {
        let state = &mut self.hosts[host];
        // A write of the dead may say more of the log than is there now.
        if state.running || !state.late_writes.is_empty() {
            return;
        }
        let struck = match state.disk_random.below(6) {
            0 => self.lose_a_snapshot(host),
            1 => self.rot_a_snapshot(host),
            _ => false,
        };
        if struck {
            return;
        }
        let state = &mut self.hosts[host];
        let random = &mut state.disk_random;
        let mut mixups = Mixup::ALL;
        random.shuffle(&mut mixups);
        // The first that can be done.
        let done = mixups.into_iter().find(|&mixup| mix_up(&mut state.disk, &state.decay, &mut state.older, random, mixup));
        if let Some(mixup) = done {
            let before = state.decay.last_boot(&state.disk);
            self.record(host, mixup.name(), 0, 0, 0);
            self.strike(host, mixup.name());
            self.hosts[host].unnoticed = Some((before, mixup.name()));
        }
    }
}

/// A segment file that is part of the log.
#[derive(Clone)]
struct Segment {
    /// Position of its first byte.
    base: u64,
    file: FileId,
    name: Name,
}

/// The segments that the log consists of, from the newest with a frame back to the oldest: each names where the one before it ended.
fn chain(disk: &mut Disk, decay: &Decay) -> Vec<Segment> {
    let dir = Path::new(crate::cluster::DIR);
    let names = disk.list(dir).unwrap_or_default().into_iter().map(|(name, _)| name);
    let file = |name: Name| Some((number_of(&name)?, disk.find(dir, &name)?, name));
    let header = |(number, file, name): (u64, FileId, Name)| {
        let block = contents(disk, file, 0, BLOCK_BYTES)?;
        let (own, bytes) = (block.starts_with(b"KtkS") && u64_at(&block, 16) == number, u64_at(&block, 40));
        own.then_some((bytes, u64_at(&block, 48), Segment { base: number * bytes, file, name }))
    };
    let mut segments: Vec<(u64, u64, Segment)> = names.filter_map(file).filter_map(header).collect();
    segments.sort_unstable_by_key(|(.., segment)| segment.base);
    let oldest = decay.oldest_segment(disk);
    let mut chain: Vec<Segment> = Vec::new();
    let mut next = segments.pop();
    while let Some((bytes, prev_end, segment)) = next.filter(|(bytes, _, segment)| segment.base >= oldest.saturating_mul(*bytes)) {
        // The newest may be opened, and have no frame yet.
        if !chain.is_empty() || decay.with_frames(segment.file).is_some() {
            chain.push(segment);
        }
        let holds_the_byte_before = |(_, _, other): &(u64, u64, Segment)| other.base < prev_end && prev_end <= other.base + bytes;
        segments.truncate(segments.iter().rposition(holds_the_byte_before).map_or(0, |at| at + 1));
        next = segments.pop();
    }
    chain
}

fn number_of(name: &Name) -> Option<u64> {
    u64::from_str_radix(name.as_str().strip_prefix("log-")?.strip_suffix(".seg")?, 16).ok()
}

/// The frames that stand at their own place in a segment: offset and length of each, by position.
fn frames(disk: &Disk, segment: &Segment) -> Vec<(u64, u64)> {
    let length = disk.length(segment.file);
    let frame = |offset: u64| {
        let block = contents(disk, segment.file, offset, BLOCK_BYTES)?;
        let stamp = DiskStamp::parse(&block).ok()?;
        let bytes = kontiki_frame::parse_header(&block).ok()?.frame_bytes() as u64;
        (stamp.position == segment.base + offset).then_some((stamp.position, bytes))
    };
    (1..length / BLOCK).filter_map(|n| frame(n * BLOCK)).collect()
}

fn mix_up(disk: &mut Disk, decay: &Decay, older: &mut Option<Disk>, random: &mut Random, mixup: Mixup) -> bool {
    let dir = Path::new(crate::cluster::DIR);
    let chain = chain(disk, decay);
    let Some((_, exposed)) = chain.split_last() else { return false };
    if let Mixup::Pasted = mixup {
        return paste(disk, decay, &chain, random);
    }
    let Some(one) = random.pick(exposed) else { return false };
    let other = exposed.iter().filter(|other| other.file != one.file).nth(random.below(exposed.len() as u64) as usize);
    match (mixup, other) {
        (Mixup::Gone, _) => disk.remove(dir, &one.name),
        (Mixup::Swapped, Some(other)) => disk.swap(dir, &one.name, &other.name),
        (Mixup::Copied, Some(other)) => disk.copy_over(one.file, other.file),
        (Mixup::RolledBack, _) => match older.take() {
            Some(old) => return roll_back(disk, decay, &old, one),
            None => {
                *older = Some(disk.clone());
                return false;
            }
        },
        (Mixup::Pasted | Mixup::Swapped | Mixup::Copied, _) => return false,
    }
    true
}

/// A segment becomes what it was on an older disk, if something else says that what it has lost was durable.
fn roll_back(disk: &mut Disk, decay: &Decay, older: &Disk, segment: &Segment) -> bool {
    let dir = Path::new(crate::cluster::DIR);
    let before = older.find(dir, &segment.name).map(|file| frames(older, &Segment { file, ..segment.clone() }));
    let before: BTreeSet<(u64, u64)> = before.into_iter().flatten().collect();
    let (whole, noted) = (decay.whole_before_watermark(disk, segment.file).is_some(), decay.noted(disk));
    let shows = |&(position, bytes): &(u64, u64)| whole || position + bytes <= noted;
    let missed = frames(disk, segment).iter().filter(|frame| !before.contains(frame)).any(shows);
    missed && disk.roll_back(dir, &segment.name, segment.file, older)
}

/// A frame of elsewhere in the log comes to stand over the last one. Only where all before that one was durable when it
/// was written: writes may overtake each other, and what stands behind a gap was never acknowledged. And only where the
/// frame before it is not damaged as well: whatever stands behind one whose length is lost may be the inside of it.
fn paste(disk: &mut Disk, decay: &Decay, chain: &[Segment], random: &mut Random) -> bool {
    let Some(tail) = chain.first() else { return false };
    let of = |segment: &Segment| frames(disk, segment).into_iter().map(|frame| (segment.base, segment.file, frame)).collect::<Vec<_>>();
    let (ends, others): (Vec<_>, Vec<_>) =
        chain.iter().flat_map(of).partition(|(_, file, (position, _))| *file == tail.file && *position == decay.end());
    let (Some(&(_, _, (last, _))), Some(&(base, file, (position, bytes)))) = (ends.first(), random.pick(&others)) else { return false };
    let stamp = contents(disk, tail.file, last - tail.base, BLOCK_BYTES).and_then(|block| DiskStamp::parse(&block).ok());
    let right_behind = |(position, bytes): (u64, u64)| position + bytes == last;
    let first = last == tail.base + BLOCK;
    if stamp.is_none_or(|stamp| stamp.watermark != last) || !first && !frames(disk, tail).into_iter().any(right_behind) {
        return false;
    }
    let room = disk.length(tail.file).saturating_sub(last - tail.base);
    let bytes = contents(disk, file, position - base, bytes.min(room) as usize);
    bytes.is_some_and(|bytes| disk.write(tail.file, last - tail.base, &bytes, true, &mut |_| true).is_ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use kontiki_frame::DiskStamp;
    use kontiki_mem::BLOCK_BYTES;

    use super::*;

    const SEGMENT: u64 = 4 * BLOCK_BYTES as u64;

    fn name(n: u64) -> Name {
        Name::new(&format!("log-{n}.seg")).unwrap()
    }

    /// Five segments with a frame each, the newest opened and empty; the hard state says that the log begins in the second, and `noted` durable.
    fn disk(noted: u64) -> (Disk, Decay) {
        let dir = Path::new(crate::cluster::DIR);
        let (mut disk, mut decay) = (Disk::new(1 << 30), Decay::default());
        disk.open_directory(dir, true).unwrap();
        let (file, _) = disk.open(dir, &Name::new("hard-state").unwrap(), true).unwrap();
        let mut record = vec![0; BLOCK_BYTES];
        for (at, value) in [(0, u64::from(u32::from_le_bytes(*b"KtkH"))), (96, 2), (120, noted)] {
            record[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
        }
        for offset in [0, 4 << 20] {
            disk.write(file, offset, &record, true, &mut |_| true).unwrap();
            decay.written(file, offset, &record);
        }
        for n in 1..6 {
            let (file, _) = disk.open(dir, &name(n), true).unwrap();
            disk.allocate(file, SEGMENT).unwrap();
            let mut header = vec![0; BLOCK_BYTES];
            for (at, value) in [(0, u64::from(u32::from_le_bytes(*b"KtkS"))), (16, n), (40, SEGMENT), (48, n * SEGMENT)] {
                header[at..at + 8].copy_from_slice(&u64::to_le_bytes(value));
            }
            disk.write(file, 0, &header, true, &mut |_| true).unwrap();
            decay.written(file, 0, &header);
            if n < 5 {
                write(&mut disk, &mut decay, file, n * SEGMENT + BLOCK, 0);
            }
        }
        let covers = disk.clock();
        disk.sync_directory(dir, covers).unwrap();
        (disk, decay)
    }

    fn write(disk: &mut Disk, decay: &mut Decay, file: FileId, position: u64, watermark: u64) {
        let mut block = vec![0; BLOCK_BYTES];
        let (first, term) = (kontiki_core::LogIndex(1), kontiki_core::Term(1));
        let meta = kontiki_core::FrameMeta { first, count: 1, term, prev_term: kontiki_core::Term(0) };
        kontiki_frame::seal_noop(&mut block, kontiki_core::ClusterId(1), kontiki_core::GroupId(0), meta, 0);
        let range = kontiki_core::IndexRange { from: first, to: first };
        DiskStamp { position, generation: 0, boot: kontiki_core::Incarnation(1), range, watermark, node: kontiki_core::NodeId(1) }
            .write(&mut block);
        disk.write(file, position % SEGMENT, &block, true, &mut |_| true).unwrap();
        decay.written(file, position % SEGMENT, &block);
    }

    fn hashes(disk: &Disk) -> Vec<Option<u64>> {
        let dir = Path::new(crate::cluster::DIR);
        let hash = |n| {
            let mut bytes = vec![0; SEGMENT as usize];
            disk.read(disk.find(dir, &name(n))?, 0, &mut bytes).ok()?;
            Some(crate::world::trace::hash_bytes(&bytes))
        };
        (1..6).map(hash).collect()
    }

    #[test]
    fn each_mixup_changes_what_it_says_and_only_what_is_part_of_the_log() {
        let mut tail = 0;
        for seed in 0..50 {
            let mut random = Random::new(seed);
            for mixup in Mixup::ALL {
                let (mut disk, mut decay) = disk(5 * SEGMENT);
                let mut older = None;
                if matches!(mixup, Mixup::RolledBack) {
                    assert!(!mix_up(&mut disk, &decay, &mut older, &mut random, mixup), "nothing older is known yet");
                    for n in 2..5 {
                        let file = disk.find(Path::new(crate::cluster::DIR), &name(n)).unwrap();
                        write(&mut disk, &mut decay, file, n * SEGMENT + 2 * BLOCK, 0);
                    }
                }
                if matches!(mixup, Mixup::Pasted) {
                    assert!(!mix_up(&mut disk, &decay, &mut older, &mut random, mixup), "something before the last may be missing");
                    let (file, last) = (disk.find(Path::new(crate::cluster::DIR), &name(4)).unwrap(), 4 * SEGMENT + BLOCK);
                    write(&mut disk, &mut decay, file, last, last);
                }
                let before = hashes(&disk);
                if !mix_up(&mut disk, &decay, &mut older, &mut random, mixup) {
                    assert!(matches!(mixup, Mixup::Swapped | Mixup::Copied), "{mixup:?}: the other one was not chosen");
                    continue;
                }
                let after = hashes(&disk);
                let changed: Vec<usize> = (0..5).filter(|&n| before[n] != after[n]).collect();
                assert!(!changed.contains(&0), "{mixup:?}: what was released");
                assert!(!changed.contains(&1), "{mixup:?}: the oldest");
                assert!(!changed.contains(&4), "{mixup:?}: what has no frame");
                tail += usize::from(changed.contains(&3));
                let lost = after.iter().filter(|hash| hash.is_none()).count();
                let expected = match mixup {
                    Mixup::Gone => (1, 1),
                    Mixup::Swapped => (2, 0),
                    Mixup::Copied | Mixup::RolledBack | Mixup::Pasted => (1, 0),
                };
                assert_eq!((changed.len(), lost), expected, "{mixup:?}");
            }
        }
        assert!(tail > 50, "{tail}");
    }

    #[test]
    fn what_is_rolled_back_is_missed_before_what_is_noted() {
        for noted in [0, 5 * SEGMENT] {
            let (mut disk, mut decay) = disk(noted);
            let mut older = Some(disk.clone());
            for n in 2..5 {
                let file = disk.find(Path::new(crate::cluster::DIR), &name(n)).unwrap();
                write(&mut disk, &mut decay, file, n * SEGMENT + 2 * BLOCK, 0);
            }
            let done = mix_up(&mut disk, &decay, &mut older, &mut Random::new(1), Mixup::RolledBack);
            assert_eq!(done, noted > 0);
        }
    }
}
