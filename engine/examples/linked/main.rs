//! The README's program. `cargo run --example linked -p kontiki -- ID DIRECTORY ADDRESS ADDRESS ADDRESS`
#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "an example speaks to its reader")]

include!("program.rs");
