//! Peers that are reached from Python: one interpreter, which prepares a product and times calls of it when told to.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    ours::{Shape, macs},
    pairs::{Clock, Contender},
};

/// The interpreter with `peers.py`.
pub struct Python {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// What `peers.py` answers.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer<T> {
    Ok(T),
    Error(String),
}

impl Python {
    /// Starts an interpreter.
    pub fn start(program: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .args(["-c", include_str!("peers.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("{} has no pipes", program.display());
        };
        let mut python = Self { child, to, from: BufReader::new(from) };
        python.ask::<()>("ready", [(); 0])?;
        Ok(python)
    }

    /// Asks for something; the interpreter runs until it has answered, and not while others are measured.
    fn ask<T: DeserializeOwned>(&mut self, command: &str, arguments: impl Serialize) -> Result<T> {
        self.halt(false);
        serde_json::to_writer(&mut self.to, &(command, arguments))?;
        writeln!(self.to)?;
        self.to.flush()?;
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            bail!("Python has ended: is NumPy installed?");
        }
        self.halt(true);
        match serde_json::from_str(&line)? {
            Answer::Ok(value) => Ok(value),
            Answer::Error(error) => bail!(error),
        }
    }

    /// Makes a product of a peer, to be timed next.
    pub fn prepare(&mut self, peer: &'static str, shape: Shape, threads: usize) -> Result<Peer<'_>> {
        let (m, k, n) = shape;
        self.ask::<()>("prepare", (peer, m, k, n, threads))?;
        Ok(Peer { python: self, work: macs(shape) })
    }

    /// Where the package of oneDNN has its library.
    pub fn onednn(&mut self) -> Result<PathBuf> {
        self.ask("onednn", [(); 0])
    }
}

impl Python {
    /// Halts the interpreter or lets it go on: worker threads of these libraries look for more work long after a call, on cores that
    /// are then needed for others. A halted process whose parent dies is sent away by the system.
    #[cfg(unix)]
    fn halt(&self, halt: bool) {
        let signal = if halt { libc::SIGSTOP } else { libc::SIGCONT };
        // SAFETY: the child has not ended, or has not been waited for: the number is its own. The second call returns when all threads
        // have halted, and takes the end of a child from nobody: that is not asked for.
        unsafe {
            let child = self.child.id();
            libc::kill(child.cast_signed(), signal);
            if halt {
                let mut why: libc::siginfo_t = std::mem::zeroed();
                libc::waitid(libc::P_PID, child, &mut why, libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT);
            }
        }
    }

    /// Waits instead, which helps where threads give up.
    #[cfg(not(unix))]
    fn halt(&self, halt: bool) {
        if halt {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A product of a peer.
pub struct Peer<'a> {
    python: &'a mut Python,
    /// Multiply-adds of a call.
    pub work: f64,
}

impl Contender for Peer<'_> {
    fn work(&self) -> f64 {
        self.work
    }

    fn seconds(&mut self, calls: usize, clock: Clock) -> Result<f64> {
        let name = if clock == Clock::Thread { "thread" } else { "wall" };
        self.python.ask("seconds", (calls, name))
    }

    fn sums(&mut self) -> Result<Option<(i32, i64)>> {
        self.python.ask("check", [(); 0])
    }
}
