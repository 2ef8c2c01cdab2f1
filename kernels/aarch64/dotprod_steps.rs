//! The loops of [`super::dotprod`] over K: written out for 12 and 8 rows, and for in-order cores for 4.

use core::arch::{aarch64::*, asm};

use super::super::product::TileInput;

/// Columns of a panel.
pub(super) const NR: usize = 8;
/// Depth of a step.
pub(super) const KR: usize = 4;

/// `sum[j] += a[4 * LANE ..][..4] . b[4 * j ..][..4]`.
///
/// The intrinsic is not stable; without these options every `sdot` would be a barrier to the compiler.
///
/// # Safety
/// The CPU has dot products.
#[target_feature(enable = "neon,dotprod")]
#[inline]
unsafe fn sdot<const LANE: i32>(mut sum: int32x4_t, b: int8x16_t, a: int8x16_t) -> int32x4_t {
    // SAFETY: reads and writes the registers named, nothing else.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {b:v}.16b, {a:v}.4b[{lane}]",
            sum = inout(vreg) sum, b = in(vreg) b, a = in(vreg) a, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}

/// [`sdot`] with a lane that is known once loops are unrolled.
///
/// # Safety
/// The CPU has dot products.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) unsafe fn sdot_lane(sum: int32x4_t, b: int8x16_t, a: int8x16_t, lane: usize) -> int32x4_t {
    // SAFETY: the CPU has dot products.
    unsafe {
        match lane {
            0 => sdot::<0>(sum, b, a),
            1 => sdot::<1>(sum, b, a),
            2 => sdot::<2>(sum, b, a),
            _ => sdot::<3>(sum, b, a),
        }
    }
}

/// Where the written loops are in the packed rows and the panel.
pub(super) struct Cursor {
    pub lhs: *const i8,
    pub rhs: *const i8,
    pub steps: usize,
}

/// One of a written loop's multiplies, by the numbers of its registers and the lane.
macro_rules! sdot {
    ($sum:literal $b:literal $a:literal $lane:literal) => {
        concat!("sdot v", $sum, ".4s, v", $b, ".16b, v", $a, ".4b[", $lane, "]\n")
    };
}

/// The 8 multiplies of 4 rows: those of `b0`, then those of `b1`, each with the instruction that follows it. A register of
/// sums returns every step, the 16 or 24 multiplies that it needs at most.
macro_rules! four_rows {
    (0, $($rest:tt)*) => { four_rows!([8 9 10 11 12 13 14 15] $($rest)*) };
    (4, $($rest:tt)*) => { four_rows!([16 17 18 19 20 21 22 23] $($rest)*) };
    (8, $($rest:tt)*) => { four_rows!([24 25 26 27 28 29 30 31] $($rest)*) };
    ($sums:tt a $a:literal, b $b0:literal $b1:literal) => {
        four_rows!($sums a $a, b $b0 $b1, "", "", "", "", "", "", "", "")
    };
    ([$r0q0:literal $r0q1:literal $r1q0:literal $r1q1:literal $r2q0:literal $r2q1:literal $r3q0:literal $r3q1:literal]
     a $a:literal, b $b0:literal $b1:literal,
     $n0:literal, $n1:literal, $n2:literal, $n3:literal, $n4:literal, $n5:literal, $n6:literal, $n7:literal $(,)?) => {
        concat!(
            sdot!($r0q0 $b0 $a 0), $n0, "\n", sdot!($r1q0 $b0 $a 1), $n1, "\n",
            sdot!($r2q0 $b0 $a 2), $n2, "\n", sdot!($r3q0 $b0 $a 3), $n3, "\n",
            sdot!($r0q1 $b1 $a 0), $n4, "\n", sdot!($r1q1 $b1 $a 1), $n5, "\n",
            sdot!($r2q1 $b1 $a 2), $n6, "\n", sdot!($r3q1 $b1 $a 3), $n7, "\n",
        )
    };
}

/// A written loop: `turns` times, at least one. The sums are v8 to v15, v23 or v31, two registers a row; v0 to v7 are operands,
/// x9 to x12 hold halves of them.
macro_rules! written_loop {
    (4 rows, $sums:ident, $($rest:tt)*) => {
        written_loop!(["v8" 0, "v10" 1, "v12" 2, "v14" 3] ["v9" 0, "v11" 1, "v13" 2, "v15" 3] $sums, $($rest)*)
    };
    (8 rows, $sums:ident, $($rest:tt)*) => {
        written_loop!(["v8" 0, "v10" 1, "v12" 2, "v14" 3, "v16" 4, "v18" 5, "v20" 6, "v22" 7]
            ["v9" 0, "v11" 1, "v13" 2, "v15" 3, "v17" 4, "v19" 5, "v21" 6, "v23" 7] $sums, $($rest)*)
    };
    (12 rows, $sums:ident, $($rest:tt)*) => {
        written_loop!(
            ["v8" 0, "v10" 1, "v12" 2, "v14" 3, "v16" 4, "v18" 5, "v20" 6, "v22" 7, "v24" 8, "v26" 9, "v28" 10, "v30" 11]
            ["v9" 0, "v11" 1, "v13" 2, "v15" 3, "v17" 4, "v19" 5, "v21" 6, "v23" 7, "v25" 8, "v27" 9, "v29" 10, "v31" 11]
            $sums, $($rest)*)
    };
    ([$($v0:tt $r0:literal),*] [$($v1:tt $r1:literal),*]
     $sums:ident, $at:ident, $turns:ident, $($text:expr),* $(,)?) => {
        asm!(
            $($text,)*
            lhs = inout(reg) $at.lhs,
            rhs = inout(reg) $at.rhs,
            turns = inout(reg) $turns => _,
            out("x9") _, out("x10") _, out("x11") _, out("x12") _,
            $(inout($v0) $sums[$r0][0],)*
            $(inout($v1) $sums[$r1][1],)*
            out("v0") _, out("v1") _, out("v2") _, out("v3") _,
            out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            options(readonly, nostack)
        )
    };
}

impl Cursor {
    pub fn new(input: &TileInput) -> Self {
        Self { lhs: input.lhs.cast(), rhs: input.rhs.cast(), steps: input.k.div_ceil(KR) }
    }
}

/// All pairs of steps of 12 rows, for out-of-order cores.
///
/// # Safety
/// The steps are readable; the CPU has dot products.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) unsafe fn steps_of_12(sums: &mut [[int32x4_t; 2]; 12], at: &mut Cursor) {
    let turns = at.steps / 2;
    if turns == 0 {
        return;
    }
    at.steps %= 2;
    // SAFETY: a turn reads two steps: 96 bytes of rows, 64 of columns. Registers and flags are declared.
    unsafe {
        written_loop!(12 rows, sums, at, turns,
            "2:",
            "ldp q3, q4, [{rhs}]",
            "ldp q0, q1, [{lhs}]",
            four_rows!(0, a 0, b 3 4),
            four_rows!(4, a 1, b 3 4),
            "ldr q2, [{lhs}, #32]",
            four_rows!(8, a 2, b 3 4),
            "ldp q5, q6, [{rhs}, #32]",
            "ldp q0, q1, [{lhs}, #48]",
            four_rows!(0, a 0, b 5 6),
            four_rows!(4, a 1, b 5 6),
            "ldr q2, [{lhs}, #80]",
            four_rows!(8, a 2, b 5 6),
            "add {lhs}, {lhs}, #96",
            "add {rhs}, {rhs}, #64",
            "subs {turns}, {turns}, #1",
            "b.ne 2b",
        );
    }
}

/// All pairs of steps of 8 rows, for out-of-order cores.
///
/// # Safety
/// As [`steps_of_12`].
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) unsafe fn steps_of_8(sums: &mut [[int32x4_t; 2]; 8], at: &mut Cursor) {
    let turns = at.steps / 2;
    if turns == 0 {
        return;
    }
    at.steps %= 2;
    // SAFETY: a turn reads two steps: 64 bytes of rows, 64 of columns. Registers and flags are declared.
    unsafe {
        written_loop!(8 rows, sums, at, turns,
            "2:",
            "ldp q3, q4, [{rhs}]",
            "ldr q0, [{lhs}]",
            four_rows!(0, a 0, b 3 4),
            "ldr q1, [{lhs}, #16]",
            four_rows!(4, a 1, b 3 4),
            "ldp q5, q6, [{rhs}, #32]",
            "ldr q0, [{lhs}, #32]",
            four_rows!(0, a 0, b 5 6),
            "ldr q1, [{lhs}, #48]",
            four_rows!(4, a 1, b 5 6),
            "add {lhs}, {lhs}, #64",
            "add {rhs}, {rhs}, #64",
            "subs {turns}, {turns}, #1",
            "b.ne 2b",
        );
    }
}

/// Pairs of steps of 12 rows, for in-order cores: all but the last one or two steps, because a turn reads ahead.
///
/// # Safety
/// As [`steps_of_12`].
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) unsafe fn steps_of_12_in_order(sums: &mut [[int32x4_t; 2]; 12], at: &mut Cursor) {
    let turns = at.steps.saturating_sub(1) / 2;
    if turns == 0 {
        return;
    }
    at.steps -= 2 * turns;
    // SAFETY: a turn reads two steps, and of the next, which there is, two registers of rows and two of columns. Registers
    // and flags are declared.
    unsafe {
        written_loop!(12 rows, sums, at, turns,
            "ldp q0, q1, [{lhs}]",
            "ldp q3, q4, [{rhs}]",
            "2:",
            four_rows!(0, a 0, b 3 4,
                "ldr d2, [{lhs}, #32]", "ldr x9, [{lhs}, #40]",
                "ldr d5, [{rhs}, #32]", "ldr x10, [{rhs}, #40]",
                "ldr d6, [{rhs}, #48]", "ldr x11, [{rhs}, #56]",
                "ins v2.d[1], x9", "ins v5.d[1], x10",
            ),
            four_rows!(4, a 1, b 3 4,
                "ldr d0, [{lhs}, #48]", "ldr x12, [{lhs}, #56]",
                "ins v6.d[1], x11", "",
                "", "",
                "ins v0.d[1], x12", "",
            ),
            four_rows!(8, a 2, b 3 4,
                "ldr d1, [{lhs}, #64]", "ldr x9, [{lhs}, #72]",
                "", "",
                "", "",
                "ins v1.d[1], x9", "",
            ),
            four_rows!(0, a 0, b 5 6,
                "ldr d2, [{lhs}, #80]", "ldr x9, [{lhs}, #88]",
                "ldr d3, [{rhs}, #64]", "ldr x10, [{rhs}, #72]",
                "ldr d4, [{rhs}, #80]", "ldr x11, [{rhs}, #88]",
                "ins v2.d[1], x9", "ins v3.d[1], x10",
            ),
            four_rows!(4, a 1, b 5 6,
                "ldr d0, [{lhs}, #96]", "ldr x12, [{lhs}, #104]",
                "ins v4.d[1], x11", "",
                "", "",
                "ins v0.d[1], x12", "",
            ),
            four_rows!(8, a 2, b 5 6,
                "ldr d1, [{lhs}, #112]", "ldr x9, [{lhs}, #120]",
                "add {lhs}, {lhs}, #96", "add {rhs}, {rhs}, #64",
                "subs {turns}, {turns}, #1", "",
                "ins v1.d[1], x9", "",
            ),
            "b.ne 2b",
        );
    }
}

/// Pairs of steps of 8 rows, for in-order cores: all but the last one or two steps, because a turn reads ahead.
///
/// # Safety
/// As [`steps_of_12`].
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) unsafe fn steps_of_8_in_order(sums: &mut [[int32x4_t; 2]; 8], at: &mut Cursor) {
    let turns = at.steps.saturating_sub(1) / 2;
    if turns == 0 {
        return;
    }
    at.steps -= 2 * turns;
    // SAFETY: a turn reads two steps and the next, which there is. Registers and flags are declared.
    unsafe {
        written_loop!(8 rows, sums, at, turns,
            "ldp q0, q1, [{lhs}]",
            "ldp q2, q3, [{rhs}]",
            "2:",
            four_rows!(0, a 0, b 2 3,
                "ldr d6, [{rhs}, #32]", "ldr x9, [{rhs}, #40]",
                "ldr d7, [{rhs}, #48]", "ldr x10, [{rhs}, #56]",
                "ldr d4, [{lhs}, #32]", "ldr x11, [{lhs}, #40]",
                "ins v6.d[1], x9", "ldr d5, [{lhs}, #48]",
            ),
            four_rows!(4, a 1, b 2 3,
                "ldr x12, [{lhs}, #56]", "ins v7.d[1], x10",
                "ins v4.d[1], x11", "",
                "", "ins v5.d[1], x12",
                "", "",
            ),
            four_rows!(0, a 4, b 6 7,
                "ldr d2, [{rhs}, #64]", "ldr x9, [{rhs}, #72]",
                "ldr d3, [{rhs}, #80]", "ldr x10, [{rhs}, #88]",
                "ldr d0, [{lhs}, #64]", "ldr x11, [{lhs}, #72]",
                "ins v2.d[1], x9", "ldr d1, [{lhs}, #80]",
            ),
            four_rows!(4, a 5, b 6 7,
                "ldr x12, [{lhs}, #88]", "ins v3.d[1], x10",
                "ins v0.d[1], x11", "add {lhs}, {lhs}, #64",
                "add {rhs}, {rhs}, #64", "ins v1.d[1], x12",
                "subs {turns}, {turns}, #1", "",
            ),
            "b.ne 2b",
        );
    }
}

/// Fours of steps of 4 rows, for in-order cores: all but the last two to five steps, because a turn reads ahead.
///
/// A step has 9 parts of loads for 8 multiplies: two of them share a cycle of their own every other step. Rows are loaded two
/// steps ahead, so that nothing is used before it is there; the second half of theirs waits in x11 or x12 for the next step.
///
/// # Safety
/// As [`steps_of_12`].
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) unsafe fn steps_of_4_in_order(sums: &mut [[int32x4_t; 2]; 4], at: &mut Cursor) {
    let turns = at.steps.saturating_sub(2) / 4;
    if turns == 0 {
        return;
    }
    at.steps -= 4 * turns;
    // SAFETY: a turn reads four steps, the columns of the next and the rows of the two next, which there are. Registers and
    // flags are declared.
    unsafe {
        written_loop!(4 rows, sums, at, turns,
            "ldp q0, q1, [{lhs}]",
            "ldr x12, [{lhs}, #24]",
            "ldp q2, q3, [{rhs}]",
            "2:",
            four_rows!(0, a 0, b 2 3,
                "ldr x9, [{rhs}, #40]", "ldr d4, [{rhs}, #32]",
                "ins v1.d[1], x12", "ldr x10, [{rhs}, #56]",
                "ins v4.d[1], x9", "ldr d5, [{rhs}, #48]",
                "ldr x11, [{lhs}, #40]", "ldr d6, [{lhs}, #32]\nins v5.d[1], x10",
            ),
            four_rows!(0, a 1, b 4 5,
                "ldr x9, [{rhs}, #72]", "ldr d2, [{rhs}, #64]",
                "ins v6.d[1], x11", "ldr x10, [{rhs}, #88]",
                "ins v2.d[1], x9", "ldr d3, [{rhs}, #80]",
                "ldr x12, [{lhs}, #56]", "ldr d7, [{lhs}, #48]\nins v3.d[1], x10",
            ),
            four_rows!(0, a 6, b 2 3,
                "ldr x9, [{rhs}, #104]", "ldr d4, [{rhs}, #96]",
                "ins v7.d[1], x12", "ldr x10, [{rhs}, #120]",
                "ins v4.d[1], x9", "ldr d5, [{rhs}, #112]",
                "ldr x11, [{lhs}, #72]", "ldr d0, [{lhs}, #64]\nins v5.d[1], x10",
            ),
            four_rows!(0, a 7, b 4 5,
                "ldr x9, [{rhs}, #136]", "ldr d2, [{rhs}, #128]",
                "ins v0.d[1], x11", "ldr x10, [{rhs}, #152]",
                "ins v2.d[1], x9", "ldr d3, [{rhs}, #144]",
                "ldr x12, [{lhs}, #88]\nadd {rhs}, {rhs}, #128",
                "ldr d1, [{lhs}, #80]\nins v3.d[1], x10\nadd {lhs}, {lhs}, #64\nsubs {turns}, {turns}, #1",
            ),
            "b.ne 2b",
        );
    }
}

/// The steps that are left, one at a time.
///
/// # Safety
/// The steps are readable; the CPU has dot products.
#[target_feature(enable = "neon,dotprod")]
#[inline]
pub(super) unsafe fn rest<const R: usize>(sums: &mut [[int32x4_t; 2]; R], at: Cursor) {
    let Cursor { mut lhs, mut rhs, steps } = at;
    // SAFETY: a step is `R` rows and 8 columns of 4 bytes, all readable; the CPU has dot products.
    unsafe {
        for _ in 0..steps {
            let b = [vld1q_s8(rhs), vld1q_s8(rhs.add(16))];
            for first in (0..R).step_by(4) {
                let a = match R {
                    1 => vreinterpretq_s8_u32(vdupq_n_u32(lhs.cast::<u32>().read_unaligned())),
                    2 => vreinterpretq_s8_u64(vdupq_n_u64(lhs.cast::<u64>().read_unaligned())),
                    _ => vld1q_s8(lhs.add(first * KR)),
                };
                for q in 0..2 {
                    sums[first][q] = sdot::<0>(sums[first][q], b[q], a);
                    if R > 1 {
                        sums[first + 1][q] = sdot::<1>(sums[first + 1][q], b[q], a);
                    }
                    if R > 2 {
                        sums[first + 2][q] = sdot::<2>(sums[first + 2][q], b[q], a);
                        sums[first + 3][q] = sdot::<3>(sums[first + 3][q], b[q], a);
                    }
                }
            }
            lhs = lhs.add(R * KR);
            rhs = rhs.add(NR * KR);
        }
    }
}
