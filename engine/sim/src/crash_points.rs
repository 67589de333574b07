//! Every storage operation is a crash point: the power is cut there in every way the unflushed sectors, names and lengths allow, the node
//! starts on what is left, and must hold what it had promised.

mod cut;
mod node;
mod record;
mod recovery;
mod script;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::str::FromStr;

pub use cut::Cut;
pub use script::Script;

use crate::disk::Disk;
use crate::disk::inode::KnownBlocks;
use crate::random::Random;
use crate::world::trace::Counts;
use node::Kept;
use record::Ballot;
use recovery::{Recovered, check, life_of, recover};
use script::{Life, Point};

/// How much to try.
#[derive(Clone, Copy, Debug)]
pub struct Depth {
    /// Cuts drawn at random where there is too much unflushed for all subsets.
    pub sample: usize,
    /// Only so many crash points of each kind of operation are tried in each life, drawn from those where something is unflushed: where nothing is, a cut
    /// changes nothing. Zero: all points are tried.
    pub of_each: usize,
    /// Of each so-many-th disk that was recovered, the power is cut during that recovery as well; zero: of none.
    pub again_every: u64,
}

/// One state: which life of the watched node, which crash point of it, which cut; then the same of the recovery from that, if it was cut too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateId {
    life: usize,
    cuts: Vec<(usize, Cut)>,
}

impl fmt::Display for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.life)?;
        self.cuts.iter().try_for_each(|(point, cut)| write!(f, "/{point}/{cut}"))
    }
}

impl FromStr for StateId {
    type Err = String;

    fn from_str(text: &str) -> Result<StateId, String> {
        let number = |part: Option<&str>| part.and_then(|part| part.parse().ok()).ok_or_else(|| format!("`{text}`: a number is missing"));
        let mut parts = text.split('/');
        let life = number(parts.next())?;
        let mut cuts = Vec::new();
        while let Some(point) = parts.next() {
            let cut = parts.next().ok_or_else(|| format!("`{text}`: a cut is missing"))?;
            cuts.push((number(Some(point))?, cut.parse()?));
        }
        Ok(StateId { life, cuts })
    }
}

/// A state from which a node did not come back as it must.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Which.
    pub state: StateId,
    /// What the disk was doing.
    pub operation: &'static str,
    /// What was wrong.
    pub what: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "state {} ({}): {}", self.state, self.operation, self.what)
    }
}

/// What came of one workload.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Storage operations that started or ended, twice the operations.
    pub operations: u64,
    /// Crash points that were tried: those, and each promise given between two of them.
    pub points: u64,
    /// Ways to cut the power that were tried.
    pub tried: u64,
    /// Different disks with different promises of the state machine's among them: so many were recovered.
    pub distinct: u64,
    /// States of those tried in which the node came up as one that recovers.
    pub recovering: u64,
    /// States tried that were cuts of a recovery.
    pub again: u64,
    /// What the workload made happen.
    pub happened: Counts,
    /// The first states that failed.
    pub lost: Vec<Lost>,
    /// How many failed.
    pub losses: u64,
}

/// So many failures are told of.
const MOST_TOLD: usize = 5;

/// Which disk, which state of the state machine, and how far the log is known to be durable where that matters.
type Key = (u64, Kept, Kept);

struct Enumeration<'a> {
    script: &'a Script,
    depth: Depth,
    found: Found,
    recovered: HashMap<Key, Result<Rc<Recovered>, Rc<str>>>,
}

/// Tries all crash points of a workload.
///
/// # Errors
/// The workload itself went wrong.
pub fn enumerate(script: &Script, depth: Depth) -> Result<Found, String> {
    let lives = script.run()?;
    let mut enumeration = Enumeration { script, depth, found: Found::default(), recovered: HashMap::new() };
    for (n, life) in lives.iter().enumerate() {
        enumeration.found.note(life);
        enumeration.try_life(life, &StateId { life: n, cuts: Vec::new() }, depth.of_each);
    }
    Ok(enumeration.found)
}

/// Tries one state again, and says how it fails, if it does.
///
/// # Errors
/// The workload itself went wrong, or has no such state.
pub fn replay(script: &Script, state: &StateId) -> Result<Option<String>, String> {
    let mut lives = script.run()?;
    let none = || format!("there is no state {state}");
    let mut life = if state.life < lives.len() { lives.swap_remove(state.life) } else { return Err(none()) };
    for (n, (point, cut)) in state.cuts.iter().enumerate() {
        let point = life.points.get(*point).ok_or_else(none)?;
        let mut disk = point.disk.clone();
        disk.settle();
        let disk = cut.of(&disk);
        let recovered = match guarded(|| recover(script, &disk, point.kept, point.within)) {
            Ok(recovered) => recovered,
            Err(what) => return Ok(Some(what)),
        };
        if let Err(what) = check(script, &life.record, point, &recovered) {
            return Ok(Some(what));
        }
        if n + 1 < state.cuts.len() {
            life = life_of(script, &disk, point.kept, point.within, &recovered)?;
        }
    }
    Ok(None)
}

/// A broken assertion is a failure like any other.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        Err(format!("panic: {}", text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()))
    })
}

impl Found {
    fn note(&mut self, life: &Life) {
        self.operations += life.operations;
        let record = &life.record;
        self.happened.add("lives of the watched node");
        self.happened.add_many("frames written", record.logs.len() as u64 - 1);
        self.happened.add_many("frames that superseded entries", record.superseding);
        self.happened.add_many("snapshots written", record.written);
        self.happened.add_many("snapshots fetched", record.fetched);
        self.happened.add_many("hard states written, a copy each", record.ballots.len() as u64 - 1);
        let terms: HashSet<u64> = record.ballots.iter().map(|ballot: &Ballot| ballot.term).collect();
        self.happened.add_many("terms", terms.len() as u64);
        self.happened.add_many("lives with log writes that overlap", u64::from(record.most_writes > 1));
        let mut before = None;
        for point in &life.points {
            if before != Some(point.operation) {
                self.happened.add(point.operation.name());
            }
            before = Some(point.operation);
        }
    }

    fn lose(&mut self, state: StateId, point: &Point, what: &str) {
        self.losses += 1;
        if self.lost.len() < MOST_TOLD {
            self.lost.push(Lost { state, operation: point.operation.name(), what: what.to_owned() });
        }
    }
}

/// The numbers of the points of a life that are tried, ascending.
fn chosen(life: &Life, of_each: usize, seed: u64) -> Vec<usize> {
    if of_each == 0 {
        return (0..life.points.len()).collect();
    }
    let mut kinds: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (n, point) in life.points.iter().enumerate() {
        let mut disk = point.disk.clone();
        disk.settle();
        if !disk.unflushed().is_empty() {
            kinds.entry(point.operation.name()).or_default().push(n);
        }
    }
    let mut random = Random::new(seed);
    let mut chosen: Vec<usize> = kinds
        .into_values()
        .flat_map(|mut points| {
            let drawn = (0..of_each.min(points.len())).map(|_| points.swap_remove(random.below(points.len() as u64) as usize));
            drawn.collect::<Vec<_>>()
        })
        .collect();
    chosen.sort_unstable();
    chosen
}

impl Enumeration<'_> {
    fn try_life(&mut self, life: &Life, path: &StateId, of_each: usize) {
        let nested = !path.cuts.is_empty();
        for n in chosen(life, of_each, self.script.seed) {
            let Some(point) = life.points.get(n) else { continue };
            self.found.points += u64::from(!nested);
            let mut disk = point.disk.clone();
            disk.settle();
            let mut known = KnownBlocks::default();
            disk.remember(&mut known);
            let sample = if nested { self.depth.sample / 8 } else { self.depth.sample };
            for cut in Cut::all(&disk.unflushed(), sample, self.script.seed + n as u64) {
                let mut state = path.clone();
                state.cuts.push((n, cut));
                self.found.again += u64::from(nested);
                self.try_state(life, point, cut.of(&disk), &known, state);
            }
        }
    }

    fn try_state(&mut self, life: &Life, point: &Point, disk: Disk, known: &KnownBlocks, state: StateId) {
        self.found.tried += 1;
        let key = (disk.fingerprint(known), point.kept, recovery::start_alone(self.script, point.kept, point.within));
        let is_new = !self.recovered.contains_key(&key);
        if is_new {
            let recovered = guarded(|| recover(self.script, &disk, point.kept, point.within));
            let recovered = recovered.map(Rc::new).map_err(Rc::from);
            self.found.distinct += 1;
            self.recovered.insert(key, recovered);
        }
        let Some(recovered) = self.recovered.get(&key).cloned() else { return };
        let recovered = match recovered {
            Ok(recovered) => recovered,
            Err(what) => return self.found.lose(state, point, &what),
        };
        self.found.recovering += u64::from(recovered.recovering);
        if let Err(what) = check(self.script, &life.record, point, &recovered) {
            return self.found.lose(state, point, &what);
        }
        let every = self.depth.again_every;
        if is_new && state.cuts.len() == 1 && every > 0 && self.found.distinct.is_multiple_of(every) {
            match guarded(|| life_of(self.script, &disk, point.kept, point.within, &recovered)) {
                Ok(life) => self.try_life(&life, &state, 0),
                Err(what) => self.found.lose(state, point, &what),
            }
        }
    }
}
