//! The multiply instructions of kernels, alone: in registers, in enough independent chains.

/// Turns of the loop that [`run`] makes.
const TURNS: usize = 20_000;

/// Multiply-adds of one [`run`] of a kernel's instruction, or `None` where it has no single one.
pub fn macs(kernel: &str) -> Option<f64> {
    let in_a_turn = match kernel {
        "avx2" => 12 * 16,
        "avx_vnni" => 12 * 32,
        "avx512_vnni" => 14 * 64,
        _ => return None,
    };
    Some((TURNS * in_a_turn) as f64)
}

/// Executes a kernel's instruction, and those that must stand beside it, for the CPU's time. Nothing where the CPU lacks it.
#[cfg(target_arch = "x86_64")]
pub fn run(kernel: &str) {
    /// A loop of the given instructions, which must read and write vector registers only.
    macro_rules! turns {
        ($($line:literal)*) => {{
            // SAFETY: the CPU has the instructions, which is asked below; they touch registers that are declared as
            // clobbered, and no memory.
            unsafe {
                std::arch::asm!(
                    "2:", $($line,)* "dec {count}", "jnz 2b",
                    count = inout(reg) TURNS => _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                    out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                    options(nomem, nostack)
                )
            }
        }};
    }
    match kernel {
        "avx2" if is_x86_feature_detected!("avx2") => turns!(
            "vpmaddwd ymm12, ymm14, ymm15"
            "vpaddd ymm0, ymm0, ymm12"
            "vpmaddwd ymm13, ymm14, ymm15"
            "vpaddd ymm1, ymm1, ymm13"
            "vpmaddwd ymm12, ymm14, ymm15"
            "vpaddd ymm2, ymm2, ymm12"
            "vpmaddwd ymm13, ymm14, ymm15"
            "vpaddd ymm3, ymm3, ymm13"
            "vpmaddwd ymm12, ymm14, ymm15"
            "vpaddd ymm4, ymm4, ymm12"
            "vpmaddwd ymm13, ymm14, ymm15"
            "vpaddd ymm5, ymm5, ymm13"
            "vpmaddwd ymm12, ymm14, ymm15"
            "vpaddd ymm6, ymm6, ymm12"
            "vpmaddwd ymm13, ymm14, ymm15"
            "vpaddd ymm7, ymm7, ymm13"
            "vpmaddwd ymm12, ymm14, ymm15"
            "vpaddd ymm8, ymm8, ymm12"
            "vpmaddwd ymm13, ymm14, ymm15"
            "vpaddd ymm9, ymm9, ymm13"
            "vpmaddwd ymm12, ymm14, ymm15"
            "vpaddd ymm10, ymm10, ymm12"
            "vpmaddwd ymm13, ymm14, ymm15"
            "vpaddd ymm11, ymm11, ymm13"),
        "avx_vnni" if is_x86_feature_detected!("avxvnni") => turns!(
            "{{vex}} vpdpbusd ymm0, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm1, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm2, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm3, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm4, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm5, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm6, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm7, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm8, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm9, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm10, ymm14, ymm15"
            "{{vex}} vpdpbusd ymm11, ymm14, ymm15"),
        // Fourteen chains hide a latency of 4 or 5 cycles at two instructions a cycle.
        "avx512_vnni" if is_x86_feature_detected!("avx512vnni") => turns!(
            "vpdpbusd zmm0, zmm14, zmm15"
            "vpdpbusd zmm1, zmm14, zmm15"
            "vpdpbusd zmm2, zmm14, zmm15"
            "vpdpbusd zmm3, zmm14, zmm15"
            "vpdpbusd zmm4, zmm14, zmm15"
            "vpdpbusd zmm5, zmm14, zmm15"
            "vpdpbusd zmm6, zmm14, zmm15"
            "vpdpbusd zmm7, zmm14, zmm15"
            "vpdpbusd zmm8, zmm14, zmm15"
            "vpdpbusd zmm9, zmm14, zmm15"
            "vpdpbusd zmm10, zmm14, zmm15"
            "vpdpbusd zmm11, zmm14, zmm15"
            "vpdpbusd zmm12, zmm14, zmm15"
            "vpdpbusd zmm13, zmm14, zmm15"),
        _ => {}
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub fn run(_: &str) {}
