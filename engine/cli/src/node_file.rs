//! The configuration files of replicas that this program starts itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use kontiki::Config;

use crate::error::Error;

/// Keys that the program sets itself, because they must agree between the replicas it starts.
const RESERVED: [&str; 5] = ["cluster", "id", "members", "listen", "dir"];

/// Clients that a replica serves whose file does not say how many.
pub(crate) const CLIENTS: usize = 32;

/// What the replicas of a self-started cluster have in common, besides who they are: keys and values of
/// their configuration, as TOML.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings(BTreeMap<String, String>);

impl Settings {
    /// Sets a key to a value that is TOML as it stands.
    pub(crate) fn set(&mut self, key: &str, value: impl ToString) {
        self.0.insert(key.to_owned(), value.to_string());
    }

    /// Takes `KEY=VALUE` pairs from the command line. A value that is not a TOML number or boolean is taken as text.
    ///
    /// # Errors
    /// A pair that is none, or a key that the program sets itself.
    pub(crate) fn set_all(&mut self, pairs: &[String]) -> Result<(), Error> {
        for pair in pairs {
            let (key, value) = pair.split_once('=').ok_or_else(|| Error::Usage(format!("--set {pair}: must be KEY=VALUE")))?;
            let (key, value) = (key.trim(), value.trim());
            if RESERVED.contains(&key) {
                return Err(Error::Usage(format!("--set {key}: this command sets that key itself")));
            }
            let plain = value.parse::<i64>().is_ok() || value.parse::<bool>().is_ok();
            self.set(key, if plain { value.to_owned() } else { quoted(value) });
        }
        Ok(())
    }

    /// Sizes that follow from the longest entry and the number in flight, where the defaults would not do.
    pub(crate) fn fit(&mut self, entry_bytes: usize, in_flight: usize) {
        let defaults = Config::default();
        if entry_bytes > defaults.max_entry_bytes {
            // A frame holds a few entries, so that batches remain batches.
            let frame = (4 * entry_bytes + 4096).next_multiple_of(4096).min(kontiki::limits::MAX_FRAME_BYTES);
            let ring = (16 * frame).next_power_of_two().max(defaults.ring_bytes);
            self.set("max_entry_bytes", entry_bytes);
            self.set("max_frame_bytes", frame.max(defaults.max_frame_bytes));
            self.set("ring_bytes", ring);
            self.set("window_bytes", ring / 2);
        }
        if in_flight > defaults.max_in_flight {
            self.set("max_in_flight", in_flight);
        }
    }

    /// The file of replica `id` of `members`, with its log in `dir`.
    pub(crate) fn file(&self, cluster: u128, id: u64, members: &[(u64, SocketAddr)], dir: &Path) -> String {
        let mut text = format!("cluster = \"{cluster:032x}\"\nid = {id}\ndir = {}\n", quoted(&dir.to_string_lossy()));
        if !self.0.contains_key("max_clients") {
            // The library serves none unless it is told to.
            text.push_str(&format!("max_clients = {CLIENTS}\n"));
        }
        for (key, value) in &self.0 {
            text.extend([key, " = ", value, "\n"]);
        }
        for (id, addr) in members {
            text.push_str(&format!("\n[[members]]\nid = {id}\naddr = \"{addr}\"\n"));
        }
        text
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn members() -> Vec<(u64, SocketAddr)> {
        vec![(1, "127.0.0.1:7001".parse().unwrap()), (2, "127.0.0.1:7002".parse().unwrap())]
    }

    #[test]
    fn the_library_reads_what_is_written() {
        let mut settings = Settings::default();
        settings.set_all(&["medium=safe".into(), "heartbeat_ms = 30".into()]).unwrap();
        let config = Config::from_toml(&settings.file(0xabc, 2, &members(), Path::new("/tmp/a \"b\"\n"))).unwrap();
        assert_eq!((config.cluster, config.id, config.heartbeat_ms), (0xabc, 2, 30));
        assert_eq!(config.medium, kontiki::Medium::Safe);
        assert_eq!(config.dir, Path::new("/tmp/a \"b\"\n"));
        assert_eq!(config.members.len(), 2);
    }

    #[test]
    fn any_entry_size_and_number_in_flight_fits() {
        for bytes in [16, 65_537, 300_000, 1 << 20] {
            let mut settings = Settings::default();
            settings.fit(bytes, 100_000);
            let config = Config::from_toml(&settings.file(1, 1, &members(), Path::new("d"))).unwrap();
            assert!(config.max_entry_bytes >= bytes && config.max_in_flight >= 100_000);
        }
    }

    #[test]
    fn bad_pairs_are_named() {
        for (pair, name) in [("heartbeat_ms", "KEY=VALUE"), ("dir=/x", "dir"), ("id=4", "id")] {
            let error = Settings::default().set_all(&[pair.into()]).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(error.exit_code(), crate::error::EXIT_USAGE);
        }
    }
}
