//! How a program of this workspace begins and ends: its arguments are read, and whatever goes wrong, output that cannot be written
//! included, ends it with one line on stderr and a status other than 0.
//!
//! ```ignore
//! fn main() -> ExitCode {
//!     program::main(|cli: &Cli| Ok(writeln!(program::stdout(), "{}", cli.name)?))
//! }
//! ```

pub mod ends;

use std::{
    error::Error,
    fmt,
    io::{self, ErrorKind, Write},
    process::{ExitCode, Termination},
};

use clap::Parser;

/// The status of a program whose reader has gone, as of `quickstart | head -1`: what a shell shows of one that SIGPIPE ended.
const NOBODY_READS: u8 = 128 + 13;

/// Reads the arguments and runs the program. An error becomes `error: what: why`; a reader that has gone is not worth a word.
pub fn main<Arguments: Parser, End: Termination>(
    run: impl FnOnce(&Arguments) -> anyhow::Result<End>,
) -> ExitCode {
    let result = match Arguments::try_parse() {
        // What is left of a line that has not ended is written now, where it can still fail.
        Ok(arguments) => {
            run(&arguments).map(End::report).and_then(|end| Ok(stdout().flush().map(|()| end)?))
        }
        Err(help_or_mistake) => usage(&help_or_mistake),
    };
    result.unwrap_or_else(|error| fail(&error))
}

/// Prints the help that was asked for, or what is wrong with the arguments.
fn usage(error: &clap::Error) -> anyhow::Result<ExitCode> {
    let name = if error.use_stderr() { STDERR } else { STDOUT };
    error.print().and_then(|()| io::stdout().flush()).map_err(|why| Unwritten::error(name, why))?;
    Ok(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1)))
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let unwritten = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()?.get_ref());
    let unwritten = unwritten.filter_map(|cause| cause.downcast_ref::<Unwritten>()).next();
    if unwritten.is_some_and(|Unwritten(_, why)| why.kind() == ErrorKind::BrokenPipe) {
        return ExitCode::from(NOBODY_READS);
    }
    // Where stderr cannot be written to, the status is all there is.
    let _ = writeln!(io::stderr(), "error: {}", one_line(&format!("{error:#}")));
    ExitCode::FAILURE
}

/// Messages repeat what somebody wrote: a line break or an escape of the terminal in it is shown, not obeyed.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.trim_end().chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";

/// One of the two standard outputs. `println!` would panic where these return an error, which [`main`] knows from other errors.
pub struct Stream<W> {
    name: &'static str,
    to: W,
}

/// For results.
#[must_use]
pub fn stdout() -> Stream<io::Stdout> {
    Stream { name: STDOUT, to: io::stdout() }
}

/// For what is said on the way.
#[must_use]
pub fn stderr() -> Stream<io::Stderr> {
    Stream { name: STDERR, to: io::stderr() }
}

impl<W: Write> Write for Stream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes).map_err(|why| Unwritten::error(self.name, why))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush().map_err(|why| Unwritten::error(self.name, why))
    }
}

/// What could not be written to, and why.
#[derive(Debug)]
struct Unwritten(&'static str, io::Error);

impl Unwritten {
    /// Of the same kind: an interrupted write is tried again by whoever called.
    fn error(name: &'static str, why: io::Error) -> io::Error {
        io::Error::new(why.kind(), Self(name, why))
    }
}

impl fmt::Display for Unwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot write to {}", self.0)
    }
}

impl Error for Unwritten {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_a_line_is_shown() {
        assert_eq!(one_line("a\nb\u{1b}[2J: µ\n"), "a\\nb\\u{1b}[2J: µ");
    }

    #[test]
    fn the_reason_follows_what_failed() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error = anyhow::Error::from(writeln!(Stream { name: STDOUT, to: Full }, "x").unwrap_err());
        assert_eq!(format!("{error:#}"), "cannot write to stdout: no storage space");
    }
}
