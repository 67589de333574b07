//! What must hold of whatever is read from a connection, by format. The fuzz targets of `hw-tests/fuzz` check the same.
//!
//! Each says whether the bytes were one, so that nobody takes a check for done that was none.
#![allow(dead_code, unreachable_pub)]

use kontiki_net::limits::{CONTROL_MAX_BYTES, HELLO_BYTES, MAX_WANT_CHUNKS, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_RECORD_BYTES};
use kontiki_net::{
    ClientWireError, Control, ControlPayload, HandshakeRefusal, Hello, SnapshotRecord, SnapshotSays, decode_request, decode_response,
    encode_request, encode_response, request_bytes,
};

/// Longest payload taken of a client, in bytes.
const LIMIT: usize = 1 << 10;

/// The first `N` bytes; zeros past the end.
pub fn padded<const N: usize>(data: &[u8]) -> [u8; N] {
    core::array::from_fn(|at| data.get(at).copied().unwrap_or(0))
}

/// A control message between two nodes.
pub fn control(bytes: &[u8]) -> bool {
    let Ok(Some((control, length))) = Control::decode(bytes) else { return false };
    let mut out = [0; CONTROL_MAX_BYTES];
    let Some(again) = control.encode(&mut out) else { panic!("{control:?} is not written again") };
    assert_eq!(Control::decode(&out[..again]), Ok(Some((control, again))), "written again it reads the same");
    // Lists of fields may hold some that this version passes over, or the known ones in another order.
    if !matches!(control.payload, ControlPayload::Parameters(_) | ControlPayload::Offer(_)) {
        assert_eq!(out[..again], bytes[..length], "one message is written in one way");
    }
    for short in 0..length {
        assert_eq!(Control::decode(&bytes[..short]), Ok(None), "a part of a message is awaited, not refused");
    }
    true
}

/// The greeting on every new connection: what a stranger can send first.
pub fn hello(bytes: &[u8; HELLO_BYTES]) -> bool {
    let Ok(hello) = Hello::decode(bytes) else { return false };
    let mut out = [0; HELLO_BYTES];
    hello.encode(&mut out);
    assert_eq!(Hello::decode(&out), Ok(hello), "written again, as of this version, it reads the same");
    let refusal = HandshakeRefusal::from_wire(hello.code, hello.detail);
    assert_eq!(refusal.is_none(), hello.code == 0);
    if let Some(refusal) = refusal {
        let (code, detail) = refusal.to_wire();
        assert_eq!((code, HandshakeRefusal::from_wire(code, detail)), (hello.code, Some(refusal)));
    }
    true
}

/// A request or a response of the client protocol.
pub fn client(bytes: &[u8]) -> bool {
    let mut out = [0; LIMIT + 128];
    let mut known = false;
    match decode_request(bytes, LIMIT) {
        Ok(Some((number, request, length))) => {
            assert_eq!((request_bytes(&request), encode_request(number, &request, &mut out)), (length, Some(length)));
            assert_eq!(decode_request(&out[..length], LIMIT), Ok(Some((number, request, length))));
            assert_eq!(decode_request(&bytes[..length - 1], LIMIT), Ok(None));
            known = true;
        }
        Err(ClientWireError::Length { length, limit }) => assert!(length > limit),
        _ => {}
    }
    if let Ok(Some((number, response, length))) = decode_response(bytes, LIMIT) {
        let Some(again) = encode_response(number, &response, &mut out) else { panic!("{response:?} is not written again") };
        assert_eq!(decode_response(&out[..again], LIMIT), Ok(Some((number, response, again))));
        assert_eq!(decode_response(&bytes[..length - 1], LIMIT), Ok(None));
        known = true;
    }
    known
}

/// A record of a snapshot's connection: what its receiver wants, what its source answers.
pub fn pull(bytes: &[u8; SNAPSHOT_RECORD_BYTES]) -> bool {
    let Ok(record) = SnapshotRecord::decode(bytes) else { return false };
    let mut out = [0; SNAPSHOT_RECORD_BYTES];
    record.encode(&mut out);
    assert_eq!(out, *bytes, "one record is written in one way");
    match record.says {
        SnapshotSays::Want(want) => {
            assert!((1..=MAX_WANT_CHUNKS).contains(&want.chunks));
            assert!(want.id.source.0 > 0 && want.id.index.0 > 0 && want.id.term.0 > 0);
            let end = want.offset.checked_add(u64::from(want.chunks) * SNAPSHOT_CHUNK_BYTES as u64);
            assert!(end.is_some() && want.offset.is_multiple_of(SNAPSHOT_CHUNK_BYTES as u64), "{want:?}");
        }
        SnapshotSays::Chunk { id, offset } => {
            assert!(id.source.0 > 0 && offset.is_multiple_of(SNAPSHOT_CHUNK_BYTES as u64));
        }
        SnapshotSays::Which { .. } | SnapshotSays::This { .. } | SnapshotSays::Refused(_) => {}
    }
    true
}
