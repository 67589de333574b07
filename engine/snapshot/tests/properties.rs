//! The format: whatever was put in comes out, and whatever is changed is noticed.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use kontiki_core::{Base, ClusterId, GroupId, Incarnation, LogIndex, NodeId, Subterm, Term};
use kontiki_snapshot::limits::{CHUNK_BYTES, DATA_BYTES};
use kontiki_snapshot::offline::{OfflineError, verify};
use kontiki_snapshot::{Check, Flaw, Head, Info, Made, Part, encode};
use proptest::prelude::*;

fn verified(mut file: &[u8]) -> Result<Info, (u64, Flaw)> {
    match verify(|into| std::io::Read::read(&mut file, into), |_| {}) {
        Ok(info) => Ok(info),
        Err(OfflineError::Flawed { chunk, flaw, .. }) => Err((chunk, flaw)),
        Err(OfflineError::Read(error)) => panic!("{error}"),
    }
}

fn head() -> impl Strategy<Value = Head> {
    (any::<[u64; 8]>(), any::<[u128; 2]>(), any::<u32>(), any::<bool>()).prop_map(|(word, wide, subterm, is_first)| Head {
        cluster: ClusterId(wide[0]),
        group: GroupId(word[0]),
        lineage: wide[1],
        base: if is_first {
            Base::default()
        } else {
            Base { index: LogIndex(word[1].max(1)), term: Term(word[2].max(1)), subterm: Subterm(subterm) }
        },
        cluster_ns: word[3],
        full: true,
        made: Made { node: NodeId(word[4]), incarnation: Incarnation(word[5]), number: word[6], wall_ns: word[7] },
    })
}

/// Lengths at and around those of a chunk's data.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), 1..100usize, (0..3usize, 0..3usize).prop_map(|(chunks, more)| (chunks * DATA_BYTES + more).saturating_sub(1))]
}

fn bytes(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sections_come_back(head in head(), lengths in [length(), length(), length()]) {
        let parts = [Part::Configuration, Part::Sessions, Part::Machine];
        let contents: Vec<Vec<u8>> = lengths.iter().zip(0..).map(|(&length, seed)| bytes(length, seed)).collect();
        let sections: Vec<(Part, &[u8])> = parts.into_iter().zip(contents.iter().map(Vec::as_slice)).collect();
        let file = encode(head, &sections);
        let info = verified(&file).unwrap();
        prop_assert_eq!((info.head, info.bytes), (head, file.len() as u64));
        let told = [info.sections.configuration, info.sections.sessions, info.sections.machine];
        prop_assert_eq!(told, lengths.map(|length| length as u64));
        let mut check = Check::new();
        let mut found = vec![Vec::new(); 3];
        for chunk in file.chunks(CHUNK_BYTES) {
            let chunk = check.take(chunk).unwrap();
            if let Some(at) = parts.iter().position(|part| *part == chunk.part) {
                found[at].extend_from_slice(chunk.data);
            }
        }
        prop_assert!(found == contents);
    }

    #[test]
    fn any_changed_bit_is_noticed_in_its_chunk(length in length(), at in any::<u32>(), bit in 0..8u8) {
        let mut file = encode(Head { full: true, ..Head::default() }, &[(Part::Machine, &bytes(length, 1))]);
        let at = at as usize % file.len();
        file[at] ^= 1 << bit;
        let (chunk, _) = verified(&file).unwrap_err();
        prop_assert_eq!(chunk, (at / CHUNK_BYTES) as u64);
    }

    #[test]
    fn whatever_is_cut_off_or_added_is_noticed(length in length(), cut in 1..200_000usize, more in 1..200_000usize) {
        let file = encode(Head { full: true, ..Head::default() }, &[(Part::Machine, &bytes(length, 1))]);
        let whole = &file[..file.len().saturating_sub(cut)];
        prop_assert!(matches!(verified(whole), Err((_, Flaw::CutOff))));
        let mut longer = file.clone();
        longer.extend(bytes(more, 3));
        prop_assert_eq!(verified(&longer), Err(((file.len() / CHUNK_BYTES) as u64, Flaw::TooLong)));
    }

    /// Chunks that are each intact, in another order, twice, or of another snapshot.
    #[test]
    fn chunks_are_taken_in_their_place_only(at in 0..5usize, other in 0..5usize, foreign in any::<bool>()) {
        let contents = bytes(3 * DATA_BYTES, 1);
        let file = encode(Head { full: true, ..Head::default() }, &[(Part::Machine, &contents)]);
        let made = Made { number: 1, ..Made::default() };
        let second = encode(Head { full: true, made, ..Head::default() }, &[(Part::Machine, &contents)]);
        let source = if foreign { &second } else { &file };
        let mut mixed = file.clone();
        mixed[at * CHUNK_BYTES..][..CHUNK_BYTES].copy_from_slice(&source[other * CHUNK_BYTES..][..CHUNK_BYTES]);
        let expected = match (foreign, at, other) {
            (false, at, other) if at == other => None,
            // Its head is the other's, and what follows is not.
            (true, 0, 0) => Some((1, Flaw::OtherSnapshot)),
            (true, 1.., _) => Some((at as u64, Flaw::OtherSnapshot)),
            _ => Some((at as u64, Flaw::OtherPlace { found: other as u64 })),
        };
        prop_assert_eq!(verified(&mixed).err(), expected);
    }

    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut chunk = vec![0; CHUNK_BYTES];
        chunk[..bytes.len()].copy_from_slice(&bytes);
        prop_assert!(Check::new().take(&chunk).is_err());
        prop_assert!(Check::new().take(&bytes).is_err());
    }
}

/// What is on disks today is read for ever.
#[test]
fn golden() {
    let base = Base { index: LogIndex(1000), term: Term(3), subterm: Subterm(1) };
    let made = Made { node: NodeId(2), incarnation: Incarnation(4), number: 5, wall_ns: 6 };
    let head = Head { cluster: ClusterId(0xc1), group: GroupId(9), lineage: 8, base, cluster_ns: 7, full: true, made };
    let file = encode(head, &[(Part::Machine, b"state")]);
    let info = verified(&file).unwrap();
    assert_eq!((file.len(), &file[..4], &file[8..11]), (3 * CHUNK_BYTES, &b"KtkN"[..], &[1, 0, 1][..]));
    assert_eq!(&file[CHUNK_BYTES + 8..CHUNK_BYTES + 24], &[1, 0, 4, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(info.digest.to_string(), "5c054f3bcdf92c1d74e0b59f1a1eb6a5");
}
