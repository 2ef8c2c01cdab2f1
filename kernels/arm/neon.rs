//! NEON kernel of 32-bit ARM: ARMv7-A CPUs that have NEON, and 64-bit ones that run 32-bit programs.
//!
//! - Instructions: `vmull.s8 p, a_lo, b_lo; vmlsl.s8 p, ~a_hi, b_hi; vpadal.s16 sum, p`: 16 products, added in fours to
//!   4 i32. Stable Rust has none of them for this target, so the loop is written in assembly, prologue to return.
//! - Tile: 4 rows x 4 columns in two passes of 4 x 2, which 16 registers have room for: q8-q15 sums, q0-q1 `rhs`, q2-q3
//!   two rows of `lhs` at a time, q4-q7 their products with both columns. Next operands are loaded between the multiplies
//!   that were the last to need the old ones and the additions, so that in-order cores do not wait for them.
//!   One row takes all 4 columns in one pass: its time is that of reading weights.
//! - `lhs`: panels of 4 (3, 2, 1) rows of i8, kr = 16, the second 8 of each 16 bit-inverted (`~a = -a - 1`): of `h` rows,
//!   `value(i, k)` at `(k / 16) * 16 * h + i * 16 + k % 16`. `rhs`: panels of 4 columns, kr = 16: `value(k, n)` at
//!   `(n / 4) * K16 * 4 + (k / 16) * 64 + (n % 4) * 16 + k % 16`. A pass takes 32 of each 64 bytes. The layouts are
//!   those of the 64-bit `neon`.
//! - Ceiling: three instructions for 16 MAC: 8 MAC/cycle on Cortex-A57, of which llvm-mca predicts 7.97 for each of the
//!   loops; less on cores whose NEON takes several cycles for 128 bits (A7, A8, A9).
//! - Exact: `p = a0*b0 - (~a1)*b1 = a0*b0 + a1*b1 + b1` lies in -32640..=32640, where `a0*b0 + a1*b1` itself would reach
//!   32768 and wrap. The sum is too large by the weights of all second halves, a constant of each column that the epilogue
//!   takes off again ([`SumOffset::SecondHalves`]).
//!
//! Epilogues and packing are plain Rust: floating point in NEON of this target flushes denormals, and VFP does not.

use core::arch::naked_asm;

use super::super::{
    Job, Kernel, LhsFormat, LhsRows, SumOffset,
    depthwise::depthwise_functions,
    drive::{self, MicroKernel, TileInput, next_part},
    epilogue::{End, TileEnd, finish},
    layout::{self, padded},
    portable::{Scalar4, ScalarTaps},
    slices::slice_functions,
};

const MR: usize = 4;
const NR: usize = 4;
const KR: usize = 16;

/// The table entry.
pub(crate) static KERNEL: Kernel = Kernel {
    name: "armv7_neon",
    instruction: "vmull + vmlsl + vpadal",
    is_available,
    mr: MR,
    nr: NR,
    kr: KR,
    lhs: LhsFormat::PackedSigned,
    offset: SumOffset::SecondHalves,
    scratch: |_| 0,
    lhs_stride: |k| padded(k, KR),
    pack_lhs,
    row_sums,
    multiply,
    slices: slice_functions!(Scalar4),
    depthwise: depthwise_functions!(ScalarTaps),
};

/// Whether the CPU has NEON. ARMv7-A does not promise it: Tegra 2 and some Marvell chips lack it.
fn is_available() -> bool {
    // The target promises it, or the system says so.
    cfg!(i8gemm_arm_neon) || system_has_neon()
}

/// What the Linux kernel told the process about its CPU: the features that all cores have.
#[cfg(all(feature = "std", not(target_env = "uclibc")))]
fn system_has_neon() -> bool {
    use core::ffi::c_ulong;

    const AT_HWCAP: c_ulong = 16;
    const HWCAP_NEON: c_ulong = 1 << 12;

    // SAFETY: glibc since 2.16, musl since 1.1 and Android since API level 18 define this function so, and what `std` itself
    // links is later than these. It may be called at any time with any argument.
    unsafe extern "C" {
        safe fn getauxval(kind: c_ulong) -> c_ulong;
    }
    getauxval(AT_HWCAP) & HWCAP_NEON != 0
}

/// Without `std` no C library need be there to ask.
#[cfg(not(all(feature = "std", not(target_env = "uclibc"))))]
fn system_has_neon() -> bool {
    false
}

/// # Safety
/// As [`Kernel::pack_lhs`].
unsafe fn pack_lhs(src: &LhsRows, mut dst: *mut u8) {
    let flip = if src.unsigned { 0x80 } else { 0 };
    let mut row = 0;
    while row < src.rows {
        let height = next_part(src.rows - row, MR);
        for i in 0..height {
            // SAFETY: the row is readable for k bytes, and the panel takes `height` rows of padded bytes.
            unsafe {
                let from = src.ptr.add((row + i) * src.row_stride);
                pack_row(from, src.k, flip, height * KR, dst.add(i * KR));
            }
        }
        // SAFETY: `dst` has room for the panels of all rows.
        dst = unsafe { dst.add(height * padded(src.k, KR)) };
        row += height;
    }
}

/// Packs one row, 16 bytes at every `stride`: `src ^ flip`, inverted in the second halves; beyond K, what stands for zero.
///
/// # Safety
/// `k` bytes at `src` are readable, 16 bytes at each `i * stride` for `i < ceil(k / 16)` writable.
unsafe fn pack_row(src: *const u8, k: usize, flip: u8, stride: usize, dst: *mut u8) {
    const HALF: usize = KR / 2;
    let head = u32::from_ne_bytes([flip; 4]);
    let masks = [head, head, !head, !head];
    // SAFETY: the caller's.
    unsafe {
        for block in 0..k / KR {
            let words = src.add(block * KR).cast::<[u32; 4]>().read_unaligned();
            let packed: [u32; 4] = core::array::from_fn(|i| words[i] ^ masks[i]);
            dst.add(block * stride).cast::<[u32; 4]>().write_unaligned(packed);
        }
        let (whole, tail) = (k / KR, k % KR);
        if tail > 0 {
            let mut bytes = [flip; KR];
            for (t, byte) in bytes[..tail].iter_mut().enumerate() {
                *byte = *src.add(whole * KR + t);
            }
            for (t, byte) in bytes.iter().enumerate() {
                let late = if t < HALF { 0 } else { 0xFF };
                *dst.add(whole * stride + t) = byte ^ flip ^ late;
            }
        }
    }
}

/// # Safety
/// As [`Kernel::row_sums`].
unsafe fn row_sums(src: &LhsRows, dst: *mut i32) {
    // SAFETY: the caller's.
    unsafe { layout::row_sums(src, false, dst) }
}

/// # Safety
/// As [`Kernel::multiply`].
unsafe fn multiply(job: &Job) {
    // SAFETY: the caller's.
    unsafe { drive::multiply::<NeonTiles>(job) }
}

struct NeonTiles;

// SAFETY: `tile` reads whole steps of packed rows and panels.
unsafe impl MicroKernel for NeonTiles {
    type V = Scalar4;
    const NR: usize = NR;
    const KR: usize = KR;

    #[inline(always)]
    fn next_rows(remaining: usize, _rows: usize) -> usize {
        next_part(remaining, MR)
    }

    #[inline(always)]
    fn next_panels(_remaining: usize, _rows: usize) -> usize {
        1
    }

    #[inline(always)]
    unsafe fn tile<E: End>(rows: usize, _panels: usize, input: &TileInput, end: &TileEnd) {
        // SAFETY: the caller's.
        unsafe {
            match rows {
                1 => tile::<E, 1>(input, end),
                2 => tile::<E, 2>(input, end),
                3 => tile::<E, 3>(input, end),
                _ => tile::<E, 4>(input, end),
            }
        }
    }
}

/// `R` rows by one panel.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[inline(never)]
unsafe fn tile<E: End, const R: usize>(input: &TileInput, end: &TileEnd) {
    let mut sums = [[[0i32; NR]; 1]; R];
    let steps = input.k.div_ceil(KR);
    // SAFETY: packed rows and the panel are readable for whole steps, and there is at least one; there is room for `R` times 4
    // sums; the CPU has NEON.
    unsafe {
        if steps > 0 {
            let dot = if R == 1 { dot_row } else { dot::<R> };
            dot(input.lhs, input.rhs, steps, sums.as_mut_ptr().cast());
        }
        finish::<Scalar4, E, R, 1>(sums, end);
    }
}

/// Writes 4 sums of one row: all columns in one pass, so that weights are read once, in order.
///
/// # Safety
/// As [`dot`] with one row.
#[unsafe(naked)]
unsafe extern "C" fn dot_row(lhs: *const u8, rhs: *const u8, steps: usize, sums: *mut i32) {
    // q4 is lhs, q0-q3 the columns, q8-q11 products, q12-q15 sums.
    naked_asm!(
        ".syntax unified",
        ".fpu neon",
        "vpush {{d8-d9}}",
        "vmov.i32 q12, #0",
        "vmov.i32 q13, #0",
        "vmov.i32 q14, #0",
        "vmov.i32 q15, #0",
        "vld1.8 {{d8-d9}}, [r0]!",
        "vld1.8 {{d0-d3}}, [r1]!",
        "vld1.8 {{d4-d7}}, [r1]!",
        "2:",
        "vmull.s8 q8, d8, d0",
        "vmull.s8 q9, d8, d2",
        "vmull.s8 q10, d8, d4",
        "vmull.s8 q11, d8, d6",
        "vmlsl.s8 q8, d9, d1",
        "vmlsl.s8 q9, d9, d3",
        "vmlsl.s8 q10, d9, d5",
        "vmlsl.s8 q11, d9, d7",
        "subs r2, r2, #1",
        "beq 3f",
        "vld1.8 {{d8-d9}}, [r0]!",
        "vld1.8 {{d0-d3}}, [r1]!",
        "vld1.8 {{d4-d7}}, [r1]!",
        "3:",
        "vpadal.s16 q12, q8",
        "vpadal.s16 q13, q9",
        "vpadal.s16 q14, q10",
        "vpadal.s16 q15, q11",
        "bne 2b",
        "vpadd.i32 d0, d24, d25",
        "vpadd.i32 d1, d26, d27",
        "vpadd.i32 d2, d28, d29",
        "vpadd.i32 d3, d30, d31",
        "vpadd.i32 d0, d0, d1",
        "vpadd.i32 d1, d2, d3",
        "vst1.32 {{d0-d1}}, [r3]",
        "vpop {{d8-d9}}",
        "bx lr",
    )
}

/// Writes `R` rows of 4 sums.
///
/// A function of the assembler's from its first instruction: nothing but its arguments ties it to how the compiler uses
/// registers, and it may be called from ARM and from Thumb code (it is assembled as the target's own).
///
/// # Safety
/// `R` is 2 to 4; `lhs` is readable for `steps * 16 * R` bytes, `rhs` for `steps * 64`, `sums` writable for `R * 4`; `steps`
/// is not 0; the CPU has NEON.
#[unsafe(naked)]
unsafe extern "C" fn dot<const R: usize>(lhs: *const u8, rhs: *const u8, steps: usize, sums: *mut i32) {
    // r0 lhs, r1 rhs of this pass, r2 steps, r3 sums of this pass, lr rhs of the second pass;
    // r4 and r5 where lhs and rhs are read, r6 steps left, ip bytes of a step of rhs.
    naked_asm!(
        ".syntax unified",
        ".fpu neon",
        "push {{r4, r5, r6, lr}}",
        "vpush {{d8-d15}}",
        "mov ip, #64",
        "add lr, r1, #32",
        // A pass: two columns.
        "2:",
        "mov r4, r0",
        "mov r5, r1",
        "mov r6, r2",
        "vmov.i32 q8, #0",
        "vmov.i32 q9, #0",
        "vmov.i32 q10, #0",
        "vmov.i32 q11, #0",
        "vmov.i32 q12, #0",
        "vmov.i32 q13, #0",
        "vmov.i32 q14, #0",
        "vmov.i32 q15, #0",
        "vld1.8 {{d0-d3}}, [r5], ip",
        "vld1.8 {{d4-d7}}, [r4]!",
        // A step. Rows 0 and 1, columns 0 and 1.
        "3:",
        "vmull.s8 q4, d4, d0",
        "vmull.s8 q5, d4, d2",
        "vmull.s8 q6, d6, d0",
        "vmull.s8 q7, d6, d2",
        "vmlsl.s8 q4, d5, d1",
        "vmlsl.s8 q5, d5, d3",
        "vmlsl.s8 q6, d7, d1",
        "vmlsl.s8 q7, d7, d3",
        // Rows 2 and 3.
        ".if {R} >= 3",
        ".if {R} >= 4",
        "vld1.8 {{d4-d7}}, [r4]!",
        ".else",
        "vld1.8 {{d4-d5}}, [r4]!",
        ".endif",
        "vpadal.s16 q8, q4",
        "vpadal.s16 q9, q5",
        "vpadal.s16 q10, q6",
        "vpadal.s16 q11, q7",
        "vmull.s8 q4, d4, d0",
        "vmull.s8 q5, d4, d2",
        ".if {R} >= 4",
        "vmull.s8 q6, d6, d0",
        "vmull.s8 q7, d6, d2",
        ".endif",
        "vmlsl.s8 q4, d5, d1",
        "vmlsl.s8 q5, d5, d3",
        ".if {R} >= 4",
        "vmlsl.s8 q6, d7, d1",
        "vmlsl.s8 q7, d7, d3",
        ".endif",
        ".endif",
        // The next step's operands, if there is one: nothing is read beyond the last.
        "subs r6, r6, #1",
        "beq 4f",
        "vld1.8 {{d0-d3}}, [r5], ip",
        "vld1.8 {{d4-d7}}, [r4]!",
        "4:",
        ".if {R} <= 2",
        "vpadal.s16 q8, q4",
        "vpadal.s16 q9, q5",
        "vpadal.s16 q10, q6",
        "vpadal.s16 q11, q7",
        ".else",
        "vpadal.s16 q12, q4",
        "vpadal.s16 q13, q5",
        ".if {R} >= 4",
        "vpadal.s16 q14, q6",
        "vpadal.s16 q15, q7",
        ".endif",
        ".endif",
        // The flags are still those of the count.
        "bne 3b",
        // Each sum's four parts are added up: two columns of a row become a d register, rows lie 16 bytes apart.
        "mov r4, r3",
        "mov r5, #16",
        "vpadd.i32 d0, d16, d17",
        "vpadd.i32 d1, d18, d19",
        "vpadd.i32 d0, d0, d1",
        "vst1.32 {{d0}}, [r4], r5",
        "vpadd.i32 d0, d20, d21",
        "vpadd.i32 d1, d22, d23",
        "vpadd.i32 d0, d0, d1",
        "vst1.32 {{d0}}, [r4], r5",
        ".if {R} >= 3",
        "vpadd.i32 d0, d24, d25",
        "vpadd.i32 d1, d26, d27",
        "vpadd.i32 d0, d0, d1",
        "vst1.32 {{d0}}, [r4], r5",
        ".endif",
        ".if {R} >= 4",
        "vpadd.i32 d0, d28, d29",
        "vpadd.i32 d1, d30, d31",
        "vpadd.i32 d0, d0, d1",
        "vst1.32 {{d0}}, [r4], r5",
        ".endif",
        "cmp r1, lr",
        "mov r1, lr",
        "add r3, r3, #8",
        "bne 2b",
        "vpop {{d8-d15}}",
        "pop {{r4, r5, r6, pc}}",
        R = const R,
    )
}
