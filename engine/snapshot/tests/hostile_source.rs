//! Sources that send anything: random scripts of what the fuzz target `fetch` is given, with its seeds first.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::path::Path;

use support::Random;
use support::hostile::source;

/// The fuzz target's seeds, and mutations of them.
#[test]
fn whatever_a_source_sends_only_what_was_offered_is_taken() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../hw-tests/fuzz/seeds/fetch");
    let seeds: Vec<Vec<u8>> = std::fs::read_dir(seeds).unwrap().map(|seed| std::fs::read(seed.unwrap().path()).unwrap()).collect();
    assert!(seeds.len() >= 4);
    let mut random = Random(1);
    for seed in &seeds {
        source(seed);
        for _ in 0..20 {
            let mut mutated = seed.clone();
            for _ in 0..1 + random.next() % 6 {
                let at = random.next() as usize % mutated.len();
                mutated[at] = random.next() as u8;
            }
            source(&mutated);
        }
    }
    for _ in 0..100 {
        let script: Vec<u8> = (0..random.next() % 100).map(|_| random.next() as u8).collect();
        source(&script);
    }
}
