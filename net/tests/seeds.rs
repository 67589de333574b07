//! The seeds of the fuzz targets that read from a connection, and mutations of them: as they are, and with the checksums
//! made to fit.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "support/formats.rs"]
mod formats;
#[path = "../../hw-tests/fuzz/src/repair.rs"]
#[allow(dead_code, unreachable_pub)]
mod repair;

use std::path::Path;

use formats::padded;
use kontiki_net::limits::HELLO_BYTES;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }
}

/// Each seed of a target is read as one, and what becomes of it by up to four changed bytes is read in order, or refused.
/// Of some of those the changed bytes say something else, which is read as well.
fn run(target: &str, seeds: usize, read: impl Fn(&[u8]) -> bool, repair: impl Fn(&mut Vec<u8>)) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../hw-tests/fuzz/seeds").join(target);
    let files: Vec<Vec<u8>> = std::fs::read_dir(dir).unwrap().map(|seed| std::fs::read(seed.unwrap().path()).unwrap()).collect();
    assert!(files.len() >= seeds, "{} seeds of {target}", files.len());
    let mut random = Random(1);
    let mut other = 0;
    for seed in &files {
        assert!(read(seed), "a seed of {target} is one");
        for _ in 0..500 {
            let mut bytes = seed.clone();
            for _ in 0..1 + random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = match random.below(4) {
                    0 => 0,
                    1 => u8::MAX,
                    _ => random.below(256) as u8,
                };
            }
            read(&bytes);
            repair(&mut bytes);
            other += usize::from(read(&bytes) && bytes != *seed);
        }
    }
    assert!(other > 10 * files.len(), "{other} mutations of {target} were read");
}

#[test]
fn control_messages() {
    run("control", 12, formats::control, |bytes| repair::control(bytes));
}

#[test]
fn greetings() {
    run("hello", 5, |bytes| formats::hello(&padded(bytes)), |bytes| repair::record(bytes, HELLO_BYTES - 4));
}

#[test]
fn requests_and_responses() {
    run("client", 15, formats::client, |bytes| repair::client(bytes));
}

#[test]
fn records_of_a_snapshots_connection() {
    run("pull", 6, |bytes| formats::pull(&padded(bytes)), |bytes| repair::record(bytes, 12));
}
