//! Epilogues of [`super::neon`] as vector code: corrections by products of row and column values, sums as they are, and bytes
//! rounded half to even.
//!
//! NEON of this target flushes denormals to zero. Bytes do not show it: what is flushed is far below half a step, and too
//! small to move a bias that is not. An f32 output would, so that one is left to scalar code.

use core::arch::naked_asm;

/// Parameters of the columns of a group, and the range of the output in steps from its zero point.
#[repr(C)]
pub(super) struct HalfEven {
    pub base: *const i32,
    pub scale: *const f32,
    /// Not null if the function's `B` is 1.
    pub bias: *const f32,
    pub low: f32,
    pub high: f32,
    pub zero_point: i32,
}

/// Turns `rows` of sums into bytes.
///
/// Safety: `sums` are `rows` of `4 * Q`, one behind the other, `out` has room for as many bytes at every `stride`, the
/// parameters are valid for the columns; `rows` is not 0; the CPU has NEON.
pub(super) type EndBytes =
    unsafe extern "C" fn(sums: *const i32, rows: usize, out: *mut u8, stride: usize, to: &HalfEven);

/// By panels, from one on; without and with an f32 bias.
pub(super) static HALF_EVEN: [[EndBytes; 2]; 4] = [
    [half_even::<1, 0>, half_even::<1, 1>],
    [half_even::<2, 0>, half_even::<2, 1>],
    [half_even::<3, 0>, half_even::<3, 1>],
    [half_even::<4, 0>, half_even::<4, 1>],
];

/// Stores `rows` of sums, or adds them to those that are there.
///
/// Safety: `sums` are `rows` of `4 * Q`, one behind the other, `out` has room for as many at every `stride` elements, `base`
/// a value for each column; `rows` is not 0; the CPU has NEON.
pub(super) type EndSums =
    unsafe extern "C" fn(sums: *const i32, rows: usize, out: *mut i32, stride: usize, base: *const i32);

/// By panels, from one on; stored and added.
pub(super) static SUMS: [[EndSums; 2]; 4] = [
    [sums::<1, 0>, sums::<1, 1>],
    [sums::<2, 0>, sums::<2, 1>],
    [sums::<3, 0>, sums::<3, 1>],
    [sums::<4, 0>, sums::<4, 1>],
];

/// Loads or stores `Q` vectors in the registers named, at an address that moves on.
macro_rules! vectors {
    ($op:literal, $at:literal, $d0:literal $d1:literal $d3:literal $d4:literal $d5:literal $d7:literal) => {
        concat!(
            ".if {Q} == 1\n",
            $op,
            " {{",
            $d0,
            "-",
            $d1,
            "}}, [",
            $at,
            "]!\n.else\n",
            $op,
            " {{",
            $d0,
            "-",
            $d3,
            "}}, [",
            $at,
            "]!\n.endif\n.if {Q} == 3\n",
            $op,
            " {{",
            $d4,
            "-",
            $d5,
            "}}, [",
            $at,
            "]!\n.endif\n.if {Q} == 4\n",
            $op,
            " {{",
            $d4,
            "-",
            $d7,
            "}}, [",
            $at,
            "]!\n.endif\n",
        )
    };
}

/// An instruction for each of `Q` vectors of sums, q8-q11: the sum, and a vector or the four of a parameter.
macro_rules! each {
    ($op:literal) => {
        each!(@ $op, "", "", "", "")
    };
    ($op:literal, $all:literal) => {
        each!(@ $op, $all, $all, $all, $all)
    };
    ($op:literal, $a:literal $b:literal $c:literal $d:literal) => {
        each!(@ $op, $a, $b, $c, $d)
    };
    (@ $op:literal, $a:expr, $b:expr, $c:expr, $d:expr) => {
        concat!(
            $op, " q8, q8", $a, "\n.if {Q} >= 2\n",
            $op, " q9, q9", $b, "\n.endif\n.if {Q} >= 3\n",
            $op, " q10, q10", $c, "\n.endif\n.if {Q} == 4\n",
            $op, " q11, q11", $d, "\n.endif\n",
        )
    };
}

/// Adding 1.5 * 2^23 to a float of the range of bytes leaves no fraction bits: the addition itself rounds half to even, and
/// the low byte of the result is that of the integer.
///
/// # Safety
/// As [`EndBytes`].
#[unsafe(naked)]
unsafe extern "C" fn half_even<const Q: usize, const B: usize>(
    sums: *const i32,
    rows: usize,
    out: *mut u8,
    stride: usize,
    to: &HalfEven,
) {
    // q0-q3 base (and bias in turn), q4-q7 scale, q8-q11 sums, q12 low, q13 high, q14 1.5 * 2^23, q15 zero point;
    // r4 base, r5 bias.
    naked_asm!(
        ".syntax unified",
        ".fpu neon",
        "push {{r4, r5, r6, r7}}",
        "vpush {{d8-d15}}",
        "ldr ip, [sp, #80]",
        "ldm ip!, {{r4, r5, r6}}",
        "vld1.32 {{d24[], d25[]}}, [ip]!",
        "vld1.32 {{d26[], d27[]}}, [ip]!",
        "ldr r7, [ip]",
        "vdup.8 q15, r7",
        "movw r7, #0",
        "movt r7, #0x4b40",
        "vdup.32 q14, r7",
        "mov ip, r4",
        vectors!("vld1.32", "ip", "d0" "d1" "d3" "d4" "d5" "d7"),
        vectors!("vld1.32", "r5", "d8" "d9" "d11" "d12" "d13" "d15"),
        "2:",
        vectors!("vld1.32", "r0", "d16" "d17" "d19" "d20" "d21" "d23"),
        ".if {B}",
        "mov ip, r4",
        vectors!("vld1.32", "ip", "d0" "d1" "d3" "d4" "d5" "d7"),
        ".endif",
        each!("vadd.i32", ", q0" ", q1" ", q2" ", q3"),
        each!("vcvt.f32.s32"),
        each!("vmul.f32", ", q4" ", q5" ", q6" ", q7"),
        ".if {B}",
        "mov ip, r6",
        vectors!("vld1.32", "ip", "d0" "d1" "d3" "d4" "d5" "d7"),
        each!("vadd.f32", ", q0" ", q1" ", q2" ", q3"),
        ".endif",
        each!("vmax.f32", ", q12"),
        each!("vmin.f32", ", q13"),
        each!("vadd.f32", ", q14"),
        "vmovn.i32 d16, q8",
        ".if {Q} >= 2",
        "vmovn.i32 d17, q9",
        ".endif",
        ".if {Q} >= 3",
        "vmovn.i32 d18, q10",
        ".endif",
        ".if {Q} == 4",
        "vmovn.i32 d19, q11",
        ".endif",
        "vmovn.i16 d16, q8",
        ".if {Q} >= 3",
        "vmovn.i16 d17, q9",
        ".endif",
        "vadd.i8 q8, q8, q15",
        "subs r1, r1, #1",
        ".if {Q} == 1",
        "vst1.32 {{d16[0]}}, [r2], r3",
        ".elseif {Q} == 2",
        "vst1.8 {{d16}}, [r2], r3",
        ".elseif {Q} == 3",
        "add ip, r2, #8",
        "vst1.8 {{d16}}, [r2], r3",
        "vst1.32 {{d17[0]}}, [ip]",
        ".else",
        "vst1.8 {{d16-d17}}, [r2], r3",
        ".endif",
        "bne 2b",
        "vpop {{d8-d15}}",
        "pop {{r4, r5, r6, r7}}",
        "bx lr",
        Q = const Q,
        B = const B,
    )
}

/// # Safety
/// As [`EndSums`].
#[unsafe(naked)]
unsafe extern "C" fn sums<const Q: usize, const A: usize>(
    sums: *const i32,
    rows: usize,
    out: *mut i32,
    stride: usize,
    base: *const i32,
) {
    // q0-q3 base, q8-q11 sums, q12-q15 what they are added to.
    naked_asm!(
        ".syntax unified",
        ".fpu neon",
        "ldr ip, [sp]",
        vectors!("vld1.32", "ip", "d0" "d1" "d3" "d4" "d5" "d7"),
        "2:",
        vectors!("vld1.32", "r0", "d16" "d17" "d19" "d20" "d21" "d23"),
        ".if {A}",
        "mov ip, r2",
        vectors!("vld1.32", "ip", "d24" "d25" "d27" "d28" "d29" "d31"),
        each!("vadd.i32", ", q12" ", q13" ", q14" ", q15"),
        ".endif",
        each!("vadd.i32", ", q0" ", q1" ", q2" ", q3"),
        "mov ip, r2",
        vectors!("vst1.32", "ip", "d16" "d17" "d19" "d20" "d21" "d23"),
        "add r2, r2, r3, lsl #2",
        "subs r1, r1, #1",
        "bne 2b",
        "bx lr",
        Q = const Q,
        A = const A,
    )
}

/// Adds `row * column` to each sum, modulo 2^32.
///
/// # Safety
/// `sums` are `row_count` rows of `4 * panels`, one behind the other, `columns` has a value for each column, `rows` for each
/// row; neither number is 0; the CPU has NEON.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn add_products(
    sums: *mut i32,
    row_count: usize,
    panels: usize,
    columns: *const i32,
    rows: *const i32,
) {
    naked_asm!(
        ".syntax unified",
        ".fpu neon",
        "push {{r4, r5}}",
        "ldr r4, [sp, #8]",
        "2:",
        "vld1.32 {{d2[], d3[]}}, [r4]!",
        "mov ip, r3",
        "mov r5, r2",
        "3:",
        "vld1.32 {{d0-d1}}, [r0]",
        "vld1.32 {{d4-d5}}, [ip]!",
        "subs r5, r5, #1",
        "vmla.i32 q0, q1, q2",
        "vst1.32 {{d0-d1}}, [r0]!",
        "bne 3b",
        "subs r1, r1, #1",
        "bne 2b",
        "pop {{r4, r5}}",
        "bx lr",
    )
}
