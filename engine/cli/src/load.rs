//! A load over TCP: some clients, each with a number of proposals in flight on one connection.
//!
//! Every entry is proposed once. What a client was told of it is kept; a proposal whose outcome nobody
//! can tell is never repeated.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crate::connection::{Answer, Connection};
use crate::demo::stalls;
use crate::error::Error;
use crate::outcomes::Outcomes;
use crate::target::{Rota, Target};
use crate::timeline::Timeline;

/// How long a client waits for a connection.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// A connection that owes answers and gives none for so long is given up; what it owes is unknown.
const SILENCE_LIMIT: Duration = Duration::from_secs(5);
/// The pause after a refusal: a cluster without a leader is asked a few hundred times a second, not more.
const PAUSE: Duration = Duration::from_millis(3);
/// How long to wait for an answer before looking whether to stop.
const LOOK: Duration = Duration::from_millis(50);
/// Most silences that are kept of a run.
const MAX_SILENCES: usize = 10_000;
/// "Not yet", as a time in nanoseconds.
const NEVER: u64 = u64::MAX;

/// Writes the entry of a number into the buffer, which comes empty.
pub(crate) type Make = Box<dyn FnMut(u64, &mut Vec<u8>) + Send>;

/// Gives each client, by id, what makes its entries.
pub(crate) type Maker = dyn Fn(u32) -> Make;

/// What to do.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The replicas.
    pub(crate) targets: Vec<Target>,
    /// Clients, each with a connection and a thread.
    pub(crate) clients: u32,
    /// Proposals in flight, over all clients.
    pub(crate) in_flight: usize,
    /// About how long it will run, for the timeline.
    pub(crate) length: Duration,
    /// Slots of the timeline.
    pub(crate) slots: u32,
    /// Latencies are recorded of proposals made from here on, since the start.
    pub(crate) record_from: Duration,
}

/// What everybody may look at while the load runs.
#[derive(Debug)]
pub(crate) struct Pulse {
    start: Instant,
    start_wall: SystemTime,
    stop: AtomicBool,
    acknowledged: AtomicU64,
    /// Acknowledgements of what was proposed from here on are watched for, in nanoseconds since the start.
    watch_from: AtomicU64,
    /// When the first such came.
    watched: AtomicU64,
    /// When the newest acknowledgement of all came.
    last: AtomicU64,
    /// Stretches of [`stalls::LEAST_NS`] and more between two acknowledgements, in nanoseconds since the start.
    silences: Mutex<Vec<(u64, u64)>>,
    /// The longest stretch between two acknowledgements, in nanoseconds.
    longest: AtomicU64,
}

impl Pulse {
    /// When the load began.
    pub(crate) fn start(&self) -> Instant {
        self.start
    }

    /// The same, as messages are dated.
    pub(crate) fn start_wall(&self) -> SystemTime {
        self.start_wall
    }

    /// Acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// From now on, watch for the first acknowledgement of something proposed from now on.
    pub(crate) fn watch(&self) {
        self.watched.store(NEVER, Ordering::SeqCst);
        self.watch_from.store(self.now_ns(), Ordering::SeqCst);
    }

    /// How long after [`watch`](Pulse::watch) the first such acknowledgement came.
    pub(crate) fn watched(&self) -> Option<Duration> {
        let at = self.watched.load(Ordering::SeqCst);
        (at != NEVER).then(|| Duration::from_nanos(at.saturating_sub(self.watch_from.load(Ordering::SeqCst))))
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(NEVER)
    }

    fn silence(&self, from_ns: u64, to_ns: u64) {
        if to_ns.saturating_sub(from_ns) >= stalls::LEAST_NS {
            let mut silences = self.silences.lock().unwrap_or_else(PoisonError::into_inner);
            if silences.len() < MAX_SILENCES {
                silences.push((from_ns, to_ns));
            }
        }
    }

    /// All silences, up to now.
    fn silences(&self) -> Vec<(Duration, Duration)> {
        self.silence(self.last.load(Ordering::Relaxed), self.now_ns());
        let silences = self.silences.lock().unwrap_or_else(PoisonError::into_inner);
        silences.iter().map(|&(from, to)| (Duration::from_nanos(from), Duration::from_nanos(to))).collect()
    }

    fn acknowledge(&self, sent_ns: u64, now_ns: u64) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        let last = self.last.fetch_max(now_ns, Ordering::Relaxed);
        let silence = now_ns.saturating_sub(last);
        if silence > self.longest.load(Ordering::Relaxed) {
            self.longest.fetch_max(silence, Ordering::Relaxed);
        }
        self.silence(last, now_ns);
        if sent_ns >= self.watch_from.load(Ordering::Relaxed) {
            self.watched.fetch_min(now_ns, Ordering::Relaxed);
        }
    }
}

/// A load that runs.
#[derive(Debug)]
pub(crate) struct Load {
    pulse: Arc<Pulse>,
    clients: Vec<JoinHandle<Client>>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Done {
    /// Outcomes by client.
    pub(crate) outcomes: BTreeMap<u32, Outcomes>,
    /// Latencies of what was acknowledged.
    pub(crate) timeline: Timeline,
    /// From the start to the last answer.
    pub(crate) length: Duration,
    /// The longest stretch between two acknowledgements.
    pub(crate) longest_silence: Duration,
    /// Stretches between two acknowledgements that were long enough to be told.
    pub(crate) silences: Vec<(Duration, Duration)>,
    /// The last thing that a client was told that is no ordinary refusal.
    pub(crate) complaint: Option<String>,
}

impl Load {
    /// Starts the clients.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(crate) fn start(plan: &Plan, maker: &Maker) -> Result<Load, Error> {
        let pulse = Arc::new(Pulse {
            start: Instant::now(),
            start_wall: SystemTime::now(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            watch_from: AtomicU64::new(NEVER),
            watched: AtomicU64::new(NEVER),
            last: AtomicU64::new(0),
            silences: Mutex::new(Vec::new()),
            longest: AtomicU64::new(0),
        });
        let count = plan.clients.clamp(1, u32::try_from(plan.in_flight.max(1)).unwrap_or(u32::MAX));
        let mut load = Load { pulse: Arc::clone(&pulse), clients: Vec::new() };
        for id in 0..count {
            let share = plan.in_flight / count as usize + usize::from((id as usize) < plan.in_flight % count as usize);
            let client = Client {
                id,
                targets: plan.targets.clone(),
                share,
                record_from: plan.record_from,
                outcomes: Outcomes::with_capacity(1 << 16),
                timeline: Timeline::new(plan.length, plan.slots),
                last: Duration::ZERO,
                complaint: None,
                pause: false,
                pulse: Arc::clone(&pulse),
            };
            let make = maker(id);
            let run = move || client.run(make);
            let thread = thread::Builder::new().name(format!("client-{id}")).spawn(run).map_err(Error::system("cannot start a thread"))?;
            load.clients.push(thread);
        }
        Ok(load)
    }

    /// What to look at while it runs.
    pub(crate) fn pulse(&self) -> Arc<Pulse> {
        Arc::clone(&self.pulse)
    }

    /// Stops proposing, waits for the answers still owed, and gathers what came of it.
    ///
    /// # Errors
    /// A client panicked: a mistake of this program.
    pub(crate) fn finish(mut self) -> Result<Done, Error> {
        self.pulse.stop.store(true, Ordering::SeqCst);
        let mut done: Option<Done> = None;
        for thread in self.clients.drain(..) {
            let client = thread.join().map_err(|_| Error::Finding("a client of the load panicked".into()))?;
            let done = done.get_or_insert_with(|| Done {
                outcomes: BTreeMap::new(),
                timeline: client.timeline.clone_empty(),
                length: Duration::ZERO,
                longest_silence: Duration::from_nanos(self.pulse.longest.load(Ordering::Relaxed)),
                silences: self.pulse.silences(),
                complaint: None,
            });
            done.timeline.add(&client.timeline);
            done.length = done.length.max(client.last);
            done.complaint = done.complaint.take().or(client.complaint);
            done.outcomes.insert(client.id, client.outcomes);
        }
        done.ok_or_else(|| Error::Finding("the load had no clients".into()))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.pulse.stop.store(true, Ordering::SeqCst);
    }
}

/// One client.
#[derive(Debug)]
struct Client {
    id: u32,
    targets: Vec<Target>,
    share: usize,
    record_from: Duration,
    outcomes: Outcomes,
    timeline: Timeline,
    last: Duration,
    complaint: Option<String>,
    /// Something was refused because the replica is busy: the next proposals wait a little.
    pause: bool,
    pulse: Arc<Pulse>,
}

/// A proposal that was sent and not answered.
#[derive(Clone, Copy, Debug)]
struct Pending {
    number: u64,
    floor: u64,
    sent_ns: u64,
    answered: bool,
}

/// Where to go on after a connection is done with.
enum Next {
    Stop,
    Anywhere,
    At(SocketAddr),
}

impl Client {
    fn run(mut self, mut make: Make) -> Client {
        // Clients begin at different replicas, so that all hints are exercised.
        let mut rota = Rota::new(std::mem::take(&mut self.targets), self.id as usize);
        let mut hint = None;
        while !self.stopping() {
            let Ok(addr) = rota.next(hint.take()) else {
                thread::sleep(PAUSE);
                continue;
            };
            match Connection::open(addr, CONNECT_LIMIT) {
                Err(_) => {
                    rota.failed(addr);
                    thread::sleep(PAUSE);
                }
                Ok(mut connection) => match self.talk(&mut connection, &mut make) {
                    Next::Stop => break,
                    Next::At(addr) => hint = Some(addr),
                    Next::Anywhere => thread::sleep(PAUSE),
                },
            }
        }
        self
    }

    fn stopping(&self) -> bool {
        self.pulse.stop.load(Ordering::Relaxed)
    }

    /// Proposes on one connection until it fails, its replica refuses, or the load ends. What is pending
    /// when it fails stays unknown.
    fn talk(&mut self, connection: &mut Connection, make: &mut Make) -> Next {
        let mut pending: VecDeque<Pending> = VecDeque::with_capacity(self.share);
        let mut first_request = 0;
        let mut open = 0;
        let mut buffer = Vec::new();
        let mut leave: Option<Next> = None;
        let mut heard = Instant::now();
        let mut welcome = false;
        loop {
            if self.stopping() && leave.is_none() {
                leave = Some(Next::Stop);
            }
            if std::mem::take(&mut self.pause) {
                thread::sleep(PAUSE);
            }
            // A replica that has not taken anything yet is asked with one proposal, not with all.
            let room = if welcome { self.share } else { 1 };
            while leave.is_none() && open < room {
                let (floor, number) = (self.outcomes.floor(), self.outcomes.propose());
                buffer.clear();
                make(number, &mut buffer);
                let sent_ns = self.pulse.now_ns();
                let Ok(request) = connection.queue(&buffer) else { return Next::Anywhere };
                if pending.is_empty() {
                    first_request = request;
                }
                pending.push_back(Pending { number, floor, sent_ns, answered: false });
                open += 1;
            }
            if open == 0 || connection.flush().is_err() {
                return leave.unwrap_or(Next::Anywhere);
            }
            let mut wait = LOOK;
            loop {
                match connection.receive(wait) {
                    Err(_) => return leave.unwrap_or(Next::Anywhere),
                    Ok(None) => break,
                    Ok(Some((request, answer))) => {
                        heard = Instant::now();
                        wait = Duration::ZERO;
                        let place = request.checked_sub(first_request).and_then(|n| pending.get_mut(usize::try_from(n).ok()?));
                        // An answer to nothing, or a second one, is a broken replica: leave it, what is pending is unknown.
                        let Some(place) = place.filter(|p| !p.answered) else { return Next::Anywhere };
                        place.answered = true;
                        open -= 1;
                        let proposal = *place;
                        while pending.front().is_some_and(|p| p.answered) {
                            pending.pop_front();
                            first_request += 1;
                        }
                        welcome |= matches!(answer, Answer::Applied { .. });
                        if let Some(next) = self.answered(proposal, answer) {
                            leave.get_or_insert(next);
                        }
                        if open == 0 {
                            break;
                        }
                    }
                }
            }
            if heard.elapsed() > SILENCE_LIMIT {
                return leave.unwrap_or(Next::Anywhere);
            }
        }
    }

    /// Notes an answer; says where to go if this replica will not do.
    fn answered(&mut self, p: Pending, answer: Answer) -> Option<Next> {
        match answer {
            Answer::Applied { index, .. } => {
                let now_ns = self.pulse.now_ns();
                self.outcomes.acknowledge(p.number, index, p.floor);
                self.pulse.acknowledge(p.sent_ns, now_ns);
                let (sent, now) = (Duration::from_nanos(p.sent_ns), Duration::from_nanos(now_ns));
                self.last = now;
                if sent >= self.record_from {
                    self.timeline.record(now, now.saturating_sub(sent));
                }
                None
            }
            Answer::NotApplied => {
                self.outcomes.refuse(p.number);
                Some(Next::Anywhere)
            }
            Answer::NotLeader(hint) => {
                self.outcomes.refuse(p.number);
                Some(hint.map_or(Next::Anywhere, Next::At))
            }
            Answer::Busy => {
                self.outcomes.refuse(p.number);
                self.pause = true;
                None
            }
            Answer::NoRoom(text) | Answer::NoClients(text) => {
                self.outcomes.refuse(p.number);
                self.complaint = Some(text);
                Some(Next::Anywhere)
            }
            Answer::Unknown => Some(Next::Anywhere),
            Answer::Refused(text) | Answer::Other(text) => {
                // Nobody knows what a replica did that answers so.
                self.complaint = Some(text);
                Some(Next::Anywhere)
            }
        }
    }
}
