//! Runs a command whose output is a shard, and sends the shard's samples to another thread.
//!
//! A failed command is run again after a pause. It continues behind the samples that were already
//! sent, so a retry changes no sample.

use std::cell::Cell;
use std::io::{self, Read};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::stream::Missing;
use super::unpack::Unpacked;
use super::webdataset::{Sample, split_name};

/// Number of samples that are read ahead of the consumer.
const AHEAD: usize = 32;

/// Seconds without output after which a command is reported.
const SILENT_SECS: u64 = 30;

/// Seconds to wait for one more sample when checking whether a shard is too long.
const LAST_SECS: u64 = 5;

/// Most bytes that are read after the end of a tar, so that the command is not killed by a closed
/// pipe while it writes its padding.
const DRAIN_BYTES: u64 = 64 << 20;

/// Last bytes of a command's standard error that are kept for messages.
const WORDS_BYTES: usize = 4096;

/// Lines of a command's standard error that a message quotes.
const WORDS_LINES: usize = 3;

/// A running command.
pub(super) struct Reader {
    pub command: String,
    /// The lock only makes the type `Sync`, so that several threads can share a source.
    samples: Mutex<Receiver<Result<Sample, String>>>,
    /// Reason why the output ended, once it has.
    ended: Option<String>,
}

impl Reader {
    /// Starts a command and skips its first `skip` samples. `pauses` are the waiting times before
    /// the retries of a failed command.
    pub fn start(command: String, skip: usize, pauses: Vec<Duration>) -> Self {
        let (sender, samples) = sync_channel(AHEAD);
        let running = command.clone();
        thread::spawn(move || run(&running, skip, &pauses, &sender));
        Self { command, samples: Mutex::new(samples), ended: None }
    }

    pub fn next(&mut self) -> Result<Sample, Missing> {
        let samples = self.samples.get_mut().expect("no thread panics while it holds the lock");
        let why = match &self.ended {
            Some(why) => return Err(Missing { why: why.clone(), is_first: false }),
            None => loop {
                match samples.recv_timeout(Duration::from_secs(SILENT_SECS)) {
                    Ok(Ok(sample)) => return Ok(sample),
                    Ok(Err(why)) => break why,
                    Err(RecvTimeoutError::Disconnected) => break "it ended".to_owned(),
                    Err(RecvTimeoutError::Timeout) => {
                        tracing::warn!("no output for {SILENT_SECS} s from pipe:{}", self.command);
                    }
                }
            },
        };
        let why = format!("pipe:{}: {why}; the missing samples are skipped", self.command);
        self.ended = Some(why.clone());
        Err(Missing { why, is_first: true })
    }

    /// Whether another sample arrives within a few seconds.
    pub fn has_more(&mut self) -> bool {
        let samples = self.samples.get_mut().expect("no thread panics while it holds the lock");
        matches!(samples.recv_timeout(Duration::from_secs(LAST_SECS)), Ok(Ok(_)))
    }
}

/// The outcome of running a command once.
enum Outcome {
    /// The output is read to its end, for this reason. A retry would give the same samples.
    Over(String),
    /// The command failed, or its output is truncated.
    Failed(String),
    /// The consumer wants no more samples.
    Unwanted,
}

/// Runs a command and sends the samples of its output, then the reason why it ended.
fn run(
    command: &str,
    skip: usize,
    pauses: &[Duration],
    sender: &SyncSender<Result<Sample, String>>,
) {
    // Samples of the shard that need not be sent any more.
    let mut done = skip;
    let mut pauses = pauses.iter();
    let mut n_tries = 0;
    let why = loop {
        n_tries += 1;
        match run_once(command, &mut done, sender) {
            Outcome::Unwanted => return,
            Outcome::Over(why) => break why,
            Outcome::Failed(why) => match pauses.next() {
                Some(pause) => {
                    tracing::warn!("pipe:{command}: {why}; retry in {} s", pause.as_secs_f32());
                    thread::sleep(*pause);
                }
                None if n_tries > 1 => break format!("{why} ({n_tries} attempts)"),
                None => break why,
            },
        }
    };
    let _ = sender.send(Err(why));
}

/// The error if a shell cannot be started.
fn not_started(error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => {
            "; it needs `sh` on PATH, which Git for Windows has among its programs"
        }
        _ => "",
    };
    format!("cannot be started: {error}{hint}")
}

fn run_once(
    command: &str,
    done: &mut usize,
    sender: &SyncSender<Result<Sample, String>>,
) -> Outcome {
    let child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return Outcome::Failed(not_started(&error)),
    };
    let mut output = child.stdout.take().expect("the command was given a pipe");
    let words = Words::collect(child.stderr.take().expect("the command was given a pipe"));
    let mut send = |sample: Sample, seen: usize| {
        if seen < *done {
            return true;
        }
        *done = seen + 1;
        sender.send(Ok(sample)).is_ok()
    };
    let tar = read_tar(&mut output, &mut send);
    let kill = |child: &mut Child| {
        // The command may block on a pipe that is not read any more.
        let _ = child.kill();
        let _ = child.wait();
    };
    match tar {
        Tar::Unwanted => {
            kill(&mut child);
            Outcome::Unwanted
        }
        Tar::Unreadable(why) => {
            kill(&mut child);
            Outcome::Over(why)
        }
        Tar::Whole => {
            let drained = io::copy(&mut output.by_ref().take(DRAIN_BYTES), &mut io::sink());
            if drained.is_ok_and(|n| n == DRAIN_BYTES) {
                kill(&mut child);
                return Outcome::Over(format!(
                    "more than {} MiB follow the end of its tar, wanted one tar from each command",
                    DRAIN_BYTES >> 20
                ));
            }
            drop(output);
            match failure(&mut child, &words) {
                None => Outcome::Over("the shard has no more samples than that".into()),
                Some(why) => Outcome::Over(format!("{why}, after a whole tar")),
            }
        }
        Tar::WithoutEnd { last, seen } => match failure(&mut child, &words) {
            // The last sample may lack parts.
            Some(why) => Outcome::Failed(why),
            None if last.is_some_and(|last| !send(last, seen)) => Outcome::Unwanted,
            None => Outcome::Over("the shard has no more samples than that".into()),
        },
        Tar::Broken { why, is_at_end } => {
            if !is_at_end {
                kill(&mut child);
                return Outcome::Failed(why);
            }
            match failure(&mut child, &words) {
                Some(failure) => Outcome::Failed(format!("{failure}, {why}")),
                None => Outcome::Failed(why),
            }
        }
    }
}

/// Waits for a command. Returns its failure in its own words, if it failed.
fn failure(child: &mut Child, words: &Words) -> Option<String> {
    match child.wait() {
        Ok(status) if status.success() => None,
        Ok(status) => Some(match words.last() {
            words if words.is_empty() => format!("the command failed ({status})"),
            words => format!("the command failed ({status}): {words}"),
        }),
        Err(error) => Some(error.to_string()),
    }
}

/// The last words of a command on its standard error.
struct Words {
    tail: Arc<Mutex<Vec<u8>>>,
    ended: Receiver<()>,
}

impl Words {
    fn collect(mut from: ChildStderr) -> Self {
        let (sender, ended) = sync_channel(1);
        let tail = Arc::new(Mutex::new(Vec::new()));
        let shared = tail.clone();
        thread::spawn(move || {
            let mut buf = [0; 1024];
            while let Ok(n @ 1..) = from.read(&mut buf) {
                let mut tail = shared.lock().unwrap_or_else(PoisonError::into_inner);
                tail.extend_from_slice(&buf[..n]);
                let excess = tail.len().saturating_sub(WORDS_BYTES);
                tail.drain(..excess);
            }
            let _ = sender.send(());
        });
        Self { tail, ended }
    }

    /// The last lines. Call it after the command has ended.
    fn last(&self) -> String {
        // A process in the background may keep the pipe open.
        let _ = self.ended.recv_timeout(Duration::from_secs(1));
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&tail);
        // Progress bars end their lines with a carriage return.
        let lines: Vec<&str> =
            text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(WORDS_LINES)..].join(" | ")
    }
}

/// How the output of a command ended.
enum Tar {
    /// With the mark of its end.
    Whole,
    /// Between two members, without a mark. `last` is the sample before that, the `seen`-th.
    WithoutEnd { last: Option<Sample>, seen: usize },
    /// Within a member. `is_at_end` tells whether the output ended there.
    Broken { why: String, is_at_end: bool },
    /// The compression is not supported.
    Unreadable(String),
    /// `send` returned false.
    Unwanted,
}

/// A reader that remembers whether it reached the end.
struct Watched<'c, R> {
    inner: R,
    is_at_end: &'c Cell<bool>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        if n == 0 && !buf.is_empty() {
            self.is_at_end.set(true);
        }
        Ok(n)
    }
}

/// Groups the members of a tar into samples and calls `send` with each and its number.
fn read_tar(output: impl Read, send: &mut impl FnMut(Sample, usize) -> bool) -> Tar {
    let is_at_end = Cell::new(false);
    let broken = |error: io::Error| Tar::Broken {
        why: format!("the output is cut short ({error})"),
        is_at_end: is_at_end.get(),
    };
    let inner = match Unpacked::new(output) {
        Ok(inner) => inner,
        Err(error) if error.kind() == io::ErrorKind::Other => {
            return Tar::Unreadable(error.to_string());
        }
        Err(error) => return broken(error),
    };
    let mut archive = tar::Archive::new(Watched { inner, is_at_end: &is_at_end });
    let entries = match archive.entries() {
        Ok(entries) => entries,
        Err(error) => return broken(error),
    };
    let (mut held, mut seen): (Option<Sample>, usize) = (None, 0);
    for entry in entries {
        let read = entry.and_then(|mut entry| {
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let part = if entry.header().entry_type().is_file() { split_name(&name) } else { None };
            let mut bytes = Vec::new();
            if part.is_some() {
                let size = entry.size();
                if entry.read_to_end(&mut bytes)? < size as usize {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Ok(part.map(|(key, ext)| (key, ext, bytes)))
        });
        match read {
            // The held sample may lack parts because of the truncation.
            Err(error) => return broken(error),
            Ok(None) => {}
            Ok(Some((key, ext, bytes))) => match &mut held {
                // If two parts have the same name, the first one counts, as in a file.
                Some(sample) if sample.key == key => {
                    if sample.get(&ext).is_none() {
                        sample.parts.push((ext, bytes));
                    }
                }
                _ => {
                    if let Some(sample) = held.replace(Sample { key, parts: vec![(ext, bytes)] }) {
                        if !send(sample, seen) {
                            return Tar::Unwanted;
                        }
                        seen += 1;
                    }
                }
            },
        }
    }
    if is_at_end.get() {
        return Tar::WithoutEnd { last: held, seen };
    }
    if held.is_some_and(|sample| !send(sample, seen)) { Tar::Unwanted } else { Tar::Whole }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::webdataset::ShardWriter;

    /// Three samples in `s.tar` of a temporary folder.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut writer = ShardWriter::create(folder.path().join("s.tar")).expect("writable");
        for key in ["a", "b", "c"] {
            let parts =
                vec![("txt".to_owned(), vec![b'x'; 600]), ("cls".to_owned(), b"1".to_vec())];
            writer.write(&Sample { key: key.into(), parts }).expect("a valid sample");
        }
        writer.finish().expect("writable");
        folder
    }

    /// Keys of the samples that a command gives in this folder, and the reason why it ended.
    fn read(folder: &tempfile::TempDir, command: &str, skip: usize) -> (String, String) {
        let command = format!("cd {}; {command}", folder.path().display());
        let mut reader = Reader::start(command, skip, vec![Duration::ZERO; 3]);
        let mut keys = String::new();
        loop {
            match reader.next() {
                Ok(sample) => {
                    assert_eq!(sample.parts.len(), 2, "{}", sample.key);
                    keys.push_str(&sample.key);
                }
                Err(missing) => return (keys, missing.why),
            }
        }
    }

    #[test]
    fn a_command_that_writes_on_after_the_tar_is_not_a_failed_one() {
        let folder = folder();
        let padded = "cat s.tar && head -c 3000000 /dev/zero && echo over > over";
        let (keys, why) = read(&folder, padded, 1);
        assert_eq!(keys, "bc");
        assert!(why.contains("no more samples than that"), "{why}");
        assert!(folder.path().join("over").exists(), "the pipe was closed too early");
    }

    #[test]
    fn a_failed_command_is_tried_again_behind_the_samples_it_gave() {
        let folder = folder();
        // The first two attempts end within the third sample.
        let flaky =
            "echo x >> n; test $(wc -l < n) -gt 2 && exec cat s.tar; head -c 5000 s.tar; exit 7";
        assert_eq!(read(&folder, flaky, 0).0, "abc");
        std::fs::remove_file(folder.path().join("n")).expect("it is there");
        // Between two members.
        let flaky = flaky.replace("5000", "4096");
        assert_eq!(read(&folder, &flaky, 1).0, "bc");
    }

    #[test]
    fn a_command_that_keeps_failing_is_reported_in_its_own_words() {
        let folder = folder();
        let failing =
            "echo x >> n; echo 'trying bucket' >&2; echo 'fatal: Access Denied' >&2; exit 3";
        let (keys, why) = read(&folder, failing, 0);
        assert_eq!(keys, "");
        for part in ["exit status: 3", "Access Denied", "4 attempts"] {
            assert!(why.contains(part), "{why:?} does not say {part:?}");
        }
        let tries = std::fs::read_to_string(folder.path().join("n")).expect("it ran");
        assert_eq!(tries.lines().count(), 4);
    }

    #[test]
    fn a_whole_tar_of_a_failed_command_is_not_read_again() {
        let folder = folder();
        let (keys, why) = read(&folder, "echo x >> n; cat s.tar; echo 'disk quota' >&2; exit 9", 0);
        assert_eq!(keys, "abc");
        assert!(why.contains("disk quota") && why.contains("after a whole tar"), "{why}");
        assert_eq!(std::fs::read_to_string(folder.path().join("n")).expect("it ran"), "x\n");
    }

    #[test]
    fn an_unknown_compression_is_not_tried_again() {
        let folder = folder();
        let (_, why) = read(&folder, "echo x >> n; echo BZh91AY", 0);
        assert!(why.contains("bunzip2"), "{why}");
        assert_eq!(std::fs::read_to_string(folder.path().join("n")).expect("it ran"), "x\n");
    }
}
