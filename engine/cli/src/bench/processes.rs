//! The processes of a bench: of this very program, told what to do on standard input, and heard on standard output.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::events::Event;
use super::load::Load;
use super::recorder::Measured;
use super::watch::Watch;
use crate::cluster::POLL;
use crate::error::Error;
use crate::output::complain;
use crate::signals::StopFlag;

/// How long a process may take to end when asked.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Which of them.
pub(super) type Place = usize;

struct Process {
    name: String,
    input: Option<ChildStdin>,
    /// Absent if somebody else keeps it.
    child: Option<Child>,
    pid: u32,
}

/// All of them. Dropping it kills those that it started.
pub(super) struct Processes<'a> {
    all: Vec<Process>,
    sender: Sender<(Place, Event)>,
    events: Receiver<(Place, Event)>,
    stop: &'a StopFlag,
}

impl<'a> Processes<'a> {
    pub(super) fn new(stop: &'a StopFlag) -> Processes<'a> {
        let (sender, events) = mpsc::channel();
        Processes { all: Vec::new(), sender, events, stop }
    }

    /// Starts one; its messages for people go to a file in `dir`.
    pub(super) fn spawn(&mut self, name: &str, arguments: &[OsString], dir: &Path) -> Result<Place, Error> {
        let path = dir.join(format!("{}.log", name.replace(' ', "-")));
        let log = File::create(&path).map_err(Error::file("cannot make", &path))?;
        let program = std::env::current_exe().map_err(Error::system("cannot find this program's own file"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(Error::system("cannot start a process"))?;
        let (pid, input, output) = (child.id(), child.stdin.take(), child.stdout.take());
        let child = Process { name: name.to_owned(), input: None, child: Some(child), pid };
        self.hear(child, input, output)
    }

    /// Listens to one that somebody else has started and looks after.
    pub(super) fn adopt(&mut self, name: &str, pid: u32, input: ChildStdin, output: impl Read + Send + 'static) -> Result<Place, Error> {
        self.hear(Process { name: name.to_owned(), input: None, child: None, pid }, Some(input), Some(output))
    }

    fn hear(&mut self, process: Process, input: Option<ChildStdin>, output: Option<impl Read + Send + 'static>) -> Result<Place, Error> {
        let (place, sender) = (self.all.len(), self.sender.clone());
        let name = process.name.clone();
        self.all.push(Process { input, ..process });
        let read = move || {
            let lines = output.map(|output| BufReader::new(output).lines().map_while(Result::ok));
            for line in lines.into_iter().flatten() {
                match serde_json::from_str(&line) {
                    Ok(event) => {
                        if sender.send((place, event)).is_err() {
                            return;
                        }
                    }
                    Err(error) => complain(format_args!("{name} said what is no event ({error}): {line}")),
                }
            }
        };
        thread::Builder::new().name("events".into()).spawn(read).map_err(Error::system("cannot start a thread"))?;
        Ok(place)
    }

    /// Name and process id of each.
    pub(super) fn pids(&self) -> Vec<(String, u32)> {
        self.all.iter().map(|process| (process.name.clone(), process.pid)).collect()
    }

    /// Says a word to each of these.
    pub(super) fn say(&mut self, places: &[Place], word: &str) -> Result<(), Error> {
        for &place in places {
            let input = self.all.get_mut(place).and_then(|process| process.input.as_mut());
            input
                .map_or(Err(std::io::ErrorKind::NotFound.into()), |input| writeln!(input, "{word}"))
                .map_err(Error::system("cannot speak to a process of the bench"))?;
        }
        Ok(())
    }

    /// Waits for an event that `wanted` holds for.
    pub(super) fn wait(&mut self, deadline: Instant, late: &str, mut wanted: impl FnMut(Place, &Event) -> bool) -> Result<Event, Error> {
        loop {
            let (from, event) = self.next(deadline, late, &mut || {})?;
            if let Event::Lost { reason } = event {
                return Err(self.lost(from, &reason));
            }
            if wanted(from, &event) {
                return Ok(event);
            }
        }
    }

    /// Hears those with the load until all have finished; `extra` is how much longer than asked they may take.
    pub(super) fn load(&mut self, places: &[Place], load: &Load, extra: Duration, watch: &mut Watch) -> Result<Measured, Error> {
        let deadline = Instant::now() + load.warmup() + load.length() + extra;
        let mut all: Option<Measured> = None;
        let mut left = places.len();
        while left > 0 {
            let (from, event) = self.next(deadline, "the load does not end", &mut || watch.look())?;
            if !places.contains(&from) {
                continue;
            }
            match event {
                Event::Started => watch.start(),
                Event::Finished(measured) => {
                    left -= 1;
                    match &mut all {
                        None => all = Some(*measured),
                        Some(all) => all.add(&measured),
                    }
                }
                Event::Lost { reason } => return Err(self.lost(from, &reason)),
                _ => {}
            }
        }
        all.ok_or_else(|| Error::Finding("nobody had a load".into()))
    }

    fn lost(&self, from: Place, reason: &str) -> Error {
        let name = self.all.get(from).map_or("", |process| &process.name);
        Error::Finding(format!("{name} could not run the load to its end: {reason}; run it again"))
    }

    fn next(&mut self, deadline: Instant, late: &str, look: &mut dyn FnMut()) -> Result<(Place, Event), Error> {
        loop {
            if let Ok(event) = self.events.recv_timeout(POLL) {
                return Ok(event);
            }
            look();
            self.stop.check()?;
            for process in &mut self.all {
                let ended = process.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
                if let Some(status) = ended.filter(|status| !status.success()) {
                    return Err(Error::Finding(format!("{} of the bench ended by itself ({status})", process.name)));
                }
            }
            if Instant::now() > deadline {
                return Err(Error::TooSlow(late.to_owned()));
            }
        }
    }

    /// Closes every standard input, and waits until those that were started here have ended.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        self.all.iter_mut().for_each(|process| drop(process.input.take()));
        let deadline = Instant::now() + END_LIMIT;
        for process in &mut self.all {
            while let Some(child) = &mut process.child {
                match child.try_wait().map_err(Error::system("cannot look after a process"))? {
                    Some(_) => process.child = None,
                    None if Instant::now() > deadline => return Err(Error::TooSlow(format!("{} does not end", process.name))),
                    None => thread::sleep(POLL),
                }
            }
        }
        Ok(())
    }
}

impl Drop for Processes<'_> {
    fn drop(&mut self) {
        for child in self.all.iter_mut().filter_map(|process| process.child.as_mut()) {
            // Both fail only if it has ended already.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
