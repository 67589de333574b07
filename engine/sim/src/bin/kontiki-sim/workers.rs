//! Worlds side by side: a thread runs one seed at a time, and no two threads share anything but the next number.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use kontiki_sim::{Extent, Report, run};

/// One seed, run.
pub(crate) struct Finished {
    pub(crate) report: Report,
    /// The hash of a second run, if one was asked for and differs.
    pub(crate) differs: Option<u64>,
    /// What it took of a processor.
    pub(crate) cpu: Duration,
}

/// Which seeds to run, and how.
pub(crate) struct Work {
    pub(crate) seeds: Range<u64>,
    /// Of these, the ones that were run before.
    pub(crate) done: Vec<u64>,
    pub(crate) extent: Extent,
    pub(crate) twice: bool,
    pub(crate) jobs: usize,
    /// No seed is begun after this.
    pub(crate) until: Option<Instant>,
}

/// Runs all of it, and hands what is finished to `judge` (on this thread, in the order in which they finish) until that says `false`.
pub(crate) fn run_all(work: Work, mut judge: impl FnMut(Finished) -> bool) {
    let Work { seeds, done, extent, twice, jobs, until } = work;
    let queue = Mutex::new(seeds);
    let next = || {
        let mut queue = queue.lock().ok()?;
        let in_time = until.is_none_or(|until| Instant::now() < until);
        in_time.then(|| queue.find(|seed| !done.contains(seed)))?
    };
    std::thread::scope(|scope| {
        let (sender, finished): (_, Receiver<Finished>) = channel();
        for _ in 0..jobs {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                while let Some(seed) = next() {
                    // Whoever listened has heard enough.
                    if sender.send(run_one(seed, extent, twice)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for one in finished {
            if !judge(one) {
                break;
            }
        }
    });
}

fn run_one(seed: u64, extent: Extent, twice: bool) -> Finished {
    let began = cpu_time();
    let report = run(seed, extent);
    let cpu = cpu_time().saturating_sub(began);
    let again = twice.then(|| run(seed, extent).trace_hash);
    Finished { differs: again.filter(|&hash| hash != report.trace_hash), report, cpu }
}

/// What this thread has had of a processor; real time where the kernel does not say.
fn cpu_time() -> Duration {
    static BEGAN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let ns = told.and_then(|text| text.split_whitespace().next()?.parse().ok());
    ns.map_or_else(|| BEGAN.get_or_init(Instant::now).elapsed(), Duration::from_nanos)
}
