//! The loops of [`super::avx_vnni`] over K, written out for every tile.

use core::arch::x86_64::*;

use super::super::product::TileInput;

/// Columns of a panel: two vectors.
pub(super) const NR: usize = 16;
/// Depth of a step.
pub(super) const KR: usize = 4;
/// Bytes of a step of a panel.
pub(super) const STEP: usize = NR * KR;
/// Steps of a turn of the hand-written loops.
const TURN: usize = 4;

/// The whole steps of K, added to the sums of `R` rows by `Q` vectors, the first of the group or, if `LATE`, those behind the first
/// three: [`TURN`] steps a turn, then what steps remain one at a time.
///
/// It is written out because CPUs add integers on the ports that multiply: of the compiler's loop, which took 29 instructions a step of
/// 6 rows, seven were arithmetic on addresses. A step below takes 21.
///
/// # Safety
/// The CPU has AVX-VNNI; rows are readable for K bytes, panels for whole steps; `sums` has R x Q vectors.
#[target_feature(enable = "avx2,avxvnni")]
#[inline]
pub(super) unsafe fn multiply_add<const R: usize, const Q: usize, const LATE: bool>(
    sums: *mut __m256i,
    input: &TileInput,
) {
    let steps = input.k / KR;
    let (turns, rest) = (steps / TURN, steps % TURN);
    let panel = input.panel_stride;
    let (start, second) = if LATE { (panel + 32, panel - 32) } else { (0, 32) };
    /// A row's four values, to the register that `$a` names.
    macro_rules! values {
        ($a:literal $row:literal $d:literal) => {
            concat!("vpbroadcastd ymm", $a, ", dword ptr [{p}", $row, " + ", $d, "]\n")
        };
    }
    /// A vector of a panel.
    macro_rules! load {
        ($b:literal $place:literal $d:literal) => {
            concat!("vmovdqu ymm", $b, ", ymmword ptr [{b}", $place, " + ", $d, "]\n")
        };
    }
    /// Values times a vector, to their sum.
    macro_rules! add {
        ($x:literal $a:literal $b:literal) => {
            concat!("{{vex}} vpdpbusd ymm", $x, ", ymm", $a, ", ymm", $b, "\n")
        };
    }
    /// The loops around the steps of a turn and the steps that remain.
    macro_rules! turn {
        ([$($register:tt $i:literal)*] $first:expr, $($step:expr,)*) => {
            core::arch::asm!(
                // Not every tile needs every distance.
                "/* {s} {s3} {s5} {second} {panel} */",
                "test {turns}, {turns}", "jz 3f",
                ".p2align 6", "2:", $first, $($step,)* "add {p}, 16", "add {b}, 256", "dec {turns}", "jnz 2b",
                "3:", "test {rest}, {rest}", "jz 5f",
                "4:", $first, "add {p}, 4", "add {b}, 64", "dec {rest}", "jnz 4b",
                "5:",
                p = inout(reg) input.lhs => _,
                s = in(reg) input.lhs_stride,
                s3 = in(reg) 3 * input.lhs_stride,
                s5 = in(reg) 5 * input.lhs_stride,
                b = inout(reg) input.rhs.wrapping_add(start) => _,
                second = in(reg) second,
                panel = in(reg) panel,
                turns = inout(reg) turns => _,
                rest = inout(reg) rest => _,
                $(inout($register) *sums.add($i),)*
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                options(readonly, nostack)
            )
        };
    }
    /// Rows by the two vectors of a panel, which stay in registers while the rows pass.
    macro_rules! two {
        ($sums:tt $($row:literal $x:literal $y:literal,)*) => {{
            macro_rules! step {
                ($d:literal $b0:literal $b1:literal) => {
                    concat!(load!("12" "" $b0), load!("13" "" $b1),
                        $(values!("14" $row $d), add!($x "14" "12"), add!($y "14" "13")),*)
                };
            }
            turn!($sums step!("0" "0" "32"), step!("4" "64" "96"), step!("8" "128" "160"), step!("12" "192" "224"),)
        }};
    }
    /// Rows by three vectors, wherever they are.
    macro_rules! three {
        ($sums:tt $($row:literal $x:literal $y:literal $z:literal,)*) => {{
            macro_rules! step {
                ($d:literal $b:literal) => {
                    concat!(load!("12" "" $b), load!("13" " + {second}" $b), load!("14" " + {panel}" $b),
                        $(values!("15" $row $d), add!($x "15" "12"), add!($y "15" "13"), add!($z "15" "14")),*)
                };
            }
            turn!($sums step!("0" "0"), step!("4" "64"), step!("8" "128"), step!("12" "192"),)
        }};
    }
    /// Two or three rows, whose values stay in registers, by vectors that are loaded one after the other.
    macro_rules! few {
        (@ ($d:literal $b0:literal $b1:literal) $rows:tt $($half:tt $panel:literal $x:tt,)*) => {
            concat!(few!(values $d $rows), $(few!(vector $half $panel $b0 $b1 $rows $x)),*)
        };
        (values $d:literal [$($a:literal $row:literal)*]) => {
            concat!($(values!($a $row $d)),*)
        };
        (vector 0 $panel:literal $b0:literal $b1:literal $rows:tt $x:tt) => { few!(add $panel $b0 $rows $x) };
        (vector 1 $panel:literal $b0:literal $b1:literal $rows:tt $x:tt) => { few!(add $panel $b1 $rows $x) };
        (add $panel:literal $b:literal [$($a:literal $row:literal)*] [$($x:literal)*]) => {
            concat!(load!("15" $panel $b), $(add!($x $a "15")),*)
        };
        ($sums:tt $rows:tt $($vector:tt)*) => {
            turn!($sums few!(@ ("0" "0" "32") $rows $($vector)*), few!(@ ("4" "64" "96") $rows $($vector)*),
                few!(@ ("8" "128" "160") $rows $($vector)*), few!(@ ("12" "192" "224") $rows $($vector)*),)
        };
    }
    // SAFETY: each step reads a whole step of each row and panel, and writes registers only.
    unsafe {
        match (R, Q) {
            (1, 2) => two!(["ymm0" 0 "ymm1" 1] "" "0" "1",),
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
            (3, 3) => three!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7 "ymm8" 8]
                "" "0" "1" "2", " + {s}" "3" "4" "5", " + 2*{s}" "6" "7" "8",
            ),
            (4, 3) => three!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7 "ymm8" 8 "ymm9" 9
                 "ymm10" 10 "ymm11" 11]
                "" "0" "1" "2", " + {s}" "3" "4" "5", " + 2*{s}" "6" "7" "8", " + {s3}" "9" "10" "11",
            ),
            (3, 4) => few!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7 "ymm8" 8 "ymm9" 9
                 "ymm10" 10 "ymm11" 11]
                ["12" "" "13" " + {s}" "14" " + 2*{s}"]
                0 "" ["0" "4" "8"], 1 "" ["1" "5" "9"], 0 " + {panel}" ["2" "6" "10"], 1 " + {panel}" ["3" "7" "11"],
            ),
            (2, 4) => few!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7]
                ["12" "" "13" " + {s}"]
                0 "" ["0" "4"], 1 "" ["1" "5"], 0 " + {panel}" ["2" "6"], 1 " + {panel}" ["3" "7"],
            ),
            (2, 6) => few!(
                ["ymm0" 0 "ymm1" 1 "ymm2" 2 "ymm3" 3 "ymm4" 4 "ymm5" 5 "ymm6" 6 "ymm7" 7 "ymm8" 8 "ymm9" 9
                 "ymm10" 10 "ymm11" 11]
                ["12" "" "13" " + {s}"]
                0 "" ["0" "6"], 1 "" ["1" "7"], 0 " + {panel}" ["2" "8"], 1 " + {panel}" ["3" "9"],
                0 " + 2*{panel}" ["4" "10"], 1 " + 2*{panel}" ["5" "11"],
            ),
            _ => unreachable!("a tile of {R} x {Q} vectors has no loop"),
        }
    }
}
