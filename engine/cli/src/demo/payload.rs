//! What a proof writes into the log: entries that name themselves.
//!
//! Each begins with who proposed it and the how-manieth of that proposer it is. The rest is filled from a
//! fixed pseudo-random pool at an offset that both determine, so that every byte of an entry is known from its name.

/// Bytes of the name: proposer (`u32`), length of the entry (`u32`), number (`u64`), little-endian.
pub(crate) const NAME_BYTES: usize = 16;

/// How far the filler may be shifted.
const SHIFTS: usize = 4096;

/// The name of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// Which proposer.
    pub(crate) client: u32,
    /// Its how-manieth entry, from 0.
    pub(crate) number: u64,
}

impl Name {
    /// Reads the name of an entry; `None` if it is too short, or not of the length that it names.
    pub(crate) fn of(payload: &[u8]) -> Option<Name> {
        let (client, rest) = payload.split_first_chunk::<4>()?;
        let (bytes, rest) = rest.split_first_chunk::<4>()?;
        let (number, _) = rest.split_first_chunk::<8>()?;
        let whole = u32::from_le_bytes(*bytes) as usize == payload.len();
        whole.then_some(Name { client: u32::from_le_bytes(*client), number: u64::from_le_bytes(*number) })
    }
}

/// Makes the entries of one run.
#[derive(Clone, Debug)]
pub(crate) struct Payloads {
    pool: Vec<u8>,
    buffer: Vec<u8>,
}

impl Payloads {
    /// Entries of `entry_bytes`, at least [`NAME_BYTES`].
    pub(crate) fn new(entry_bytes: usize) -> Payloads {
        let entry_bytes = entry_bytes.max(NAME_BYTES);
        // SplitMix64: any fixed sequence without short repeats serves.
        let mut state = 0x6b6f_6e74_696b_6921_u64;
        let mut pool = Vec::with_capacity(entry_bytes + SHIFTS + 8);
        while pool.len() < entry_bytes + SHIFTS {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            pool.extend(mix(state).to_le_bytes());
        }
        Payloads { pool, buffer: vec![0; entry_bytes] }
    }

    /// The bytes of one entry, until the next call.
    pub(crate) fn make(&mut self, name: Name) -> &[u8] {
        let bytes = self.buffer.len();
        let shift = (mix(name.number ^ (u64::from(name.client) << 40)) as usize) % SHIFTS;
        let (head, filler) = self.buffer.split_at_mut(NAME_BYTES);
        if let Some(from) = self.pool.get(shift..shift + filler.len()) {
            filler.copy_from_slice(from);
        }
        let words = [name.client, bytes as u32, name.number as u32, (name.number >> 32) as u32];
        for (place, word) in head.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        &self.buffer
    }

    /// The checksum of one entry.
    pub(crate) fn checksum(&mut self, name: Name) -> u32 {
        crc32fast::hash(self.make(name))
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_names_itself() {
        let mut payloads = Payloads::new(100);
        let name = Name { client: 3, number: 1 << 33 };
        let bytes = payloads.make(name).to_vec();
        assert_eq!(bytes.len(), 100);
        assert_eq!(Name::of(&bytes), Some(name));
        assert_eq!(Name::of(&bytes[..99]), None);
        assert_eq!(Name::of(&bytes[..7]), None);
        let other = payloads.make(Name { client: 3, number: 7 }).to_vec();
        assert_ne!(bytes[NAME_BYTES..], other[NAME_BYTES..]);
        assert_eq!(crc32fast::hash(&bytes), payloads.checksum(name));
    }

    #[test]
    fn the_shortest_entry_is_its_name() {
        assert_eq!(Payloads::new(1).make(Name { client: 0, number: 0 }).len(), NAME_BYTES);
    }
}
