//! What the two sides of a session tell each other before anything else: their limits and their pace, and who they are
//! beyond what a greeting has room for.
//!
//! ```text
//! tag u16 | length u16 | value .. | tag u16 | length u16 | value ..
//! ```
//!
//! Each side's first control record carries them, and the session is up once the other's have come. A receiver passes
//! over tags that it does not know, so that later versions may tell more; what an older sender leaves out is zero.

use kontiki_core::{EntryId, LogIndex, Term};

use crate::wire::{FIELD_HEADER_BYTES, Reader, Writer, next_field};

/// Fields of one number of 32 bits, whose tags count from 1, and the bytes of their values.
const NUMBERS: usize = 7;
const NUMBER_BYTES: usize = 4;

const LINEAGE: u16 = 8;
const INSTANCE: u16 = 9;
const CONFIGURATION: u16 = 10;
/// Of the values of these three.
const WIDE_BYTES: usize = 16;

/// What one side says of itself when a session opens. What a side seals or asks for is its own matter; what it *takes*
/// binds the other.
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
    /// Up to which [feature level](crate::limits::FEATURE_LEVEL) it understands what is sent and stored.
    pub feature_level: u32,
    /// Which cluster it belongs to among those that bear the cluster's id; zero while there is one alone.
    pub lineage: u128,
    /// Drawn with its data directory; zero while directories have none.
    pub instance: u128,
    /// The newest configuration that it holds; the default while there are none in the log.
    pub configuration: EntryId,
}

impl Parameters {
    /// Bytes of the fields as this version writes them.
    pub(crate) const BYTES: usize = NUMBERS * (FIELD_HEADER_BYTES + NUMBER_BYTES) + 3 * (FIELD_HEADER_BYTES + WIDE_BYTES);

    fn numbers(&mut self) -> [&mut u32; NUMBERS] {
        [
            &mut self.takes_frame_bytes,
            &mut self.max_frame_bytes,
            &mut self.max_entry_bytes,
            &mut self.heartbeat_ms,
            &mut self.election_min_ms,
            &mut self.election_max_ms,
            &mut self.feature_level,
        ]
    }

    pub(crate) fn encode(mut self, w: &mut Writer<'_>) {
        for (tag, value) in (1..).zip(self.numbers()) {
            w.u16(tag).u16(NUMBER_BYTES as u16).u32(*value);
        }
        let wide = WIDE_BYTES as u16;
        w.u16(LINEAGE).u16(wide).u128(self.lineage);
        w.u16(INSTANCE).u16(wide).u128(self.instance);
        w.u16(CONFIGURATION).u16(wide).u64(self.configuration.index.0).u64(self.configuration.term.0);
    }

    /// Reads all fields; `None` if they do not fill the bytes, or a known one has another length than it must.
    pub(crate) fn decode(r: &mut Reader<'_>) -> Option<Parameters> {
        let mut parameters = Parameters::default();
        while let Some(field) = next_field(r) {
            let (tag, mut value) = field?;
            match tag {
                LINEAGE => parameters.lineage = value.only_u128()?,
                INSTANCE => parameters.instance = value.only_u128()?,
                CONFIGURATION => {
                    let index = LogIndex(value.u64()?);
                    parameters.configuration = EntryId { index, term: Term(value.only_u64()?) };
                }
                tag => {
                    let number = usize::from(tag).checked_sub(1).and_then(|at| parameters.numbers().into_iter().nth(at));
                    if let Some(number) = number {
                        *number = value.only_u32()?;
                    }
                }
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
        feature_level: 1,
        lineage: 0x1122,
        instance: 0x3344,
        configuration: EntryId { index: LogIndex(9), term: Term(2) },
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
        let numbers = NUMBERS * (FIELD_HEADER_BYTES + NUMBER_BYTES);
        let between = (0..numbers).step_by(FIELD_HEADER_BYTES + NUMBER_BYTES);
        for at in between.chain((numbers..=Parameters::BYTES).step_by(FIELD_HEADER_BYTES + WIDE_BYTES)) {
            for unknown in [&[0, 0, 0, 0][..], &[11, 0, 3, 0, 1, 2, 3], &[0xff, 0xff, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8]] {
                let known = encoded();
                let bytes = [&known[..at], unknown, &known[at..]].concat();
                assert_eq!(Parameters::decode(&mut Reader(&bytes)), Some(SAMPLE), "{unknown:?} at {at}");
            }
        }
    }

    #[test]
    fn a_known_field_of_another_length_and_a_field_that_runs_out_are_none() {
        for bad in [
            &[1, 0, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8][..],
            &[1, 0, 2, 0, 1, 2],
            &[8, 0, 1, 0, 1],
            &[10, 0, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8],
            &[99, 0, 3, 0, 1],
            &[99, 0, 3],
            &[99],
        ] {
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
