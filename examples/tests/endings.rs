//! Every example, as users start it, ends on every error with one readable line and a status that is not 0.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use program::ends::{ends_quietly, misused, refused};

const EXAMPLES: [&str; 4] = ["calibrate", "digits_cnn", "language_model", "quickstart"];

/// Little to do, and as much to print.
const SHORT: [(&str, &[&str]); 4] = [
    ("calibrate", &["--bits", "8"]),
    ("digits_cnn", &["--epochs", "1", "--qat-epochs", "1", "--bits", "8"]),
    ("language_model", &["--limit", "30", "--words", "3"]),
    ("quickstart", &[]),
];

/// An example; charts go where tests may write.
fn example(name: &str) -> Command {
    static PROGRAMS: OnceLock<PathBuf> = OnceLock::new();
    let programs = PROGRAMS.get_or_init(build);
    let mut command = Command::new(programs.join(name));
    command.env_remove("I8GEMM_KERNEL").current_dir(env!("CARGO_TARGET_TMPDIR"));
    command
}

/// Cargo builds for a test the tests of the examples, not themselves. As `cargo xtask test` builds the former, for little is then left to do.
fn build() -> PathBuf {
    let test = env::current_exe().unwrap();
    // target/debug/deps/endings-..
    let directory = |above: usize| test.ancestors().nth(above).unwrap().to_path_buf();
    let status = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--profile", "test", "--examples", "--all-features"])
        .args(["-p", "i8gemm", "-p", "i8gemm-examples", "--target-dir"])
        .arg(directory(3))
        .status();
    assert!(status.unwrap().success());
    directory(2).join("examples")
}

#[test]
fn a_wrong_pin_names_the_kernels_there_are() {
    // Calibration multiplies nothing.
    for name in EXAMPLES.into_iter().filter(|name| *name != "calibrate") {
        for pin in ["abc", "a\nb\u{1b}[2J"] {
            let words = ["I8GEMM_KERNEL", "available on this CPU: ", "portable"];
            refused(example(name).env("I8GEMM_KERNEL", pin), &words);
        }
    }
}

#[test]
fn nobody_reads() {
    for (name, args) in SHORT {
        // What comes after the first line takes longer than this takes to leave.
        [0, 1].into_iter().for_each(|lines| ends_quietly(example(name).args(args), lines));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_disk_is_full() {
    for (name, args) in SHORT {
        program::ends::finds_no_space(example(name).args(args));
        program::ends::finds_no_space(example(name).arg("--help"));
    }
    refused(example("calibrate").args(["--bits", "8", "--output", "/dev/full/x"]), &["/dev/full/x"]);
}

#[test]
fn wrong_arguments() {
    for name in EXAMPLES {
        misused(example(name).arg("--nonsense"), &["--nonsense"]);
    }
    misused(example("quickstart").arg("5"), &["5"]);
    misused(example("calibrate").args(["--bits", "9"]), &["9"]);
    misused(example("calibrate").args(["--scheme", "both"]), &["both"]);
    for percent in ["101", "-1", "NaN", "inf"] {
        refused(example("calibrate").arg(format!("--percentile={percent}")), &["percentile"]);
    }
    misused(example("digits_cnn").args(["--epochs", "0"]), &["--epochs"]);
    misused(example("language_model").args(["--threads", "0"]), &["--threads"]);
    refused(example("language_model").args(["--limit", "0"]), &["--limit"]);
    for temperature in ["0", "NaN", "inf", "-1"] {
        refused(example("language_model").arg(format!("--temperature={temperature}")), &["--temperature"]);
    }
    // What charts are to be written into is a file.
    let short = SHORT.iter().filter(|(name, _)| matches!(*name, "calibrate" | "digits_cnn"));
    for (name, args) in short {
        refused(
            example(name).args(*args).args(["--output", file!()]).current_dir(root()),
            &["cannot create"],
        );
    }
}

/// The commands of the README, in the root of the checkout.
#[test]
fn the_readme_starts_every_example() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let mut started: Vec<_> = readme
        .lines()
        .filter(|line| line.contains("--example"))
        .map(|line| line.strip_prefix("cargo run --release -p i8gemm-examples --example ").unwrap())
        .collect();
    started.sort_unstable();
    assert_eq!(started, EXAMPLES);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A `.npy` file of version 1, or of 2 where the header is too long for it.
fn npy(header: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY".to_vec();
    match u16::try_from(header.len()) {
        Ok(length) => bytes.extend([&[1, 0][..], &length.to_le_bytes()].concat()),
        Err(_) => bytes.extend([&[2, 0][..], &(header.len() as u32).to_le_bytes()].concat()),
    }
    [&bytes, header, data].concat()
}

/// The header of an array, as NumPy writes it.
fn header(descr: &str, shape: &str) -> Vec<u8> {
    format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n").into_bytes()
}

#[test]
fn files_that_are_no_arrays() {
    let nested = |open: &str, close: &str, depth: usize| [open.repeat(depth), close.repeat(depth)].concat();
    let array = |descr: &str, shape: &str| npy(&header(descr, shape), &[0; 32]);
    let float = |shape: &str| array("'<f4'", shape);
    let mut endless = b"\x93NUMPY\x02\x00".to_vec();
    endless.extend([0xff; 4]);
    let files: &[(&str, Vec<u8>, &str)] = &[
        ("empty", vec![], "not a .npy file"),
        ("short", b"\x93NUMPY\x01\x00\x10".to_vec(), "not a .npy file"),
        ("text", b"no numbers here".to_vec(), "not a .npy file"),
        ("version", b"\x93NUMPY\x09\x00\x00\x00\x00\x00{}".to_vec(), "not a .npy file"),
        ("endless", endless, "header of 4294967295 bytes"),
        ("cut", npy(b"{'descr': '<f4', 'shape': (", &[]), "no dictionary"),
        ("not-utf8", npy(b"{'descr': '\xff\xfe'}", &[]), "no dictionary"),
        ("list", npy(b"[1, 2]", &[]), "no dictionary"),
        ("lines", npy(b"{'descr':\n1}\n\n\n", &[]), "no dictionary"),
        ("keys", npy(b"{'descr': '<f4', 'shape': (2,)}", &[0; 8]), "fortran_order"),
        // In a build that checks for overflow, a panic of the reader's.
        ("product", float("(1099511627776, 1099511627776)"), "more values than can be counted"),
        ("strides", float("(0, 1099511627776, 1099511627776)"), "more values than can be counted"),
        ("twice", float("(2,), 'shape': (1099511627776, 1099511627776)"), "more values than can be counted"),
        ("large", float("(1000000000000,)"), "cannot read value 8"),
        ("negative", float("(-1,)"), "negative"),
        ("digits", float(&format!("({},)", "9".repeat(9000))), "u64"),
        ("real", float("(2.5,)"), "integer"),
        ("nothing", float("(0,)"), "empty"),
        ("no-shape", float("2"), "shape"),
        ("round", npy(nested("(", ",)", 20_000).as_bytes(), &[]), "bytes"),
        ("round-1", npy(nested("(", ",)", 3_000).as_bytes(), &[]), "brackets"),
        ("square", npy(nested("[", "]", 20_000).as_bytes(), &[]), "bytes"),
        ("square-1", npy(nested("[", "]", 5_000).as_bytes(), &[]), "brackets"),
        ("curly", npy(nested("{1:", "}", 2_000).as_bytes(), &[]), "brackets"),
        ("open", npy("(".repeat(10_000).as_bytes(), &[]), "brackets"),
        ("record", array("[('a', '<f4')]", "(2,)"), "structured"),
        ("object", array("'|O'", "(2,)"), "dtype"),
        ("complex", array("'<c8'", "(2,)"), "dtype"),
        ("wide", array("'<f18446744073709551615'", "(2,)"), "invalid size"),
        ("wider", array("'<U18446744073709551615'", "(2,)"), "larger than usize"),
        ("nonsense", array(&format!("'{}'", "x".repeat(9000)), "(2,)"), "type string"),
        ("escape", array("'\\x1b[2J\\n'", "(2,)"), "type string"),
        ("not-a-number", npy(&header("'<f4'", "(1,)"), &f32::NAN.to_le_bytes()), "not finite"),
        ("line\nbreak", b"no numbers here".to_vec(), "line\\nbreak"),
    ];
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("arrays");
    fs::create_dir_all(&directory).unwrap();
    for (name, bytes, word) in files {
        let file = directory.join(name);
        fs::write(&file, bytes).unwrap();
        refused(example("calibrate").arg(file), &[word]);
    }
    refused(example("calibrate").arg("missing.npy"), &["missing.npy"]);
    refused(example("calibrate").arg(&directory), &["arrays"]);
}
