//! A process's messages, on standard error.
//!
//! They only tell: what reads them may be slow, gone, or on a full disk, and the replica goes on. So they are written
//! by a thread of their own behind a bounded queue, what does not fit is dropped, and an error of writing is nobody's.

use std::sync::{Mutex, PoisonError};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::output::complain;

/// Lines that wait to be written. A reader that stands still costs so many, and no memory beyond.
const MAX_LINES: usize = 4096;

static WRITER: Mutex<Option<WorkerGuard>> = Mutex::new(None);

/// Sends events to standard error, as RUST_LOG says, until the guard is dropped: then what is queued is written, as far
/// as somebody reads it within a moment.
#[derive(Debug)]
#[must_use]
pub(crate) struct Messages(());

impl Messages {
    /// Starts it.
    pub(crate) fn to_stderr() -> Messages {
        let filter = match std::env::var("RUST_LOG") {
            Err(_) => EnvFilter::new("info"),
            Ok(text) => EnvFilter::try_new(&text).unwrap_or_else(|error| {
                complain(format_args!("RUST_LOG={text} is not a filter ({error}); using info"));
                EnvFilter::new("info")
            }),
        };
        let (writer, guard) =
            NonBlockingBuilder::default().buffered_lines_limit(MAX_LINES).lossy(true).thread_name("messages").finish(std::io::stderr());
        *WRITER.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
        // (An error of writing is not told either: it would be told to the very same place, with a panic.)
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(false).log_internal_errors(false);
        // Fails only if one is installed already, which would be as good.
        drop(subscriber.try_init());
        Messages(())
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        flush();
    }
}

/// Writes what is queued, before a process ends without unwinding. Nothing is told after it.
pub(crate) fn flush() {
    drop(WRITER.lock().unwrap_or_else(PoisonError::into_inner).take());
}
