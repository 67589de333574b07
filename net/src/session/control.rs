//! The control channel: [`Parameters`], then every [`Message`] of the core, and keepalives, as small checksummed
//! records.
//!
//! ```text
//! 0 magic u32 | 4 version u8 | 5 kind u8 | 6 length u16 | 8 session u64 | 16 sequence u64 | 24 crc32 u32 | 28 zero u32 | 32 body
//! ```
//!
//! The length counts the whole record and is fixed by the kind; that of parameters and of offers is bounded, since
//! later versions tell more. The checksum covers everything but itself.

use kontiki_core::{LogIndex, Message, SessionId, Term};
use kontiki_frame::fields::checksum_around;

use crate::limits::{CONTROL_HEADER_BYTES, CONTROL_MAX_BYTES, PROTOCOL_VERSION};
use crate::session::parameters::Parameters;
use crate::snapshots::offer::SnapshotOffer;
use crate::wire::{Reader, Writer};

const MAGIC: u32 = u32::from_le_bytes(*b"KTKc");
const VERSION: u8 = PROTOCOL_VERSION as u8;
const CRC_AT: usize = 24;
const KEEPALIVE: u8 = 0x7f;
const PARAMETERS: u8 = 0x7e;
const OFFER: u8 = 0x7d;

/// What a control record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// "I live": sent when there was nothing else to say.
    Keepalive,
    /// What the sender takes, and its pace: the first record of each direction, and only that.
    Parameters(Parameters),
    /// A snapshot of the sender's.
    Offer(SnapshotOffer),
    /// A message of the core.
    Message(Message),
}

/// One control record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// The session it belongs to.
    pub session: SessionId,
    /// Counts the records of one direction of one session, from 1.
    pub sequence: u64,
    /// What it says.
    pub payload: Payload,
}

/// Why bytes are not a control record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// It does not begin like one.
    #[error("not a control message")]
    Magic,
    /// Another version of the protocol.
    #[error("control message of version {theirs}, ours is {VERSION}")]
    Version {
        /// The sender's version.
        theirs: u8,
    },
    /// A kind that this version does not know.
    #[error("control message of unknown kind {kind}")]
    Kind {
        /// The kind.
        kind: u8,
    },
    /// Not the length of its kind.
    #[error("control message of {length} bytes, its kind has {expected}")]
    Length {
        /// The length it claims.
        length: u16,
        /// The length of its kind.
        expected: u16,
    },
    /// Damaged on the way.
    #[error("control message damaged (checksum)")]
    Checksum,
    /// A field holds what no sender writes.
    #[error("control message with a field out of range")]
    Field,
    /// Parameters that are not the first record, or something else that is.
    #[error("control message of kind {kind} where a session's first one carries parameters, and no other does")]
    Order {
        /// The kind.
        kind: u8,
    },
}

/// Bytes of the body of a kind as this version writes it; `None` if the kind is unknown.
const fn body_bytes(kind: u8) -> Option<usize> {
    Some(match kind {
        1 => 24,
        2 => 26,
        3 => 25,
        4 => 9,
        5 => 40,
        6 => 26,
        7 | 8 => 24,
        9 => 48,
        KEEPALIVE => 0,
        PARAMETERS => Parameters::BYTES,
        OFFER => SnapshotOffer::BYTES,
        _ => return None,
    })
}

/// Bytes of a whole record whose header says `length`.
///
/// # Errors
/// If no record of that kind has that length.
fn record_bytes(kind: u8, length: u16) -> Result<usize, ControlError> {
    let expected = CONTROL_HEADER_BYTES + body_bytes(kind).ok_or(ControlError::Kind { kind })?;
    let claimed = usize::from(length);
    let fits = match kind {
        PARAMETERS | OFFER => (CONTROL_HEADER_BYTES..=CONTROL_MAX_BYTES).contains(&claimed),
        _ => claimed == expected,
    };
    if fits { Ok(claimed) } else { Err(ControlError::Length { length, expected: expected as u16 }) }
}

impl Payload {
    pub(crate) const fn kind(&self) -> u8 {
        match self {
            Payload::Keepalive => KEEPALIVE,
            Payload::Parameters(_) => PARAMETERS,
            Payload::Offer(_) => OFFER,
            Payload::Message(message) => match message {
                Message::PreVote { .. } => 1,
                Message::PreVoteReply { .. } => 2,
                Message::Vote { .. } => 3,
                Message::VoteReply { .. } => 4,
                Message::Heartbeat { .. } => 5,
                Message::HeartbeatReply { .. } => 6,
                Message::Accepted { .. } => 7,
                Message::Received { .. } => 8,
                Message::Rejected { .. } => 9,
            },
        }
    }
}

impl Control {
    /// Writes the record at the start of `out`; its length, or `None` if `out` is too short.
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let kind = self.payload.kind();
        let length = CONTROL_HEADER_BYTES + body_bytes(kind)?;
        let out = out.get_mut(..length)?;
        let mut w = Writer::new(out);
        w.u32(MAGIC).u8(VERSION).u8(kind).u16(length as u16).u64(self.session.0).u64(self.sequence).u32(0).u32(0);
        match &self.payload {
            Payload::Keepalive => {}
            Payload::Parameters(parameters) => parameters.encode(&mut w),
            Payload::Offer(offer) => offer.encode(&mut w),
            Payload::Message(message) => encode_body(message, &mut w),
        }
        assert_eq!(w.len(), length, "the table of body lengths is right");
        Writer::seal(out, CRC_AT);
        Some(length)
    }

    /// The record at the start of `bytes` and its length; `None` while it is incomplete.
    ///
    /// # Errors
    /// What is wrong, as soon as the bytes so far show it: a wrong length is refused before the body is there.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Control, usize)>, ControlError> {
        let Some(header) = bytes.get(..CONTROL_HEADER_BYTES) else { return Ok(None) };
        let mut r = Reader(header);
        let field = ControlError::Field;
        if r.u32().ok_or(field)? != MAGIC {
            return Err(ControlError::Magic);
        }
        let theirs = r.u8().ok_or(field)?;
        if theirs != VERSION {
            return Err(ControlError::Version { theirs });
        }
        let kind = r.u8().ok_or(field)?;
        let length = r.u16().ok_or(field)?;
        let length = record_bytes(kind, length)?;
        let Some(record) = bytes.get(..length) else { return Ok(None) };
        let session = SessionId(r.u64().ok_or(field)?);
        let sequence = r.u64().ok_or(field)?;
        if r.u32().ok_or(field)? != checksum_around(record, CRC_AT) {
            return Err(ControlError::Checksum);
        }
        if r.u32().ok_or(field)? != 0 {
            return Err(field);
        }
        let mut body = Reader(&record[CONTROL_HEADER_BYTES..]);
        let payload = decode_body(kind, &mut body).ok_or(field)?;
        Ok(Some((Control { session, sequence, payload }, length)))
    }
}

fn encode_body(message: &Message, w: &mut Writer<'_>) {
    match *message {
        Message::PreVote { term, last_index, last_term } => w.u64(term.0).u64(last_index.0).u64(last_term.0),
        Message::PreVoteReply { term, granted, last_index, last_term, recovering } => {
            w.u64(term.0).u64(last_index.0).u64(last_term.0).flag(granted).flag(recovering)
        }
        Message::Vote { term, last_index, last_term, all_answered } => w.u64(term.0).u64(last_index.0).u64(last_term.0).flag(all_answered),
        Message::VoteReply { term, granted } => w.u64(term.0).flag(granted),
        Message::Heartbeat { term, commit, round, term_start, session_commit } => {
            w.u64(term.0).u64(commit.0).u64(round).u64(term_start.0).u64(session_commit.0)
        }
        Message::HeartbeatReply { term, round, recovering, needs_base, last_index } => {
            w.u64(term.0).u64(round).u64(last_index.0).flag(recovering).flag(needs_base)
        }
        Message::Accepted { term, round, matched } => w.u64(term.0).u64(round).u64(matched.0),
        Message::Received { term, round, index } => w.u64(term.0).u64(round).u64(index.0),
        Message::Rejected { term, round, prev, last_index, conflict_term, conflict_first } => {
            w.u64(term.0).u64(round).u64(prev.0).u64(last_index.0).u64(conflict_term.0).u64(conflict_first.0)
        }
    };
}

fn decode_body(kind: u8, r: &mut Reader<'_>) -> Option<Payload> {
    let message = match kind {
        KEEPALIVE => return Some(Payload::Keepalive),
        PARAMETERS => return Parameters::decode(r).map(Payload::Parameters),
        OFFER => return SnapshotOffer::decode(r).map(Payload::Offer),
        1 => Message::PreVote { term: term(r)?, last_index: index(r)?, last_term: term(r)? },
        2 => {
            Message::PreVoteReply { term: term(r)?, last_index: index(r)?, last_term: term(r)?, granted: r.flag()?, recovering: r.flag()? }
        }
        3 => Message::Vote { term: term(r)?, last_index: index(r)?, last_term: term(r)?, all_answered: r.flag()? },
        4 => Message::VoteReply { term: term(r)?, granted: r.flag()? },
        5 => Message::Heartbeat { term: term(r)?, commit: index(r)?, round: r.u64()?, term_start: index(r)?, session_commit: index(r)? },
        6 => {
            Message::HeartbeatReply { term: term(r)?, round: r.u64()?, last_index: index(r)?, recovering: r.flag()?, needs_base: r.flag()? }
        }
        7 => Message::Accepted { term: term(r)?, round: r.u64()?, matched: index(r)? },
        8 => Message::Received { term: term(r)?, round: r.u64()?, index: index(r)? },
        9 => {
            let (term_now, round, prev, last_index) = (term(r)?, r.u64()?, index(r)?, index(r)?);
            Message::Rejected { term: term_now, round, prev, last_index, conflict_term: term(r)?, conflict_first: index(r)? }
        }
        _ => return None,
    };
    Some(Payload::Message(message))
}

fn term(r: &mut Reader<'_>) -> Option<Term> {
    r.u64().map(Term)
}

fn index(r: &mut Reader<'_>) -> Option<LogIndex> {
    r.u64().map(LogIndex)
}

const _: () = {
    let mut kind = 0;
    while kind < 255 {
        if let Some(body) = body_bytes(kind) {
            assert!(CONTROL_HEADER_BYTES + body <= CONTROL_MAX_BYTES);
        }
        kind += 1;
    }
};

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use kontiki_core::{NodeId, Subterm};
    use proptest::prelude::*;

    use super::*;
    use crate::limits::SNAPSHOT_CHUNK_BYTES;
    use crate::snapshots::offer::SnapshotId;

    fn any_message() -> impl Strategy<Value = Message> {
        let t = || any::<u64>().prop_map(Term);
        let i = || any::<u64>().prop_map(LogIndex);
        prop_oneof![
            (t(), i(), t()).prop_map(|(term, last_index, last_term)| Message::PreVote { term, last_index, last_term }),
            (t(), any::<bool>(), i(), t(), any::<bool>()).prop_map(|(term, granted, last_index, last_term, recovering)| {
                Message::PreVoteReply { term, granted, last_index, last_term, recovering }
            }),
            (t(), i(), t(), any::<bool>()).prop_map(|(term, last_index, last_term, all_answered)| Message::Vote {
                term,
                last_index,
                last_term,
                all_answered
            }),
            (t(), any::<bool>()).prop_map(|(term, granted)| Message::VoteReply { term, granted }),
            (t(), i(), any::<u64>(), i(), i()).prop_map(|(term, commit, round, term_start, session_commit)| {
                Message::Heartbeat { term, commit, round, term_start, session_commit }
            }),
            (t(), any::<u64>(), any::<bool>(), any::<bool>(), i()).prop_map(|(term, round, recovering, needs_base, last_index)| {
                Message::HeartbeatReply { term, round, recovering, needs_base, last_index }
            }),
            (t(), any::<u64>(), i()).prop_map(|(term, round, matched)| Message::Accepted { term, round, matched }),
            (t(), any::<u64>(), i()).prop_map(|(term, round, index)| Message::Received { term, round, index }),
            (t(), any::<u64>(), i(), i(), t(), i()).prop_map(|(term, round, prev, last_index, conflict_term, conflict_first)| {
                Message::Rejected { term, round, prev, last_index, conflict_term, conflict_first }
            }),
        ]
    }

    fn any_control() -> impl Strategy<Value = Control> {
        let parameters = any::<[u32; 3]>().prop_map(|[takes_frame_bytes, heartbeat_ms, election_min_ms]| {
            Payload::Parameters(Parameters { takes_frame_bytes, heartbeat_ms, election_min_ms, ..Parameters::default() })
        });
        let offer = (any::<u64>(), any::<u64>(), any::<u128>(), 1..1u64 << 30).prop_map(|(index, lineage, digest, chunks)| {
            let id = SnapshotId { source: NodeId(7), index: LogIndex(index.max(1)), term: Term(3), digest };
            let bytes = chunks * SNAPSHOT_CHUNK_BYTES as u64;
            Payload::Offer(SnapshotOffer { id, subterm: Subterm(5), lineage: lineage.into(), bytes })
        });
        let payload = prop_oneof![Just(Payload::Keepalive), parameters, offer, any_message().prop_map(Payload::Message)];
        (any::<u64>(), any::<u64>(), payload).prop_map(|(session, sequence, payload)| Control {
            session: SessionId(session),
            sequence,
            payload,
        })
    }

    proptest! {
        #[test]
        fn comes_back_as_sent(control in any_control(), more in any::<[u8; 3]>()) {
            let mut bytes = [0xee; CONTROL_MAX_BYTES + 3];
            let length = control.encode(&mut bytes).unwrap();
            bytes[length..length + 3].copy_from_slice(&more);
            prop_assert_eq!(Control::decode(&bytes[..length + 3]), Ok(Some((control, length))));
            for short in 0..length {
                prop_assert_eq!(Control::decode(&bytes[..short]), Ok(None));
            }
        }

        #[test]
        fn any_flipped_bit_is_seen(control in any_control(), bit in any::<prop::sample::Index>()) {
            let mut bytes = [0; CONTROL_MAX_BYTES];
            let length = control.encode(&mut bytes).unwrap();
            let bit = bit.index(length * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            // With what may follow: a length that grew is only found out then.
            prop_assert!(Control::decode(&bytes).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Control::decode(&bytes);
        }

        #[test]
        fn arbitrary_bytes_behind_a_good_start_never_panic(kind in any::<u8>(), rest in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut bytes = MAGIC.to_le_bytes().to_vec();
            bytes.extend([VERSION, kind]);
            bytes.extend(rest);
            prop_assert!(!matches!(Control::decode(&bytes), Ok(Some(_))));
        }
    }

    #[test]
    fn parameters_may_be_longer_than_ours_but_not_without_bound() {
        let record = |body: usize| {
            let mut bytes = vec![0; CONTROL_HEADER_BYTES + body];
            let length = bytes.len() as u16;
            Writer::new(&mut bytes)
                .u32(MAGIC)
                .u8(VERSION)
                .u8(PARAMETERS)
                .u16(length)
                .u64(1)
                .u64(1)
                .u32(0)
                .u32(0)
                .u16(99)
                .u16(body as u16 - 4);
            Writer::seal(&mut bytes, CRC_AT);
            bytes
        };
        for body in [4, 5, Parameters::BYTES, CONTROL_MAX_BYTES - CONTROL_HEADER_BYTES] {
            let payload = Payload::Parameters(Parameters::default());
            let control = Control { session: SessionId(1), sequence: 1, payload };
            assert_eq!(Control::decode(&record(body)), Ok(Some((control, CONTROL_HEADER_BYTES + body))));
        }
        let longer = record(CONTROL_MAX_BYTES - CONTROL_HEADER_BYTES + 1);
        assert!(matches!(Control::decode(&longer[..CONTROL_HEADER_BYTES]), Err(ControlError::Length { .. })));
    }

    #[test]
    fn a_wrong_length_is_refused_before_the_body() {
        let control = Control { session: SessionId(1), sequence: 1, payload: Payload::Keepalive };
        let mut bytes = [0; CONTROL_MAX_BYTES];
        control.encode(&mut bytes).unwrap();
        for length in [0u16, 31, 33, 80, 4096, u16::MAX] {
            bytes[6..8].copy_from_slice(&length.to_le_bytes());
            assert_eq!(Control::decode(&bytes[..CONTROL_HEADER_BYTES]), Err(ControlError::Length { length, expected: 32 }));
        }
    }
}
