//! Three processes: the program starts itself twice more as followers, and is itself the leader, with the load in
//! it.
//!
//! Every node listens on a port of 127.0.0.1 that the system chose, before any is told where the others are. A
//! follower ends when its standard input does, so that none outlives its leader.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::load::{Load, Meter};
use crate::log;
use crate::payload::Pool;
use crate::report::{Measured, Report};
use crate::usage;

/// Ids of the nodes; the first is made leader.
pub const IDS: [u64; 3] = [1, 2, 3];

/// An engine to run.
pub struct Peer {
    /// Its name.
    pub name: &'static str,
    /// Its version, and what of it is used.
    pub version: &'static str,
    /// Runs a node: the leader until its load is measured, a follower for ever.
    pub run: fn(Node, Option<Load>) -> Result<Measured>,
}

/// A node, before it starts.
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Where each node listens, itself among them, in the order of [`IDS`].
    pub addrs: Vec<SocketAddr>,
    /// Where it listens itself.
    pub listener: TcpListener,
    /// The directory of its log.
    pub dir: PathBuf,
}

impl Node {
    /// The other nodes.
    pub fn others(&self) -> impl Iterator<Item = (u64, SocketAddr)> + '_ {
        IDS.into_iter().zip(self.addrs.iter().copied()).filter(|(id, _)| *id != self.id)
    }
}

/// Three processes of one engine on 127.0.0.1 under a load, and one line of JSON.
#[derive(Parser, Clone, Debug)]
struct Options {
    /// Size of an entry, in bytes
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = at_least_one)]
    entry_bytes: usize,
    /// Proposals in flight
    #[arg(long, value_name = "M", default_value_t = 256, value_parser = at_least_one)]
    in_flight: usize,
    /// How long to measure, in seconds
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    seconds: f64,
    /// How long to run before that, in seconds
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    warmup: f64,
    /// Where to keep the logs; segments found there are used again [default: a directory that goes with the run]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Read the logs back when the load is over, and count the replicas that have all that was applied
    #[arg(long)]
    check_durable: bool,
    /// The id of a follower; the program gives it to itself
    #[arg(long, hide = true)]
    follower: Option<u64>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "a number from 1".into())
}

/// The program of a peer.
pub fn main(peer: &Peer) -> ExitCode {
    let options = Options::parse();
    let result = match options.follower {
        Some(id) => follow(peer, &options, id).map(|_| None),
        None => lead(peer, &options).map(Some),
    };
    match result {
        Ok(report) => {
            if let Some(report) = report {
                println!("{}", serde_json::to_string(&report).unwrap_or_default());
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}: {error:#}", peer.name);
            ExitCode::FAILURE
        }
    }
}

fn lead(peer: &Peer, options: &Options) -> Result<Report> {
    let mut scratch = None;
    let dir = match &options.dir {
        Some(dir) => dir.clone(),
        None => scratch.insert(tempfile::Builder::new().prefix("peer-").tempdir()?).path().to_owned(),
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut followers = Followers::start(&dir)?;
    let addrs = followers.introduce(listener.local_addr()?)?;
    let node = Node { id: IDS[0], addrs, listener, dir: of_node(&dir, IDS[0]) };
    let duration = |seconds| Duration::try_from_secs_f64(seconds).context("a length of time");
    let meter = Meter::new(duration(options.warmup)?, duration(options.seconds)?, followers);
    let load = Load { in_flight: options.in_flight, pool: Pool::new(options.entry_bytes), meter };
    let measured = (peer.run)(node, Some(load))?;
    let mut report = measured.report(peer.name, peer.version, options.entry_bytes, options.in_flight);
    if options.check_durable {
        let mut found = 0;
        for id in IDS {
            found += usize::from(log::read_back(&of_node(&dir, id))?.last >= measured.applied);
        }
        report.durable_on = Some(found);
    }
    Ok(report)
}

fn of_node(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("node-{id}"))
}

fn follow(peer: &Peer, options: &Options, id: u64) -> Result<Measured> {
    let dir = options.dir.as_deref().context("a follower is given its directory")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    let mut addrs = String::new();
    let mut input = BufReader::new(io::stdin());
    input.read_line(&mut addrs)?;
    let addrs = addrs.split_whitespace().map(str::parse).collect::<Result<Vec<SocketAddr>, _>>()?;
    if addrs.len() != IDS.len() {
        bail!("the leader is gone");
    }
    thread::Builder::new().name("leader".into()).spawn(move || {
        // Whatever it says: it ends when the leader does.
        drop(io::copy(&mut input, &mut io::sink()));
        std::process::exit(0);
    })?;
    (peer.run)(Node { id, addrs, listener, dir: of_node(dir, id) }, None)
}

/// The follower processes; they are ended with it.
pub struct Followers {
    children: Vec<Child>,
}

impl Followers {
    fn start(dir: &Path) -> Result<Followers> {
        let mut followers = Followers { children: Vec::new() };
        for id in &IDS[1..] {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("--follower").arg(id.to_string()).arg("--dir").arg(dir);
            followers.children.push(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        }
        Ok(followers)
    }

    /// Asks each where it listens, and tells all.
    fn introduce(&mut self, leader: SocketAddr) -> Result<Vec<SocketAddr>> {
        let mut addrs = vec![leader];
        for child in &mut self.children {
            let mut line = String::new();
            BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
            addrs.push(line.trim().parse().context("a follower did not start")?);
        }
        for child in &mut self.children {
            let text: Vec<String> = addrs.iter().map(ToString::to_string).collect();
            writeln!(child.stdin.as_mut().context("no input")?, "{}", text.join(" "))?;
        }
        Ok(addrs)
    }

    fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.children.iter().map(Child::id).chain([std::process::id()])
    }

    /// Processor time of all three processes so far.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        self.pids().map(usage::cpu).sum()
    }

    /// Resident memory of the largest of the three.
    pub(crate) fn rss_bytes(&self) -> Result<u64> {
        let all = self.pids().map(usage::rss_bytes).collect::<Result<Vec<u64>>>()?;
        Ok(all.into_iter().max().unwrap_or(0))
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
