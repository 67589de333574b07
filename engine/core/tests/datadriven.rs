//! The scripts of `tests/scripts`, most of them named for the hazard that they reproduce. The script language is
//! described in `tests/harness/script.rs`.
//!
//! `REWRITE=1 cargo test -p kontiki-core --test datadriven` writes what happened into the scripts; read the
//! difference before you keep it.
#![allow(clippy::unwrap_used)]

mod harness;

use harness::{Cluster, MS, Options, script};

#[test]
fn scripts() {
    datadriven::walk("tests/scripts", |file| {
        let mut cluster: Option<Cluster> = None;
        file.run(|case| -> Result<String, String> {
            let mut case = case.clone();
            let directive = case.directive.clone();
            let mut number = |key: &str, otherwise: u64| case.try_take_arg(key).map(|value| value.unwrap_or(otherwise));
            let error = |error| format!("{error}");
            match directive.as_str() {
                // A fresh cluster, all nodes up. `forged`: the script makes leaders up, so the nodes need not agree.
                "cluster" => {
                    let mut options = Options::of(number("n", 3).map_err(error)?);
                    options.seed = number("seed", 1).map_err(error)?;
                    options.window_bytes = number("window_bytes", options.window_bytes).map_err(error)?;
                    options.window_frames = number("window_frames", options.window_frames.into()).map_err(error)? as u32;
                    options.news_ns = number("news_ms", 0).map_err(error)? * MS;
                    let mut fresh = Cluster::new(options);
                    fresh.oracle.forged = case.take_flag("forged").map_err(error)?;
                    cluster = Some(fresh);
                    Ok(String::new())
                }
                "run" => script::run(cluster.as_mut().ok_or("no cluster yet")?, &case.input),
                other => Err(format!("{other}: unknown directive")),
            }
        });
    });
}
