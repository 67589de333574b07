//! Chunks into the store that fetches a snapshot: a source that sends anything at any place, and power that fails.
#![no_main]

#[path = "../../../engine/snapshot/tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| support::hostile::source(data));
