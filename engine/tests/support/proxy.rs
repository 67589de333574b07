//! A link between two nodes that can be cut: bytes stand still while it is, as behind a pulled cable.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// Whether the link is cut, and who waits for it to heal.
#[derive(Default)]
struct Line {
    cut: Mutex<bool>,
    healed: Condvar,
    closed: AtomicBool,
}

impl Line {
    /// Returns once bytes may pass. False: the test is over.
    fn pass(&self) -> bool {
        let mut cut = self.cut.lock().unwrap();
        while *cut && !self.closed.load(Ordering::SeqCst) {
            cut = self.healed.wait(cut).unwrap();
        }
        !self.closed.load(Ordering::SeqCst)
    }
}

pub struct Proxy {
    pub addr: SocketAddr,
    line: Arc<Line>,
}

impl Proxy {
    pub fn to(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let line = Arc::new(Line::default());
        let shared = Arc::clone(&line);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(near), true) = (stream, shared.pass()) else { return };
                let Ok(far) = TcpStream::connect(target) else { continue };
                for (from, to) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                    let line = Arc::clone(&shared);
                    thread::spawn(move || forward(from, to, &line));
                }
            }
        });
        Proxy { addr, line }
    }

    pub fn cut(&self, cut: bool) {
        *self.line.cut.lock().unwrap() = cut;
        self.line.healed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.line.closed.store(true, Ordering::SeqCst);
        self.line.healed.notify_all();
        // The accept loop looks at the flag when somebody knocks.
        drop(TcpStream::connect(self.addr));
    }
}

fn forward(mut from: TcpStream, mut to: TcpStream, line: &Line) {
    from.set_nodelay(true).unwrap();
    // So that the thread notices the end of the test on an idle connection.
    from.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut bytes = [0; 64 << 10];
    while line.pass() {
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(n) => {
                if !line.pass() || to.write_all(&bytes[..n]).is_err() {
                    break;
                }
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    drop(to.shutdown(std::net::Shutdown::Both));
    drop(from.shutdown(std::net::Shutdown::Both));
}
