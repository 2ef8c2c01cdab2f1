//! Tells the linker where the code and the data of this board lie.

use std::{env, fs, io, path::PathBuf};

/// Arm's MPS2 board as QEMU has it, with a Cortex-M4: `-machine mps2-an386`.
const MEMORY: &str = "MEMORY {
    FLASH : ORIGIN = 0x00000000, LENGTH = 4M
    RAM : ORIGIN = 0x20000000, LENGTH = 4M
}
";

fn main() -> io::Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    let dir = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    fs::write(dir.join("memory.x"), MEMORY)?;
    println!("cargo:rustc-link-search={}", dir.display());
    // The script of `cortex-m-rt`, which includes the above.
    println!("cargo:rustc-link-arg-bins=-Tlink.x");
    Ok(())
}
