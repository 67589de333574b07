//! `kontiki completions` and `kontiki man`: what a package of the program brings along, made from its own arguments.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::Program;
use crate::error::Error;
use crate::output::say_bytes;

/// Print completions for a shell.
///
/// For bash, for example: kontiki completions bash > /etc/bash_completion.d/kontiki
#[derive(Args, Debug)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Write man pages, one a command, into a directory; without one, print the page of the program itself.
///
/// For example: kontiki man /usr/local/share/man/man1
#[derive(Args, Debug)]
pub(crate) struct Man {
    /// An existing directory
    dir: Option<PathBuf>,
}

/// Runs `completions`.
///
/// # Errors
/// None of its own.
pub(crate) fn completions(command: &Completions) -> Result<(), Error> {
    let mut bytes = Vec::new();
    clap_complete::generate(command.shell, &mut Program::command(), "kontiki", &mut bytes);
    say_bytes(&bytes);
    Ok(())
}

/// Runs `man`.
///
/// # Errors
/// A page cannot be written.
pub(crate) fn man(command: &Man) -> Result<(), Error> {
    let program = Program::command();
    let Some(dir) = &command.dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(program).render(&mut page).map_err(Error::system("cannot write the page"))?;
        say_bytes(&page);
        return Ok(());
    };
    clap_mangen::generate_to(program, dir).map_err(Error::file("cannot write man pages into", dir))
}
