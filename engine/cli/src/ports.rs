//! Free ports on loopback for replicas that must know each other's address before they start.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Lowest port tried.
const LOWEST: u16 = 10_000;

/// Addresses that are free now. Nothing keeps them free: whoever uses them must be ready to try others.
///
/// They are sought below the range from which the system takes the ports of outgoing connections, so
/// that a replica that is down for a moment does not find its port taken by somebody's connection.
///
/// # Errors
/// No port could be bound.
pub(crate) fn free(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    let mut kept = Vec::with_capacity(count);
    let below = ephemeral_low();
    let mut tries = 0;
    while kept.len() < count {
        tries += 1;
        let port = if below > LOWEST && tries < 100 * count { LOWEST + (random() % u64::from(below - LOWEST)) as u16 } else { 0 };
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(listener) => kept.push(listener),
            Err(error) if port == 0 => return Err(error),
            Err(_) => {}
        }
    }
    // All were held until here, so they differ.
    kept.iter().map(TcpListener::local_addr).collect()
}

/// A number that nobody can foretell: from the keys that the standard library draws for its hash maps.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Where the system's range of outgoing ports starts.
fn ephemeral_low() -> u16 {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn free_ports_differ_and_can_be_bound() {
        let mut ports = free(9).unwrap();
        assert_eq!(ports.len(), 9);
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 9);
    }
}
