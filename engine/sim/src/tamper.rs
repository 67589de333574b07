//! Files that are not what they were when their node comes back: gone, in each other's place, or as they were earlier.
//!
//! Only where the same disk still shows it, as in `decay.rs`. A segment that went, or that stands in another's place, is missed by its number: by the
//! segments around it, or by the hard state, which names the newest that frames may be in. One that was rolled back looks whole: that shows only in
//! those that end before a durable watermark which a later one names. The oldest is left alone: without it the log merely begins later, as after
//! a release.

use std::path::Path;

use kontiki_io::Name;

use crate::decay::Decay;
use crate::disk::{Disk, FileId};
use crate::random::Random;
use crate::world::World;

/// What is done to a segment file.
#[derive(Clone, Copy, Debug)]
enum Mixup {
    Gone,
    Swapped,
    Copied,
    RolledBack,
}

impl Mixup {
    const fn name(self) -> &'static str {
        match self {
            Mixup::Gone => "segment file gone",
            Mixup::Swapped => "segment files in each other's place",
            Mixup::Copied => "segment file in another's place",
            Mixup::RolledBack => "segment file rolled back",
        }
    }
}

impl World {
    /// Mixes up a segment file of a node that is down, and counts what was done.
    pub(crate) fn tamper(&mut self, host: usize) {
        let state = &mut self.hosts[host];
        let random = &mut state.disk_random;
        let mixups = [Mixup::Gone, Mixup::Swapped, Mixup::Copied, Mixup::RolledBack];
        let mixup = random.pick(&mixups).copied().unwrap_or(Mixup::Gone);
        if !state.running && mix_up(&mut state.disk, &state.decay, &mut state.older, random, mixup) {
            self.record(host, mixup.name(), 0, 0, 0);
            self.strike(host, mixup.name());
        }
    }
}

fn mix_up(disk: &mut Disk, decay: &Decay, older: &mut Option<Disk>, random: &mut Random, mixup: Mixup) -> bool {
    let dir = Path::new(crate::cluster::DIR);
    let names = disk.list(dir).unwrap_or_default().into_iter().map(|(name, _)| name);
    let segments = names.filter(|name| name.as_str().ends_with(".seg")).filter_map(|name| Some((disk.find(dir, &name)?, name)));
    let exposed = |file: FileId| match mixup {
        Mixup::RolledBack => decay.whole_before_watermark(disk, file),
        Mixup::Gone | Mixup::Swapped | Mixup::Copied => decay.with_frames(file),
    };
    let mut exposed: Vec<(u64, FileId, Name)> = segments.filter_map(|(file, name)| Some((exposed(file)?, file, name))).collect();
    exposed.sort_unstable_by_key(|(base, ..)| *base);
    let Some(rest) = exposed.get(1..) else { return false };
    let Some((_, file, name)) = random.pick(rest) else { return false };
    let other = rest.iter().filter(|(_, other, _)| other != file).nth(random.below(rest.len() as u64) as usize);
    match (mixup, other) {
        (Mixup::Gone, _) => disk.remove(dir, name),
        (Mixup::Swapped, Some((_, _, other))) => disk.swap(dir, name, other),
        (Mixup::Copied, Some((_, other, _))) => disk.copy_over(*file, *other),
        (Mixup::RolledBack, _) => match older.take() {
            Some(old) => return disk.roll_back(dir, name, *file, &old),
            None => {
                *older = Some(disk.clone());
                return false;
            }
        },
        (Mixup::Swapped | Mixup::Copied, None) => return false,
    }
    true
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

    /// Four segments with a frame each; the stamp of the last says that the others were durable.
    fn disk() -> (Disk, Decay) {
        let dir = Path::new(crate::cluster::DIR);
        let (mut disk, mut decay) = (Disk::new(1 << 30), Decay::default());
        disk.open_directory(dir, true).unwrap();
        for n in 1..5 {
            let (file, _) = disk.open(dir, &name(n), true).unwrap();
            disk.allocate(file, SEGMENT).unwrap();
            write(&mut disk, &mut decay, file, n * SEGMENT, if n == 4 { n * SEGMENT } else { 0 });
        }
        let covers = disk.clock();
        disk.sync_directory(dir, covers).unwrap();
        (disk, decay)
    }

    fn write(disk: &mut Disk, decay: &mut Decay, file: FileId, position: u64, watermark: u64) {
        let mut block = vec![0x55; BLOCK_BYTES];
        let range = kontiki_core::IndexRange { from: kontiki_core::LogIndex(1), to: kontiki_core::LogIndex(1) };
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
            Some(crate::trace::hash_bytes(&bytes))
        };
        (1..5).map(hash).collect()
    }

    #[test]
    fn each_mixup_changes_what_it_says_and_never_the_oldest() {
        let mut newest = 0;
        for seed in 0..50 {
            let (mut random, mut older) = (Random::new(seed), None);
            for mixup in [Mixup::Gone, Mixup::Swapped, Mixup::Copied, Mixup::RolledBack] {
                let (mut disk, mut decay) = disk();
                if matches!(mixup, Mixup::RolledBack) {
                    assert!(!mix_up(&mut disk, &decay, &mut older, &mut random, mixup), "nothing older is known yet");
                    for n in 2..5 {
                        let file = disk.find(Path::new(crate::cluster::DIR), &name(n)).unwrap();
                        write(&mut disk, &mut decay, file, n * SEGMENT + BLOCK_BYTES as u64, n * SEGMENT);
                    }
                }
                let before = hashes(&disk);
                if !mix_up(&mut disk, &decay, &mut older, &mut random, mixup) {
                    assert!(matches!(mixup, Mixup::Swapped | Mixup::Copied), "the other one was not chosen");
                    continue;
                }
                let after = hashes(&disk);
                let changed: Vec<usize> = (0..4).filter(|&n| before[n] != after[n]).collect();
                assert!(!changed.contains(&0), "{mixup:?}");
                newest += usize::from(changed.contains(&3));
                let lost = after.iter().filter(|hash| hash.is_none()).count();
                let expected = match mixup {
                    Mixup::Gone => (1, 1),
                    Mixup::Swapped => (2, 0),
                    Mixup::Copied | Mixup::RolledBack => (1, 0),
                };
                assert_eq!((changed.len(), lost), expected, "{mixup:?}");
                assert!(!matches!(mixup, Mixup::RolledBack) || !changed.contains(&3), "the newest looks whole then");
            }
        }
        assert!(newest > 10, "{newest}");
    }
}
