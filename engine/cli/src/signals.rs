//! Signals: orderly at the first that asks to stop, at once at the second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kontiki::Proposer;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::error::Error;
use crate::log;

/// What asks a replica to stop. SIGHUP is among them: a terminal that is closed is no reason to end without a word.
const ASK_TO_STOP: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];
/// What asks a replica for its status.
const ASK_FOR_STATUS: [i32; 2] = [SIGUSR1, SIGUSR2];
/// What ends a command that has something to clear away first.
const INTERRUPT: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];

/// A signal by its name.
fn name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
}

/// Lets errors that would come as a signal come as the error of the call that met them: a file that may not grow
/// any more (RLIMIT_FSIZE) is then EFBIG. (A closed pipe is EPIPE from the start, by Rust's own runtime.)
///
/// # Errors
/// The handler cannot be installed.
pub(crate) fn errors_are_errors() -> Result<(), Error> {
    let ignored = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGXFSZ, ignored).map(drop).map_err(Error::system("cannot install a signal handler"))
}

/// Whether this process was started with SIGHUP ignored, as `nohup` does: then it stays so.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (SIGHUP - 1)) != 0)
}

/// Becomes true once the process is asked to stop; asked a second time, it ends at once.
#[derive(Clone, Debug)]
pub(crate) struct StopFlag(Arc<AtomicBool>);

impl StopFlag {
    /// Starts to listen.
    ///
    /// # Errors
    /// The handlers cannot be installed.
    pub(crate) fn install() -> Result<StopFlag, Error> {
        errors_are_errors()?;
        let flag = Arc::new(AtomicBool::new(false));
        let nohup = hangup_is_ignored();
        for signal in INTERRUPT.into_iter().filter(|&signal| !(nohup && signal == SIGHUP)) {
            // In this order: the second signal finds the flag set by the first. (As process 1 the default does nothing, so
            // the exit is our own.)
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&flag))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
                .map_err(Error::system("cannot install a signal handler"))?;
        }
        Ok(StopFlag(flag))
    }

    /// Whether to stop.
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// [`Error::Interrupted`] if to stop.
    ///
    /// # Errors
    /// That.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.is_set() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// How far a replica's process has come, as far as signals go.
#[derive(Debug)]
enum Stage {
    /// Its log is being read; nothing runs yet.
    Starting,
    /// It runs.
    Running(Proposer),
    /// It was asked to stop.
    Stopping,
}

/// What a replica's process does with signals, from its first moment on. (Without handlers, process 1 of a container
/// would not even end by them.)
#[derive(Clone, Debug)]
pub(crate) struct Attendant(Arc<Mutex<Stage>>);

impl Attendant {
    /// Starts to listen, on a thread of its own.
    ///
    /// # Errors
    /// The handlers or the thread cannot be had.
    pub(crate) fn install() -> Result<Attendant, Error> {
        errors_are_errors()?;
        let nohup = hangup_is_ignored();
        let wanted = ASK_TO_STOP.iter().chain(&ASK_FOR_STATUS).filter(|&&signal| !(nohup && signal == SIGHUP));
        let mut signals = Signals::new(wanted).map_err(Error::system("cannot install a signal handler"))?;
        let attendant = Attendant(Arc::new(Mutex::new(Stage::Starting)));
        let listening = attendant.clone();
        let listen = move || signals.forever().for_each(|signal| listening.on(signal));
        std::thread::Builder::new().name("signals".into()).spawn(listen).map_err(Error::system("cannot start a thread"))?;
        Ok(attendant)
    }

    /// The replica runs: from now on it is asked, and not just ended.
    pub(crate) fn running(&self, proposer: Proposer) {
        *self.stage() = Stage::Running(proposer);
    }

    fn stage(&self) -> std::sync::MutexGuard<'_, Stage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on(&self, signal: i32) {
        let mut stage = self.stage();
        if ASK_FOR_STATUS.contains(&signal) {
            if let Stage::Running(proposer) = &*stage {
                tell_status(proposer.clone());
            }
            return;
        }
        match std::mem::replace(&mut *stage, Stage::Stopping) {
            Stage::Starting => {
                // Nothing was answered yet, so there is nothing to end in order.
                tracing::info!(signal = name(signal), "stopped before the log was open");
                log::flush();
                std::process::exit(0);
            }
            Stage::Running(proposer) => {
                tracing::info!(signal = name(signal), "stopping; a second signal ends the process at once");
                proposer.stop();
            }
            Stage::Stopping => {
                tracing::warn!(signal = name(signal), "ended at once, as by a kill: the next start reads the log's end for itself");
                log::flush();
                std::process::exit(128 + signal);
            }
        }
    }
}

/// Writes the status into the log. On a thread of its own: a replica that hangs does not answer, and must still hear
/// the next signal.
fn tell_status(proposer: Proposer) {
    static ASKED: AtomicBool = AtomicBool::new(false);
    if ASKED.swap(true, Ordering::SeqCst) {
        return;
    }
    let ask = move || {
        if let Some(status) = proposer.status() {
            tracing::info!(
                role = ?status.role,
                term = status.term.0,
                leader = ?status.leader.map(|leader| leader.id.0),
                commit = status.commit.0,
                applied = status.applied.0,
                durable = status.durable.0,
                recovering = status.recovering,
                disk_full = status.disk_full,
                log_full = status.log_full,
                shortage = status.shortage.map(tracing::field::display),
                "status"
            );
        }
        ASKED.store(false, Ordering::SeqCst);
    };
    if std::thread::Builder::new().name("status".into()).spawn(ask).is_err() {
        ASKED.store(false, Ordering::SeqCst);
    }
}
