//! TCP between replicas that have a protocol thread: a reader thread per inbound connection, one write per peer
//! and turn.
//!
//! Frames are pipelined: nothing waits for an answer. All that a socket holds is read at once and delivered at once;
//! all that a turn of the protocol has to say to a peer leaves in one write. A write may block: readers go on
//! meanwhile, so that two replicas never wait for each other.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result};
use bytes::Bytes;

use crate::cluster::Node;
use crate::wire::{self, Inbound};

/// Connections to the other replicas.
pub struct Links {
    links: Vec<Link>,
}

struct Link {
    to: u64,
    stream: TcpStream,
    out: Vec<u8>,
}

impl Links {
    /// Connects to all other replicas, which listen already.
    ///
    /// # Errors
    /// One cannot be reached.
    pub fn connect(node: &Node) -> Result<Links> {
        let connect = |(to, addr): (u64, std::net::SocketAddr)| {
            let stream = TcpStream::connect(addr).with_context(|| format!("connecting to node {to}"))?;
            stream.set_nodelay(true)?;
            Ok(Link { to, stream, out: Vec::new() })
        };
        Ok(Links { links: node.others().map(connect).collect::<Result<_>>()? })
    }

    /// Puts a frame in line for a replica.
    pub fn send(&mut self, to: u64, body: impl FnOnce(&mut Vec<u8>)) {
        if let Some(link) = self.links.iter_mut().find(|l| l.to == to) {
            wire::frame(&mut link.out, body);
        }
    }

    /// Writes all that is in line.
    ///
    /// # Errors
    /// A connection is gone.
    pub fn flush(&mut self) -> Result<()> {
        for link in self.links.iter_mut().filter(|l| !l.out.is_empty()) {
            link.stream.write_all(&link.out).with_context(|| format!("node {} is gone", link.to))?;
            link.out.clear();
        }
        Ok(())
    }
}

/// Accepts connections and gives what comes in, decoded, to `deliver`: all messages of one read at once. A connection
/// ends when `deliver` returns false.
///
/// # Errors
/// The thread cannot be started.
pub fn listen<M, D>(listener: TcpListener, decode: fn(&Bytes) -> Result<M>, deliver: D) -> Result<()>
where
    M: Send + 'static,
    D: Fn(Vec<M>) -> bool + Send + Clone + 'static,
{
    let accept = move || {
        for stream in listener.incoming().flatten() {
            let deliver = deliver.clone();
            let read = move || {
                // That a connection ends is no news.
                if let Err(error) = read(stream, decode, deliver)
                    && !error.is::<std::io::Error>()
                {
                    eprintln!("a connection is given up: {error:#}");
                }
            };
            if thread::Builder::new().name("read".into()).spawn(read).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("accept".into()).spawn(accept)?;
    Ok(())
}

fn read<M>(mut stream: TcpStream, decode: fn(&Bytes) -> Result<M>, deliver: impl Fn(Vec<M>) -> bool) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut inbound = Inbound::default();
    loop {
        let bytes = stream.read(inbound.space())?;
        if bytes == 0 {
            return Ok(());
        }
        let messages = inbound.read(bytes).map(|frame| decode(&frame)).collect::<Result<Vec<M>>>()?;
        if !messages.is_empty() && !deliver(messages) {
            return Ok(());
        }
    }
}
