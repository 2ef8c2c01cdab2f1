//! Looks at the target only: says which kernels are compiled in and what reports print about the build.
//! Runs no C compiler, so `cargo build --target ..` needs nothing but Rust.

use std::{env, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for cfg in ["i8gemm_x86_64", "i8gemm_aarch64", "i8gemm_arm", "i8gemm_arm_neon"] {
        println!("cargo:rustc-check-cfg=cfg({cfg})");
    }

    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let little_endian = env::var("CARGO_CFG_TARGET_ENDIAN").as_deref() == Ok("little");
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    let target = env::var("TARGET").unwrap_or_default();
    let os = env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    // The features of 32-bit ARM are not stable, so a stable compiler does not tell them; ARMv6 has none of these instructions.
    let armv7a = ["armv7-", "thumbv7neon-"].iter().any(|prefix| target.starts_with(prefix));
    let has = |feature: &str| features.split(',').any(|f| f == feature);
    match arch.as_str() {
        // Kernels read groups of bytes as words: a big-endian or soft-float build keeps to the portable one.
        "x86_64" if has("sse2") => println!("cargo:rustc-cfg=i8gemm_x86_64"),
        "aarch64" if little_endian && has("neon") => println!("cargo:rustc-cfg=i8gemm_aarch64"),
        "arm" if little_endian && armv7a && matches!(os.as_str(), "linux" | "android") => {
            println!("cargo:rustc-cfg=i8gemm_arm");
            // Elsewhere NEON is asked for when the program runs.
            if has("neon") || target.starts_with("thumbv7neon-") {
                println!("cargo:rustc-cfg=i8gemm_arm_neon");
            }
        }
        _ => {}
    }

    println!("cargo:rustc-env=I8GEMM_TARGET={target}");
    println!("cargo:rustc-env=I8GEMM_TARGET_FEATURES={features}");
    println!("cargo:rustc-env=I8GEMM_RUSTC={}", rustc_version());
}

/// First line of `rustc --version`, or "unknown": only reports print it.
fn rustc_version() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .and_then(|out| String::from_utf8(out.stdout).ok())
        .map_or_else(|| "unknown".into(), |version| version.trim().into())
}
