//! The greeting on every new connection: what a stranger can send first.
#![no_main]

use kontiki_fuzz::{meter, repair};
use kontiki_net::limits::HELLO_BYTES;
use kontiki_net::{HandshakeRefusal, Hello};
use libfuzzer_sys::fuzz_target;

fn check(bytes: &[u8; HELLO_BYTES]) {
    let Ok(hello) = Hello::decode(bytes) else { return };
    let mut out = [0; HELLO_BYTES];
    hello.encode(&mut out);
    assert_eq!(out, *bytes, "one greeting is written in one way");
    let refusal = HandshakeRefusal::from_wire(hello.code, hello.detail);
    assert_eq!(refusal.is_none(), hello.code == 0);
    if let Some(refusal) = refusal {
        let (code, detail) = refusal.to_wire();
        assert_eq!((code, HandshakeRefusal::from_wire(code, detail)), (hello.code, Some(refusal)));
    }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = [0; HELLO_BYTES];
    let length = data.len().min(HELLO_BYTES);
    bytes[..length].copy_from_slice(&data[..length]);
    meter::within(0, || check(&bytes));
    repair::record(&mut bytes, HELLO_BYTES - 4);
    meter::within(0, || check(&bytes));
});
