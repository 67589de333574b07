//! Requests and responses of the client protocol.
#![no_main]

use kontiki_fuzz::{meter, repair};
use kontiki_net::{ClientWireError, decode_request, decode_response, encode_request, encode_response, request_bytes};
use libfuzzer_sys::fuzz_target;

/// Longest payload taken, in bytes.
const LIMIT: usize = 1 << 10;

fn check(bytes: &[u8], out: &mut [u8]) {
    match decode_request(bytes, LIMIT) {
        Ok(Some((number, request, length))) => {
            assert_eq!((request_bytes(&request), encode_request(number, &request, out)), (length, Some(length)));
            assert_eq!(decode_request(&out[..length], LIMIT), Ok(Some((number, request, length))));
            assert_eq!(decode_request(&bytes[..length - 1], LIMIT), Ok(None));
        }
        Err(ClientWireError::Length { length, limit }) => assert!(length > limit),
        _ => {}
    }
    if let Ok(Some((number, response, length))) = decode_response(bytes, LIMIT) {
        let Some(again) = encode_response(number, &response, out) else { panic!("{response:?} is not written again") };
        assert_eq!(decode_response(&out[..again], LIMIT), Ok(Some((number, response, again))));
        assert_eq!(decode_response(&bytes[..length - 1], LIMIT), Ok(None));
    }
}

fuzz_target!(|data: &[u8]| {
    let mut out = [0; LIMIT + 128];
    meter::within(0, || check(data, &mut out));
    let mut repaired = data.to_vec();
    repair::client(&mut repaired);
    meter::within(0, || check(&repaired, &mut out));
});
