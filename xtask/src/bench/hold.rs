//! Peers held to the instruction set of a kernel that was asked for: by the variables that they read for it.

/// What holds peers, and who cannot be held.
pub struct Hold {
    pub environment: &'static [(&'static str, &'static str)],
    held: &'static str,
    free: &'static str,
}

/// tract-linalg can be told, but without its VNNI kernels was seen to run some hundred times slower, which is no figure of its AVX2.
const FREE: &str = "ONNX Runtime, rten-gemm, gemm (f32) and tract-linalg";

/// For that kernel; none where it is as much as peers use anyway.
pub fn to(kernel: &str) -> Option<Hold> {
    let hold = match kernel {
        "avx2" => Hold {
            environment: &[
                ("ONEDNN_MAX_CPU_ISA", "AVX2"),
                ("ATEN_CPU_CAPABILITY", "avx2"),
                ("FBGEMM_ENABLE_INSTRUCTIONS", "AVX2"),
                ("GEMMKIT_REQUIRE_ISA", "fma"),
            ],
            held: "oneDNN, PyTorch with FBGEMM and gemmkit",
            free: FREE,
        },
        // Where the instruction is not known, the set below it is the most that leaves out AVX-512.
        "avx_vnni" => Hold {
            environment: &[
                ("ONEDNN_MAX_CPU_ISA", "AVX2_VNNI"),
                ("ATEN_CPU_CAPABILITY", "avx2"),
                ("FBGEMM_ENABLE_INSTRUCTIONS", "AVX2"),
                ("GEMMKIT_REQUIRE_ISA", "fma"),
            ],
            held: "oneDNN; PyTorch with FBGEMM and gemmkit, which know no AVX-VNNI, to AVX2",
            free: FREE,
        },
        "avx512_vnni" => Hold {
            environment: &[
                ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI"),
                ("TRACT_CPU_ISA", "-amx-int8,-amx-bf16"),
            ],
            held: "oneDNN and tract-linalg, which may have AMX otherwise",
            free: "ONNX Runtime, where the CPU has AMX",
        },
        _ => return None,
    };
    Some(hold)
}

impl Hold {
    /// For the report.
    pub fn note(&self, kernel: &str) -> String {
        format!("held to the instructions of {kernel}: {}; not held: {}", self.held, self.free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_peers_are_held_to_exist() {
        for kernel in ["avx2", "avx_vnni", "avx512_vnni"] {
            assert!(to(kernel).unwrap().note(kernel).contains("not held: ONNX Runtime"));
            // It may not be available; an unknown name is another error.
            let known = i8gemm::Kernel::by_name(kernel);
            let unknown = matches!(known, Err(i8gemm::Error::UnknownKernel { .. }));
            assert!(!unknown || !cfg!(target_arch = "x86_64"), "{kernel}");
        }
        assert!(to("portable").is_none());
    }
}
