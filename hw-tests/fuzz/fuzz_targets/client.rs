//! Requests and responses of the client protocol.
#![no_main]

#[path = "../../../net/tests/support/formats.rs"]
mod formats;

use kontiki_fuzz::{meter, repair};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    meter::within(0, || formats::client(data));
    let mut repaired = data.to_vec();
    repair::client(&mut repaired);
    meter::within(0, || formats::client(&repaired));
});
