//! The greeting on every new connection: what a stranger can send first.
#![no_main]

#[path = "../../../net/tests/support/formats.rs"]
mod formats;

use kontiki_fuzz::{meter, repair};
use kontiki_net::limits::HELLO_BYTES;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut bytes = formats::padded(data);
    meter::within(0, || formats::hello(&bytes));
    repair::record(&mut bytes, HELLO_BYTES - 4);
    meter::within(0, || formats::hello(&bytes));
});
