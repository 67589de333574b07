//! `kontiki serve`: one replica of the built-in key-value machine.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use kontiki::{Config, ConfigError, Node, Proposer, StateMachine};

use crate::demo::ledger::Ledger;
use crate::error::Error;
use crate::kv::{self, KeyValue};
use crate::log::Messages;
use crate::node_file::CLIENTS;
use crate::output::say;
use crate::signals::Attendant;

/// Longest configuration file that is read, in bytes: what is longer is another file, or a device.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// What a stranger starts from.
const EXAMPLE: &str = include_str!("node.example.toml");

/// Run one replica of the built-in key-value store until it is asked to stop.
///
/// Give every replica its own file: they differ in `id` and `dir`. Messages go to standard error;
/// RUST_LOG sets how many (default: info). A reader of them that is slow or gone loses some; the replica goes on.
///
/// Signals: SIGINT, SIGTERM and SIGHUP stop it in order (SIGHUP is ignored under nohup); a second one ends it at once,
/// as by a kill, which loses nothing that was acknowledged. SIGUSR1 and SIGUSR2 write its status into the messages.
///
/// Exit codes: 0 stopped when asked, 1 failed, 2 bad configuration, 128 and the signal's number if ended at once.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// The replica's configuration, TOML. See --example-config
    #[arg(long, value_name = "FILE", required_unless_present = "example_config")]
    config: Option<PathBuf>,
    /// Print a configuration file with comments, to start from, and exit
    #[arg(long)]
    example_config: bool,
    /// With --example-config: the member of the example that it is for; each has a directory of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=3), requires = "example_config")]
    id: u8,
    /// Stop when standard input ends
    #[arg(long, hide = true)]
    until_eof: bool,
    /// Run the demo's ledger instead of the key-value store, and write it to this file
    #[arg(long, hide = true, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Go on from what the ledger holds already
    #[arg(long, hide = true)]
    resume: bool,
}

/// Runs the command.
///
/// # Errors
/// Bad configuration, or why the node could not start or stopped.
pub(crate) fn run(command: Serve) -> Result<(), Error> {
    let Some(path) = command.config.filter(|_| !command.example_config) else {
        say(example(command.id).trim_end());
        return Ok(());
    };
    let attendant = Attendant::install()?;
    let _messages = Messages::to_stderr();
    let mut config = read_config(&path)?;
    match command.ledger {
        Some(ledger) if command.resume => serve(config, Ledger::resume(&ledger)?, command.until_eof, &attendant),
        Some(ledger) => serve(config, Ledger::create(&ledger)?, command.until_eof, &attendant),
        None => {
            if config.reply_bytes < kv::REPLY_BYTES {
                tracing::info!(reply_bytes = kv::REPLY_BYTES, "reply_bytes raised to what the key-value machine needs");
                config.reply_bytes = kv::REPLY_BYTES;
            }
            serve(config, KeyValue::default(), command.until_eof, &attendant)
        }
    }
}

fn serve<M: StateMachine>(config: Config, machine: M, until_eof: bool, attendant: &Attendant) -> Result<(), Error> {
    let (id, listen) = (config.id, config.listen_addr());
    let node = Node::builder(config).start(machine)?;
    if let Some(listen) = listen {
        tracing::info!(node = id, %listen, "ready");
    }
    attendant.running(node.proposer());
    if until_eof {
        stop_at_eof(node.proposer())?;
    }
    // Returns when asked to stop, and when the node stops by itself: then with the reason.
    node.proposer().wait_stopped()?;
    node.shutdown()?;
    tracing::info!(node = id, "stopped");
    Ok(())
}

/// Stops the node when whoever holds the other end of standard input is gone.
fn stop_at_eof(proposer: Proposer) -> Result<(), Error> {
    let wait = move || {
        let mut ignored = [0; 64];
        while matches!(std::io::stdin().lock().read(&mut ignored), Ok(1..)) {}
        proposer.stop();
    };
    std::thread::Builder::new().name("stdin".into()).spawn(wait).map_err(Error::system("cannot start a thread"))?;
    Ok(())
}

/// The example, for the member of this id.
fn example(id: u8) -> String {
    EXAMPLE.replacen("\nid = 1\n", &format!("\nid = {id}\n"), 1).replace("kontiki-data-1", &format!("kontiki-data-{id}"))
}

/// Reads and checks a configuration file.
///
/// # Errors
/// It cannot be read, or says something that cannot be.
pub(crate) fn read_config(path: &Path) -> Result<Config, Error> {
    let bad = |reason: String| ConfigError::File { path: path.to_owned(), reason };
    let mut text = String::new();
    let file = File::open(path).map_err(|e| bad(e.to_string()))?;
    file.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text).map_err(|e| bad(e.to_string()))?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(bad(format!("longer than {MAX_CONFIG_BYTES} bytes: this is no configuration")).into());
    }
    let wrong = |source| Error::ConfigFile { path: path.to_owned(), source };
    let mut config = Config::from_toml(&text).map_err(wrong)?;
    if !text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("max_clients")) {
        // The library serves no clients unless it is told to; this program is there for them.
        config.max_clients = CLIENTS;
        config.check().map_err(wrong)?;
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_example_is_a_configuration() {
        let config = Config::from_toml(EXAMPLE).unwrap();
        assert_eq!(config.members.len(), 3);
        assert_eq!(config.reply_bytes, kv::REPLY_BYTES);
    }

    #[test]
    fn a_file_that_does_not_speak_of_clients_serves_them_and_one_that_says_none_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n.toml");
        for (line, clients) in [("", CLIENTS), ("max_clients = 0\n", 0), ("max_clients = 7\n", 7)] {
            std::fs::write(&path, EXAMPLE.replace("max_clients = 32\n", line)).unwrap();
            assert_eq!(read_config(&path).unwrap().max_clients, clients);
        }
    }

    #[test]
    fn the_example_is_for_any_of_its_members() {
        for id in 1..=3 {
            let config = Config::from_toml(&example(id)).unwrap();
            assert_eq!((config.id, config.members.len()), (id.into(), 3));
            assert!(config.dir.ends_with(format!("kontiki-data-{id}")));
        }
    }

    #[test]
    fn the_example_names_every_key_with_its_default() {
        let defaults = Config::default();
        // What is commented out is the default: with all comments off it is still the same configuration.
        let uncommented: String =
            EXAMPLE.lines().map(|l| l.strip_prefix("# ").filter(|l| l.contains(" = ")).unwrap_or(l)).flat_map(|l| [l, "\n"]).collect();
        let config = Config::from_toml(&uncommented).unwrap();
        let expected = Config {
            cluster: config.cluster,
            id: config.id,
            members: config.members.clone(),
            listen: config.listen,
            dir: config.dir.clone(),
            reply_bytes: kv::REPLY_BYTES,
            max_clients: CLIENTS,
            ..defaults
        };
        assert_eq!(config, expected);
        let keys = [
            "listen",
            "election_min_ms",
            "election_max_ms",
            "election_limit_ms",
            "heartbeat_ms",
            "max_entry_bytes",
            "max_frame_bytes",
            "max_in_flight",
            "ring_bytes",
            "window_bytes",
            "window_frames",
            "hold_back_ms",
            "max_clients",
            "admin",
            "segment_bytes",
            "retention_bytes",
            "snapshot_log_bytes",
            "snapshot_bytes_per_s",
            "hold_max_s",
            "writes_in_flight",
            "medium",
            "backend",
            "apply_on",
            "seed",
        ];
        for key in keys {
            assert!(uncommented.contains(&format!("\n{key} = ")), "{key}");
        }
    }
}
