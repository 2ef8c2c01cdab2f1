//! The loops of [`super::avx2`] over K, written out for every tile.

use core::arch::x86_64::*;

use super::super::product::TileInput;

/// Columns of a panel.
pub(super) const NR: usize = 8;
/// Depth of a step.
pub(super) const KR: usize = 2;

/// Steps of a turn of the hand-written loops.
const TURN: usize = 4;

/// The loop over K, adding to `R` x `Q` sums, of panels that were widened ahead or as they are: [`TURN`] steps a turn, then what steps
/// remain one at a time. A single row has its own loop, in [`super::avx2_row`].
///
/// It is written out because the additions leave no room: the vector instructions of a step fill the four ports of a core such
/// as Zen 3 for 6.5 cycles (6 x 16) or 6 (4 x 24), in which it can start 39 or 36 instructions. A step below takes 33 or 31 with
/// its share of the turn; the compiler's own loops took a third more, most of it arithmetic on addresses.
///
/// # Safety
/// The CPU has AVX2; rows and panels are readable for whole steps; `sums` has R x Q vectors.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn multiply_add<const R: usize, const Q: usize, const WIDENED: bool>(
    sums: *mut __m256i,
    input: &TileInput,
) {
    let steps = input.k.div_ceil(KR);
    let (turns, rest) = (steps / TURN, steps % TURN);
    /// A row's pair of values, times the vectors of `rhs` in ymm12 and ymm13 and a third in memory, to its sums.
    macro_rules! row {
        ($row:literal $d:literal; $x:literal) => {
            concat!(
                "vpbroadcastd ymm14, dword ptr [{p}",
                $row,
                " + ",
                $d,
                "]\n",
                "vpmaddwd ymm14, ymm14, ymm12\n",
                "vpaddd ymm",
                $x,
                ", ymm",
                $x,
                ", ymm14\n",
            )
        };
        ($row:literal $d:literal; $x:literal $y:literal) => {
            concat!(
                "vpbroadcastd ymm14, dword ptr [{p}",
                $row,
                " + ",
                $d,
                "]\n",
                "vpmaddwd ymm15, ymm14, ymm12\n",
                "vpmaddwd ymm14, ymm14, ymm13\n",
                "vpaddd ymm",
                $x,
                ", ymm",
                $x,
                ", ymm15\n",
                "vpaddd ymm",
                $y,
                ", ymm",
                $y,
                ", ymm14\n",
            )
        };
        ($row:literal $d:literal; $x:literal $y:literal $z:literal $third:literal) => {
            concat!(
                "vpbroadcastd ymm14, dword ptr [{p}",
                $row,
                " + ",
                $d,
                "]\n",
                "vpmaddwd ymm15, ymm14, ymm12\n",
                "vpaddd ymm",
                $x,
                ", ymm",
                $x,
                ", ymm15\n",
                "vpmaddwd ymm15, ymm14, ymm13\n",
                "vpmaddwd ymm14, ymm14, ymmword ptr [{b} + ",
                $third,
                "]\n",
                "vpaddd ymm",
                $y,
                ", ymm",
                $y,
                ", ymm15\n",
                "vpaddd ymm",
                $z,
                ", ymm",
                $z,
                ", ymm14\n",
            )
        };
    }
    /// A widened vector of `rhs`.
    macro_rules! load {
        ($register:literal $d:literal) => {
            concat!("vmovdqa ", $register, ", ymmword ptr [{b} + ", $d, "]\n")
        };
    }
    /// A vector of bytes of a panel, widened.
    macro_rules! widen {
        ($register:literal $panel:literal $d:literal) => {
            concat!("vpmovsxbw ", $register, ", xmmword ptr [{b}", $panel, " + ", $d, "]\n")
        };
    }
    /// The loops around the steps of a turn and the steps that remain, each of `$bytes` of `rhs`.
    macro_rules! turn {
        ([$($register:tt $i:literal)*] $bytes:literal $first:expr, $($step:expr,)*) => {
            core::arch::asm!(
                // Not every tile needs every stride.
                "/* {s} {s3} {s5} {ps} */",
                "test {turns}, {turns}", "jz 3f",
                ".p2align 6", "2:", $first, $($step,)* "add {p}, 16", concat!("add {b}, 4*", $bytes), "dec {turns}", "jnz 2b",
                "3:", "test {rest}, {rest}", "jz 5f",
                "4:", $first, "add {p}, 4", concat!("add {b}, ", $bytes), "dec {rest}", "jnz 4b",
                "5:",
                p = inout(reg) input.lhs => _,
                s = in(reg) input.lhs_stride,
                s3 = in(reg) 3 * input.lhs_stride,
                s5 = in(reg) 5 * input.lhs_stride,
                b = inout(reg) input.rhs => _,
                ps = in(reg) input.panel_stride,
                turns = inout(reg) turns => _,
                rest = inout(reg) rest => _,
                $(inout($register) *sums.add($i),)*
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                options(readonly, nostack)
            )
        };
    }
    /// Rows by one panel.
    macro_rules! one {
        ($sums:tt $($row:literal $x:literal,)*) => {{
            macro_rules! step {
                ($d:literal $b:literal) => {
                    concat!(widen!("ymm12" "" $b), $(row!($row $d; $x)),*)
                };
            }
            turn!($sums "16" step!("0" "0"), step!("4" "16"), step!("8" "32"), step!("12" "48"),)
        }};
    }
    /// Rows by two panels.
    macro_rules! two {
        ($sums:tt $($row:literal $x:literal $y:literal,)*) => {{
            macro_rules! wide {
                ($d:literal $b0:literal $b1:literal) => {
                    concat!(load!("ymm12" $b0), load!("ymm13" $b1), $(row!($row $d; $x $y)),*)
                };
            }
            macro_rules! bytes {
                ($d:literal $b:literal) => {
                    concat!(widen!("ymm12" "" $b), widen!("ymm13" " + {ps}" $b), $(row!($row $d; $x $y)),*)
                };
            }
            if WIDENED {
                turn!($sums "64" wide!("0" "0" "32"), wide!("4" "64" "96"), wide!("8" "128" "160"),
                    wide!("12" "192" "224"),)
            } else {
                turn!($sums "16" bytes!("0" "0"), bytes!("4" "16"), bytes!("8" "32"), bytes!("12" "48"),)
            }
        }};
    }
    /// Rows by three panels, which are always widened ahead.
    macro_rules! three {
        ($sums:tt $($row:literal $x:literal $y:literal $z:literal,)*) => {{
            macro_rules! step {
                ($d:literal $b0:literal $b1:literal $b2:literal) => {
                    concat!(load!("ymm12" $b0), load!("ymm13" $b1), $(row!($row $d; $x $y $z $b2)),*)
                };
            }
            turn!($sums "96" step!("0" "0" "32" "64"), step!("4" "96" "128" "160"),
                step!("8" "192" "224" "256"), step!("12" "288" "320" "352"),)
        }};
    }
    // SAFETY: each step reads a whole step of each row and panel, and writes registers only.
    unsafe {
        match (R, Q) {
            (2, 1) => one!(["ymm0" 0 "ymm1" 1] "" "0", " + {s}" "1",),
            (3, 1) => one!(["ymm0" 0 "ymm1" 1 "ymm2" 2] "" "0", " + {s}" "1", " + 2*{s}" "2",),
            (4, 1) => one!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3]
                "" "0", " + {s}" "1", " + 2*{s}" "2", " + {s3}" "3",
            ),
            (5, 1) => one!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4]
                "" "0", " + {s}" "1", " + 2*{s}" "2", " + {s3}" "3", " + 4*{s}" "4",
            ),
            (6, 1) => one!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5]
                "" "0", " + {s}" "1", " + 2*{s}" "2", " + {s3}" "3", " + 4*{s}" "4", " + {s5}" "5",
            ),
            (2, 2) => two!(["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3] "" "0" "1", " + {s}" "2" "3",),
            (3, 2) => two!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5]
                "" "0" "1", " + {s}" "2" "3", " + 2*{s}" "4" "5",
            ),
            (4, 2) => two!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7]
                "" "0" "1", " + {s}" "2" "3", " + 2*{s}" "4" "5", " + {s3}" "6" "7",
            ),
            (5, 2) => two!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7 "ymm8" 8 "ymm9" 9]
                "" "0" "1", " + {s}" "2" "3", " + 2*{s}" "4" "5", " + {s3}" "6" "7", " + 4*{s}" "8" "9",
            ),
            (6, 2) => two!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7 "ymm8" 8 "ymm9" 9
                 "ymm10" 10 "ymm11" 11]
                "" "0" "1", " + {s}" "2" "3", " + 2*{s}" "4" "5", " + {s3}" "6" "7", " + 4*{s}" "8" "9",
                " + {s5}" "10" "11",
            ),
            (2, 3) => three!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5]
                "" "0" "1" "2", " + {s}" "3" "4" "5",
            ),
            (3, 3) => three!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7 "ymm8" 8]
                "" "0" "1" "2", " + {s}" "3" "4" "5", " + 2*{s}" "6" "7" "8",
            ),
            (4, 3) => three!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7 "ymm8" 8 "ymm9" 9
                 "ymm10" 10 "ymm11" 11]
                "" "0" "1" "2", " + {s}" "3" "4" "5", " + 2*{s}" "6" "7" "8", " + {s3}" "9" "10" "11",
            ),
            _ => unreachable!("a tile of {R} x {Q} vectors has no loop"),
        }
    }
}
