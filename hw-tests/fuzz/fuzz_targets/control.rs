//! A control message between two nodes.
#![no_main]

use kontiki_fuzz::{meter, repair};
use kontiki_net::Control;
use kontiki_net::limits::CONTROL_MAX_BYTES;
use libfuzzer_sys::fuzz_target;

fn check(bytes: &[u8]) {
    let Ok(Some((control, length))) = Control::decode(bytes) else { return };
    let mut out = [0; CONTROL_MAX_BYTES];
    assert_eq!(control.encode(&mut out), Some(length));
    assert_eq!(out[..length], bytes[..length], "one message is written in one way");
    for short in 0..length {
        assert_eq!(Control::decode(&bytes[..short]), Ok(None), "a part of a message is awaited, not refused");
    }
}

fuzz_target!(|data: &[u8]| {
    meter::within(0, || check(data));
    let mut repaired = data.to_vec();
    repair::control(&mut repaired);
    meter::within(0, || check(&repaired));
});
