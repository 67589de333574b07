//! A client of a bench from outside, in a process of its own: one connection, requests and answers in batches, as many
//! as the system calls find.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use kontiki_core::{ClusterId, NodeId};
use kontiki_net::limits::HELLO_BYTES;
use kontiki_net::{HandshakeRefusal, Hello, Request, Response, decode_response, encode_request, request_bytes};

use super::events::{BEGIN, Event, stdin_lines, tell};
use super::load::{Load, Pace};
use super::recorder::{Measured, Recorder};
use crate::error::Error;

/// Longest wait for anything of the replica.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to read before looking whether all is answered.
const LOOK: Duration = Duration::from_millis(100);
/// Room for answers, in bytes.
const INBOX_BYTES: usize = 256 << 10;
/// Bytes of requests that are sent at once, at least, if there are so many.
const OUT_BYTES: usize = 64 << 10;
/// "Not known yet", as a number of requests.
const OPEN: u64 = u64::MAX;

/// Run one client of a bench.
#[derive(Args, Debug)]
pub(crate) struct BenchClient {
    /// The replica that leads
    #[arg(long)]
    to: SocketAddr,
    #[command(flatten)]
    load: Load,
}

/// Runs the command.
///
/// # Errors
/// The replica cannot be reached.
pub(crate) fn run(command: &BenchClient) -> Result<(), Error> {
    let lines = stdin_lines()?;
    let link = Link::open(command.to).map_err(Error::system("cannot connect to the leader"))?;
    tell(&Event::Connected);
    if lines.recv().is_ok_and(|line| line.trim() == BEGIN) {
        let load = &command.load;
        let outcome = if load.rate.is_some() { link.at_a_pace(load) } else { link.in_a_loop(load) };
        match outcome {
            Ok(measured) => tell(&Event::Finished(Box::new(measured))),
            Err(error) => tell(&Event::Lost { reason: error.to_string() }),
        }
    }
    Ok(())
}

/// A connection after its greeting.
struct Link {
    stream: TcpStream,
    inbox: Vec<u8>,
}

/// What was answered to a request.
struct Answer {
    /// The number it was sent with, from zero.
    number: u64,
    /// Applied, and not refused for want of room.
    applied: bool,
}

fn broken(what: &str) -> std::io::Error {
    std::io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

impl Link {
    fn open(addr: SocketAddr) -> std::io::Result<Link> {
        let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let hello = Hello::of_client(ClusterId(0), NodeId(0));
        let mut bytes = [0; HELLO_BYTES];
        hello.encode(&mut bytes);
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)?;
        let welcome = Hello::decode(&bytes).map_err(|e| broken(&e.to_string()))?;
        match HandshakeRefusal::from_wire(welcome.code, welcome.detail) {
            Some(refusal) => Err(broken(&refusal.to_string())),
            None => Ok(Link { stream, inbox: Vec::with_capacity(INBOX_BYTES) }),
        }
    }

    /// Keeps the load's number of requests in flight.
    fn in_a_loop(mut self, load: &Load) -> std::io::Result<Measured> {
        let begun = Instant::now();
        let (mut recorder, mut out) = (Recorder::new(begun, load), Vec::with_capacity(OUT_BYTES));
        let payload = vec![0x5a; load.entry_bytes as usize];
        // Since when each request counts, from request `first` on; `None` once it is answered.
        let mut sent: VecDeque<Option<Instant>> = VecDeque::with_capacity(load.in_flight as usize);
        let (mut first, mut open, mut told) = (0, 0, false);
        loop {
            let now = Instant::now();
            if !told && now >= begun + load.warmup() {
                told = true;
                tell(&Event::Started);
            }
            while now < recorder.end() && open < load.in_flight {
                queue(&mut out, first + sent.len() as u64, &payload)?;
                sent.push_back(Some(now));
                open += 1;
            }
            self.stream.write_all(&out)?;
            out.clear();
            if open == 0 {
                return Ok(recorder.finish());
            }
            self.read()?;
            let now = Instant::now();
            while let Some(answer) = self.answer()? {
                let place = answer.number.checked_sub(first).and_then(|n| sent.get_mut(usize::try_from(n).ok()?));
                let Some(since) = place.and_then(Option::take) else { return Err(broken("an answer to no request")) };
                open -= 1;
                if answer.applied {
                    recorder.answered(now, since, 1)
                } else {
                    recorder.busy()
                }
                while let Some(None) = sent.front() {
                    sent.pop_front();
                    first += 1;
                }
            }
        }
    }

    /// Sends what is due when it is due, on a thread of its own: nothing that happens to the answers holds it up, but a
    /// full socket.
    fn at_a_pace(mut self, load: &Load) -> std::io::Result<Measured> {
        let begun = Instant::now();
        let pace = Pace::new(begun, load.rate.unwrap_or(1));
        let mut recorder = Recorder::new(begun, load);
        let (started, end, total) = (begun + load.warmup(), recorder.end(), AtomicU64::new(OPEN));
        let mut stream = self.stream.try_clone()?;
        self.stream.set_read_timeout(Some(LOOK))?;
        thread::scope(|scope| {
            let total = &total;
            let sender = scope.spawn(move || {
                let sent = send_at(&mut stream, pace, started, end, load.entry_bytes);
                total.store(*sent.as_ref().unwrap_or(&0), Ordering::SeqCst);
                sent
            });
            let (mut answered, mut heard) = (0, Instant::now());
            while answered < total.load(Ordering::SeqCst) && heard.elapsed() < PATIENCE {
                match self.read() {
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                    other => other?,
                }
                heard = Instant::now();
                while let Some(answer) = self.answer()? {
                    answered += 1;
                    if answer.applied { recorder.answered(heard, pace.due(answer.number), 1) } else { recorder.busy() }
                }
            }
            let sent = sender.join().unwrap_or_else(|_| Err(broken("the sender panicked")))?;
            if answered < sent {
                return Err(broken("the leader answers no more"));
            }
            recorder.missed(pace.due_before(end).saturating_sub(sent));
            Ok(recorder.finish())
        })
    }

    /// Reads what is there; waits if there is nothing.
    fn read(&mut self) -> std::io::Result<()> {
        let held = self.inbox.len();
        self.inbox.resize(INBOX_BYTES.max(held + 4096), 0);
        let read = self.stream.read(&mut self.inbox[held..]);
        self.inbox.truncate(held + read.as_ref().map_or(0, |bytes| *bytes));
        match read {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The next whole answer that was read.
    fn answer(&mut self) -> std::io::Result<Option<Answer>> {
        let Some((number, response, length)) = decode_response(&self.inbox, INBOX_BYTES).map_err(|e| broken(&e.to_string()))? else {
            return Ok(None);
        };
        let applied = match response {
            Response::Applied { .. } => true,
            Response::Busy => false,
            other => return Err(broken(&format!("the leader answers {other:?}"))),
        };
        self.inbox.drain(..length);
        Ok(Some(Answer { number, applied }))
    }
}

/// Sends until `end`: how many.
fn send_at(stream: &mut TcpStream, pace: Pace, started: Instant, end: Instant, entry_bytes: u32) -> std::io::Result<u64> {
    Pace::sharpen();
    let payload = vec![0x5a; entry_bytes as usize];
    let mut out = Vec::with_capacity(OUT_BYTES);
    let (mut sent, mut told) = (0, false);
    loop {
        let now = Instant::now();
        if !told && now >= started {
            told = true;
            tell(&Event::Started);
        }
        if now >= end {
            return Ok(sent);
        }
        while pace.due(sent) <= now && out.len() < OUT_BYTES {
            queue(&mut out, sent, &payload)?;
            sent += 1;
        }
        stream.write_all(&out)?;
        out.clear();
        thread::sleep(pace.due(sent).min(end).saturating_duration_since(Instant::now()));
    }
}

/// Appends a request to what is to be sent.
fn queue(out: &mut Vec<u8>, number: u64, payload: &[u8]) -> std::io::Result<()> {
    let request = Request::Propose { session: None, payload };
    let at = out.len();
    out.resize(at + request_bytes(&request), 0);
    let written = out.get_mut(at..).and_then(|room| encode_request(number, &request, room));
    written.map(drop).ok_or_else(|| broken("the request is longer than it said"))
}
