//! The listener: accepting, and judging who greets.

use std::net::SocketAddr;

use kontiki_core::{ClusterId, NodeId, SessionId, Time};
use kontiki_io::{Handle, Io, IoError, IoErrorKind, Op, Output, tell};

use crate::conns::{Purpose, Slot};
use crate::event::{NetError, NetEvent};
use crate::handshake::hello::{Channel, HandshakeRefusal, Hello, HelloError, HelloKind};
use crate::handshake::refusal::Refusal;
use crate::limits::{ACCEPT_RETRY_NS, MAX_GREETINGS};
use crate::log_gate::Topic;
use crate::net::Net;
use crate::session::peer::{Half, Process};
use crate::token::{Action, token};

/// The listening socket and what is outstanding on it.
#[derive(Debug, Default)]
pub(crate) struct Listener {
    handle: Option<Handle>,
    addr: Option<SocketAddr>,
    listening: bool,
    accepting: bool,
    shutting: bool,
    closing: bool,
    /// An accepted connection that found no room is being closed: nothing more is accepted until it is.
    stray: bool,
    retry_at: Option<Time>,
}

impl Listener {
    pub(crate) fn idle(&self) -> bool {
        self.handle.is_none() && !self.listening && !self.stray
    }

    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    pub(crate) fn retry_at(&self) -> Option<Time> {
        self.retry_at
    }
}

impl Net {
    pub(crate) fn listen(&mut self, io: &mut dyn Io) {
        self.listener.listening = true;
        io.submit(token(Action::Listen, 0, 0), Op::Listen { addr: self.options.listen });
    }

    /// Keeps one accept outstanding.
    pub(crate) fn accept(&mut self, now: Time, io: &mut dyn Io) {
        let l = &mut self.listener;
        let Some(listener) = l.handle else { return };
        if self.stopping || l.accepting || l.stray || l.retry_at.is_some_and(|at| at > now) {
            return;
        }
        l.retry_at = None;
        l.accepting = true;
        io.submit(token(Action::Accept, 0, 0), Op::Accept { listener });
    }

    pub(crate) fn stop_listening(&mut self, io: &mut dyn Io) {
        let l = &mut self.listener;
        let Some(socket) = l.handle else { return };
        if l.shutting || l.closing {
            return;
        }
        if l.accepting {
            l.shutting = true;
            io.submit(token(Action::StopListening, 0, 0), Op::Shutdown { socket });
        } else {
            l.closing = true;
            io.submit(token(Action::CloseListener, 0, 0), Op::Close { handle: socket });
        }
    }

    pub(crate) fn listener_completed(&mut self, action: Action, result: Result<Output, IoError>, now: Time, io: &mut dyn Io) {
        match (action, result) {
            (Action::Listen, Ok(Output::Listening(handle, addr))) => {
                self.listener = Listener { handle: Some(handle), addr: Some(addr), ..Listener::default() };
                self.events.push_end(NetEvent::Listening { addr });
            }
            (Action::Listen, result) => {
                self.listener.listening = false;
                let addr = self.options.listen;
                let source = result.err().unwrap_or(IoError { kind: IoErrorKind::Device, errno: 0 });
                let error = match source.kind {
                    IoErrorKind::AddressInUse => NetError::AddressInUse { addr },
                    _ => NetError::Listen { addr, source },
                };
                self.events.push_end(NetEvent::Fatal(error));
            }
            (Action::Accept, Ok(Output::Accepted(handle, remote))) => {
                self.listener.accepting = false;
                self.accepted(handle, remote, now, io);
            }
            (Action::Accept, result) => {
                self.listener.accepting = false;
                self.listener.retry_at = Some(now.plus_ns(ACCEPT_RETRY_NS));
                self.not_accepted(result.err(), now);
            }
            (Action::StopListening, _) => self.listener.shutting = false,
            (Action::CloseListener, _) => self.listener = Listener { stray: self.listener.stray, ..Listener::default() },
            (Action::CloseStray, _) => self.listener.stray = false,
            (action, _) => panic!("{action:?} is no action of the listener"),
        }
        if self.stopping {
            // An accept that the shutdown has not ended yet is waited for.
            if !self.listener.accepting {
                self.stop_listening(io);
            }
        } else {
            self.accept(now, io);
        }
    }

    /// A connection waits at the port, and this node cannot take it: for lack of descriptors, mostly.
    fn not_accepted(&mut self, error: Option<IoError>, now: Time) {
        let Some(error) = error.filter(|_| !self.stopping) else { return };
        self.counters.accepts_failed += 1;
        if self.log.admits(Topic { peer: None, what: "connections cannot be accepted" }, None, now) {
            tell!(warn, %error, "connections cannot be accepted: tried again all the time");
        }
    }

    fn accepted(&mut self, handle: Handle, remote: SocketAddr, now: Time, io: &mut dyn Io) {
        self.counters.accepted += 1;
        // Whoever has had the most time to speak gives way: an honest greeting is there within a round trip.
        let greetings = || self.conns.live().filter(|(_, conn)| conn.purpose == Purpose::Greeting);
        if greetings().count() >= MAX_GREETINGS {
            let oldest = greetings().min_by_key(|(_, conn)| conn.deadline).map(|(slot, _)| slot);
            if let Some(slot) = oldest {
                self.counters.crowded_out += 1;
                self.conns.doom(slot, io);
            }
        }
        // Slots of peers are theirs: strangers, with those being closed, get no more than their share.
        let slot = if self.stopping || self.conns.strangers() >= 2 * MAX_GREETINGS {
            None
        } else {
            self.conns.open(Purpose::Greeting, remote, Some(handle))
        };
        match slot {
            Some(slot) => {
                self.conns.set_deadline(slot, Some(now.plus_ns(self.options.handshake_timeout_ns)));
                self.await_greeting(slot, now, io);
            }
            None => {
                self.counters.crowded_out += 1;
                self.listener.stray = true;
                io.submit(token(Action::CloseStray, 0, 0), Op::Close { handle });
            }
        }
    }

    /// Somebody said who it is.
    pub(crate) fn greeted(&mut self, slot: Slot, hello: Result<Hello, HelloError>, now: Time, io: &mut dyn Io) {
        let hello = match hello {
            Ok(hello) if hello.kind == HelloKind::Hello => hello,
            Err(HelloError::Version { ours, theirs }) => {
                let refusal = HandshakeRefusal::Version { ours, theirs };
                return self.refuse_greeting(slot, None, refusal, now, io);
            }
            other => {
                self.report(None, slot, Refusal::Greeting(other.err().unwrap_or(HelloError::Field)), now);
                return self.conns.doom(slot, io);
            }
        };
        let done = match hello.channel {
            Channel::Client => self.judge_client(&hello).and_then(|()| self.client_connected(slot, &hello, now, io)),
            Channel::Control => self.judge(&hello, now).map(|p| self.control_greeted(p, slot, &hello, now, io)),
            Channel::Snapshot => self.puller_greeted(slot, &hello, now, io),
            Channel::Bulk => self.judge(&hello, now).and_then(|p| self.bulk_greeted(p, slot, &hello, now, io)),
        };
        if let Err(refusal) = done {
            self.refuse_greeting(slot, Some(&hello), refusal, now, io);
        }
    }

    fn judge_client(&self, hello: &Hello) -> Result<(), HandshakeRefusal> {
        if hello.cluster != self.options.cluster && hello.cluster != ClusterId(0) {
            return Err(HandshakeRefusal::Cluster);
        }
        if hello.to != self.options.node && hello.to != NodeId(0) {
            return Err(HandshakeRefusal::Target { to: hello.to });
        }
        Ok(())
    }

    /// Which peer greets, if it is one, in a process that may stand for it.
    fn judge(&self, hello: &Hello, now: Time) -> Result<usize, HandshakeRefusal> {
        self.admitted(self.known(hello)?, hello, now)
    }

    /// Which peer greets, if it is one. Here, and nowhere else, is decided which nodes are let in: those of our cluster
    /// that are in the address book.
    pub(crate) fn known(&self, hello: &Hello) -> Result<usize, HandshakeRefusal> {
        if hello.cluster != self.options.cluster {
            return Err(HandshakeRefusal::Cluster);
        }
        if hello.from == self.options.node {
            return Err(HandshakeRefusal::OwnId { id: hello.from });
        }
        if hello.to != self.options.node {
            return Err(HandshakeRefusal::Target { to: hello.to });
        }
        self.peer_index(hello.from).ok_or(HandshakeRefusal::UnknownPeer { from: hello.from })
    }

    /// Whether it is a process that may stand for that peer.
    pub(crate) fn admitted(&self, p: usize, hello: &Hello, now: Time) -> Result<usize, HandshakeRefusal> {
        let peer = self.peers.get(p).ok_or(HandshakeRefusal::UnknownPeer { from: hello.from })?;
        peer.admits(process(hello), now).map(|()| p)
    }

    /// A peer opens a control channel: answers with a nonce that its bulk channel must repeat. Whoever greets in a
    /// peer's name gets that far: the handshakes that are open already, and a session, are not touched.
    fn control_greeted(&mut self, p: usize, slot: Slot, hello: &Hello, now: Time, io: &mut dyn Io) {
        let nonce = self.random.nonzero();
        let welcome = self.hello(HelloKind::Welcome, Channel::Control, hello.from, hello.session, nonce);
        let crowded =
            self.peers.get(p).filter(|peer| peer.greeted.is_full()).and_then(|peer| peer.greeted.first()).map(|half| half.control);
        if let Some(oldest) = crowded {
            self.counters.crowded_out += 1;
            self.greeted_lost(p, oldest);
            self.conns.doom(oldest, io);
        }
        let (Some(peer), Some(conn)) = (self.peers.get_mut(p), self.conns.get_mut(slot)) else { return };
        conn.purpose = Purpose::HalfControl(p);
        let half = Half { session: hello.session, nonce, process: Some(process(hello)), control: slot, bulk: None };
        assert!(peer.greeted.push(half).is_ok(), "a place was made");
        if let Some(open) = peer.session.as_mut().filter(|open| open.process != process(hello)) {
            // Does it still live? If its process is gone, its system says so.
            open.spoken = Time(0);
        }
        self.conns.set_deadline(slot, Some(now.plus_ns(self.options.handshake_timeout_ns)));
        self.greet(slot, &welcome, now, io);
    }

    /// A handshake that greeted us will not be completed.
    pub(crate) fn greeted_lost(&mut self, p: usize, control: Slot) {
        if let Some(peer) = self.peers.get_mut(p) {
            peer.greeted.retain(|half| half.control != control);
        }
    }

    /// A peer opens the bulk channel that completes its session: only one that knows our fresh nonce can.
    fn bulk_greeted(&mut self, p: usize, slot: Slot, hello: &Hello, now: Time, io: &mut dyn Io) -> Result<(), HandshakeRefusal> {
        let continues = |half: &Half| {
            half.session == hello.session
                && half.nonce == hello.nonce
                && half.process == Some(process(hello))
                && hello.session != SessionId(0)
        };
        let peer = self.peers.get(p).ok_or(HandshakeRefusal::NotOpen)?;
        let at = peer.greeted.iter().position(continues).ok_or(HandshakeRefusal::NotOpen)?;
        if peer.crosses(process(hello)) {
            return Err(HandshakeRefusal::Crossed);
        }
        if let Err(refusal) = peer.may_replace(process(hello), self.options.idle_timeout_ns, now) {
            self.counters.occupied += 1;
            return Err(refusal);
        }
        if !self.may_open_session() {
            return Err(HandshakeRefusal::Busy);
        }
        let welcome = self.hello(HelloKind::Welcome, Channel::Bulk, hello.from, hello.session, hello.nonce);
        self.conns.set_deadline(slot, None);
        if self.greet(slot, &welcome, now, io)
            && let Some(peer) = self.peers.get_mut(p)
        {
            let half = peer.greeted.remove(at);
            self.open_session(p, half, slot, false, now, io);
        }
        Ok(())
    }
}

pub(crate) fn process(hello: &Hello) -> Process {
    Process { incarnation: hello.incarnation, number: hello.process_number }
}
