//! The handshake: one fixed-size greeting each way on every new connection.
//!
//! ```text
//! 0 magic u64 | 8 highest version u16 | 10 kind u8 | 11 channel u8 | 12 code u16 | 14 lowest version u16 | 16 cluster u128
//! 32 from u64 | 40 to u64 | 48 incarnation u64 | 56 process number u64 | 64 session u64 | 72 nonce u64 | 80 detail u64
//! 88 zero .. 124 crc32 of bytes 0..124
//! ```
//!
//! In every version: 128 bytes, magic and highest version first, channel and lowest version at their places, checksum
//! last. So two programs can always tell what they have in common, and if it is nothing, each can name both ranges to
//! its operator. (Version 1 wrote a zero for the lowest version: it spoke no other.)

use kontiki_core::{ClusterId, Incarnation, NodeId, SessionId};
use kontiki_frame::fields::checksum_around;

use crate::handshake::versions::Versions;
use crate::limits::HELLO_BYTES;
use crate::wire::{Reader, Writer};

const MAGIC: u64 = u64::from_le_bytes(*b"KONTIKI\n");
const CRC_AT: usize = HELLO_BYTES - 4;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Control messages between two nodes.
    Control = 1,
    /// Frames between two nodes.
    Bulk = 2,
    /// A program's requests.
    Client = 3,
    /// Chunks of a snapshot, to a node or a program that pulls it.
    Snapshot = 4,
}

impl Channel {
    fn from_wire(byte: u8) -> Option<Channel> {
        match byte {
            1 => Some(Channel::Control),
            2 => Some(Channel::Bulk),
            3 => Some(Channel::Client),
            4 => Some(Channel::Snapshot),
            _ => None,
        }
    }
}

/// Whose greeting it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloKind {
    /// The dialler speaks.
    Hello = 1,
    /// The listener answers.
    Welcome = 2,
}

/// Why a greeting was turned down. Goes over the wire as a code and one number of detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeRefusal {
    /// The two programs have no version in common.
    #[error("no common version of the protocol: this side speaks {ours}, the other {theirs}; run releases that overlap")]
    Version {
        /// What the refusing side speaks.
        ours: Versions,
        /// What the other side speaks.
        theirs: Versions,
    },
    /// Another cluster.
    #[error("belongs to another cluster: check the addresses of the peers")]
    Cluster,
    /// The greeting was meant for another node.
    #[error("meant for node {to}, which is not at this address: check the addresses of the peers")]
    Target {
        /// The node it was meant for.
        to: NodeId,
    },
    /// The sender is not in the configuration.
    #[error("node {from} is not a peer of this node")]
    UnknownPeer {
        /// The sender.
        from: NodeId,
    },
    /// The sender claims the id of the receiver.
    #[error("two nodes claim the id {id}: one of them has the wrong `id` in its configuration, or the wrong address in `members`")]
    OwnId {
        /// The id that both claim.
        id: NodeId,
    },
    /// Two processes with one id and one incarnation: a copied data directory.
    #[error("two processes run as one node in incarnation {incarnation}: was its data directory copied?")]
    Duplicate {
        /// The incarnation that both claim.
        incarnation: Incarnation,
    },
    /// An older incarnation than one already seen.
    #[error("an older incarnation than {seen}, which was already seen: a stale process, or an old copy of its data")]
    Stale {
        /// The newest incarnation seen from that node.
        seen: Incarnation,
    },
    /// It crosses a connection that the refusing side, having the lower id, makes itself: that one stays.
    #[error("crosses a connection of the node with the lower id, which stays")]
    Crossed,
    /// No handshake is open that this connection would continue: it came too late, or it is a replay.
    #[error("continues no open handshake (too late, or replayed)")]
    NotOpen,
    /// No room for another client or session now.
    #[error("no room for another connection now: try again later")]
    Busy,
    /// A session with this node is open, and its process is alive.
    #[error("a session with this node is open and alive, in incarnation {incarnation}: another process takes its place once it is silent")]
    Occupied {
        /// The incarnation of the process that has it.
        incarnation: Incarnation,
    },
    /// An administrative request from another machine.
    #[error("administrative requests are taken from the node's own machine alone (`admin = \"any\"` in its file allows others)")]
    NotAdmin,
    /// A reason that this version does not know.
    #[error("refused for reason {code}, unknown to this version")]
    Other {
        /// The code on the wire.
        code: u16,
    },
}

impl HandshakeRefusal {
    /// Its reason without the details: what the log counts by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Version { .. } => "handshake: version",
            Self::Cluster => "handshake: cluster",
            Self::Target { .. } => "handshake: target",
            Self::UnknownPeer { .. } => "handshake: unknown peer",
            Self::OwnId { .. } => "handshake: own id",
            Self::Duplicate { .. } => "handshake: duplicate",
            Self::Stale { .. } => "handshake: stale",
            Self::Crossed => "handshake: crossed",
            Self::NotOpen => "handshake: not open",
            Self::Busy => "handshake: busy",
            Self::Occupied { .. } => "handshake: occupied",
            Self::NotAdmin => "handshake: not admin",
            Self::Other { .. } => "handshake: other",
        }
    }

    /// The code on the wire, never zero, and its detail.
    pub fn to_wire(self) -> (u16, u64) {
        match self {
            Self::Version { ours, theirs } => (1, u64::from(ours.pack()) << 32 | u64::from(theirs.pack())),
            Self::Cluster => (2, 0),
            Self::Target { to } => (3, to.0),
            Self::UnknownPeer { from } => (4, from.0),
            Self::OwnId { id } => (5, id.0),
            Self::Duplicate { incarnation } => (6, incarnation.0),
            Self::Stale { seen } => (7, seen.0),
            Self::Crossed => (8, 0),
            Self::NotOpen => (9, 0),
            Self::Busy => (10, 0),
            Self::Occupied { incarnation } => (11, incarnation.0),
            Self::NotAdmin => (12, 0),
            Self::Other { code } => (code.max(1), 0),
        }
    }

    /// The reason behind a code; `None` for zero, which is consent.
    pub fn from_wire(code: u16, detail: u64) -> Option<Self> {
        Some(match code {
            0 => return None,
            1 => Self::Version { ours: Versions::unpack((detail >> 32) as u32), theirs: Versions::unpack(detail as u32) },
            2 => Self::Cluster,
            3 => Self::Target { to: NodeId(detail) },
            4 => Self::UnknownPeer { from: NodeId(detail) },
            5 => Self::OwnId { id: NodeId(detail) },
            6 => Self::Duplicate { incarnation: Incarnation(detail) },
            7 => Self::Stale { seen: Incarnation(detail) },
            8 => Self::Crossed,
            9 => Self::NotOpen,
            10 => Self::Busy,
            11 => Self::Occupied { incarnation: Incarnation(detail) },
            12 => Self::NotAdmin,
            code => Self::Other { code },
        })
    }
}

/// Why bytes are not a greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// It does not begin like one: something else talks to this port.
    #[error("not a Kontiki greeting")]
    Magic,
    /// Damaged on the way.
    #[error("greeting damaged (checksum)")]
    Checksum,
    /// No version of the protocol in common.
    #[error("no common version of the protocol: this side speaks {ours}, the other {theirs}")]
    Version {
        /// What we speak.
        ours: Versions,
        /// What the sender speaks.
        theirs: Versions,
    },
    /// A field holds what this version never writes.
    #[error("greeting with an unknown kind or channel")]
    Field,
}

impl HelloError {
    /// Its reason without the details: what the log counts by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Magic => "greeting: magic",
            Self::Checksum => "greeting: checksum",
            Self::Version { .. } => "greeting: version",
            Self::Field => "greeting: field",
        }
    }
}

/// One greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Whose turn it is.
    pub kind: HelloKind,
    /// What the connection is for.
    pub channel: Channel,
    /// Zero, or why a [`HelloKind::Welcome`] is none (see [`HandshakeRefusal::from_wire`]).
    pub code: u16,
    /// Detail of `code`.
    pub detail: u64,
    /// The cluster; a client that does not know it says zero.
    pub cluster: ClusterId,
    /// The speaker; zero for a client.
    pub from: NodeId,
    /// Whom it wants to speak to; zero from a client means anyone.
    pub to: NodeId,
    /// The speaker's incarnation.
    pub incarnation: Incarnation,
    /// Drawn by each process at its start: tells two processes of one incarnation apart.
    pub process_number: u64,
    /// The session, drawn by the dialler. Ties its two connections together.
    pub session: SessionId,
    /// Drawn by the listener in the control channel's welcome, repeated by the dialler on the bulk
    /// channel: a recorded handshake cannot know it.
    pub nonce: u64,
}

impl Hello {
    /// How a client greets: a node `to`, or zero for whichever listens; of a `cluster`, or zero for whichever it is.
    pub fn of_client(cluster: ClusterId, to: NodeId) -> Hello {
        Hello {
            kind: HelloKind::Hello,
            channel: Channel::Client,
            code: 0,
            detail: 0,
            cluster,
            from: NodeId(0),
            to,
            incarnation: Incarnation(0),
            process_number: 0,
            session: SessionId(1),
            nonce: 0,
        }
    }

    /// Writes the greeting.
    pub fn encode(&self, out: &mut [u8; HELLO_BYTES]) {
        self.encode_as(Versions::ours(self.channel), out);
    }

    /// Writes the greeting as a program of other versions would: for tests.
    #[doc(hidden)]
    pub fn encode_as(&self, versions: impl Into<Versions>, out: &mut [u8; HELLO_BYTES]) {
        let versions = versions.into();
        out.fill(0);
        Writer::new(out)
            .u64(MAGIC)
            .u16(versions.highest())
            .u8(self.kind as u8)
            .u8(self.channel as u8)
            .u16(self.code)
            .u16(versions.lowest())
            .u128(self.cluster.0)
            .u64(self.from.0)
            .u64(self.to.0)
            .u64(self.incarnation.0)
            .u64(self.process_number)
            .u64(self.session.0)
            .u64(self.nonce)
            .u64(self.detail);
        Writer::seal(out, CRC_AT);
    }

    /// Whether a greeting may begin with these bytes: whoever speaks another protocol is told from one whose greeting
    /// is on its way.
    pub(crate) fn may_begin(bytes: &[u8]) -> bool {
        bytes.iter().zip(MAGIC.to_le_bytes()).all(|(&byte, expected)| byte == expected)
    }

    /// Reads a greeting.
    ///
    /// # Errors
    /// What is wrong with it; a program of other versions is told apart from damage.
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Hello, HelloError> {
        Self::decode_spoken(bytes).map(|(hello, _)| hello)
    }

    /// Reads a greeting, and which version the two sides speak from now on.
    ///
    /// # Errors
    /// As [`Hello::decode`].
    pub fn decode_spoken(bytes: &[u8; HELLO_BYTES]) -> Result<(Hello, u16), HelloError> {
        let field = HelloError::Field;
        let mut r = Reader(bytes);
        if r.u64() != Some(MAGIC) {
            return Err(HelloError::Magic);
        }
        if Reader(&bytes[CRC_AT..]).u32() != Some(checksum_around(bytes, CRC_AT)) {
            return Err(HelloError::Checksum);
        }
        let highest = r.u16().ok_or(field)?;
        let kind = r.u8().ok_or(field)?;
        // A channel of a later version is one between nodes, as far as the versions go.
        let channel = Channel::from_wire(r.u8().ok_or(field)?);
        let code = r.u16().ok_or(field)?;
        let lowest = r.u16().ok_or(field)?;
        let theirs = Versions::new(if lowest == 0 { highest } else { lowest }, highest).ok_or(field)?;
        let ours = Versions::ours(channel.unwrap_or(Channel::Control));
        let spoken = ours.common(theirs).ok_or(HelloError::Version { ours, theirs })?;
        let kind = match kind {
            1 => HelloKind::Hello,
            2 => HelloKind::Welcome,
            _ => return Err(field),
        };
        let hello = Self::fields(kind, channel.ok_or(field)?, code, &mut r).ok_or(field)?;
        Ok((hello, spoken))
    }

    fn fields(kind: HelloKind, channel: Channel, code: u16, r: &mut Reader<'_>) -> Option<Hello> {
        let hello = Hello {
            kind,
            channel,
            code,
            cluster: ClusterId(r.u128()?),
            from: NodeId(r.u64()?),
            to: NodeId(r.u64()?),
            incarnation: Incarnation(r.u64()?),
            process_number: r.u64()?,
            session: SessionId(r.u64()?),
            nonce: r.u64()?,
            detail: r.u64()?,
        };
        let reserved = r.bytes(r.0.len() - 4)?;
        reserved.iter().all(|byte| *byte == 0).then_some(hello)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use crate::limits::{OLDEST_NODE_VERSION, PROTOCOL_VERSION};
    use proptest::prelude::*;

    pub(crate) fn sample() -> Hello {
        Hello {
            kind: HelloKind::Hello,
            channel: Channel::Bulk,
            code: 0,
            detail: 9,
            cluster: ClusterId(0x1234_5678_9abc_def0_1122_3344_5566_7788),
            from: NodeId(1),
            to: NodeId(2),
            incarnation: Incarnation(7),
            process_number: 11,
            session: SessionId(12),
            nonce: 13,
        }
    }

    #[test]
    fn comes_back_as_sent() {
        let mut bytes = [0xff; HELLO_BYTES];
        sample().encode(&mut bytes);
        assert_eq!(Hello::decode(&bytes), Ok(sample()));
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let mut bytes = [0; HELLO_BYTES];
        sample().encode(&mut bytes);
        for bit in 0..HELLO_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Hello::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn versions_without_overlap_are_named_and_others_agree_on_the_highest() {
        let ours = Versions::ours(Channel::Bulk);
        let mut bytes = [0; HELLO_BYTES];
        for theirs in [PROTOCOL_VERSION + 1, OLDEST_NODE_VERSION - 1, u16::MAX].map(Versions::from) {
            sample().encode_as(theirs, &mut bytes);
            assert_eq!(Hello::decode(&bytes), Err(HelloError::Version { ours, theirs }));
        }
        for theirs in [(1, PROTOCOL_VERSION), (1, u16::MAX), (PROTOCOL_VERSION, u16::MAX)] {
            sample().encode_as(Versions::new(theirs.0, theirs.1).unwrap(), &mut bytes);
            assert_eq!(Hello::decode_spoken(&bytes), Ok((sample(), PROTOCOL_VERSION)), "{theirs:?}");
        }
    }

    /// Version 1 had a zero where the lowest version stands now; its clients' requests are still understood.
    #[test]
    fn a_greeting_of_version_1_speaks_version_1_alone() {
        let version_1 = |hello: Hello| {
            let mut bytes = [0; HELLO_BYTES];
            hello.encode_as(1, &mut bytes);
            bytes[14..16].fill(0);
            Writer::seal(&mut bytes, CRC_AT);
            Hello::decode_spoken(&bytes)
        };
        let client = Hello { channel: Channel::Client, ..sample() };
        assert_eq!(version_1(client), Ok((client, 1)));
        assert_eq!(version_1(sample()), Err(HelloError::Version { ours: Versions::ours(Channel::Bulk), theirs: 1.into() }));
    }

    #[test]
    fn a_range_that_is_none_is_no_greeting() {
        let mut bytes = [0; HELLO_BYTES];
        sample().encode(&mut bytes);
        for (highest, lowest) in [(0u16, 0u16), (0, 1), (2, 3), (1, u16::MAX)] {
            bytes[8..10].copy_from_slice(&highest.to_le_bytes());
            bytes[14..16].copy_from_slice(&lowest.to_le_bytes());
            Writer::seal(&mut bytes, CRC_AT);
            assert_eq!(Hello::decode(&bytes), Err(HelloError::Field), "{lowest} to {highest}");
        }
    }

    #[test]
    fn every_refusal_comes_back_as_sent() {
        for code in 1..=13 {
            let detail = if code == 1 {
                5 << 48 | 6 << 32 | 7 << 16 | 7
            } else if matches!(code, 3..=7 | 11) {
                77
            } else {
                0
            };
            let refusal = HandshakeRefusal::from_wire(code, detail).unwrap();
            assert_eq!(refusal.to_wire(), (code, detail));
        }
        assert_eq!(HandshakeRefusal::from_wire(0, 0), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::array::uniform32(any::<[u8; 4]>())) {
            let flat: [u8; HELLO_BYTES] = bytes.concat().try_into().unwrap();
            prop_assert!(Hello::decode(&flat).is_err());
        }
    }
}
