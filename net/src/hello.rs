//! The handshake: one fixed-size greeting each way on every new connection.
//!
//! ```text
//! 0 magic u64 | 8 version u16 | 10 kind u8 | 11 channel u8 | 12 code u16 | 14 zero u16 | 16 cluster u128
//! 32 from u64 | 40 to u64 | 48 incarnation u64 | 56 instance u64 | 64 session u64 | 72 nonce u64 | 80 detail u64
//! 88 zero .. 124 crc32 of bytes 0..124
//! ```
//!
//! In every version: 128 bytes, magic and version first, checksum last. So two versions can always tell
//! each other apart, and each can name both to its operator.

use kontiki_core::{ClusterId, Incarnation, NodeId, SessionId};

use crate::limits::{HELLO_BYTES, PROTOCOL_VERSION};
use crate::wire::{Reader, Writer, checksum_around};

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
    /// The two programs speak different versions.
    #[error("protocol version {theirs} is not ours ({ours}): run the same release on both nodes")]
    Version {
        /// The refusing side's.
        ours: u16,
        /// The other side's.
        theirs: u16,
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
    #[error("two nodes claim the id {id}: give one of them another id and an empty data directory")]
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
    /// The node with the higher id dialled.
    #[error("the node with the lower id dials")]
    Direction,
    /// No handshake is open that this connection would continue: it came too late, or it is a replay.
    #[error("continues no open handshake (too late, or replayed)")]
    NotOpen,
    /// No room for another client or session now.
    #[error("no room for another connection now: try again later")]
    Busy,
    /// A reason that this version does not know.
    #[error("refused for reason {code}, unknown to this version")]
    Other {
        /// The code on the wire.
        code: u16,
    },
}

impl HandshakeRefusal {
    /// The code on the wire, never zero, and its detail.
    pub fn to_wire(self) -> (u16, u64) {
        match self {
            Self::Version { ours, theirs } => (1, u64::from(ours) << 16 | u64::from(theirs)),
            Self::Cluster => (2, 0),
            Self::Target { to } => (3, to.0),
            Self::UnknownPeer { from } => (4, from.0),
            Self::OwnId { id } => (5, id.0),
            Self::Duplicate { incarnation } => (6, incarnation.0),
            Self::Stale { seen } => (7, seen.0),
            Self::Direction => (8, 0),
            Self::NotOpen => (9, 0),
            Self::Busy => (10, 0),
            Self::Other { code } => (code.max(1), 0),
        }
    }

    /// The reason behind a code; `None` for zero, which is consent.
    pub fn from_wire(code: u16, detail: u64) -> Option<Self> {
        Some(match code {
            0 => return None,
            1 => Self::Version { ours: (detail >> 16) as u16, theirs: detail as u16 },
            2 => Self::Cluster,
            3 => Self::Target { to: NodeId(detail) },
            4 => Self::UnknownPeer { from: NodeId(detail) },
            5 => Self::OwnId { id: NodeId(detail) },
            6 => Self::Duplicate { incarnation: Incarnation(detail) },
            7 => Self::Stale { seen: Incarnation(detail) },
            8 => Self::Direction,
            9 => Self::NotOpen,
            10 => Self::Busy,
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
    /// Another version of the protocol.
    #[error("protocol version {theirs}, ours is {PROTOCOL_VERSION}")]
    Version {
        /// The sender's version.
        theirs: u16,
    },
    /// A field holds what this version never writes.
    #[error("greeting with an unknown kind or channel")]
    Field,
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
    pub instance: u64,
    /// The session, drawn by the dialler. Ties its two connections together.
    pub session: SessionId,
    /// Drawn by the listener in the control channel's welcome, repeated by the dialler on the bulk
    /// channel: a recorded handshake cannot know it.
    pub nonce: u64,
}

impl Hello {
    /// Writes the greeting.
    pub fn encode(&self, out: &mut [u8; HELLO_BYTES]) {
        self.encode_as(PROTOCOL_VERSION, out);
    }

    /// Writes the greeting as another version would: for tests of the refusal.
    #[doc(hidden)]
    pub fn encode_as(&self, version: u16, out: &mut [u8; HELLO_BYTES]) {
        out.fill(0);
        Writer::new(out)
            .u64(MAGIC)
            .u16(version)
            .u8(self.kind as u8)
            .u8(self.channel as u8)
            .u16(self.code)
            .u16(0)
            .u128(self.cluster.0)
            .u64(self.from.0)
            .u64(self.to.0)
            .u64(self.incarnation.0)
            .u64(self.instance)
            .u64(self.session.0)
            .u64(self.nonce)
            .u64(self.detail);
        Writer::seal(out, CRC_AT);
    }

    /// Reads a greeting.
    ///
    /// # Errors
    /// What is wrong with it; a version that is not ours is told apart from damage.
    pub fn decode(bytes: &[u8; HELLO_BYTES]) -> Result<Hello, HelloError> {
        let mut r = Reader(bytes);
        if r.u64() != Some(MAGIC) {
            return Err(HelloError::Magic);
        }
        if Reader(&bytes[CRC_AT..]).u32() != Some(checksum_around(bytes, CRC_AT)) {
            return Err(HelloError::Checksum);
        }
        match r.u16() {
            Some(PROTOCOL_VERSION) => {}
            theirs => return Err(HelloError::Version { theirs: theirs.unwrap_or(0) }),
        }
        Self::fields(&mut r).ok_or(HelloError::Field)
    }

    fn fields(r: &mut Reader<'_>) -> Option<Hello> {
        let kind = match r.u8()? {
            1 => HelloKind::Hello,
            2 => HelloKind::Welcome,
            _ => return None,
        };
        let channel = match r.u8()? {
            1 => Channel::Control,
            2 => Channel::Bulk,
            3 => Channel::Client,
            _ => return None,
        };
        let code = r.u16()?;
        if r.u16()? != 0 {
            return None;
        }
        let hello = Hello {
            kind,
            channel,
            code,
            cluster: ClusterId(r.u128()?),
            from: NodeId(r.u64()?),
            to: NodeId(r.u64()?),
            incarnation: Incarnation(r.u64()?),
            instance: r.u64()?,
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
    #![allow(clippy::unwrap_used)]
    use super::*;
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
            instance: 11,
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
    fn another_version_is_named() {
        let mut bytes = [0; HELLO_BYTES];
        sample().encode_as(PROTOCOL_VERSION + 1, &mut bytes);
        assert_eq!(Hello::decode(&bytes), Err(HelloError::Version { theirs: PROTOCOL_VERSION + 1 }));
    }

    #[test]
    fn every_refusal_comes_back_as_sent() {
        for code in 1..=11 {
            let detail = if code == 1 {
                5 << 16 | 6
            } else if matches!(code, 3..=7) {
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
