//! Writes the checksums that damaged bytes would have to have, so that a mutation reaches what lies behind the checks: a peer or
//! a disk can be wrong with all its checksums right. Offsets are those of `docs/format.md` and of the formats' own modules.

use kontiki_frame::{BODY_OFFSET, STAMP_BYTES};

fn crc(parts: &[&[u8]]) -> [u8; 4] {
    let mut crc = crc32fast::Hasher::new();
    for part in parts {
        crc.update(part);
    }
    crc.finalize().to_le_bytes()
}

fn word(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word) as usize)
}

/// A record whose checksum, four bytes at `at`, covers all of it but itself.
pub fn record(bytes: &mut [u8], at: usize) {
    if bytes.len() >= at + 4 {
        let sum = crc(&[&bytes[..at], &bytes[at + 4..]]);
        bytes[at..at + 4].copy_from_slice(&sum);
    }
}

/// A frame: body, header, stamp, in this order, each as far as it is there.
pub fn frame(bytes: &mut [u8]) {
    if bytes.len() < BODY_OFFSET {
        return;
    }
    if let Some(body) = bytes[BODY_OFFSET..].get(..word(bytes, STAMP_BYTES + 16)) {
        let sum = crc(&[body]);
        bytes[STAMP_BYTES + 12..STAMP_BYTES + 16].copy_from_slice(&sum);
    }
    record(&mut bytes[STAMP_BYTES..BODY_OFFSET], 4);
    let sum = crc(&[&bytes[..4], &bytes[8..STAMP_BYTES], &bytes[STAMP_BYTES + 4..STAMP_BYTES + 8]]);
    bytes[4..8].copy_from_slice(&sum);
}

/// A block of a log's file, and what follows it there: a frame, or a block that fills itself.
pub fn block(bytes: &mut [u8]) {
    match bytes.first_chunk::<4>() {
        Some(b"KtkD") => frame(bytes),
        Some(_) if bytes.len() >= kontiki_frame::BLOCK_BYTES => record(&mut bytes[..kontiki_frame::BLOCK_BYTES], 4),
        _ => {}
    }
}

/// A control message: as long as it says it is, if it is all there.
pub fn control(bytes: &mut [u8]) {
    let length = word(bytes, 4) >> 16;
    if let Some(message) = bytes.get_mut(..length) {
        record(message, 24);
    }
}

/// A client's message: likewise.
pub fn client(bytes: &mut [u8]) {
    let length = word(bytes, 8).saturating_add(kontiki_net::limits::CLIENT_HEADER_BYTES);
    if let Some(message) = bytes.get_mut(..length) {
        record(message, 12);
    }
}
