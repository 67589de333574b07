//! What a snapshot says of itself: at its beginning, and at its end.

use std::fmt;

use kontiki_core::{Base, ClusterId, GroupId, Incarnation, LogIndex, NodeId, Subterm, Term};
use kontiki_frame::fields::{all_zero, put, u32_at, u64_at, u128_at};

use crate::Digest;
use crate::limits::{CHUNK_BYTES, DATA_BYTES, MAX_BYTES};

/// Length of a head, in bytes.
pub(crate) const HEAD_BYTES: usize = 128;
/// Length of a foot, in bytes.
pub(crate) const FOOT_BYTES: usize = 64;

const FLAG_FULL: u32 = 1;

/// What a snapshot says of itself at its beginning: whose it is, and of which entry.
///
/// The default is that of a cluster without a name, before its first entry, without the machine's state: a beginning for
/// tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// The cluster's lineage; zero until there are configurations.
    pub lineage: u128,
    /// The last entry whose effects it holds: what the log behind it presupposes.
    pub base: Base,
    /// Cluster time of that entry, in ns; zero until there is one.
    pub cluster_ns: u64,
    /// Whether the machine's state is in it. It is not where the machine is durable by itself.
    pub full: bool,
    /// By whom it was made: told, and not checked.
    pub made: Made,
}

/// Who made a snapshot. It tells two snapshots of the same entry apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// The node.
    pub node: NodeId,
    /// How often it had started.
    pub incarnation: Incarnation,
    /// Counts the snapshots that it made since that start, from 1.
    pub number: u64,
    /// When, by its wall clock, in ns since the Unix epoch: for people.
    pub wall_ns: u64,
}

impl Head {
    pub(crate) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        put(&mut bytes, 0, &self.cluster.0.to_le_bytes());
        put(&mut bytes, 16, &self.group.0.to_le_bytes());
        put(&mut bytes, 24, &self.lineage.to_le_bytes());
        put(&mut bytes, 40, &self.base.index.0.to_le_bytes());
        put(&mut bytes, 48, &self.base.term.0.to_le_bytes());
        put(&mut bytes, 56, &self.base.subterm.0.to_le_bytes());
        put(&mut bytes, 60, &if self.full { FLAG_FULL } else { 0 }.to_le_bytes());
        put(&mut bytes, 64, &self.cluster_ns.to_le_bytes());
        put(&mut bytes, 72, &self.made.node.0.to_le_bytes());
        put(&mut bytes, 80, &self.made.incarnation.0.to_le_bytes());
        put(&mut bytes, 88, &self.made.number.to_le_bytes());
        put(&mut bytes, 96, &self.made.wall_ns.to_le_bytes());
        bytes
    }

    /// `None` if the bytes are no head.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Head> {
        let flags = u32_at(bytes, 60);
        let base = Base { index: LogIndex(u64_at(bytes, 40)), term: Term(u64_at(bytes, 48)), subterm: Subterm(u32_at(bytes, 56)) };
        let of_an_entry = base.index.0 != 0 && base.term.0 != 0;
        if bytes.len() != HEAD_BYTES || flags & !FLAG_FULL != 0 || !all_zero(&bytes[104..]) || !(of_an_entry || base == Base::default()) {
            return None;
        }
        Some(Head {
            cluster: ClusterId(u128_at(bytes, 0)),
            group: GroupId(u64_at(bytes, 16)),
            lineage: u128_at(bytes, 24),
            base,
            cluster_ns: u64_at(bytes, 64),
            full: flags & FLAG_FULL != 0,
            made: Made {
                node: NodeId(u64_at(bytes, 72)),
                incarnation: Incarnation(u64_at(bytes, 80)),
                number: u64_at(bytes, 88),
                wall_ns: u64_at(bytes, 96),
            },
        })
    }
}

/// How long each section is, in bytes. An empty one has no chunk in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sections {
    /// The configuration; empty until there are any.
    pub configuration: u64,
    /// The clients' sessions; empty until there are any.
    pub sessions: u64,
    /// The machine's own stream.
    pub machine: u64,
}

impl Sections {
    /// Length of a file with these sections, in bytes; `None` if there can be no such file.
    pub(crate) fn file_bytes(&self) -> Option<u64> {
        let sections = [self.configuration, self.sessions, self.machine];
        // A chunk for the head, one for the foot.
        let chunks = sections.iter().fold(2, |chunks: u64, bytes| chunks.saturating_add(bytes.div_ceil(DATA_BYTES as u64)));
        chunks.checked_mul(CHUNK_BYTES as u64).filter(|bytes| *bytes <= MAX_BYTES)
    }
}

/// What a snapshot says of itself at its end. A file without an intact foot is no snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Foot {
    /// Length of the whole file.
    pub(crate) bytes: u64,
    /// Of everything before the chunk that this is in.
    pub(crate) digest: Digest,
    pub(crate) sections: Sections,
}

impl Foot {
    pub(crate) fn encode(&self) -> [u8; FOOT_BYTES] {
        let mut bytes = [0; FOOT_BYTES];
        put(&mut bytes, 0, &self.bytes.to_le_bytes());
        put(&mut bytes, 8, &self.digest.0.to_le_bytes());
        put(&mut bytes, 24, &self.sections.configuration.to_le_bytes());
        put(&mut bytes, 32, &self.sections.sessions.to_le_bytes());
        put(&mut bytes, 40, &self.sections.machine.to_le_bytes());
        bytes
    }

    /// `None` if the bytes are no foot.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Foot> {
        let sections = Sections { configuration: u64_at(bytes, 24), sessions: u64_at(bytes, 32), machine: u64_at(bytes, 40) };
        let foot = Foot { bytes: u64_at(bytes, 0), digest: Digest(u128_at(bytes, 8)), sections };
        let fits = bytes.len() == FOOT_BYTES && all_zero(&bytes[48..]) && sections.file_bytes() == Some(foot.bytes);
        fits.then_some(foot)
    }
}

/// A snapshot, as its head and its foot tell of it.
///
/// ```
/// use kontiki_core::{Base, LogIndex, Term};
/// use kontiki_snapshot::{Head, Part, encode, offline::verify};
///
/// let base = Base { index: LogIndex(9), term: Term(2), ..Base::default() };
/// let file = encode(Head { base, full: true, ..Head::default() }, &[(Part::Machine, &[7; 100_000])]);
/// let mut rest = &file[..];
/// let info = verify(|into| std::io::Read::read(&mut rest, into), |_| {}).unwrap();
/// assert_eq!((info.base(), info.chunks(), info.sections.machine), (base, 4, 100_000));
/// assert!(info.to_string().starts_with("full snapshot as of entry 9 of term 2, 262144 bytes"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its head.
    pub head: Head,
    /// Digest of the whole file but its last chunk: two files with the same one are the same, byte by byte.
    pub digest: Digest,
    /// Length of the file, in bytes.
    pub bytes: u64,
    /// Lengths of its sections.
    pub sections: Sections,
}

impl Info {
    /// The last entry whose effects it holds.
    pub fn base(&self) -> Base {
        self.head.base
    }

    /// Chunks in the file, head and foot included: at least two.
    pub fn chunks(&self) -> u64 {
        self.bytes / CHUNK_BYTES as u64
    }
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.head.full { "full" } else { "small" };
        write!(f, "{kind} snapshot as of {}, {} bytes, digest {}", self.head.base, self.bytes, self.digest)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn head() -> Head {
        Head {
            cluster: ClusterId(0xc1),
            group: GroupId(0),
            lineage: 5,
            base: Base { index: LogIndex(1000), term: Term(3), subterm: Subterm(1) },
            cluster_ns: 77,
            full: true,
            made: Made { node: NodeId(2), incarnation: Incarnation(4), number: 1, wall_ns: 99 },
        }
    }

    #[test]
    fn read_back() {
        assert_eq!(Head::parse(&head().encode()), Some(head()));
        let sections = Sections { configuration: 1, sessions: 0, machine: 3 * DATA_BYTES as u64 + 1 };
        let foot = Foot { bytes: 7 * CHUNK_BYTES as u64, digest: Digest(9), sections };
        assert_eq!(Foot::parse(&foot.encode()), Some(foot));
        // A length that the sections do not come to.
        assert_eq!(Foot::parse(&Foot { bytes: foot.bytes + CHUNK_BYTES as u64, ..foot }.encode()), None);
        let endless = Sections { machine: u64::MAX, sessions: u64::MAX, configuration: u64::MAX };
        assert_eq!(Foot::parse(&Foot { sections: endless, ..foot }.encode()), None);
    }

    #[test]
    fn a_head_is_of_an_entry_or_of_none() {
        let with = |base| Head::parse(&Head { base, ..head() }.encode()).is_some();
        assert!(with(Base::default()));
        assert!(!with(Base { index: LogIndex(1), ..Base::default() }));
        assert!(!with(Base { term: Term(1), ..Base::default() }));
    }
}
