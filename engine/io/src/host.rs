//! Host names, checked and bounded; and looking them up, on threads of their own.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bell::Bell;
use crate::limits::{MAX_ADDRESSES, MAX_HOST_BYTES, MAX_LOOKUPS};
use crate::{Wake, errno};

/// The name of a host, or its address as text: what a lookup is asked for. At most [`MAX_HOST_BYTES`] bytes.
///
/// ```
/// use kontiki_io::HostName;
///
/// assert_eq!(HostName::new("board-3.local").unwrap().as_str(), "board-3.local");
/// assert!(HostName::new("board 3").is_none());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(heapless::String<MAX_HOST_BYTES>);

impl HostName {
    /// A name, unless it is empty, too long, or holds what no resolver takes: white space, control characters, `/`.
    pub fn new(name: &str) -> Option<HostName> {
        let bad = |letter: char| letter.is_whitespace() || letter.is_control() || letter == '/';
        if name.is_empty() || name.contains(bad) {
            return None;
        }
        heapless::String::try_from(name).ok().map(HostName)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address that it is, if it is one and need not be looked up. An IPv6 address may stand in brackets.
    pub fn address(&self) -> Option<IpAddr> {
        let text = self.as_str();
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        match bare {
            Some(bare) => bare.parse().ok().map(IpAddr::V6),
            None => text.parse().ok(),
        }
    }
}

impl std::fmt::Debug for HostName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self.as_str(), f)
    }
}

impl std::fmt::Display for HostName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A lookup's outcome: addresses, or the system's number.
pub(crate) type Found = Result<Vec<SocketAddr>, i32>;

/// What asks. The system's resolver, but for tests.
pub(crate) type Lookup = fn(&HostName, u16) -> Found;

#[derive(Debug, Default)]
struct Finished {
    lookups: Mutex<Vec<(u32, Found)>>,
    /// Something lies in `lookups`: spares the reactor the lock.
    any: AtomicBool,
}

impl Finished {
    fn lock(&self) -> MutexGuard<'_, Vec<(u32, Found)>> {
        // Nothing that panics is done under it.
        self.lookups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lookups under way and waiting. Each runs on a thread of its own that ends with it, so a resolver that does not
/// answer holds up neither files nor other names, and costs nothing while nobody asks.
#[derive(Debug)]
pub(crate) struct Resolver {
    lookup: Lookup,
    running: usize,
    waiting: VecDeque<(u32, HostName, u16)>,
    finished: Arc<Finished>,
    bell: Arc<Bell>,
}

impl Resolver {
    pub(crate) fn new(bell: Arc<Bell>) -> Resolver {
        Resolver::with(bell, ask_system)
    }

    fn with(bell: Arc<Bell>, lookup: Lookup) -> Resolver {
        Resolver { lookup, running: 0, waiting: VecDeque::new(), finished: Arc::default(), bell }
    }

    /// Begins a lookup, or queues it behind [`MAX_LOOKUPS`] others. The error is the system's number: no thread is to
    /// be had.
    pub(crate) fn submit(&mut self, slot: u32, host: HostName, port: u16) -> Result<(), i32> {
        if self.running >= MAX_LOOKUPS {
            self.waiting.push_back((slot, host, port));
            return Ok(());
        }
        self.start(slot, host, port)
    }

    fn start(&mut self, slot: u32, host: HostName, port: u16) -> Result<(), i32> {
        let (finished, bell, lookup) = (Arc::clone(&self.finished), Arc::clone(&self.bell), self.lookup);
        // Never joined: it may take minutes, and holds nothing but its name.
        std::thread::Builder::new()
            .name("kontiki-lookup".into())
            .spawn(move || {
                let found = lookup(&host, port);
                finished.lock().push((slot, found));
                finished.any.store(true, Ordering::Release);
                bell.wake();
            })
            .map_err(|error| errno::number(&error))?;
        self.running += 1;
        Ok(())
    }

    /// The next lookup that has ended, if one has. Costs one load if none has.
    pub(crate) fn next(&mut self) -> Option<(u32, Found)> {
        if !self.finished.any.load(Ordering::Acquire) {
            return None;
        }
        let next = {
            let mut lookups = self.finished.lock();
            let next = lookups.pop();
            self.finished.any.store(!lookups.is_empty(), Ordering::Release);
            next
        }?;
        self.running -= 1;
        // Without a thread, those that wait are told so, one by one, as others end.
        if let Some((slot, host, port)) = self.waiting.pop_front()
            && let Err(errno) = self.start(slot, host, port)
        {
            self.running += 1;
            self.finished.lock().push((slot, Err(errno)));
            self.finished.any.store(true, Ordering::Release);
        }
        Some(next)
    }
}

/// By the system's resolver: the hosts file, DNS, whatever it is told to use.
fn ask_system(host: &HostName, port: u16) -> Found {
    match (host.as_str(), port).to_socket_addrs() {
        Ok(found) => bounded(found),
        // Only a failure of the system's has a number; a name that is not known has none.
        Err(error) => Err(error.raw_os_error().unwrap_or(libc::ENOENT)),
    }
}

/// The first of each address, as many as are asked for.
fn bounded(found: impl Iterator<Item = SocketAddr>) -> Found {
    let mut addresses = Vec::new();
    for address in found {
        if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err(libc::ENOENT) } else { Ok(addresses) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Condvar, LazyLock};

    use super::*;

    #[test]
    fn a_host_name_is_bounded_and_plain() {
        for bad in ["", " ", "a b", "a\n", "nul\0", "a/b", "a\u{7f}", &"x".repeat(MAX_HOST_BYTES + 1)] {
            assert!(HostName::new(bad).is_none(), "{bad:?}");
        }
        for good in ["a", "board-3.local", "größe", "10.0.0.1", "[::1]", "fe80::1%eth0", &"x".repeat(MAX_HOST_BYTES)] {
            assert_eq!(HostName::new(good).as_ref().map(HostName::as_str), Some(good));
        }
    }

    #[test]
    fn an_address_need_not_be_looked_up() {
        for (text, expected) in
            [("10.0.0.1", Some("10.0.0.1")), ("::1", Some("::1")), ("[::1]", Some("::1")), ("[10.0.0.1]", None), ("board", None)]
        {
            assert_eq!(HostName::new(text).unwrap().address(), expected.map(|ip| ip.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn an_answer_is_bounded_and_each_address_stands_once() {
        let all = (0..40u8).map(|n| SocketAddr::from(([10, 0, 0, n / 2], 1)));
        let found = bounded(all).unwrap();
        assert_eq!(found.len(), MAX_ADDRESSES);
        assert_eq!(found[1], SocketAddr::from(([10, 0, 0, 1], 1)));
        assert_eq!(bounded(std::iter::empty()), Err(libc::ENOENT));
    }

    static OPEN: LazyLock<(Mutex<bool>, Condvar)> = LazyLock::new(Default::default);

    /// A resolver that hangs for every name but `quick` until it is let go on.
    fn hangs(host: &HostName, port: u16) -> Found {
        if host.as_str() != "quick" {
            let mut open = OPEN.0.lock().unwrap();
            while !*open {
                open = OPEN.1.wait(open).unwrap();
            }
        }
        Ok(vec![([127, 0, 0, 1], port).into()])
    }

    #[test]
    fn a_name_that_hangs_holds_up_no_other_and_too_many_wait_their_turn() {
        let mut resolver = Resolver::with(Arc::new(Bell::new().unwrap()), hangs);
        let next = |resolver: &mut Resolver| loop {
            match resolver.next() {
                Some(found) => break found,
                None => std::thread::yield_now(),
            }
        };
        let slow = HostName::new("slow").unwrap();
        for slot in 0..MAX_LOOKUPS as u32 - 1 {
            resolver.submit(slot, slow.clone(), 1).unwrap();
        }
        let quick = MAX_LOOKUPS as u32;
        resolver.submit(quick, HostName::new("quick").unwrap(), 7).unwrap();
        assert_eq!(next(&mut resolver), (quick, Ok(vec![([127, 0, 0, 1], 7).into()])));
        for slot in 100..110 {
            resolver.submit(slot, slow.clone(), 1).unwrap();
        }
        assert_eq!(resolver.running, MAX_LOOKUPS);
        assert_eq!(resolver.waiting.len(), 9);
        *OPEN.0.lock().unwrap() = true;
        OPEN.1.notify_all();
        let mut ended: Vec<u32> = (0..MAX_LOOKUPS - 1 + 10).map(|_| next(&mut resolver).0).collect();
        ended.sort_unstable();
        assert_eq!(ended, (0..MAX_LOOKUPS as u32 - 1).chain(100..110).collect::<Vec<_>>());
        assert_eq!((resolver.running, resolver.waiting.len()), (0, 0));
    }
}
