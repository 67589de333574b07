//! One connection to one replica, as the commands of this program use it: the library's client, with the
//! answers told apart by what they mean for a proposal.

use std::net::SocketAddr;
use std::time::Duration;

use kontiki::client::{Client, ClientError, ClientOptions};
use kontiki_core::NodeId;
use kontiki_net::{Address, Request, Response, WrittenSnapshot, codes};

use crate::target::Target;

/// Longest wait for room in the socket before a replica counts as gone.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// What a replica answered to a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Applied.
    Applied {
        /// Where it stands in the log.
        index: u64,
        /// The state machine's reply.
        reply: Vec<u8>,
    },
    /// In no log, and never will be.
    NotApplied,
    /// Nobody can say.
    Unknown,
    /// Not taken: another replica leads, at this address if it is known.
    NotLeader(Option<SocketAddr>),
    /// Not taken: a bound is reached.
    Busy,
    /// Not taken for want of room, which another replica may have, or this one later: what it lacks, in its words.
    NoRoom(String),
    /// Not taken, since this replica serves no clients; another one may.
    NoClients(String),
    /// Not taken, and would not be the next time: why, in the replica's words.
    Refused(String),
    /// Something that is no answer to a proposal, or does not say what came of it, in words.
    Other(String),
}

/// The connection.
#[derive(Debug)]
pub(crate) struct Connection {
    client: Client,
}

impl Connection {
    /// Connects within `limit`.
    ///
    /// # Errors
    /// Nobody answers there, or not as a replica.
    pub(crate) fn open(addr: SocketAddr, limit: Duration) -> Result<Connection, ClientError> {
        let options = ClientOptions { timeout: positive(limit), ..ClientOptions::default() };
        Ok(Connection { client: Client::connect(addr, options)? })
    }

    /// Asks how the replica is: TOML.
    ///
    /// # Errors
    /// No answer within `limit`.
    pub(crate) fn status(&mut self, limit: Duration) -> Result<String, ClientError> {
        self.client.set_timeout(positive(limit));
        Ok(String::from_utf8_lossy(&self.client.status()?).into_owned())
    }

    /// Has it make a snapshot: which replica, and what it has then.
    ///
    /// # Errors
    /// There is none, or no answer within `limit`.
    pub(crate) fn snapshot(&mut self, limit: Duration) -> Result<(NodeId, WrittenSnapshot), ClientError> {
        self.client.set_timeout(positive(limit));
        Ok((self.client.node(), self.client.snapshot()?))
    }

    /// Puts a proposal behind those that [`flush`](Connection::flush) will send; returns the number of the request, one
    /// more than that of the last.
    ///
    /// # Errors
    /// It is too long for any replica.
    pub(crate) fn queue(&mut self, payload: &[u8]) -> Result<u64, ClientError> {
        self.client.queue(&Request::Propose { session: None, payload })
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// It cannot be sent. Part of it may have been: its outcome is unknown.
    pub(crate) fn flush(&mut self) -> Result<(), ClientError> {
        self.client.set_timeout(SEND_LIMIT);
        self.client.flush()
    }

    /// The next answer, and the number of the request that it is to; `None` if none comes within `limit`. A limit of
    /// zero takes only what has been received already.
    ///
    /// # Errors
    /// The connection failed: what was not answered is unknown.
    pub(crate) fn receive(&mut self, limit: Duration) -> Result<Option<(u64, Answer)>, ClientError> {
        self.client.set_timeout(limit);
        match self.client.receive(|request, response| (request, answer(response))) {
            Ok(received) => Ok(Some(received)),
            Err(ClientError::Timeout(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The system takes no time limit of zero.
fn positive(limit: Duration) -> Duration {
    limit.max(Duration::from_millis(1))
}

/// Where a leader is that was hinted at: a name is looked up, now.
fn located(address: Address) -> Option<SocketAddr> {
    address.socket().or_else(|| address.to_string().parse::<Target>().ok()?.addresses().ok()?.first().copied())
}

fn answer(response: &Response<'_>) -> Answer {
    match *response {
        Response::Applied { index, reply } => Answer::Applied { index, reply: reply.to_vec() },
        Response::NotApplied => Answer::NotApplied,
        Response::Unknown => Answer::Unknown,
        Response::NotLeader { address, .. } => Answer::NotLeader(address.and_then(located)),
        Response::Busy => Answer::Busy,
        Response::Error { code: codes::DISK_FULL | codes::LOG_FULL | codes::SHORTAGE, text } => Answer::NoRoom(text.into()),
        Response::Error { code: codes::REPLY_TOO_LONG | codes::REPLY_NOT_KEPT, text } => Answer::Other(text.into()),
        Response::Error { code: codes::NO_CLIENTS, text } => Answer::NoClients(text.into()),
        Response::Error { code, text } => Answer::Refused(format!("{text} (code {code})")),
        Response::Status(_) | Response::Reply(_) | Response::Snapshot(_) => Answer::Other("an answer that fits no proposal".into()),
    }
}
