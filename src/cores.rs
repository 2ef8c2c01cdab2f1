//! Which cores an ARM machine has, as far as the order of instructions matters: in-order cores have schedules of their own.
//!
//! Linux and Android list the cores in `/proc/cpuinfo`; where that names none, the core that runs this tells its own name
//! (`MIDR_EL1`, which the kernel lets programs read when it says so in `HWCAP_CPUID`).

/// A core's maker and model: the fields `implementer` and `partnum` of `MIDR_EL1`.
type Part = (u8, u16);

/// Cores that the in-order schedules are made for: Cortex-A53, A35 and A55, and Qualcomm's names of A53 and A55. Cortex-A510 and
/// A520 are in-order too, but issue three at a time and load 128 bits at once: there the ordinary schedules are predicted to
/// be the faster ones (`cargo xtask mca`).
const IN_ORDER: &[Part] =
    &[(0x41, 0xd03), (0x41, 0xd04), (0x41, 0xd05), (0x51, 0x801), (0x51, 0x803), (0x51, 0x805)];

cfg_if::cfg_if! {
    if #[cfg(all(i8gemm_aarch64, feature = "std", any(target_os = "linux", target_os = "android")))] {
        /// Whether every core of this machine is one of [`IN_ORDER`]. With both sorts the work belongs on the others, so no.
        pub(crate) fn all_in_order() -> bool {
            static ANSWER: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
            *ANSWER.get_or_init(|| {
                let listed = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| listed_in_order(&text));
                listed.or_else(|| this_core().map(|part| IN_ORDER.contains(&part))).unwrap_or(false)
            })
        }

        /// The core that this thread runs on; `None` where programs may not ask.
        fn this_core() -> Option<Part> {
            const AT_HWCAP: core::ffi::c_ulong = 16;
            const HWCAP_CPUID: core::ffi::c_ulong = 1 << 11;
            unsafe extern "C" {
                safe fn getauxval(kind: core::ffi::c_ulong) -> core::ffi::c_ulong;
            }
            if getauxval(AT_HWCAP) & HWCAP_CPUID == 0 {
                return None;
            }
            let midr: u64;
            // SAFETY: the kernel says that it answers this read for programs; it touches one register.
            unsafe {
                core::arch::asm!("mrs {}, MIDR_EL1", out(reg) midr, options(pure, nomem, nostack, preserves_flags));
            }
            Some(part(midr))
        }
    } else {
        /// Without an operating system to ask, or on one that runs on no such core.
        #[cfg_attr(not(i8gemm_aarch64), allow(dead_code, reason = "other targets have one order of kernels"))]
        pub(crate) fn all_in_order() -> bool {
            false
        }
    }
}

/// Whether every core that a `/proc/cpuinfo` names is one of [`IN_ORDER`]; `None` if it names none.
#[allow(dead_code, reason = "tested everywhere, used on Linux and Android")]
fn listed_in_order(cpuinfo: &str) -> Option<bool> {
    let mut implementer = 0;
    let mut answer = None;
    for line in cpuinfo.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let number = value.trim().strip_prefix("0x").and_then(|hex| u16::from_str_radix(hex, 16).ok());
        match (key.trim(), number) {
            ("CPU implementer", Some(number)) => implementer = number as u8,
            ("CPU part", Some(part)) => {
                answer = Some(answer.unwrap_or(true) && IN_ORDER.contains(&(implementer, part)));
            }
            _ => {}
        }
    }
    answer
}

/// Maker and model in `MIDR_EL1`: bits 31..24 and 15..4.
#[allow(dead_code, reason = "tested everywhere, used on Linux and Android")]
fn part(midr: u64) -> Part {
    ((midr >> 24) as u8, (midr >> 4) as u16 & 0xfff)
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    /// As Linux prints it, shortened.
    fn cpuinfo(cores: &[Part]) -> String {
        let core = |&(implementer, part): &Part| {
            format!(
                "processor\t: 0\nBogoMIPS\t: 38.40\nFeatures\t: fp asimd\nCPU implementer\t: {implementer:#04x}\n\
                 CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part:#05x}\nCPU revision\t: 4\n\n"
            )
        };
        cores.iter().map(core).collect()
    }

    #[test]
    fn a_machine_is_in_order_if_every_core_is() {
        assert_eq!(listed_in_order(&cpuinfo(&[(0x41, 0xd03); 4])), Some(true));
        assert_eq!(listed_in_order(&cpuinfo(&[(0x41, 0xd05), (0x51, 0x805)])), Some(true));
        // big.LITTLE, a Neoverse N1, and another maker's core of the same number as a Cortex-A53.
        assert_eq!(listed_in_order(&cpuinfo(&[(0x41, 0xd05), (0x41, 0xd0b)])), Some(false));
        assert_eq!(listed_in_order(&cpuinfo(&[(0x41, 0xd0b), (0x41, 0xd05)])), Some(false));
        assert_eq!(listed_in_order(&cpuinfo(&[(0x41, 0xd0c)])), Some(false));
        assert_eq!(listed_in_order(&cpuinfo(&[(0x48, 0xd03)])), Some(false));
        // Cortex-A510: in-order, and faster with the ordinary schedules.
        assert_eq!(listed_in_order(&cpuinfo(&[(0x41, 0xd46)])), Some(false));
        // An x86 machine, as an emulator may show it.
        assert_eq!(listed_in_order("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t\t: 1\n"), None);
        assert_eq!(listed_in_order(""), None);
    }

    #[test]
    fn maker_and_model_are_fields_of_the_register() {
        assert_eq!(part(0x410f_d034), (0x41, 0xd03)); // Cortex-A53 r0p4
        assert_eq!(part(0x414f_d0b1), (0x41, 0xd0b)); // Cortex-A76 r4p1
    }
}
