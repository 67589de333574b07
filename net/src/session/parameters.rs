//! What the two sides of a session tell each other before anything else: their limits and their pace.
//!
//! ```text
//! tag u16 | length u16 | value .. | tag u16 | length u16 | value ..
//! ```
//!
//! Each side's first control record carries them, and the session is up once the other's have come. A receiver passes
//! over tags that it does not know, so that later versions may tell more; what an older sender leaves out is zero.

use crate::wire::{Reader, Writer};

/// Bytes of a field before its value.
const FIELD_HEADER_BYTES: usize = 4;

/// Fields that this version writes, and the bytes of their values.
const FIELDS: usize = 6;
const VALUE_BYTES: usize = 4;

/// One side's limits and pace. What a side seals or asks for is its own matter; what it *takes* binds the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Longest frame that it takes from a leader, in bytes: what its memory and its log's segments have room for.
    pub takes_frame_bytes: u32,
    /// Longest frame that it seals as a leader, in bytes.
    pub max_frame_bytes: u32,
    /// Longest entry that it takes from a proposer, in bytes.
    pub max_entry_bytes: u32,
    /// How often it tells its followers that it lives, in milliseconds.
    pub heartbeat_ms: u32,
    /// Shortest time for which it waits for a leader, in milliseconds.
    pub election_min_ms: u32,
    /// Longest time for which it waits for a leader, in milliseconds.
    pub election_max_ms: u32,
}

impl Parameters {
    /// Bytes of the fields as this version writes them.
    pub(crate) const BYTES: usize = FIELDS * (FIELD_HEADER_BYTES + VALUE_BYTES);

    fn fields(&mut self) -> [&mut u32; FIELDS] {
        let Parameters { takes_frame_bytes, max_frame_bytes, max_entry_bytes, heartbeat_ms, election_min_ms, election_max_ms } = self;
        [takes_frame_bytes, max_frame_bytes, max_entry_bytes, heartbeat_ms, election_min_ms, election_max_ms]
    }

    pub(crate) fn encode(mut self, w: &mut Writer<'_>) {
        for (tag, value) in (1..).zip(self.fields()) {
            w.u16(tag).u16(VALUE_BYTES as u16).u32(*value);
        }
    }

    /// Reads all fields; `None` if they do not fill the bytes, or a known one has another length than it must.
    pub(crate) fn decode(r: &mut Reader<'_>) -> Option<Parameters> {
        let mut parameters = Parameters::default();
        while !r.0.is_empty() {
            let tag = usize::from(r.u16()?);
            let length = usize::from(r.u16()?);
            let mut value = Reader(r.bytes(length)?);
            let Some(field) = tag.checked_sub(1).and_then(|at| parameters.fields().into_iter().nth(at)) else { continue };
            *field = value.u32()?;
            if !value.0.is_empty() {
                return None;
            }
        }
        Some(parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: Parameters = Parameters {
        takes_frame_bytes: 1 << 20,
        max_frame_bytes: 256 << 10,
        max_entry_bytes: 64 << 10,
        heartbeat_ms: 40,
        election_min_ms: 150,
        election_max_ms: 300,
    };

    fn encoded() -> [u8; Parameters::BYTES] {
        let mut bytes = [0; Parameters::BYTES];
        let mut w = Writer::new(&mut bytes);
        SAMPLE.encode(&mut w);
        assert_eq!(w.len(), Parameters::BYTES);
        bytes
    }

    #[test]
    fn come_back_as_sent() {
        assert_eq!(Parameters::decode(&mut Reader(&encoded())), Some(SAMPLE));
        assert_eq!(Parameters::decode(&mut Reader(&[])), Some(Parameters::default()));
    }

    #[test]
    fn unknown_fields_are_passed_over_wherever_they_stand() {
        for at in (0..=Parameters::BYTES).step_by(FIELD_HEADER_BYTES + VALUE_BYTES) {
            for unknown in [&[0, 0, 0, 0][..], &[7, 0, 3, 0, 1, 2, 3], &[0xff, 0xff, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8]] {
                let known = encoded();
                let bytes = [&known[..at], unknown, &known[at..]].concat();
                assert_eq!(Parameters::decode(&mut Reader(&bytes)), Some(SAMPLE), "{unknown:?} at {at}");
            }
        }
    }

    #[test]
    fn a_known_field_of_another_length_and_a_field_that_runs_out_are_none() {
        for bad in [&[1, 0, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8][..], &[1, 0, 2, 0, 1, 2], &[9, 0, 3, 0, 1], &[9, 0, 3], &[9]] {
            assert_eq!(Parameters::decode(&mut Reader(bad)), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Parameters::decode(&mut Reader(&bytes));
        }
    }
}
