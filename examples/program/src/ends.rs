//! For tests: how a program must end when it cannot do what it was asked to. What ends otherwise is a panic.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Output, Stdio},
};

/// More than any message takes, less than a dump of what was wrong.
const LONG: usize = 600;

/// The command fails with one readable line, in which these words stand.
pub fn refused(command: &mut Command, words: &[&str]) {
    let (line, output) = run(command);
    assert_eq!(output.status.code(), Some(1), "{command:?}: {line}");
    assert_eq!(line.lines().count(), 1, "{command:?}: {line}");
    readable(command, &line, words);
}

/// As [`refused`], by the parser of arguments: its form, with usage and hints, and its status.
pub fn misused(command: &mut Command, words: &[&str]) {
    let (text, output) = run(command);
    assert_eq!(output.status.code(), Some(2), "{command:?}: {text}");
    readable(command, &text, words);
}

fn run(command: &mut Command) -> (String, Output) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    (String::from_utf8(output.stderr.clone()).unwrap(), output)
}

fn readable(command: &Command, text: &str, words: &[&str]) {
    assert!(text.starts_with("error: ") && text.len() < LONG, "{command:?}: {text}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{command:?}: {text:?}");
    assert!(!text.contains("panicked"), "{command:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{command:?}: {word} is not in: {text}");
    }
}

/// Nobody reads on after so many lines: the command ends as other programs do, without a word.
pub fn ends_quietly(command: &mut Command, lines: usize) {
    let (from, to) = std::io::pipe().unwrap();
    let mut from = Some(BufReader::new(from)).filter(|_| lines > 0);
    let mut child = command.stdin(Stdio::null()).stdout(to).stderr(Stdio::piped()).spawn().unwrap();
    // It holds the end that is written to, as the child does.
    command.stdout(Stdio::null());
    if let Some(from) = &mut from {
        (0..lines).for_each(|_| assert!(from.read_line(&mut String::new()).unwrap() > 0, "{command:?}"));
    }
    drop(from);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    let status = child.wait().unwrap();
    assert_eq!((status.code(), said.as_str()), (Some(141), ""), "{command:?}, {lines} lines");
}

/// The disk is full.
#[cfg(target_os = "linux")]
pub fn finds_no_space(command: &mut Command) {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = command.stdin(Stdio::null()).stdout(full()).stderr(Stdio::piped()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{command:?}: {line}");
    assert_eq!(line.lines().count(), 1, "{command:?}: {line}");
    readable(command, &line, &["cannot write to stdout", "No space left on device"]);
}
