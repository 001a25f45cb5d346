//! Child processes: none outlives the tool, and none runs longer than it may.

use anyhow::{Context, Result, bail};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A child in a process group of its own, which dies with this value and with the tool.
pub struct Owned {
    child: Child,
}

/// Starts `command` in a process group of its own.
pub fn start(command: &mut Command) -> Result<Owned> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.process_group(0);
    // SAFETY: `prctl` is async-signal-safe and touches no memory of this process.
    unsafe {
        command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from));
    }
    let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    Ok(Owned { child })
}

impl Owned {
    /// Returns the child itself, to take its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Returns the child's status if it has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for the end at most until `deadline`; a child that goes on is killed and gives `None`.
    pub fn wait_until(&mut self, deadline: Option<Instant>) -> Result<Option<ExitStatus>> {
        let Some(deadline) = deadline else { return Ok(Some(self.child.wait()?)) };
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                self.kill();
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the child's whole process group and reaps it.
    pub fn kill(&mut self) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(-id), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.kill();
        }
    }
}

/// What a finished command left behind.
pub struct Finished {
    /// The exit code; 128 and more for a signal; `None` if it ran out of time.
    pub code: Option<i32>,
    /// Standard output and standard error, in the order of arrival.
    pub output: String,
}

impl Finished {
    /// Returns whether the command ended with 0.
    pub fn passed(&self) -> bool {
        self.code == Some(0)
    }

    /// Returns the last `lines` lines of the output, indented.
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.output, lines)
    }
}

/// Returns the last `lines` lines of a text, indented.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all.iter().skip(from).map(|line| format!("    {line}\n")).collect()
}

/// Runs a command with its output collected, for at most `limit`.
pub fn collect(command: &mut Command, limit: Duration) -> Result<Finished> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut owned = start(command)?;
    let (send, receive) = mpsc::channel::<Vec<u8>>();
    let stdout = owned.child().stdout.take().context("no pipe")?;
    let stderr = owned.child().stderr.take().context("no pipe")?;
    pump(stdout, send.clone());
    pump(stderr, send);
    let status = owned.wait_until(Some(Instant::now() + limit))?;
    // Both pipes are closed once the group is gone; a grandchild that fled its group must not hold the tool up.
    let mut output = Vec::new();
    while let Ok(bytes) = receive.recv_timeout(Duration::from_secs(5)) {
        output.extend(bytes);
    }
    let code = status.map(|status| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
    Ok(Finished { code, output: String::from_utf8_lossy(&output).into_owned() })
}

/// Copies a stream into a channel from a thread of its own, until its end.
pub fn pump(mut from: impl Read + Send + 'static, to: mpsc::Sender<Vec<u8>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if to.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
}

/// Runs a command with its output shown; a failure is an error.
pub fn show(command: &mut Command) -> Result<()> {
    let status = start(command.stdin(Stdio::null()))?.wait_until(None)?;
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => bail!("{} ended with {status}", line(command)),
        None => bail!("{} did not end", line(command)),
    }
}

/// Returns a command as a user would type it.
pub fn line(command: &Command) -> String {
    let word = |word: &std::ffi::OsStr| {
        let word = word.to_string_lossy();
        if word.is_empty() || word.contains([' ', '\'', '"', '$', ';', '&', '*', '(', '<']) {
            format!("'{}'", word.replace('\'', r"'\''"))
        } else {
            word.into_owned()
        }
    };
    std::iter::once(command.get_program()).chain(command.get_args()).map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_code_are_collected() {
        let done = collect(
            Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]),
            Duration::from_secs(60),
        )
        .unwrap();
        assert_eq!(done.code, Some(3));
        assert!(done.output.contains("out") && done.output.contains("err"));
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_with_its_children() {
        let begin = Instant::now();
        let done =
            collect(Command::new("sh").args(["-c", "sleep 600 & sleep 600"]), Duration::from_millis(200))
                .unwrap();
        assert_eq!(done.code, None);
        assert!(begin.elapsed() < Duration::from_secs(300), "the pipes stayed open");
    }

    #[test]
    fn a_command_line_can_be_typed_again() {
        assert_eq!(line(Command::new("a").args(["b c", "d", "it's"])), r"a 'b c' d 'it'\''s'");
    }
}
