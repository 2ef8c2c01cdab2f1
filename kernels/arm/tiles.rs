//! The loops of [`super::neon`]: some rows by some panels, over the whole of K.
//!
//! Functions of the assembler's from the first instruction: nothing but their arguments ties them to how the compiler uses
//! registers, and they may be called from ARM and from Thumb code (they are assembled as the target's own).
//!
//! Each first step writes its sums rather than adding to zeros, and each last one stands behind the loop, so that the loop
//! itself always loads the operands of a next step and nothing is read beyond the last.

use core::arch::naked_asm;

/// Rows of the tallest tile.
pub(super) const MR: usize = 4;
/// Depth of a step.
pub(super) const KR: usize = 16;

/// What computes a tile.
///
/// Safety: `lhs` is readable for `steps * 16 * R` bytes, `rhs` for `steps * 64 * panels`, `sums` writable for `R` rows of
/// `4 * panels`, one behind the other; `steps` and `panels` are not 0; the CPU has NEON.
type Tile = unsafe extern "C" fn(lhs: *const u8, rhs: *const u8, steps: usize, sums: *mut i32, panels: usize);

/// By rows, from one on.
pub(super) static TILES: [Tile; 4] = [tile_1, tile::<2>, tile::<3>, tile::<4>];

/// A step of one row by a panel: q4 is `lhs`, q0-q3 the columns, q8-q11 products, q12-q15 sums.
macro_rules! step_1 {
    ($add:literal, $load:expr) => {
        concat!(
            "vmull.s8 q8, d8, d0\n",
            "vmull.s8 q9, d8, d2\n",
            "vmull.s8 q10, d8, d4\n",
            "vmull.s8 q11, d8, d6\n",
            "vmlsl.s8 q8, d9, d1\n",
            "vmlsl.s8 q9, d9, d3\n",
            "vmlsl.s8 q10, d9, d5\n",
            "vmlsl.s8 q11, d9, d7\n",
            $load,
            $add,
            ".s16 q12, q8\n",
            $add,
            ".s16 q13, q9\n",
            $add,
            ".s16 q14, q10\n",
            $add,
            ".s16 q15, q11\n",
        )
    };
}

/// The operands of a step of one row.
macro_rules! load_1 {
    () => {
        "vld1.8 {{d8-d9}}, [r4]!\nvld1.8 {{d0-d3}}, [r1]!\nvld1.8 {{d4-d7}}, [r1]!\n"
    };
}

/// One row: a panel in one pass, so that weights are read once, in order.
///
/// # Safety
/// As [`Tile`].
#[unsafe(naked)]
unsafe extern "C" fn tile_1(lhs: *const u8, rhs: *const u8, steps: usize, sums: *mut i32, panels: usize) {
    // r0 lhs, r1 where rhs is read, r2 steps, r3 sums, r4 where lhs is read, ip steps left, r5 panels left.
    naked_asm!(
        ".syntax unified",
        ".fpu neon",
        "push {{r4, r5}}",
        "vpush {{d8-d9}}",
        "ldr r5, [sp, #24]",
        "2:",
        "mov r4, r0",
        load_1!(),
        "subs ip, r2, #1",
        "beq 5f",
        step_1!("vpaddl", load_1!()),
        "subs ip, ip, #1",
        "beq 4f",
        "3:",
        "subs ip, ip, #1",
        step_1!("vpadal", load_1!()),
        "bne 3b",
        "4:",
        step_1!("vpadal", ""),
        "6:",
        "vpadd.i32 d0, d24, d25",
        "vpadd.i32 d1, d26, d27",
        "vpadd.i32 d2, d28, d29",
        "vpadd.i32 d3, d30, d31",
        "vpadd.i32 d0, d0, d1",
        "vpadd.i32 d1, d2, d3",
        "vst1.32 {{d0-d1}}, [r3]!",
        "subs r5, r5, #1",
        "bne 2b",
        "vpop {{d8-d9}}",
        "pop {{r4, r5}}",
        "bx lr",
        // The only step.
        "5:",
        step_1!("vpaddl", ""),
        "b 6b",
    )
}

/// A step of `R` rows by two columns: q0-q1 are the columns, q2-q3 two rows at a time, q4-q7 their products, q8-q15 sums.
/// What is loaded stands between the multiplies that were the last to need the old operands and the additions, so that
/// in-order cores do not wait for it.
macro_rules! step {
    ($add:literal, $load:expr) => {
        concat!(
            // Rows 0 and 1.
            "vmull.s8 q4, d4, d0\n",
            "vmull.s8 q5, d4, d2\n",
            "vmull.s8 q6, d6, d0\n",
            "vmull.s8 q7, d6, d2\n",
            "vmlsl.s8 q4, d5, d1\n",
            "vmlsl.s8 q5, d5, d3\n",
            "vmlsl.s8 q6, d7, d1\n",
            "vmlsl.s8 q7, d7, d3\n",
            ".if {R} == 2\n",
            $load,
            ".elseif {R} == 3\n",
            "vld1.8 {{d4-d5}}, [r4]!\n",
            ".else\n",
            "vld1.8 {{d4-d7}}, [r4]!\n",
            ".endif\n",
            $add,
            ".s16 q8, q4\n",
            $add,
            ".s16 q9, q5\n",
            $add,
            ".s16 q10, q6\n",
            $add,
            ".s16 q11, q7\n",
            // Rows 2 and 3.
            ".if {R} >= 3\n",
            "vmull.s8 q4, d4, d0\n",
            "vmull.s8 q5, d4, d2\n",
            ".if {R} == 4\n",
            "vmull.s8 q6, d6, d0\n",
            "vmull.s8 q7, d6, d2\n",
            ".endif\n",
            "vmlsl.s8 q4, d5, d1\n",
            "vmlsl.s8 q5, d5, d3\n",
            ".if {R} == 4\n",
            "vmlsl.s8 q6, d7, d1\n",
            "vmlsl.s8 q7, d7, d3\n",
            ".endif\n",
            $load,
            $add,
            ".s16 q12, q4\n",
            $add,
            ".s16 q13, q5\n",
            ".if {R} == 4\n",
            $add,
            ".s16 q14, q6\n",
            $add,
            ".s16 q15, q7\n",
            ".endif\n",
            ".endif\n",
        )
    };
}

/// Both columns of a step and its first two rows.
macro_rules! load {
    () => {
        "vld1.8 {{d0-d3}}, [r1], ip\nvld1.8 {{d4-d7}}, [r4]!\n"
    };
}

/// The four parts of a row's two sums, added up and stored.
macro_rules! add_up {
    ($a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "vpadd.i32 d0, ",
            $a,
            ", ",
            $b,
            "\nvpadd.i32 d1, ",
            $c,
            ", ",
            $d,
            "\nvpadd.i32 d0, d0, d1\nvst1.32 {{d0}}, [r4], r5\n",
        )
    };
}

/// `R` rows, 2 to 4: a panel in two passes of two columns.
///
/// # Safety
/// As [`Tile`].
#[unsafe(naked)]
unsafe extern "C" fn tile<const R: usize>(
    lhs: *const u8,
    rhs: *const u8,
    steps: usize,
    sums: *mut i32,
    panels: usize,
) {
    // r0 lhs, r1 where rhs is read, r2 steps, r3 sums of this pass; r4 where lhs is read, r5 bytes of a row of sums, r6 steps
    // left, r7 from the end of a panel's first pass back to the start of its second, lr passes left; ip bytes of a step of rhs.
    naked_asm!(
        ".syntax unified",
        ".fpu neon",
        "push {{r4, r5, r6, r7, r8, lr}}",
        "vpush {{d8-d15}}",
        "ldr lr, [sp, #88]",
        "mov ip, #64",
        "lsl r5, lr, #4",
        "lsl r7, r2, #6",
        "sub r7, r7, #32",
        "lsl lr, lr, #1",
        // A pass: two columns.
        "2:",
        "mov r4, r0",
        load!(),
        "subs r6, r2, #1",
        "beq 5f",
        step!("vpaddl", load!()),
        "subs r6, r6, #1",
        "beq 4f",
        "3:",
        "subs r6, r6, #1",
        step!("vpadal", load!()),
        "bne 3b",
        "4:",
        step!("vpadal", ""),
        "6:",
        "mov r4, r3",
        add_up!("d16", "d17", "d18", "d19"),
        add_up!("d20", "d21", "d22", "d23"),
        ".if {R} >= 3",
        add_up!("d24", "d25", "d26", "d27"),
        ".endif",
        ".if {R} == 4",
        add_up!("d28", "d29", "d30", "d31"),
        ".endif",
        // The passes left are even in number where a panel's second one follows.
        "tst lr, #1",
        "ite eq",
        "subeq r1, r1, r7",
        "subne r1, r1, #32",
        "add r3, r3, #8",
        "subs lr, lr, #1",
        "bne 2b",
        "vpop {{d8-d15}}",
        "pop {{r4, r5, r6, r7, r8, pc}}",
        // The only step.
        "5:",
        step!("vpaddl", ""),
        "b 6b",
        R = const R,
    )
}
