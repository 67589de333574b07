//! The programs of the peers, next to this one.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Builds them, if cargo started this program, and returns where they are.
pub(crate) fn build(peers: &[&str]) -> Result<Vec<PathBuf>> {
    let own = std::env::current_exe()?;
    let profile = own.parent().context("a program is in a directory")?;
    if let (Some(cargo), Some(target)) = (std::env::var_os("CARGO"), profile.parent()) {
        let mut command = Command::new(cargo);
        command.args(["build", "--release", "--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")]);
        command.arg("--target-dir").arg(target);
        command.args(peers.iter().flat_map(|name| ["-p".into(), format!("peer-{name}")]));
        if !command.status()?.success() {
            bail!("the peers cannot be built");
        }
    }
    let all: Vec<PathBuf> = peers.iter().map(|name| profile.join(format!("peer-{name}"))).collect();
    match all.iter().find(|p| !p.exists()) {
        Some(missing) => bail!("{} is not there: start this with `cargo run --release -p peers`", missing.display()),
        None => Ok(all),
    }
}
