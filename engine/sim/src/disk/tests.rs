#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use kontiki_io::{IoErrorKind, Name};
use kontiki_mem::BLOCK_BYTES;

use super::{Disk, FileId, Unflushed};

const DIR: &str = "/d";

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn disk() -> Disk {
    let mut disk = Disk::new(1 << 30);
    disk.open_directory(Path::new(DIR), true).unwrap();
    disk
}

fn durable_file(disk: &mut Disk, text: &str, length: u64) -> FileId {
    let (file, _) = disk.open(Path::new(DIR), &name(text), true).unwrap();
    disk.allocate(file, length).unwrap();
    disk.sync(file, disk.clock()).unwrap();
    disk.sync_directory(Path::new(DIR), disk.clock()).unwrap();
    file
}

fn write(disk: &mut Disk, file: FileId, block: u64, byte: u8, durable: bool) {
    disk.write(file, block * BLOCK_BYTES as u64, &[byte; BLOCK_BYTES], durable, &mut |_| true).unwrap();
}

/// The first byte of each sector of a block.
fn sectors(disk: &Disk, file: FileId, block: u64) -> [u8; 8] {
    let mut bytes = [0; BLOCK_BYTES];
    disk.read(file, block * BLOCK_BYTES as u64, &mut bytes).unwrap();
    for sector in bytes.chunks(512) {
        assert!(sector.iter().all(|&byte| byte == sector[0]), "a sector is atomic");
    }
    core::array::from_fn(|sector| bytes[sector * 512])
}

#[test]
fn what_was_not_flushed_is_seen_and_can_be_lost() {
    let mut disk = disk();
    let file = durable_file(&mut disk, "a", 1 << 16);
    write(&mut disk, file, 1, 7, false);
    assert_eq!(sectors(&disk, file, 1), [7; 8]);
    assert_eq!(disk.unflushed().len(), 8);
    disk.cut(&mut |_| false);
    assert_eq!(sectors(&disk, file, 1), [0; 8]);
    assert!(disk.unflushed().is_empty());
}

#[test]
fn what_was_flushed_or_written_durably_survives_every_cut() {
    let mut disk = disk();
    let file = durable_file(&mut disk, "a", 1 << 16);
    write(&mut disk, file, 0, 1, false);
    disk.sync(file, disk.clock()).unwrap();
    write(&mut disk, file, 1, 2, true);
    write(&mut disk, file, 2, 3, false);
    disk.cut(&mut |_| false);
    assert_eq!([0, 1, 2].map(|block| sectors(&disk, file, block)[3]), [1, 2, 0]);
}

#[test]
fn a_cut_decides_each_sector_on_its_own() {
    let mut seen = BTreeSet::new();
    for mask in 0..256u32 {
        let mut disk = disk();
        let file = durable_file(&mut disk, "a", 1 << 16);
        write(&mut disk, file, 0, 1, true);
        write(&mut disk, file, 0, 2, false);
        let mut choice = 0;
        disk.cut(&mut |unflushed| {
            assert_eq!(unflushed, Unflushed::Sector { offset: choice * 512 });
            choice += 1;
            mask >> (choice - 1) & 1 == 1
        });
        seen.insert(sectors(&disk, file, 0));
    }
    assert_eq!(seen.len(), 256, "every mixture of old and new sectors is reached");
}

#[test]
fn a_flush_covers_what_was_written_before_it_began() {
    let mut disk = disk();
    let file = durable_file(&mut disk, "a", 1 << 16);
    write(&mut disk, file, 0, 1, false);
    let began = disk.clock();
    write(&mut disk, file, 1, 2, false);
    disk.sync(file, began).unwrap();
    disk.cut(&mut |_| false);
    assert_eq!((sectors(&disk, file, 0)[0], sectors(&disk, file, 1)[0]), (1, 0));
}

#[test]
fn a_flush_keeps_its_promise_over_an_overwrite_meanwhile() {
    for extra in 0..2 {
        let mut disk = disk();
        let file = durable_file(&mut disk, "a", 1 << 16);
        for _ in 0..extra {
            write(&mut disk, file, 9, 9, true);
        }
        write(&mut disk, file, 0, 1, false);
        let began = disk.clock();
        write(&mut disk, file, 0, 2, false);
        disk.sync(file, began).unwrap();
        disk.cut(&mut |_| false);
        // Either version may stand there, but not what was before both.
        assert!(sectors(&disk, file, 0).iter().all(|byte| [1, 2].contains(byte)));
    }
}

#[test]
fn a_failed_flush_is_not_made_good_by_the_next() {
    let mut disk = disk();
    let file = durable_file(&mut disk, "a", 1 << 16);
    write(&mut disk, file, 0, 1, false);
    disk.fail_sync(file, &mut || false).unwrap();
    disk.sync(file, disk.clock()).unwrap();
    assert_eq!(sectors(&disk, file, 0), [1; 8], "the cache still shows it");
    disk.cut(&mut |_| true);
    assert_eq!(sectors(&disk, file, 0), [0; 8], "the medium never had it");
}

#[test]
fn entries_are_volatile_until_the_directory_is_flushed() {
    let path = Path::new(DIR);
    let mut disk = disk();
    durable_file(&mut disk, "old", 4096);
    disk.open(path, &name("new"), true).unwrap();
    disk.rename(path, &name("old"), &name("renamed")).unwrap();
    assert_eq!(disk.open(path, &name("renamed"), true).unwrap_err(), IoErrorKind::Exists);
    assert_eq!(disk.open(path, &name("old"), false).unwrap_err(), IoErrorKind::NotFound);

    let mut lost = disk.clone();
    lost.cut(&mut |_| false);
    assert!(lost.find(path, &name("old")).is_some());
    assert!(lost.find(path, &name("new")).is_none() && lost.find(path, &name("renamed")).is_none());

    let mut half = disk.clone();
    half.cut(&mut |unflushed| unflushed == Unflushed::Entry { name: name("renamed") });
    assert!(half.find(path, &name("renamed")).is_some() && half.find(path, &name("old")).is_none());
    assert!(half.find(path, &name("new")).is_none());

    disk.sync_directory(path, disk.clock()).unwrap();
    disk.unlink(path, &name("renamed")).unwrap();
    disk.cut(&mut |_| false);
    assert!(disk.find(path, &name("renamed")).is_some(), "an unlink is lost like any other change");
    assert!(disk.find(path, &name("new")).is_some());
}

#[test]
fn a_rename_replaces_its_target_at_once_or_not_at_all() {
    let path = Path::new(DIR);
    for kept in [false, true] {
        let mut disk = disk();
        let old = durable_file(&mut disk, "current", 4096);
        let new = durable_file(&mut disk, "next", 4096);
        disk.rename(path, &name("next"), &name("current")).unwrap();
        disk.cut(&mut |_| kept);
        assert_eq!(disk.find(path, &name("current")), Some(if kept { new } else { old }));
    }
}

#[test]
fn a_directory_flush_covers_what_was_done_before_it_began() {
    let path = Path::new(DIR);
    let mut disk = disk();
    disk.open(path, &name("a"), true).unwrap();
    let began = disk.clock();
    disk.open(path, &name("b"), true).unwrap();
    disk.sync_directory(path, began).unwrap();
    disk.cut(&mut |_| false);
    assert!(disk.find(path, &name("a")).is_some() && disk.find(path, &name("b")).is_none());
}

#[test]
fn lengths_are_volatile_until_flushed_and_durable_writes_reach_behind_them() {
    let mut disk = disk();
    let (file, _) = disk.open(Path::new(DIR), &name("a"), true).unwrap();
    disk.sync_directory(Path::new(DIR), disk.clock()).unwrap();
    disk.allocate(file, 1 << 16).unwrap();
    write(&mut disk, file, 2, 5, true);
    let lengths = |disk: &mut Disk| disk.list(Path::new(DIR)).unwrap()[0].1;
    assert_eq!(lengths(&mut disk), 1 << 16);
    disk.cut(&mut |_| false);
    assert_eq!(lengths(&mut disk), 3 * 4096);
    assert_eq!(sectors(&disk, file, 2), [5; 8]);
}

#[test]
fn reads_stop_at_the_end_and_a_full_disk_says_so() {
    let mut disk = disk();
    disk.set_capacity(8192);
    let file = durable_file(&mut disk, "a", 5000);
    let mut bytes = [1; BLOCK_BYTES * 2];
    assert_eq!(disk.read(file, 4096, &mut bytes).unwrap(), 904);
    assert_eq!(disk.read(file, 8192, &mut bytes).unwrap(), 0);
    assert_eq!(disk.allocate(file, 8193).unwrap_err(), IoErrorKind::Full);
    let grown = disk.write(file, 8192, &[0; BLOCK_BYTES], true, &mut |_| true);
    assert_eq!(grown.unwrap_err(), IoErrorKind::Full);
    assert_eq!(disk.used_bytes(), 5000);
}

#[test]
fn a_flipped_bit_is_seen_and_survives() {
    let mut disk = disk();
    let file = durable_file(&mut disk, "a", 8192);
    write(&mut disk, file, 0, 0, false);
    assert!(disk.flip(Path::new(DIR), &name("a"), 4097, 3));
    assert!(!disk.flip(Path::new(DIR), &name("a"), 8192, 3));
    disk.cut(&mut |_| true);
    let mut bytes = [0; 2 * BLOCK_BYTES];
    disk.read(file, 0, &mut bytes).unwrap();
    assert_eq!(bytes[4097], 8);
}

#[test]
fn files_without_a_name_are_forgotten_once_nobody_can_find_them() {
    let path = Path::new(DIR);
    let mut disk = disk();
    let file = durable_file(&mut disk, "a", 8192);
    disk.unlink(path, &name("a")).unwrap();
    disk.collect();
    assert_eq!((disk.used_bytes(), disk.length(file)), (0, 8192), "its space is free, and a power cut may bring it back");
    disk.sync_directory(path, disk.clock()).unwrap();
    disk.collect();
    assert_eq!(disk.length(file), 0);
    assert_eq!(disk.sync(file, 0).unwrap_err(), IoErrorKind::NotFound);
}
