//! A few figures of the bare machine, taken in a second or two: what a replica's latency is made of.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use kontiki_io::{Backend, IoData, Op};
use serde::Serialize;

use crate::world::{Failed, World, failed};

/// Repetitions of each small measurement.
const TIMES: usize = 200;
/// Bytes of a message on loopback.
const MESSAGE: usize = 64;
/// Bytes that are checksummed.
const CHECKSUM_BYTES: usize = 32 << 20;

/// Middle values, in microseconds unless they say otherwise.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Probe {
    /// A durable write of 4 KiB into a file that was written before.
    pub write_4k_us: f64,
    /// 99 of 100 such writes took no longer.
    pub write_4k_p99_us: f64,
    /// A durable write of 256 KiB.
    pub write_256k_us: f64,
    /// 64 bytes to another thread over loopback and back.
    pub round_trip_us: f64,
    /// CRC-32, in GB/s.
    pub checksum_gb_per_s: f64,
}

/// Measures, with files in `dir`.
///
/// # Errors
/// No file can be written there, or there is no loopback.
pub fn probe(dir: &Path) -> Result<Probe, Failed> {
    let (write_4k_us, write_4k_p99_us) = writes(&dir.join("probe-4k"), 4 << 10)?;
    let (write_256k_us, _) = writes(&dir.join("probe-256k"), 256 << 10)?;
    Ok(Probe {
        write_4k_us,
        write_4k_p99_us,
        write_256k_us,
        round_trip_us: round_trip().map_err(|e| failed("loopback", e))?,
        checksum_gb_per_s: checksum(),
    })
}

impl Probe {
    /// Names and values, for people.
    pub fn rows(&self) -> [(&'static str, String); 4] {
        [
            ("durable write, 4 KiB", format!("{:.0} us, p99 {:.0} us", self.write_4k_us, self.write_4k_p99_us)),
            ("durable write, 256 KiB", format!("{:.0} us", self.write_256k_us)),
            ("round trip on loopback", format!("{:.0} us", self.round_trip_us)),
            ("checksum", format!("{:.1} GB/s", self.checksum_gb_per_s)),
        ]
    }
}

/// p50 and p99 of durable writes of `bytes`, one after the other.
fn writes(dir: &Path, bytes: usize) -> Result<(f64, f64), Failed> {
    let mut world = World::open((16 * bytes).next_power_of_two(), Backend::Auto)?;
    let rounds = 16;
    let (_, files) = world.written_files(dir, 1, (rounds * bytes) as u64)?;
    let mut times = Vec::with_capacity(TIMES);
    for n in 0..TIMES {
        let Some(mut block) = world.ring.reserve(bytes) else { return Err(failed("write", "no memory")) };
        block.bytes_mut().fill(n as u8);
        let data = IoData::Span(kontiki_mem::Span::one(block.freeze()));
        let start = Instant::now();
        world.call("write", Op::Write { file: files[0], offset: (n % rounds * bytes) as u64, data, durable: true })?;
        times.push(start.elapsed());
    }
    drop(world);
    // The file is in the way of nobody, but its directory may be kept.
    drop(std::fs::remove_dir_all(dir));
    Ok((quantile_us(&mut times, 0.5), quantile_us(&mut times, 0.99)))
}

fn round_trip() -> std::io::Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let addr = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let mut message = [0; MESSAGE];
        while socket.read_exact(&mut message).is_ok() {
            socket.write_all(&message)?;
        }
        Ok(())
    });
    let mut socket = TcpStream::connect(addr)?;
    socket.set_nodelay(true)?;
    let mut message = [7; MESSAGE];
    let mut times = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let start = Instant::now();
        socket.write_all(&message)?;
        socket.read_exact(&mut message)?;
        times.push(start.elapsed());
    }
    drop(socket);
    // It ended with the connection.
    drop(echo.join());
    Ok(quantile_us(&mut times, 0.5))
}

fn checksum() -> f64 {
    let bytes = vec![0x5a; 1 << 20];
    let start = Instant::now();
    for _ in 0..CHECKSUM_BYTES / bytes.len() {
        std::hint::black_box(crc32fast::hash(std::hint::black_box(&bytes)));
    }
    CHECKSUM_BYTES as f64 / start.elapsed().as_nanos().max(1) as f64
}

fn quantile_us(times: &mut [Duration], q: f64) -> f64 {
    times.sort_unstable();
    let at = ((times.len() - 1) as f64 * q).round() as usize;
    times.get(at).map_or(0.0, |time| (time.as_nanos() as f64 / 100.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_finds_something_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let found = probe(dir.path()).unwrap();
        assert!(found.write_4k_us > 0.0 && found.write_4k_p99_us >= found.write_4k_us && found.round_trip_us > 0.0);
        assert!(found.checksum_gb_per_s > 0.0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
