//! The pin: what it names is what runs, and what cannot run is an error.

use i8gemm::{Error, Kernel, MatRef, PackedRhs};

/// Run with `I8GEMM_KERNEL` set this fails unless that kernel is the one that weights are packed for.
#[test]
fn pinned_kernel_is_available() {
    let weights = match PackedRhs::pack(MatRef::row_major(&[1i8; 6], 3, 2).unwrap()) {
        Ok(weights) => weights,
        Err(error) => panic!("{error}"),
    };
    match std::env::var("I8GEMM_KERNEL") {
        Ok(name) if !name.is_empty() => assert_eq!(weights.kernel().name(), name),
        _ => assert_eq!(weights.kernel(), Kernel::available().next().unwrap()),
    }
}

/// Run with `I8GEMM_EXPECT_KERNEL` set this fails unless that kernel is the one that is chosen without a pin.
#[test]
fn the_kernel_chosen_is_the_expected_one() {
    if let Ok(name) = std::env::var("I8GEMM_EXPECT_KERNEL") {
        assert_eq!(Kernel::best().unwrap().name(), name);
    }
}

#[test]
fn names_are_distinct_and_each_finds_its_kernel() {
    let names: Vec<_> = Kernel::all().map(|kernel| kernel.name()).collect();
    for (i, name) in names.iter().enumerate() {
        assert!(!names[..i].contains(name));
        match Kernel::by_name(name) {
            Ok(kernel) => assert_eq!(kernel.name(), *name),
            Err(error) => assert!(matches!(error, Error::KernelUnavailable { .. }), "{error}"),
        }
    }
}

/// A kernel of another architecture.
fn elsewhere() -> &'static str {
    let mut all = Kernel::catalog().iter();
    all.find(|info| info.arch.is_some_and(|arch| arch != std::env::consts::ARCH)).unwrap().name
}

#[test]
fn equal_kernels_are_those_of_one_name() {
    let all: std::collections::HashSet<_> = Kernel::all().chain(Kernel::all()).collect();
    assert_eq!(all.len(), Kernel::all().count());
    for kernel in Kernel::available() {
        assert_eq!(kernel.name().parse(), Ok(kernel));
    }
    for wrong in ["abacus", "", elsewhere()] {
        assert_eq!(wrong.parse::<Kernel>().unwrap_err(), Kernel::by_name(wrong).unwrap_err());
    }
}

/// The variable itself, in processes of their own: this one may have decided already.
#[test]
fn the_environment_variable_pins() {
    let command = |args: &[&str]| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(args);
        command
    };
    // Under a user-mode emulator a program may not be able to start itself at all.
    if !command(&["--list"]).output().is_ok_and(|output| output.status.success()) {
        return;
    }
    let run = |value: &str| {
        command(&["--exact", "pinned_kernel_is_available"]).env("I8GEMM_KERNEL", value).output().unwrap()
    };
    assert!(run("portable").status.success());
    for wrong in ["abacus", elsewhere()] {
        let output = run(wrong);
        assert!(!output.status.success());
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        for part in [wrong, "I8GEMM_KERNEL", "portable"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
