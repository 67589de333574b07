//! The client protocol: requests and responses, after the handshake that nodes use too.
//!
//! ```text
//! 0 magic u32 | 4 version u8 | 5 kind u8 | 6 flags u16 | 8 length u32 | 12 crc32 u32 | 16 request u64 | 24 value u64 | 32 payload
//! ```
//!
//! The length counts the payload alone; the checksum covers header and payload but itself. A request's
//! number is the client's; responses repeat it and may come in any order.

use kontiki_core::NodeId;
use kontiki_frame::fields::checksum_around;

use crate::address::Address;
use crate::limits::{CLIENT_HEADER_BYTES, CLIENT_SESSION_BYTES, MAX_ADDRESS_BYTES};
use crate::wire::{Reader, Writer};

const MAGIC: u32 = u32::from_le_bytes(*b"KTKq");
/// Of these messages' layout: unchanged since the protocol's version 1.
const VERSION: u8 = 1;
const CRC_AT: usize = 12;
const WITH_SESSION: u16 = 1;
/// Bytes that tell of a snapshot, besides its index.
const SNAPSHOT_BYTES: usize = 40;

/// What a client asks. Payloads are borrowed: they are neither copied nor interpreted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Append this to the log and apply it.
    Propose {
        /// The client's session and the number within it, by which a retry is told from a new proposal.
        session: Option<(u64, u64)>,
        /// The proposal.
        payload: &'a [u8],
    },
    /// Ask the state machine, in the product's own terms.
    Query {
        /// The question.
        payload: &'a [u8],
    },
    /// How is the node?
    Status,
    /// Write a snapshot now: an administrative request.
    Snapshot,
}

/// What a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response<'a> {
    /// Committed and applied.
    Applied {
        /// Where in the log.
        index: u64,
        /// The state machine's reply.
        reply: &'a [u8],
    },
    /// Definitely not applied, and never will be: safe to send again.
    NotApplied,
    /// The node cannot know whether it will be applied.
    Unknown,
    /// Another node leads.
    NotLeader {
        /// Which, if known.
        leader: Option<NodeId>,
        /// Where it listens, if known.
        address: Option<Address>,
    },
    /// At a bound: nothing was done, try again later.
    Busy,
    /// The node's status, as text.
    Status(&'a [u8]),
    /// The state machine's answer to a query.
    Reply(&'a [u8]),
    /// A snapshot is durable.
    Snapshot(WrittenSnapshot),
    /// The request cannot be served.
    Error {
        /// A number for programs.
        code: u64,
        /// A sentence for people.
        text: &'a str,
    },
}

/// A snapshot that a node holds durably.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WrittenSnapshot {
    /// The last entry whose effects it holds.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// Whether the state machine's state is in it: it is not in a small one, of a machine that is durable by itself.
    pub full: bool,
    /// Length of its file, in bytes.
    pub bytes: u64,
    /// Digest of the whole file: two with the same are the same, byte by byte.
    pub digest: u128,
}

impl WrittenSnapshot {
    fn encode(&self) -> [u8; SNAPSHOT_BYTES] {
        let mut out = [0; SNAPSHOT_BYTES];
        Writer::new(&mut out).u64(self.term).u64(u64::from(self.full)).u64(self.bytes).u128(self.digest);
        out
    }

    fn decode(index: u64, payload: &[u8]) -> Option<WrittenSnapshot> {
        let mut r = Reader(payload);
        let (term, kind) = (r.u64()?, r.u64()?);
        let snapshot = WrittenSnapshot { index, term, full: kind == 1, bytes: r.u64()?, digest: r.u128()? };
        if kind > 1 {
            return None;
        }
        r.0.is_empty().then_some(snapshot)
    }
}

/// Why bytes are not a request or response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientWireError {
    /// It does not begin like one.
    #[error("not a client message")]
    Magic,
    /// Another version of the protocol.
    #[error("client message of version {theirs}, ours is {VERSION}")]
    Version {
        /// The sender's version.
        theirs: u8,
    },
    /// A kind or flag that this version does not know.
    #[error("client message of unknown kind {kind}")]
    Kind {
        /// The kind.
        kind: u8,
    },
    /// Longer than the receiver takes.
    #[error("client message with {length} bytes of payload, at most {limit} are taken")]
    Length {
        /// The length it claims, in bytes.
        length: u32,
        /// The receiver's limit, in bytes.
        limit: u32,
    },
    /// Damaged on the way.
    #[error("client message damaged (checksum)")]
    Checksum,
    /// A field or payload that no sender writes.
    #[error("client message with a malformed field")]
    Field,
}

/// A message's header, checked as far as a header alone can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    kind: u8,
    flags: u16,
    request: u64,
    value: u64,
}

/// Bytes of a request, header included.
pub fn request_bytes(request: &Request<'_>) -> usize {
    CLIENT_HEADER_BYTES
        + match request {
            Request::Propose { session, payload } => payload.len() + session.map_or(0, |_| CLIENT_SESSION_BYTES),
            Request::Query { payload } => payload.len(),
            Request::Status | Request::Snapshot => 0,
        }
}

/// Writes a request at the start of `out`; its length, or `None` if `out` is too short.
pub fn encode_request(number: u64, request: &Request<'_>, out: &mut [u8]) -> Option<usize> {
    let (kind, flags, prefix, payload) = match request {
        Request::Propose { session: Some(session), payload } => (1, WITH_SESSION, Some(*session), *payload),
        Request::Propose { session: None, payload } => (1, 0, None, *payload),
        Request::Query { payload } => (2, 0, None, *payload),
        Request::Status => (3, 0, None, &[][..]),
        Request::Snapshot => (4, 0, None, &[][..]),
    };
    let head = Head { kind, flags, request: number, value: 0 };
    match prefix {
        Some((session, sequence)) => {
            let mut bytes = [0; CLIENT_SESSION_BYTES];
            Writer::new(&mut bytes).u64(session).u64(sequence);
            encode(head, &bytes, payload, out)
        }
        None => encode(head, &[], payload, out),
    }
}

/// The request at the start of `bytes`: its number, itself, and its length. `None` while it is incomplete.
///
/// # Errors
/// What is wrong, as soon as the bytes so far show it: a length over `max_payload_bytes` is refused
/// before any of the payload is awaited.
pub fn decode_request(bytes: &[u8], max_payload_bytes: usize) -> Result<Option<(u64, Request<'_>, usize)>, ClientWireError> {
    let Some((head, payload, total)) = decode(bytes, max_payload_bytes)? else { return Ok(None) };
    let request = match (head.kind, head.flags) {
        (1, 0) => Request::Propose { session: None, payload },
        (1, WITH_SESSION) => {
            let mut r = Reader(payload);
            let field = ClientWireError::Field;
            let session = (r.u64().ok_or(field)?, r.u64().ok_or(field)?);
            Request::Propose { session: Some(session), payload: r.0 }
        }
        (2, 0) => Request::Query { payload },
        (3, 0) if payload.is_empty() => Request::Status,
        (4, 0) if payload.is_empty() => Request::Snapshot,
        (kind, _) => return Err(ClientWireError::Kind { kind }),
    };
    Ok(Some((head.request, request, total)))
}

/// Writes a response at the start of `out`; its length, or `None` if `out` is too short.
pub fn encode_response(number: u64, response: &Response<'_>, out: &mut [u8]) -> Option<usize> {
    let mut text = heapless::String::<MAX_ADDRESS_BYTES>::new();
    let (kind, value, payload) = match *response {
        Response::Applied { index, reply } => (1, index, reply),
        Response::NotApplied => (2, 0, &[][..]),
        Response::Unknown => (3, 0, &[][..]),
        Response::NotLeader { leader, address } => {
            if let Some(address) = address {
                core::fmt::Write::write_fmt(&mut text, format_args!("{address}")).ok()?;
            }
            (4, leader.map_or(0, |leader| leader.0), text.as_bytes())
        }
        Response::Busy => (5, 0, &[][..]),
        Response::Status(bytes) => (6, 0, bytes),
        Response::Reply(bytes) => (7, 0, bytes),
        Response::Error { code, text } => (8, code, text.as_bytes()),
        Response::Snapshot(snapshot) => {
            let payload = snapshot.encode();
            return encode(Head { kind: 9, flags: 0, request: number, value: snapshot.index }, &[], &payload, out);
        }
    };
    encode(Head { kind, flags: 0, request: number, value }, &[], payload, out)
}

/// The response at the start of `bytes`: the request's number, itself, and its length. `None` while it is incomplete.
///
/// # Errors
/// As [`decode_request`].
pub fn decode_response(bytes: &[u8], max_payload_bytes: usize) -> Result<Option<(u64, Response<'_>, usize)>, ClientWireError> {
    let Some((head, payload, total)) = decode(bytes, max_payload_bytes)? else { return Ok(None) };
    if head.flags != 0 {
        return Err(ClientWireError::Field);
    }
    let bare = |response| if payload.is_empty() { Ok(response) } else { Err(ClientWireError::Field) };
    let text = core::str::from_utf8(payload).map_err(|_| ClientWireError::Field);
    let response = match head.kind {
        1 => Response::Applied { index: head.value, reply: payload },
        2 => bare(Response::NotApplied)?,
        3 => bare(Response::Unknown)?,
        4 => {
            let text = text?;
            let address = if text.is_empty() { None } else { Some(text.parse().map_err(|_| ClientWireError::Field)?) };
            Response::NotLeader { leader: (head.value != 0).then_some(NodeId(head.value)), address }
        }
        5 => bare(Response::Busy)?,
        6 => Response::Status(payload),
        7 => Response::Reply(payload),
        8 => Response::Error { code: head.value, text: text? },
        9 => Response::Snapshot(WrittenSnapshot::decode(head.value, payload).ok_or(ClientWireError::Field)?),
        kind => return Err(ClientWireError::Kind { kind }),
    };
    Ok(Some((head.request, response, total)))
}

fn encode(head: Head, prefix: &[u8], payload: &[u8], out: &mut [u8]) -> Option<usize> {
    let length = prefix.len() + payload.len();
    let total = CLIENT_HEADER_BYTES + length;
    let out = out.get_mut(..total)?;
    Writer::new(out)
        .u32(MAGIC)
        .u8(VERSION)
        .u8(head.kind)
        .u16(head.flags)
        .u32(u32::try_from(length).ok()?)
        .u32(0)
        .u64(head.request)
        .u64(head.value)
        .bytes(prefix)
        .payload(payload);
    Writer::seal(out, CRC_AT);
    Some(total)
}

/// The whole length of the message that begins at `bytes`, once its header is there.
///
/// # Errors
/// What is wrong with the header.
pub(crate) fn message_bytes(bytes: &[u8], max_payload_bytes: usize) -> Result<Option<usize>, ClientWireError> {
    let Some(header) = bytes.get(..CLIENT_HEADER_BYTES) else { return Ok(None) };
    let mut r = Reader(header);
    let field = ClientWireError::Field;
    if r.u32() != Some(MAGIC) {
        return Err(ClientWireError::Magic);
    }
    let theirs = r.u8().ok_or(field)?;
    if theirs != VERSION {
        return Err(ClientWireError::Version { theirs });
    }
    let _kind_and_flags = r.bytes(3).ok_or(field)?;
    let length = r.u32().ok_or(field)?;
    let limit = u32::try_from(max_payload_bytes).unwrap_or(u32::MAX);
    if length > limit {
        return Err(ClientWireError::Length { length, limit });
    }
    Ok(Some(CLIENT_HEADER_BYTES + length as usize))
}

/// A message's header, payload and whole length.
type Parts<'a> = (Head, &'a [u8], usize);

fn decode(bytes: &[u8], max_payload_bytes: usize) -> Result<Option<Parts<'_>>, ClientWireError> {
    let Some(total) = message_bytes(bytes, max_payload_bytes)? else { return Ok(None) };
    let Some(message) = bytes.get(..total) else { return Ok(None) };
    let field = ClientWireError::Field;
    let mut r = Reader(message);
    r.bytes(5).ok_or(field)?;
    let kind = r.u8().ok_or(field)?;
    let flags = r.u16().ok_or(field)?;
    r.bytes(4).ok_or(field)?;
    if r.u32().ok_or(field)? != checksum_around(message, CRC_AT) {
        return Err(ClientWireError::Checksum);
    }
    let head = Head { kind, flags, request: r.u64().ok_or(field)?, value: r.u64().ok_or(field)? };
    Ok(Some((head, r.0, total)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use proptest::prelude::*;

    fn any_request(payload: &[u8]) -> Vec<Request<'_>> {
        vec![
            Request::Propose { session: None, payload },
            Request::Propose { session: Some((7, u64::MAX)), payload },
            Request::Query { payload },
            Request::Status,
            Request::Snapshot,
        ]
    }

    fn any_response(reply: &[u8]) -> Vec<Response<'_>> {
        vec![
            Response::Applied { index: 9, reply },
            Response::NotApplied,
            Response::Unknown,
            Response::NotLeader { leader: None, address: None },
            Response::NotLeader {
                leader: Some(NodeId(3)),
                address: Some("[fe80:1111:2222:3333:4444:5555:6666:7777]:65535".parse().unwrap()),
            },
            Response::Busy,
            Response::Status(reply),
            Response::Reply(reply),
            Response::Error { code: 5, text: "no" },
            Response::Snapshot(WrittenSnapshot { index: 77, term: 5, full: true, bytes: 3 << 16, digest: u128::MAX / 7 }),
        ]
    }

    proptest! {
        #[test]
        fn comes_back_as_sent(payload in prop::collection::vec(any::<u8>(), 0..300), number in any::<u64>(), bit in any::<prop::sample::Index>()) {
            let mut out = [0; 512];
            for request in any_request(&payload) {
                let total = encode_request(number, &request, &mut out).unwrap();
                prop_assert_eq!(total, request_bytes(&request));
                prop_assert_eq!(decode_request(&out, 316), Ok(Some((number, request, total))));
                prop_assert_eq!(decode_request(&out[..total - 1], 316), Ok(None));
                let bit = bit.index(total * 8);
                out[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(!matches!(decode_request(&out[..total], 316), Ok(Some(_))));
            }
            for response in any_response(&payload) {
                let total = encode_response(number, &response, &mut out).unwrap();
                prop_assert_eq!(decode_response(&out, 300), Ok(Some((number, response, total))));
                let bit = bit.index(total * 8);
                out[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(!matches!(decode_response(&out[..total], 300), Ok(Some(_))));
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(kind in any::<u8>(), rest in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut bytes = MAGIC.to_le_bytes().to_vec();
            bytes.extend([VERSION, kind]);
            bytes.extend(&rest);
            let _ = decode_request(&bytes, 1 << 20);
            let _ = decode_response(&bytes, 1 << 20);
            let _ = decode_request(&rest, 1 << 20);
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_at_the_header() {
        let mut out = [0; 64];
        encode_request(1, &Request::Status, &mut out).unwrap();
        for length in [101u32, 1 << 31, u32::MAX] {
            out[8..12].copy_from_slice(&length.to_le_bytes());
            assert_eq!(decode_request(&out[..CLIENT_HEADER_BYTES], 100), Err(ClientWireError::Length { length, limit: 100 }));
        }
    }
}
