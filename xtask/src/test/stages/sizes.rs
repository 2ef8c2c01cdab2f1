//! What the library adds to programs that call little of it: exact numbers, with limits.

use anyhow::{Context, Result, bail, ensure};

use super::Stage;
use crate::{
    debian,
    run::{Log, Workspace},
};

/// Bytes of code and constants that a program of one i32 product may take, the standard library's part included: in November 2026
/// it was 565 kB with Rust 1.95, of which tiles of three kernels are 460; since December one row, few columns and tall tiles have loops
/// of their own: 648 kB.
const ONE_PRODUCT: u64 = 680_000;

/// Bytes of flash that a firmware of one linear layer may take, 64 to 64 with its 4,096 weights, code and constants of all kinds: in
/// November 2026 it was 26.3 kB, of which the comparison and what prints are some 10.
const FIRMWARE_FLASH: u64 = 45_000;
/// Bytes of stack that packing, describing or running the layer may take: 348, 232 and 1,704 then.
const FIRMWARE_STACK: u64 = 2_048;

/// On this machine.
pub fn native() -> Option<Stage> {
    let action = |w: &Workspace, log: &mut Log| {
        let mut command = w.cargo();
        command.args(["build", "-p", "one-product", "--release", "--target-dir"]).arg(w.target.join("sizes"));
        for setting in ["lto='fat'", "codegen-units=1", "debug=false"] {
            command.args(["--config", &format!("profile.release.{setting}")]);
        }
        log.check(&mut command)?;
        let program = w.target.join("sizes/release/one-product");
        let [bytes, _] = text_and_data(&log.check(w.command("size").arg(program))?)?;
        ensure!(
            bytes <= ONE_PRODUCT,
            "a program of one product has {bytes} bytes of text, and may have {ONE_PRODUCT}"
        );
        Ok(())
    };
    let here = cfg!(all(target_arch = "x86_64", target_os = "linux"));
    here.then(|| Stage::new("size-one-product", "size of a program of one product", action))
}

/// A firmware on an emulated Cortex-M4: exact, and small.
pub fn firmware() -> [Stage; 2] {
    // A workspace of its own: the lints of the others do not see it.
    const MANIFEST: &str = "firmware/linear/Cargo.toml";
    let lint = |w: &Workspace, log: &mut Log| {
        log.check(w.cargo().args(["fmt", "--check", "--manifest-path", MANIFEST]))?;
        // A Cortex-M3 will do, for which the standard library is checked anyway.
        log.check(debian::clippy_checked(w, "thumbv7m-none-eabi").args(["--manifest-path", MANIFEST]))
            .map(drop)
    };
    let action = |w: &Workspace, log: &mut Log| {
        let program = debian::firmware(w, log, MANIFEST, "linear-firmware")?;
        let sizes = log.check(w.command("arm-linux-gnueabihf-size").arg(&program))?;
        // Data is copied from flash to RAM at the start.
        let flash: u64 = text_and_data(&sizes)?.iter().sum();
        let printed = debian::run_firmware(w, log, &program)?;
        ensure!(figure(&printed, "outputs")? > 0, "the firmware compared no output");
        ensure!(
            flash <= FIRMWARE_FLASH,
            "the firmware takes {flash} bytes of flash, and may take {FIRMWARE_FLASH}"
        );
        for step in ["pack", "describe", "run"] {
            let bytes = figure(&printed, step)?;
            ensure!(
                bytes <= FIRMWARE_STACK,
                "`{step}` took {bytes} bytes of stack on a Cortex-M4, and may take {FIRMWARE_STACK}"
            );
        }
        Ok(())
    };
    [
        Stage::new("firmware-lints", "formatting and clippy of a firmware", lint).needs("checked-std"),
        Stage::new("firmware", "size, stack and outputs of a firmware", action)
            .on("portable", "cortex-m4")
            .needs("debian"),
    ]
}

/// The number that stands behind a name in what a firmware printed: `name NUMBER`.
fn figure(printed: &str, name: &str) -> Result<u64> {
    let mut words = printed.split(|c: char| c.is_whitespace() || c == ',').skip_while(|word| *word != name);
    words
        .nth(1)
        .and_then(|word| word.parse().ok())
        .with_context(|| format!("the firmware printed no `{name}`"))
}

/// The first two numbers of what `size` prints of one program, below the heads of its columns.
fn text_and_data(output: &str) -> Result<[u64; 2]> {
    let mut lines = output.lines().skip_while(|line| !line.trim_start().starts_with("text"));
    let numbers = lines.nth(1).context("`size` printed no numbers")?;
    let mut numbers = numbers.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(text)), Some(Ok(data))) => Ok([text, data]),
        _ => bail!("`size` printed no number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_data_come_first() {
        let output = "$ size a\n   text\t   data\t    bss\t    dec\t    hex\tfilename\n 565092\t  11912\t   2480\t 579484\t  8d79c\ta\n";
        assert_eq!(text_and_data(output).unwrap(), [565_092, 11_912]);
        assert!(text_and_data("size: 'a': No such file").is_err());
    }

    #[test]
    fn figures_stand_behind_their_names() {
        let printed =
            "kernel portable, outputs 1792, wrong 0\nbytes of stack: pack 348, describe 232, run 1704\n";
        let read = ["outputs", "wrong", "pack", "run"].map(|name| figure(printed, name).unwrap());
        assert_eq!(read, [1792, 0, 348, 1704]);
        assert!(figure(printed, "stack").is_err());
    }
}
