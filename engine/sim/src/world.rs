//! The world: hosts, the network between them, and the agenda of what happens next. One thread, one seed, one order.

pub(crate) mod host;
mod lives;
pub(crate) mod op_class;
pub(crate) mod sim_io;
pub(crate) mod trace;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use kontiki_core::Time;
use kontiki_io::{Completion, Handle, IoError, IoErrorKind, IoStats, Op, Output, Token};

use crate::conditions::Conditions;
use crate::disk::Disk;
use crate::disk::decay::Decay;
use crate::disk::snapshots::Snapshots;
use crate::limits;
use crate::network::Network;
use crate::random::{Odds, Random};
use crate::world::host::{Clock, Host, HostState, Pending, Process, Resource};
use crate::world::op_class::OpClass;
use crate::world::trace::{Counts, Occurrence, Trace, hash_bytes};

/// Something that will happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happening {
    /// An operation of a process ends.
    End { host: usize, boot: u64, operation: u64 },
    /// The next chunk of a connection reaches side `to`.
    Arrive { connection: u64, to: usize },
    /// News that the connection is broken reaches side `to`.
    Reset { connection: u64, to: usize },
    /// Side `from` has retried in vain since `since_ns`.
    GiveUp { connection: u64, from: usize, since_ns: u64 },
    /// A connection attempt reaches the host it is meant for.
    Knock { attempt: u64 },
    /// A write of a process that was killed ends.
    Land { host: usize, write: u64 },
}

/// How much of what a read yields goes into the trace, in bytes.
const READ_SAMPLE_BYTES: usize = 256;
/// How often what needs memory of the kernel does not get it, while a host is short.
const LACKS_MEMORY: Odds = Odds::one_in(20);

pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) now_ns: u64,
    sequence: u64,
    agenda: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    next_operation: u64,
    pub(crate) hosts: Vec<HostState>,
    pub(crate) network: Network,
    pub(crate) conditions: Conditions,
    /// Turns, wake-ups and whatever is nobody else's.
    pub(crate) random: Random,
    pub(crate) trace: Trace,
    /// Faults, by kind.
    pub(crate) counts: Counts,
    /// What should sometimes happen.
    pub(crate) marks: Counts,
    /// A host of whose disk copies are kept, as a power cut would find it when an operation has started or ended.
    pub(crate) crash_points: Option<(usize, Vec<(OpClass, Disk)>)>,
    /// Every snapshot that a node made of its own state: its index, and a hash of the file.
    pub(crate) made: BTreeSet<(u64, u64)>,
}

impl World {
    pub(crate) fn new(seed: u64, conditions: Conditions) -> World {
        World {
            seed,
            now_ns: 0,
            sequence: 0,
            agenda: BinaryHeap::new(),
            next_operation: 0,
            hosts: Vec::new(),
            network: Network::new(Random::stream(seed, 2)),
            random: Random::stream(seed, 1),
            trace: Trace::new(conditions.keep_trace),
            counts: Counts::default(),
            marks: Counts::default(),
            crash_points: None,
            made: BTreeSet::new(),
            conditions,
        }
    }

    pub(crate) fn add_host(&mut self) -> Host {
        assert!(self.hosts.len() < limits::MAX_HOSTS, "a world has at most {} hosts", limits::MAX_HOSTS);
        let host = self.hosts.len();
        let mut clock_random = Random::stream(self.seed, 1_000 + host as u64);
        let limit = i64::from(self.conditions.processor.drift_ppm);
        let drift = clock_random.between(0, 2 * limit as u64) as i64 - limit;
        self.hosts.push(HostState {
            powered: true,
            boot: 0,
            running: false,
            paused: false,
            clock: Clock::new(self.now_ns, clock_random.below(1 << 40), drift as i32),
            disk: Disk::new(self.conditions.disk.capacity_bytes),
            disk_conditions: self.conditions.disk.clone(),
            disk_random: Random::stream(self.seed, 2_000 + host as u64),
            decay: Decay::default(),
            identity_known: true,
            injections: Vec::new(),
            held: Vec::new(),
            withheld: Vec::new(),
            late_writes: BTreeMap::new(),
            late_locks: Vec::new(),
            lock_refused: false,
            recovering: false,
            doubtful: false,
            unmarked: false,
            closed: false,
            saved_boot: 0,
            older: None,
            own_frame_bytes: usize::MAX,
            short: false,
            refused_in_shortage: 0,
            needless: 0,
            unnoticed: None,
            overlooked: None,
            snapshots: Snapshots::default(),
            process: Process::default(),
        });
        self.network.add_host();
        Host(host)
    }

    pub(crate) fn schedule(&mut self, after_ns: u64, happening: Happening) {
        self.sequence += 1;
        self.agenda.push(Reverse((self.now_ns.saturating_add(after_ns), self.sequence, happening)));
    }

    pub(crate) fn record(&mut self, host: usize, what: &'static str, a: u64, b: u64, content: u64) {
        self.trace.record(Occurrence { at_ns: self.now_ns, host, what, a, b, content });
    }

    /// Moves time to the next turn that some process is due, not past `limit_ns`; `None`: nobody is due by then.
    pub(crate) fn next(&mut self, limit_ns: u64) -> Option<Host> {
        loop {
            let turn = self.next_turn();
            let happens_ns = self.agenda.peek().map(|Reverse((at, ..))| *at);
            let next_ns = match (turn, happens_ns) {
                (Some((turn_ns, _)), Some(happens_ns)) => turn_ns.min(happens_ns),
                (Some((at, _)), None) | (None, Some(at)) => at,
                (None, None) => limit_ns.saturating_add(1),
            };
            if next_ns > limit_ns {
                self.now_ns = self.now_ns.max(limit_ns);
                return None;
            }
            self.now_ns = self.now_ns.max(next_ns);
            if happens_ns == Some(next_ns) {
                if let Some(Reverse((_, _, happening))) = self.agenda.pop() {
                    self.happen(happening);
                }
            } else if let Some((_, host)) = turn {
                let cost = self.conditions.processor.turn.draw(&mut self.random).max(1);
                let process = &mut self.hosts[host].process;
                process.busy_until_ns = self.now_ns + cost;
                return Some(Host(host));
            }
        }
    }

    fn next_turn(&self) -> Option<(u64, usize)> {
        let hosts = self.hosts.iter().enumerate();
        let due = hosts.filter(|(_, state)| state.running && !state.paused);
        due.filter_map(|(host, state)| Some((state.process.next_turn_ns(self.now_ns)?, host))).min()
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::End { host, boot, operation } => self.end(host, boot, operation),
            Happening::Arrive { connection, to } => self.arrive(connection, to),
            Happening::Reset { connection, to } => self.hear_reset(connection, to),
            Happening::GiveUp { connection, from, since_ns } => self.give_up(connection, from, since_ns),
            Happening::Knock { attempt } => self.knock(attempt),
            Happening::Land { host, write } => self.land(host, write),
        }
    }

    pub(crate) fn is_current(&self, host: usize, boot: u64) -> bool {
        self.hosts.get(host).is_some_and(|state| state.running && state.boot == boot)
    }

    pub(crate) fn local_time(&self, host: usize) -> Time {
        Time(self.hosts[host].clock.local_ns(self.now_ns))
    }

    /// Takes an operation in. It does nothing before the process's next turn.
    pub(crate) fn submit(&mut self, host: usize, boot: u64, token: Token, op: Op) {
        if !self.is_current(host, boot) {
            return;
        }
        let class = OpClass::of(&op);
        let capacity = self.conditions.processor.capacity;
        let process = &mut self.hosts[host].process;
        assert!(process.outstanding() < capacity, "{class:?} with token {token:?}: {capacity} operations are outstanding already");
        op.assert_valid();
        if let Some(handle) = op.handle() {
            check(process, handle, &op);
            if let Some(entry) = process.handles.get_mut(&handle.0) {
                entry.outstanding += 1;
            }
        }
        process.stats.ops += 1;
        self.next_operation += 1;
        let pending = Pending { token, class, op, started: false, ending: false, sent: 0, covers: 0 };
        process.operations.insert(self.next_operation, pending);
        process.queued.push(self.next_operation);
    }

    /// One turn of a process: what it submitted starts, what has completed is handed over.
    pub(crate) fn turn(&mut self, host: usize, boot: u64, until: Option<Time>, done: &mut Vec<Completion>) -> bool {
        if !self.is_current(host, boot) {
            return false;
        }
        let stats = &mut self.hosts[host].process.stats;
        stats.turns += 1;
        stats.enters += 1;
        for operation in std::mem::take(&mut self.hosts[host].process.queued) {
            self.start(host, operation);
        }
        let mut deliver = self.hosts[host].process.ready.len();
        if deliver > 1 && self.random.happens(self.conditions.processor.partial_turn) {
            deliver = self.random.between(1, deliver as u64) as usize;
        }
        let state = &mut self.hosts[host];
        for (completion, handle) in state.process.ready.drain(..deliver) {
            if let Some(entry) = handle.and_then(|handle| state.process.handles.get_mut(&handle.0)) {
                entry.outstanding -= 1;
            }
            done.push(completion);
        }
        let rung = state.process.bell.take();
        state.process.stats.rings += u64::from(rung);
        let wake_ns = until.map(|until| state.clock.world_ns(until.0)).filter(|_| deliver == 0 && !rung);
        // After a turn that changed anything the process goes round again: only then is it known what it waits for.
        state.process.wake_at_ns = Some(wake_ns.unwrap_or(self.now_ns));
        self.record(host, "turn", deliver as u64, u64::from(rung), 0);
        true
    }

    fn start(&mut self, host: usize, operation: u64) {
        let Some(pending) = self.hosts[host].process.operations.get_mut(&operation) else { return };
        pending.started = true;
        let (class, token) = (pending.class, pending.token);
        self.record(host, class.name(), token.0, operation, 0);
        if class.is_storage() {
            self.start_storage(host, operation);
            self.crash_point(host, class);
        } else {
            self.start_socket(host, operation);
        }
    }

    /// Puts the end of an operation on the agenda, once.
    pub(crate) fn end_after(&mut self, host: usize, operation: u64, after_ns: u64) {
        let boot = self.hosts[host].boot;
        if let Some(pending) = self.hosts[host].process.operations.get_mut(&operation)
            && !pending.ending
        {
            pending.ending = true;
            self.schedule(after_ns, Happening::End { host, boot, operation });
        }
    }

    /// The same, after the time that a wake-up takes.
    pub(crate) fn end_soon(&mut self, host: usize, operation: u64) {
        let after_ns = self.conditions.processor.wake_up.draw(&mut self.random);
        self.end_after(host, operation, after_ns);
    }

    fn end(&mut self, host: usize, boot: u64, operation: u64) {
        if !self.is_current(host, boot) {
            return;
        }
        let state = &mut self.hosts[host];
        let Some(class) = state.process.operations.get(&operation).map(|pending| pending.class) else { return };
        if state.held.contains(&class) {
            state.withheld.push(operation);
            self.counts.add("withheld");
            return;
        }
        let injected = self.injected(host, class).or_else(|| self.shortage(host, class));
        let Some(pending) = self.hosts[host].process.operations.remove(&operation) else { return };
        if class.is_storage() {
            self.end_storage(host, pending, injected);
            self.crash_point(host, class);
        } else {
            self.end_socket(host, operation, pending, injected);
        }
    }

    /// What was held back of a kind takes effect now.
    pub(crate) fn release(&mut self, host: usize, class: OpClass) {
        let boot = self.hosts[host].boot;
        let state = &mut self.hosts[host];
        state.held.retain(|&held| held != class);
        let process = &state.process;
        let (freed, kept): (Vec<u64>, Vec<u64>) = std::mem::take(&mut state.withheld)
            .into_iter()
            .partition(|operation| process.operations.get(operation).is_some_and(|pending| pending.class == class));
        state.withheld = kept;
        for operation in freed {
            self.schedule(0, Happening::End { host, boot, operation });
        }
    }

    /// Whether this operation is one that was picked to fail.
    fn injected(&mut self, host: usize, class: OpClass) -> Option<IoErrorKind> {
        let state = &mut self.hosts[host];
        let mut error = None;
        for injection in state.injections.iter_mut().filter(|injection| injection.class == class) {
            if injection.after > 0 {
                injection.after -= 1;
            } else if injection.times > 0 && error.is_none() {
                injection.times -= 1;
                error = Some(injection.error);
            }
        }
        state.injections.retain(|injection| injection.times > 0);
        if error.is_some() {
            self.counts.add("injected error");
        }
        error
    }

    /// Whether an operation would open something, and nothing can be opened; or needs memory of the kernel's, which has little then.
    fn shortage(&mut self, host: usize, class: OpClass) -> Option<IoErrorKind> {
        let state = &mut self.hosts[host];
        let what = match class {
            _ if !state.short => return None,
            class if class.opens() => "refused for want of descriptors",
            class if class.needs_memory() && self.random.happens(LACKS_MEMORY) => "refused for want of memory",
            _ => return None,
        };
        state.refused_in_shortage += 1;
        self.counts.add(what);
        Some(IoErrorKind::Shortage)
    }

    /// An operation has ended; its process learns of it at its next turn. Memory lent to read or receive goes back.
    pub(crate) fn finish(&mut self, host: usize, pending: Pending, result: Result<Output, IoErrorKind>) {
        let handle = pending.op.handle();
        let token = pending.token;
        if result.is_ok() {
            count(&mut self.hosts[host].process.stats, &pending.op, &result);
        }
        // A read shows what was written, which the trace has seen: its first bytes tell enough, and recoveries read a lot.
        let (buf, at, most) = match pending.op {
            Op::Read { buf, .. } => (Some(buf), 0, READ_SAMPLE_BYTES),
            Op::Recv { buf, at, .. } => (Some(buf), at, usize::MAX),
            _ => (None, 0, 0),
        };
        let (outcome, content) = match (&result, &buf) {
            (Ok(Output::Bytes(bytes)), Some(buf)) => (*bytes as u64, buf.bytes().get(at..at + (*bytes).min(most)).map_or(0, hash_bytes)),
            (Ok(Output::Opened(handle) | Output::File(handle, _)), _) => (u64::from(handle.0), 0),
            (Ok(_), _) => (0, 0),
            (Err(kind), _) => ((1 << 63) | *kind as u64, 0),
        };
        self.record(host, "done", token.0, outcome, content);
        let result = result.map_err(|kind| IoError { kind, errno: 0 });
        self.hosts[host].process.ready.push_back((Completion { token, result, buf }, handle));
    }
}

fn count(stats: &mut IoStats, op: &Op, result: &Result<Output, IoErrorKind>) {
    let bytes = if let Ok(Output::Bytes(bytes)) = result { *bytes as u64 } else { 0 };
    match op {
        Op::Read { .. } => stats.bytes_read += bytes,
        Op::Recv { .. } => stats.bytes_received += bytes,
        Op::Send { gather, .. } => stats.bytes_sent += gather.len() as u64,
        Op::Write { data, durable, .. } => {
            stats.bytes_written += data.bytes().len() as u64;
            stats.flushes += u64::from(*durable);
            stats.flush_calls += u64::from(*durable);
        }
        Op::Sync { .. } | Op::SyncDir { .. } => {
            stats.flushes += 1;
            stats.flush_calls += 1;
        }
        _ => {}
    }
}

/// Panics at what the contract of [`kontiki_io::Op`] forbids: better here, with a seed, than on a board.
fn check(process: &Process, handle: Handle, op: &Op) {
    let resource = process.resource(handle);
    let fits = match op {
        Op::Identify { .. }
        | Op::Lock { .. }
        | Op::List { .. }
        | Op::Open { .. }
        | Op::Rename { .. }
        | Op::Unlink { .. }
        | Op::SyncDir { .. } => {
            matches!(resource, Resource::Directory(_))
        }
        Op::Allocate { .. } | Op::Read { .. } | Op::Write { .. } | Op::Sync { .. } => matches!(resource, Resource::File(_)),
        Op::Accept { .. } => matches!(resource, Resource::Listener(_)),
        Op::Recv { .. } | Op::Send { .. } => matches!(resource, Resource::Socket { .. }),
        Op::Shutdown { .. } => matches!(resource, Resource::Socket { .. } | Resource::Listener(_)),
        Op::OpenDir { .. } | Op::Listen { .. } | Op::Resolve { .. } | Op::Connect { .. } | Op::Close { .. } => true,
    };
    assert!(fits, "{:?} on handle {}, which is {resource:?}", OpClass::of(op), handle.0);
    if let Op::Close { .. } = op {
        let outstanding = process.handles.get(&handle.0).map_or(0, |entry| entry.outstanding);
        assert!(outstanding == 0, "handle {} is closed with {outstanding} operations outstanding on it", handle.0);
    }
    if let Op::Recv { .. } | Op::Send { .. } = op {
        let class = OpClass::of(op);
        let mut others = process.operations.values().filter(|other| other.class == class);
        let doubled = others.any(|other| other.op.handle() == Some(handle));
        assert!(!doubled, "two {class:?} are outstanding on connection {}", handle.0);
    }
}
