//! The planted mistakes apply to the code as it stands, and each is in the table of `docs/testing.md`. Nothing is built
//! for it: that each is caught is for `hw-tests/planted/run`.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The root of the checkout; `None`, and why, where there is none: patches apply to files, and which those are is for git to
/// say.
fn checkout() -> Result<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().canonicalize().unwrap();
    let asked = Command::new("git").current_dir(&root).args(["rev-parse", "--show-toplevel"]).output();
    let asked = asked.map_err(|error| format!("no git: {error}"))?;
    let top = String::from_utf8_lossy(&asked.stdout).trim_end().to_owned();
    match asked.status.success() && Path::new(&top).canonicalize().is_ok_and(|top| top == root) {
        true => Ok(root),
        false => Err(format!("{} is no git checkout", root.display())),
    }
}

/// Why a patch does not apply.
fn misfit(root: &Path, patch: &str) -> Option<String> {
    let mut git = Command::new("git");
    git.current_dir(root).args(["apply", "--check", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut git = git.spawn().unwrap();
    git.stdin.take().unwrap().write_all(patch.as_bytes()).unwrap();
    let said = git.wait_with_output().unwrap();
    (!said.status.success()).then(|| String::from_utf8_lossy(&said.stderr).into_owned())
}

/// The patches, by name.
fn patches() -> BTreeMap<String, String> {
    let planted = Path::new(env!("CARGO_MANIFEST_DIR")).join("planted");
    let within = |dir: &Path| std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let files = within(&planted).into_iter().filter(|path| path.is_dir()).flat_map(|room| within(&room));
    files.map(|file| (file.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&file).unwrap())).collect()
}

#[test]
fn every_planted_mistake_applies_to_the_code_as_it_stands() {
    let root = match checkout() {
        Ok(root) => root,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    let patches = patches();
    assert!(!patches.is_empty());
    let misfits: Vec<String> = patches.iter().filter_map(|(name, patch)| Some(format!("{name}\n{}", misfit(&root, patch)?))).collect();
    assert!(misfits.is_empty(), "plant them again where their code stands now:\n{}", misfits.join("\n"));
    // One that does not is found.
    let (_, patch) = patches.first_key_value().unwrap();
    let broken = patch.replace("\n ", "\n what is not there ");
    assert!(misfit(&root, patch).is_none() && misfit(&root, &broken).is_some());
}

/// Each has a number and a row of its own, says which test catches it, and what is planted.
#[test]
fn every_planted_mistake_is_in_the_table() {
    let table = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/testing.md")).unwrap();
    let mut rows: Vec<&str> = table.lines().filter_map(|line| line.split(" | ").nth(1)?.strip_prefix('`')?.strip_suffix('`')).collect();
    rows.retain(|row| row.starts_with(|c: char| c.is_ascii_digit()));
    let patches = patches();
    let names: Vec<&str> = patches.keys().map(|name| name.strip_suffix(".patch").unwrap()).collect();
    let numbers: BTreeSet<&str> = names.iter().filter_map(|name| name.split('-').next()).collect();
    assert_eq!(numbers.len(), names.len(), "two have the same number");
    for name in &names {
        assert_eq!(rows.iter().filter(|row| *row == name).count(), 1, "rows of {name}");
    }
    for row in rows {
        assert!(names.contains(&row), "no patch for the row of {row}");
    }
    for (name, patch) in &patches {
        let said = |line: &&str| line.starts_with("# ") && !line.starts_with("# caught-by: ");
        assert!(
            patch.starts_with("# caught-by: ") && patch.lines().any(|line| said(&line)),
            "{name}: by what it is caught, and what it is"
        );
    }
}
