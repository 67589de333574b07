//! The README's program, as it stands there, on three nodes: one leads and counts, and the others say who does.
//!
//! It is compiled into this test, which starts itself three times as that program.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, clippy::disallowed_types)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

mod program {
    include!("../examples/linked/program.rs");

    pub(super) fn run() {
        main().unwrap();
    }
}

mod support;

const AS_PROGRAM: &str = "KONTIKI_TEST_LINK_IT";

/// Ends with the test, however that ends.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() {
    if std::env::var_os(AS_PROGRAM).is_some() {
        return program::run();
    }
    the_program_is_the_readmes();
    it_runs_on_three_nodes();
    println!("test the_readmes_program ... ok");
}

fn the_program_is_the_readmes() {
    let (readme, example) = (include_str!("../../README.md"), include_str!("../examples/linked/program.rs"));
    let section = readme.split("## Link it").nth(1).unwrap();
    let block = section.split("```rust,no_run\n").nth(1).unwrap().split("```").next().unwrap();
    assert_eq!(block, example, "README.md and engine/examples/linked/program.rs");
}

fn it_runs_on_three_nodes() {
    let dir = tempfile::tempdir().unwrap();
    let addrs: Vec<String> = support::free_addrs(3).iter().map(ToString::to_string).collect();
    let (tell, said) = mpsc::channel();
    let mut processes = Vec::new();
    for id in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(AS_PROGRAM, "1")
            .arg(id.to_string())
            .arg(dir.path().join(format!("n{id}")))
            .args(&addrs)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, tell) = (BufReader::new(child.stdout.take().unwrap()).lines(), tell.clone());
        processes.push(Process(child));
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(tell.send((id, line)))));
    }
    // One counts, and both others name it.
    let (mut counts, mut named) = (Vec::new(), Vec::new());
    let next = || said.recv_timeout(support::LONG).expect("it says something every second");
    while counts.is_empty() || !counts.iter().any(|leader| named.iter().filter(|(_, by)| by == leader).count() >= 2) {
        let (id, line) = next();
        if line.starts_with("entry ") && line.contains(" -> [") {
            counts.push(id);
        } else if let Some(leader) = line.strip_prefix("node ").and_then(|line| line.split(' ').next()?.parse::<i32>().ok()) {
            named.push((id, leader));
            named.sort_unstable();
            named.dedup();
        }
    }
    // Where it is stopped another goes on.
    let leader = *counts.last().unwrap();
    processes.remove(leader as usize - 1);
    while !matches!(next(), (id, line) if id != leader && line.starts_with("entry ")) {}
    for process in &mut processes {
        assert!(process.0.try_wait().unwrap().is_none(), "the others run on");
    }
}
