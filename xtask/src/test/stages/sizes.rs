//! What the library adds to programs that call little of it: exact numbers, with limits.

use anyhow::{Context, Result, ensure};

use super::Stage;
use crate::run::{Log, Workspace};

/// Bytes of code and constants that a program of one i32 product may take, the standard library's part included: in November 2026
/// it was 565 kB with Rust 1.95, of which tiles of three kernels are 460.
const ONE_PRODUCT: u64 = 620_000;

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
        let bytes = text_bytes(&log.check(w.command("size").arg(program))?)?;
        ensure!(
            bytes <= ONE_PRODUCT,
            "a program of one product has {bytes} bytes of text, and may have {ONE_PRODUCT}"
        );
        Ok(())
    };
    let here = cfg!(all(target_arch = "x86_64", target_os = "linux"));
    here.then(|| Stage::new("size-one-product", "size of a program of one product", action))
}

/// The first number of what `size` prints of one program, below the heads of its columns.
fn text_bytes(output: &str) -> Result<u64> {
    let mut lines = output.lines().skip_while(|line| !line.trim_start().starts_with("text"));
    let numbers = lines.nth(1).context("`size` printed no numbers")?;
    numbers
        .split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .context("`size` printed no number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_the_first_number() {
        let output = "$ size a\n   text\t   data\t    bss\t    dec\t    hex\tfilename\n 565092\t  11912\t   2480\t 579484\t  8d79c\ta\n";
        assert_eq!(text_bytes(output).unwrap(), 565_092);
        assert!(text_bytes("size: 'a': No such file").is_err());
    }
}
