//! What connected clients ask for, and their answers.

use kontiki_io::{Io, tell};
use kontiki_mem::Outcome;
use kontiki_net::{ClientEvent, Response, codes};

use super::group::Group;
use super::host::Host;
use super::snapshots::asked::Asker;
use crate::error::ProposeError;
use crate::limits;
use crate::shared::Shared;

impl Group {
    pub(super) fn client(&mut self, host: &mut Host, event: ClientEvent, io: &mut dyn Io) {
        match event {
            // To take it and not to keep it would promise what nobody keeps.
            ClientEvent::Propose { client, request, session: Some(_), .. } => {
                let text = "this node keeps no client sessions: propose without one";
                host.net.respond(client, request, Response::Error { code: codes::NO_SESSIONS, text });
            }
            ClientEvent::Propose { client, request, session: None, payload } => {
                let Some(bytes) = host.net.payload(&payload) else { return };
                let outcome = Shared::propose_raw(&self.shared, bytes);
                match outcome {
                    Ok(ticket) => self.clients.push(client, request, ticket),
                    Err(error) => {
                        host.net.respond(client, request, refusal(&error));
                    }
                }
            }
            ClientEvent::Status { client, request } => {
                let text = self.status(host, io).within(host.config.reply_bytes.max(limits::STATUS_BYTES));
                host.net.respond(client, request, Response::Status(text.as_bytes()));
            }
            ClientEvent::Query { client, request, .. } => {
                let text = "this node answers no queries: propose a read through the log";
                host.net.respond(client, request, Response::Error { code: codes::NO_QUERIES, text });
            }
            ClientEvent::Snapshot { client, request } => {
                self.ask_snapshot(host, Asker::Client(client, request));
            }
            ClientEvent::Connected { client, remote } => tell!(debug, ?client, %remote, "client connected"),
            ClientEvent::Disconnected { client } => {
                tell!(debug, ?client, "client gone");
                self.asker_is_gone(|by| matches!(by, Asker::Client(asker, _) if asker == client));
            }
        }
    }

    pub(super) fn answer_clients(&mut self, host: &mut Host) {
        while let Some((client, request, outcome, ticket)) = self.clients.pop_ready() {
            let response = match outcome {
                Outcome::Applied { index } => Response::Applied { index, reply: ticket.reply() },
                Outcome::Unanswered { .. } => Response::Error {
                    code: codes::REPLY_NOT_KEPT,
                    text: "applied, but the state machine's reply is too long to be kept (reply_bytes)",
                },
                Outcome::NotApplied { .. } => Response::NotApplied,
                Outcome::Unknown => Response::Unknown,
            };
            host.net.respond(client, request, response);
        }
    }
}

/// What a client is told of a proposal that was not taken.
fn refusal(error: &ProposeError) -> Response<'static> {
    let (code, text) = match error {
        ProposeError::NotLeader { leader } => {
            return Response::NotLeader { leader: leader.map(|l| l.id), address: leader.map(|l| l.addr) };
        }
        ProposeError::Stopped => return Response::NotLeader { leader: None, address: None },
        ProposeError::Busy => return Response::Busy,
        ProposeError::DiskFull => (codes::DISK_FULL, "the disk of this node is full: it takes no writes until there is space again"),
        ProposeError::LogFull => (
            codes::LOG_FULL,
            "the log of this node is full, whatever space its disk has: neither its state machine nor two snapshots hold what the log could forget",
        ),
        ProposeError::Shortage => (
            codes::SHORTAGE,
            "this node lacks something that its log's next segment takes, as descriptors or memory (its status says what): it takes no writes until it has it",
        ),
        ProposeError::TooLarge { .. } => {
            (codes::REQUEST_TOO_LONG, "the entry is over this cluster's limit (max_entry_bytes); nothing was done")
        }
    };
    Response::Error { code, text }
}
