//! `cargo xtask ..` ends on every error with one readable line and a status that is not 0.

use std::process::Command;

use program::ends::{self, ends_quietly, misused, refused};

/// As `cargo xtask` starts it.
fn xtask(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(args).env_remove("I8GEMM_KERNEL").env("CARGO_MANIFEST_DIR", env!("CARGO_MANIFEST_DIR"));
    command
}

#[test]
fn wrong_arguments() {
    misused(&mut xtask(&["nonsense"]), &["nonsense"]);
    misused(&mut xtask(&["test", "--fast"]), &["--fast"]);
    misused(&mut xtask(&["bench", "--threads", "0"]), &["--threads"]);
    misused(&mut xtask(&["bench", "--threads", "1,x"]), &["--threads"]);
    for shape in ["0x1x1", "1x1", "1x1x1x1", "axbxc", "4294967296x1x1", "4294967295x4294967295x4294967295"] {
        misused(&mut xtask(&["bench", "--shape", shape]), &["--shape"]);
    }
    misused(&mut xtask(&["bench", "--from", "a.json", "--quick"]), &["--from"]);
    misused(&mut xtask(&["mca", "--output", "i8"]), &["--calls"]);
    misused(&mut xtask(&["mca", "--calls", "--output", "f32"]), &["f32"]);
    refused(&mut xtask(&["test", "--only", "nothing"]), &["`nothing`", "--list"]);
}

#[test]
fn a_wrong_kernel_names_those_there_are() {
    let words = ["available on this CPU: ", "portable"];
    refused(&mut xtask(&["bench", "--kernel", "abc"]), &words);
    refused(xtask(&["bench"]).env("I8GEMM_KERNEL", "abc"), &["I8GEMM_KERNEL", words[0], words[1]]);
}

#[test]
fn reports_that_are_none() {
    for option in ["--compare", "--from"] {
        refused(&mut xtask(&["bench", option, "/nothing/there.json"]), &["cannot read", "there.json"]);
        // A file that is there and is no report.
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        refused(&mut xtask(&["bench", option, manifest]), &["is no report", "Cargo.toml"]);
    }
}

#[test]
fn started_otherwise() {
    refused(xtask(&["test", "--only", "format"]).env_remove("CARGO_MANIFEST_DIR"), &["cargo xtask"]);
    // Logs cannot be written.
    refused(xtask(&["test", "--only", "format"]).env("CARGO_TARGET_DIR", "/dev/null"), &["/dev/null"]);
}

#[test]
fn nobody_reads() {
    ends_quietly(&mut xtask(&["test", "--list"]), 0);
}

#[test]
#[cfg(target_os = "linux")]
fn the_disk_is_full() {
    ends::finds_no_space(&mut xtask(&["test", "--list"]));
    ends::finds_no_space(&mut xtask(&["--help"]));
}
