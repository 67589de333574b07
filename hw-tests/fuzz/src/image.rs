//! A data directory in a few bytes: most of a log's files is zeros.
//!
//! ```text
//! place u8 | flags u8 | length u16 | bytes ...      and so on
//! ```
//!
//! Place 0 and 1 are the two copies of the hard state; from 2 on, counted around, the blocks of the segment files 1 to 6. The bytes are
//! written from the start of the block on. Flag 1: the checksums there are made to fit, once everything is written. Flag 2: the segment's file
//! ends in this block, behind these bytes.

use kontiki_frame::BLOCK_BYTES;
use kontiki_io::Name;
use kontiki_wal::limits::{HARD_STATE_COPY_OFFSET, HARD_STATE_FILE_BYTES, MIN_SEGMENT_BYTES};
use kontiki_wal::names;

use crate::repair;

/// Segment files in an image.
pub const SEGMENTS: usize = 6;
/// Blocks of each, its header included.
pub const BLOCKS: usize = MIN_SEGMENT_BYTES as usize / BLOCK_BYTES;
/// Flag: the checksums are made to fit.
pub const REPAIR: u8 = 1;
/// Flag: the file ends here.
pub const END: u8 = 2;

/// The files of a data directory.
#[derive(Debug, Default)]
pub struct Image {
    copies: Option<[Vec<u8>; 2]>,
    segments: [Option<Vec<u8>>; SEGMENTS],
}

impl Image {
    /// The directory that `bytes` describe: any bytes describe one.
    pub fn new(mut bytes: &[u8]) -> Image {
        let mut image = Image::default();
        let mut repairs = Vec::new();
        let mut ends = [None; SEGMENTS];
        while let Some((&[place, flags, low, high], rest)) = bytes.split_first_chunk() {
            let length = usize::from(u16::from_le_bytes([low, high])).min(rest.len());
            let (part, rest) = rest.split_at(length);
            bytes = rest;
            let (file, at) = match usize::from(place) {
                copy @ (0 | 1) => (&mut image.copies.get_or_insert_with(|| [(); 2].map(|()| vec![0; BLOCK_BYTES]))[copy], 0),
                place => {
                    let block = (place - 2) % (SEGMENTS * BLOCKS);
                    let (segment, at) = (block / BLOCKS, block % BLOCKS * BLOCK_BYTES);
                    if flags & END != 0 {
                        ends[segment] = Some(at + length.min(BLOCK_BYTES));
                    }
                    (image.segments[segment].get_or_insert_with(|| vec![0; BLOCKS * BLOCK_BYTES]), at)
                }
            };
            let length = length.min(file.len() - at);
            file[at..at + length].copy_from_slice(&part[..length]);
            if flags & REPAIR != 0 {
                repairs.push((place, at));
            }
        }
        for (place, at) in repairs {
            let file = match usize::from(place) {
                copy @ (0 | 1) => image.copies.as_mut().map(|copies| &mut copies[copy]),
                place => image.segments[(place - 2) % (SEGMENTS * BLOCKS) / BLOCKS].as_mut(),
            };
            if let Some(file) = file {
                repair::block(&mut file[at..]);
            }
        }
        for (segment, end) in image.segments.iter_mut().zip(ends) {
            if let (Some(segment), Some(end)) = (segment, end) {
                segment.truncate(end);
            }
        }
        image
    }

    /// The files and their lengths.
    pub fn list(&self) -> Vec<(Name, u64)> {
        let hard_state = self.copies.as_ref().and_then(|_| Some((Name::new(names::HARD_STATE)?, HARD_STATE_FILE_BYTES)));
        let segments =
            self.segments.iter().zip(1..).filter_map(|(file, number)| Some((names::segment(number), file.as_ref()?.len() as u64)));
        hard_state.into_iter().chain(segments).collect()
    }

    /// Reads from a file; how many bytes there were.
    pub fn read(&self, name: &Name, offset: u64, into: &mut [u8]) -> usize {
        let (bytes, offset) = if name.as_str() == names::HARD_STATE {
            match (&self.copies, offset) {
                (Some(copies), 0) => (&copies[0][..], 0),
                (Some(copies), HARD_STATE_COPY_OFFSET) => (&copies[1][..], 0),
                _ => return 0,
            }
        } else {
            let number = names::segment_number(name).unwrap_or(0) as usize;
            let Some(Some(file)) = number.checked_sub(1).and_then(|at| self.segments.get(at)) else { return 0 };
            (&file[..], offset as usize)
        };
        let there = bytes.get(offset..).unwrap_or_default();
        let length = there.len().min(into.len());
        into[..length].copy_from_slice(&there[..length]);
        length
    }
}

/// Describes files: each block that is not zeros, as far as it is not.
pub fn describe(copies: [&[u8]; 2], segments: &[Vec<u8>], flags: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |place: usize, block: &[u8], needed: bool| {
        let length = block.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        if length > 0 || needed {
            out.extend([place as u8, flags]);
            out.extend((length as u16).to_le_bytes());
            out.extend(&block[..length]);
        }
    };
    assert!(segments.len() <= SEGMENTS, "an image has no place for {} segments", segments.len());
    put(0, copies[0], true);
    put(1, copies[1], true);
    for (at, segment) in segments.iter().enumerate() {
        for (n, block) in segment.chunks(BLOCK_BYTES).enumerate() {
            // A file of zeros is a file all the same.
            put(2 + at * BLOCKS + n, block, n == 0);
        }
    }
    out
}
