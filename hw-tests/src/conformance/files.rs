//! Files and directories.

use std::path::PathBuf;

use kontiki_io::{IoBuf, IoData, IoErrorKind, Op, Output};
use kontiki_mem::{BLOCK_BYTES, Span};

use super::desk::{BUFFER_BYTES, is_filled, name_of, pattern};
use super::{Desk, World};

const B: usize = BLOCK_BYTES;

/// `create` fails where the file is, plain opening where it is not.
pub fn a_new_file_is_exclusive(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let dir = desk.dir(world.directory());
    let (file, len) = desk.open(dir, "one", true);
    assert_eq!(len, 0);
    assert_eq!(desk.fails(Op::Open { dir, name: name_of("one"), create: true }), IoErrorKind::Exists);
    let (again, _) = desk.open(dir, "one", false);
    assert_ne!(file, again, "two handles of one file are two handles");
    for handle in [file, again, dir] {
        desk.close(handle);
    }
}

/// Opening, renaming, unlinking what is not there.
pub fn what_is_missing_is_not_found(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let path = world.directory();
    assert_eq!(desk.fails(Op::OpenDir { path: path.join("none"), create: false }), IoErrorKind::NotFound);
    let dir = desk.dir(path);
    let name = name_of("none");
    assert_eq!(desk.fails(Op::Open { dir, name: name.clone(), create: false }), IoErrorKind::NotFound);
    assert_eq!(desk.fails(Op::Unlink { dir, name: name.clone() }), IoErrorKind::NotFound);
    assert_eq!(desk.fails(Op::Rename { dir, from: name, to: name_of("other") }), IoErrorKind::NotFound);
}

/// From ring and pool memory, durable and not, at the start and further on.
pub fn written_is_read_back(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let dir = desk.dir(world.directory());
    let file = desk.allocated(dir, "data", 64 * B as u64);
    let mut seed = 1;
    for durable in [false, true] {
        for (offset, len) in [(0, B), (B, 3 * B), (40 * B, 16 * B)] {
            let op = desk.write(file, offset as u64, len, seed, durable);
            desk.done(op);
            assert!(is_filled(&desk.read(file, offset as u64, len), seed), "{len} bytes at {offset}");
            seed += 1;
        }
        let buf = desk.buffer(seed);
        desk.done(Op::Write { file, offset: 8 * B as u64, data: IoData::Pool(buf, 2 * B), durable });
        let buf = desk.buffer(0xee);
        let token = desk.submit(Op::Read { file, offset: 8 * B as u64, buf: IoBuf::Pool(buf), len: 2 * B });
        let completion = desk.wait(token);
        assert!(matches!(completion.result, Ok(Output::Bytes(n)) if n == 2 * B), "{completion:?}");
        let Some(IoBuf::Pool(buf)) = completion.buf else { panic!("the buffer did not come back") };
        assert!(is_filled(&buf.bytes()[..2 * B], seed));
        // Beyond what was read, the buffer is as it was lent.
        assert_eq!(buf.bytes()[2 * B], pattern(2 * B, 0xee));
        seed += 1;
    }
    desk.done(Op::Sync { file });
    desk.done(Op::SyncDir { dir });
    // Everything lent has come back.
    assert_eq!(desk.pool.available(), 64);
    assert_eq!(desk.ring.held(), 0);
}

/// Another `Io` finds it.
pub fn a_durable_write_is_there_after_reopening(world: &mut dyn World) {
    let path = world.directory();
    {
        let mut desk = Desk::new(world);
        let dir = desk.dir(path.clone());
        let file = desk.allocated(dir, "data", 16 * B as u64);
        let op = desk.write(file, 4 * B as u64, 2 * B, 9, true);
        desk.done(op);
        desk.done(Op::SyncDir { dir });
        desk.close(file);
        desk.close(dir);
    }
    let mut desk = Desk::new(world);
    let dir = desk.dir(path);
    let (file, len) = desk.open(dir, "data", false);
    assert_eq!(len, 16 * B as u64);
    assert!(is_filled(&desk.read(file, 4 * B as u64, 2 * B), 9));
    assert!(desk.read(file, 0, 4 * B).iter().all(|byte| *byte == 0));
}

/// Neighbouring blocks as one span; and a span that runs over the ring's end.
pub fn several_blocks_are_written_at_once(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let dir = desk.dir(world.directory());
    let room = desk.ring.capacity();
    let file = desk.allocated(dir, "data", 2 * room as u64);
    let step = room / 8;
    // Twelve eighths of the ring: the third round lies over its end.
    for round in 0..4u64 {
        let mut span: Option<Span> = None;
        for part in 0..3 {
            let block = desk.block(step, round as u8 * 3 + part).freeze();
            match &mut span {
                None => span = Some(Span::one(block)),
                Some(span) => span.push(block).expect("neighbours"),
            }
        }
        let data = IoData::Span(span.expect("three blocks"));
        let offset = round * 3 * step as u64;
        desk.done(Op::Write { file, offset, data, durable: round % 2 == 0 });
    }
    for part in 0..12u64 {
        assert!(is_filled(&desk.read(file, part * step as u64, step), part as u8), "part {part}");
    }
}

/// A read is short there and nowhere else.
pub fn reads_end_at_the_end_of_the_file(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let dir = desk.dir(world.directory());
    let file = desk.allocated(dir, "data", 5 * B as u64);
    let op = desk.write(file, 0, 5 * B, 3, false);
    desk.done(op);
    assert_eq!(desk.read(file, 0, 5 * B).len(), 5 * B);
    assert_eq!(desk.read(file, 3 * B as u64, 16 * B).len(), 2 * B);
    assert_eq!(desk.read(file, 5 * B as u64, B).len(), 0);
    assert_eq!(desk.read(file, 500 * B as u64, B).len(), 0);
}

/// Space that was reserved and never written.
pub fn allocated_space_reads_as_zeros(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let dir = desk.dir(world.directory());
    let file = desk.allocated(dir, "data", 32 * B as u64);
    let op = desk.write(file, 16 * B as u64, B, 7, true);
    desk.done(op);
    let all = desk.read(file, 0, 32 * B);
    assert_eq!(all.len(), 32 * B);
    assert!(all[..16 * B].iter().chain(&all[17 * B..]).all(|byte| *byte == 0));
    assert!(is_filled(&all[16 * B..17 * B], 7));
}

/// Up, down, and to nothing; what stays is kept.
pub fn allocating_sets_the_length_both_ways(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let dir = desk.dir(world.directory());
    let file = desk.allocated(dir, "data", 4 * B as u64);
    let op = desk.write(file, 0, 4 * B, 5, true);
    desk.done(op);
    for len in [8 * B, 2 * B, 16 * B, 0, 3 * B] {
        desk.done(Op::Allocate { file, len: len as u64 });
        let (other, found) = desk.open(dir, "data", false);
        assert_eq!(found, len as u64);
        desk.close(other);
        if len == 16 * B {
            let all = desk.read(file, 0, 16 * B);
            assert!(is_filled(&all[..2 * B], 5), "what stayed");
            assert!(all[2 * B..].iter().all(|byte| *byte == 0), "what was cut off came back");
        }
    }
}

/// Names change at once, in the directory and in its listing.
pub fn a_rename_replaces_and_an_unlink_removes(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let dir = desk.dir(world.directory());
    let one = desk.allocated(dir, "one", B as u64);
    let two = desk.allocated(dir, "two", 2 * B as u64);
    let op = desk.write(one, 0, B, 1, true);
    desk.done(op);
    desk.done(Op::Rename { dir, from: name_of("one"), to: name_of("two") });
    desk.done(Op::SyncDir { dir });
    assert_eq!(desk.fails(Op::Open { dir, name: name_of("one"), create: false }), IoErrorKind::NotFound);
    let (found, len) = desk.open(dir, "two", false);
    assert_eq!(len, B as u64);
    assert!(is_filled(&desk.read(found, 0, B), 1));
    desk.done(Op::Unlink { dir, name: name_of("two") });
    assert_eq!(desk.fails(Op::Open { dir, name: name_of("two"), create: false }), IoErrorKind::NotFound);
    // A file without a name lives as long as its handles.
    assert!(is_filled(&desk.read(found, 0, B), 1));
    for handle in [one, two, found] {
        desk.close(handle);
    }
    match desk.run(Op::List { dir }) {
        Ok(Output::Listing(files)) => assert!(files.is_empty(), "{files:?}"),
        other => panic!("{other:?}"),
    }
}

/// Every file, no more, each with its length.
pub fn a_listing_has_files_and_lengths(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let path = world.directory();
    let dir = desk.dir(path.clone());
    desk.dir(path.join("below"));
    let mut expected = Vec::new();
    for n in 0..20u64 {
        let name = format!("log-{n:016x}.seg");
        let file = desk.allocated(dir, &name, n * B as u64);
        desk.close(file);
        expected.push((name_of(&name), n * B as u64));
    }
    let Ok(Output::Listing(mut files)) = desk.run(Op::List { dir }) else { panic!("no listing") };
    files.sort();
    assert_eq!(files, expected);
}

/// Several levels at once; a second time finds them.
pub fn directories_are_made_with_their_parents(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let path = world.directory().join("a").join("b").join("c");
    assert_eq!(desk.fails(Op::OpenDir { path: path.clone(), create: false }), IoErrorKind::NotFound);
    let dir = desk.dir(path.clone());
    let file = desk.allocated(dir, "data", B as u64);
    desk.close(file);
    let again = desk.dir(path);
    assert_eq!(desk.open(again, "data", false).1, B as u64);
}

/// Also against its own holder, until the handle is closed.
pub fn a_lock_excludes_until_it_is_closed(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let dir = desk.dir(world.directory());
    let lock = || Op::Lock { dir, name: name_of("lock") };
    let Ok(Output::Opened(held)) = desk.run(lock()) else { panic!("no lock") };
    assert_eq!(desk.fails(lock()), IoErrorKind::Locked);
    desk.close(held);
    let Ok(Output::Opened(held)) = desk.run(lock()) else { panic!("no lock after its release") };
    desk.close(held);
}

/// Nor does replacing it, or a lock by another name.
pub fn removing_the_lock_file_lets_nobody_in(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let dir = desk.dir(world.directory());
    let lock = |name: &str| Op::Lock { dir, name: name_of(name) };
    let Ok(Output::Opened(held)) = desk.run(lock("lock")) else { panic!("no lock") };
    desk.done(Op::Unlink { dir, name: name_of("lock") });
    assert_eq!(desk.fails(lock("lock")), IoErrorKind::Locked);
    let replaced = desk.allocated(dir, "new", B as u64);
    desk.done(Op::Rename { dir, from: name_of("new"), to: name_of("lock") });
    assert_eq!(desk.fails(lock("lock")), IoErrorKind::Locked);
    assert_eq!(desk.fails(lock("other")), IoErrorKind::Locked);
    desk.close(replaced);
    desk.close(held);
    let Ok(Output::Opened(held)) = desk.run(lock("lock")) else { panic!("no lock after its release") };
    desk.close(held);
}

/// All submitted before a turn, more than any queue in between has room for.
pub fn as_many_writes_as_the_capacity(world: &mut dyn World) {
    let mut desk = Desk::with_capacity(world, 600);
    let dir = desk.dir(world.directory());
    let count = desk.io.capacity().min(2000);
    let file = desk.allocated(dir, "data", (count * B) as u64);
    for round in 0..3u8 {
        let tokens: Vec<_> = (0..count)
            .map(|n| {
                let durable = round == 1 && n % 64 == 0;
                let op = desk.write(file, (n * B) as u64, B, n as u8 ^ round, durable);
                desk.submit(op)
            })
            .collect();
        for token in tokens {
            let completion = desk.wait(token);
            assert!(matches!(completion.result, Ok(Output::Done)), "{completion:?}");
        }
        assert_eq!(desk.ring.held(), 0, "memory came back");
        for n in [0, 1, count / 2, count - 1] {
            assert!(is_filled(&desk.read(file, (n * B) as u64, B), n as u8 ^ round), "block {n} of round {round}");
        }
    }
}

/// Where a backend counts at all.
pub fn writes_and_flushes_are_counted(world: &mut dyn World) {
    let mut desk = Desk::new(world);
    let dir = desk.dir(world.directory());
    let file = desk.allocated(dir, "data", (BUFFER_BYTES * 4) as u64);
    if desk.io.stats().turns == 0 {
        return;
    }
    let before = desk.io.stats();
    for n in 0..4 {
        let op = desk.write(file, n * BUFFER_BYTES as u64, BUFFER_BYTES, n as u8, n < 3);
        desk.done(op);
    }
    desk.done(Op::Sync { file });
    assert_eq!(desk.read(file, 0, BUFFER_BYTES).len(), BUFFER_BYTES);
    let after = desk.io.stats();
    assert_eq!(after.bytes_written - before.bytes_written, 4 * BUFFER_BYTES as u64);
    assert_eq!(after.bytes_read - before.bytes_read, BUFFER_BYTES as u64);
    assert_eq!(after.flushes - before.flushes, 4);
    assert!((1..=4).contains(&(after.flush_calls - before.flush_calls)));
    assert_eq!(after.ops - before.ops, 6);
}

/// The same each time it is asked, by another `Io` too; another directory's is another.
pub fn a_directory_has_an_identity(world: &mut dyn World) {
    let (path, other) = (world.directory(), world.directory());
    let identify = |desk: &mut Desk, path: &PathBuf| {
        let dir = desk.dir(path.clone());
        match desk.run(Op::Identify { dir }) {
            Ok(Output::Identity(identity)) => identity,
            other => panic!("{other:?}"),
        }
    };
    let mut desk = Desk::new(world);
    let first = identify(&mut desk, &path);
    assert_eq!(identify(&mut desk, &path), first);
    let second = identify(&mut desk, &other);
    assert_eq!(second.boot, first.boot);
    assert!(!second.is_same(&first), "two directories are one");
    // What is written there changes nothing.
    let dir = desk.dir(path.clone());
    let file = desk.allocated(dir, "data", B as u64);
    let op = desk.write(file, 0, B, 1, true);
    desk.done(op);
    drop(desk);
    let mut desk = Desk::new(world);
    assert_eq!(identify(&mut desk, &path), first);
}
