//! A record of a snapshot's connection: what its receiver wants, what its source answers.
#![no_main]

#[path = "../../../net/tests/support/formats.rs"]
mod formats;

use kontiki_fuzz::{meter, repair};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = formats::padded(data);
    meter::within(0, || formats::pull(&bytes));
    repair::record(&mut bytes, 12);
    meter::within(0, || formats::pull(&bytes));
});
