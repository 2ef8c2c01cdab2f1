//! What this CPU has and its operating system keeps, asked in one place for every x86-64 kernel.
//!
//! An instruction set can be used if CPUID names it *and* the operating system saves its registers when it changes threads, which
//! XCR0 tells. The standard library asks both; without it CPUID alone is read, so XCR0 is asked here. What a program is compiled for
//! (`-C target-feature`) is taken for granted, as everywhere in it.

use core::{
    arch::x86_64::{__cpuid, __cpuid_count, _xgetbv},
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

pulp::simd_type! {
    /// Proof that CPUID names AVX2.
    struct Avx2 {
        avx2: "avx2",
    }
}

pulp::simd_type! {
    /// Proof that CPUID names AVX-512 with VNNI.
    struct Avx512Vnni {
        avx512f: "avx512f",
        avx512bw: "avx512bw",
        avx512vnni: "avx512vnni",
    }
}

/// AVX2 can be used.
pub(super) fn has_avx2() -> bool {
    Avx2::is_available() && (cfg!(target_feature = "avx2") || knows(SAVES_YMM))
}

/// AVX2 and AVX-VNNI can be used.
pub(super) fn has_avx_vnni() -> bool {
    // The feature tokens know no AVX-VNNI.
    has_avx2() && (cfg!(target_feature = "avxvnni") || knows(AVX_VNNI))
}

/// AVX-512 with VNNI can be used.
pub(super) fn has_avx512_vnni() -> bool {
    Avx512Vnni::is_available() && (cfg!(target_feature = "avx512f") || knows(SAVES_ZMM))
}

/// This is a CPU of AMD: those with AVX-512 have two ports for logic beside the two that multiply.
pub(super) fn is_amd() -> bool {
    knows(AMD)
}

/// CPUID and XCR0 have been read.
const ASKED: u8 = 1;
const AMD: u8 = 1 << 1;
const AVX_VNNI: u8 = 1 << 2;
const SAVES_YMM: u8 = 1 << 3;
const SAVES_ZMM: u8 = 1 << 4;

/// Whether a fact holds. Asked once: under a hypervisor CPUID takes microseconds.
fn knows(fact: u8) -> bool {
    static FACTS: AtomicU8 = AtomicU8::new(0);
    let mut facts = FACTS.load(Relaxed);
    if facts == 0 {
        facts = ask();
        FACTS.store(facts, Relaxed);
    }
    facts & fact != 0
}

#[cold]
fn ask() -> u8 {
    // An enclave may not ask: there a program uses what it is compiled for.
    if cfg!(target_env = "sgx") {
        return ASKED;
    }
    // SAFETY: every x86-64 CPU has the instruction; newer compilers know.
    #[allow(unused_unsafe)]
    let (vendor, basic) = unsafe { (__cpuid(0), __cpuid(1)) };
    let mut facts = ASKED;
    if [vendor.ebx, vendor.edx, vendor.ecx] == [*b"Auth", *b"enti", *b"cAMD"].map(u32::from_le_bytes) {
        facts |= AMD;
    }
    // SAFETY: as above; leaf 7 exists, and so does its subleaf 1.
    #[allow(unused_unsafe)]
    let avx_vnni =
        vendor.eax >= 7 && unsafe { __cpuid_count(7, 0).eax >= 1 && __cpuid_count(7, 1).eax >> 4 & 1 == 1 };
    if avx_vnni {
        facts |= AVX_VNNI;
    }
    // The OSXSAVE bit: the operating system has switched XGETBV on.
    if basic.ecx >> 27 & 1 == 1 {
        // SAFETY: the bit says that the instruction can be used.
        let saved = unsafe { saved_state() };
        let saves = |state: u64| saved & state == state;
        // xmm and the upper halves of ymm; masks, the upper halves of zmm and the registers 16 to 31 besides.
        facts |= if saves(0x06) { SAVES_YMM } else { 0 };
        facts |= if saves(0xe6) { SAVES_ZMM } else { 0 };
    }
    facts
}

/// XCR0: a bit for each part of the registers that the operating system saves.
///
/// # Safety
/// The operating system has switched the instruction on.
#[target_feature(enable = "xsave")]
unsafe fn saved_state() -> u64 {
    // SAFETY: the operating system has switched it on; register 0 is XCR0.
    unsafe { _xgetbv(0) }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    #[test]
    fn the_standard_library_agrees() {
        use std::arch::is_x86_feature_detected as detected;
        let avx512 = detected!("avx512f") && detected!("avx512bw") && detected!("avx512vnni");
        assert_eq!(has_avx2(), detected!("avx2"));
        assert_eq!(has_avx_vnni(), detected!("avx2") && detected!("avxvnni"));
        assert_eq!(has_avx512_vnni(), avx512);
        // The facts themselves, which the tokens of a build with `std` would hide.
        assert!(knows(SAVES_YMM) || !detected!("avx2"));
        assert!(knows(SAVES_ZMM) || !detected!("avx512f"));
    }
}
