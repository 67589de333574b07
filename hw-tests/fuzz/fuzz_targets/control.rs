//! A control message between two nodes.
#![no_main]

#[path = "../../../net/tests/support/formats.rs"]
mod formats;

use kontiki_fuzz::{meter, repair};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    meter::within(0, || formats::control(data));
    let mut repaired = data.to_vec();
    repair::control(&mut repaired);
    meter::within(0, || formats::control(&repaired));
});
