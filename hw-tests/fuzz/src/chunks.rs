//! A snapshot's file in a few bytes: most of a chunk is zeros, or its checksums' business.
//!
//! ```text
//! flags u8 | length u16 | bytes ...      a chunk; and so on
//! ```
//!
//! Flag 1: its checksum is made to fit. Flag 2: the file ends in this chunk, behind these bytes.

use kontiki_snapshot::limits::CHUNK_BYTES;

use crate::repair;

/// Most chunks in an image.
pub const MAX_CHUNKS: usize = 12;
/// Flag: the checksum is made to fit.
pub const REPAIR: u8 = 1;
/// Flag: the file ends here.
pub const END: u8 = 2;

/// The file that `bytes` describe: any bytes describe one.
pub fn file(mut bytes: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    for _ in 0..MAX_CHUNKS {
        let Some((&[flags, low, high], rest)) = bytes.split_first_chunk() else { break };
        let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
        let (part, rest) = rest.split_at(length);
        bytes = rest;
        let at = file.len();
        file.extend(part);
        if flags & END != 0 {
            break;
        }
        file.resize(at + CHUNK_BYTES, 0);
        if flags & REPAIR != 0 {
            repair::record(&mut file[at..], 4);
        }
    }
    file
}

/// Describes a file of chunks, as far as each is not zeros.
pub fn describe(file: &[u8], flags: u8) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in file.chunks(CHUNK_BYTES) {
        let length = chunk.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        out.push(flags);
        out.extend((length as u16).to_le_bytes());
        out.extend(&chunk[..length]);
    }
    out
}
