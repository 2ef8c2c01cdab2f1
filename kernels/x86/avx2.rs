//! AVX2 kernel: any x86-64 CPU since 2013 (Intel) or 2015 (AMD).
//!
//! - Instruction: `vpmaddwd` (16 products of i16, added in pairs to 8 i32) and `vpaddd`. Not `vpmaddubsw`, which is
//!   twice as wide and saturates its pair sums at 16 bits.
//! - Tile: 6 rows x 16 columns. Registers: 12 sums, 2 of `rhs`, 1 broadcast of `lhs`, 1 product: 16. With fewer rows
//!   the tile is wider (1x64, 2x32; 3x32 would not fit the registers): a broadcast then serves more columns. Latency asks for no more, because only
//!   the additions, of one cycle each, form chains.
//! - `lhs`: rows widened to i16 (i8 and u8 keep their values), K padded with zero to even; a step broadcasts the 32 bits
//!   of two values. `rhs`: panels of 16 columns of i8, kr = 2: `value(k, n)` at
//!   `(n / 16) * K2 * 16 + (k / 2) * 32 + (n % 16) * 2 + k % 2`. When enough rows will pass a panel it is first
//!   widened to i16 into scratch, in the same order; otherwise `vpmovsxbw` widens it as it is loaded, and weights cost
//!   one byte of memory traffic each.
//! - Ceiling: 32 MAC/cycle on CPUs with two multiply ports (16 MAC an instruction), as long as the additions find other
//!   ports: 12 multiplies and 12 additions to 8 loads.
//! - Exact: a pair of products is at most 2 * 255 * 128 in magnitude; pairs and sums are i32.

use core::arch::x86_64::*;

use super::super::{
    Job, Kernel, LhsFormat, LhsRows, SumOffset,
    drive::{self, MicroKernel, TileInput, balanced},
    epilogue::{End, TileEnd, finish},
    layout::{self, padded},
    slices::slice_functions,
};
use super::lanes256::Lanes256;

const MR: usize = 6;
const NR: usize = 16;
const KR: usize = 2;

/// Rows from which widening a panel once is cheaper than widening it in every tile.
const WIDEN_ROWS: usize = 13;

pulp::simd_type! {
    /// Proof that this CPU has AVX2.
    struct Avx2 {
        avx2: "avx2",
    }
}

/// The table entry.
pub(crate) static KERNEL: Kernel = Kernel {
    name: "avx2",
    instruction: "vpmaddwd + vpaddd, ymm",
    is_available: Avx2::is_available,
    mr: MR,
    nr: NR,
    kr: KR,
    lhs: LhsFormat::PackedAsIs,
    offset: SumOffset::None,
    scratch: |k| 2 * padded(k, KR) * NR,
    lhs_stride,
    pack_lhs,
    row_sums,
    multiply,
    slices: slice_functions!(Lanes256, "avx2"),
};

/// Bytes from one widened row to the next.
fn lhs_stride(k: usize) -> usize {
    layout::byte_row_stride(2 * padded(k, KR))
}

/// `dst[i][k]` as i16, zero at k = K if K is odd.
///
/// # Safety
/// As [`Kernel::pack_lhs`].
#[target_feature(enable = "avx2")]
unsafe fn pack_lhs(src: &LhsRows, dst: *mut u8) {
    // SAFETY: the caller's.
    unsafe {
        if src.unsigned {
            widen_rows(src, dst, |byte| byte.into());
        } else {
            widen_rows(src, dst, |byte| (byte as i8).into());
        }
    }
}

/// # Safety
/// As [`pack_lhs`].
#[inline(always)]
unsafe fn widen_rows(src: &LhsRows, dst: *mut u8, value: impl Fn(u8) -> i16) {
    let stride = lhs_stride(src.k);
    for i in 0..src.rows {
        // SAFETY: row `i` is readable, and writable as padded i16; scratch rows are aligned to 64.
        unsafe {
            let from = core::slice::from_raw_parts(src.ptr.add(i * src.row_stride), src.k);
            let to: *mut i16 = dst.add(i * stride).cast();
            for (k, &byte) in from.iter().enumerate() {
                to.add(k).write_unaligned(value(byte));
            }
            if !src.k.is_multiple_of(KR) {
                to.add(src.k).write_unaligned(0);
            }
        }
    }
}

/// # Safety
/// As [`Kernel::row_sums`].
#[target_feature(enable = "avx2")]
unsafe fn row_sums(src: &LhsRows, dst: *mut i32) {
    // SAFETY: the caller's.
    unsafe { layout::row_sums(src, src.unsigned, dst) }
}

/// # Safety
/// As [`Kernel::multiply`].
#[target_feature(enable = "avx2")]
unsafe fn multiply(job: &Job) {
    // SAFETY: the caller's.
    unsafe { drive::multiply::<Avx2Tiles>(job) }
}

struct Avx2Tiles;

// SAFETY: `tile` reads whole steps of padded rows and panels.
unsafe impl MicroKernel for Avx2Tiles {
    type V = Lanes256;
    const NR: usize = NR;
    const KR: usize = KR;

    #[inline(always)]
    fn next_rows(remaining: usize, _rows: usize) -> usize {
        balanced(remaining, MR)
    }

    #[inline(always)]
    fn next_panels(remaining: usize, rows: usize) -> usize {
        match rows {
            1 => balanced(remaining, 4),
            2 => balanced(remaining, 2),
            _ => 1,
        }
    }

    #[inline(always)]
    unsafe fn widen(rhs: *const i8, panels: usize, k: usize, rows: usize, scratch: *mut u8) -> bool {
        if rows < WIDEN_ROWS {
            return false;
        }
        debug_assert_eq!(panels, 1);
        // SAFETY: the panel has `padded(k) * NR` bytes, a multiple of 32, and scratch twice as many.
        unsafe {
            for i in (0..padded(k, KR) * NR).step_by(16) {
                let bytes = _mm_loadu_si128(rhs.add(i).cast());
                _mm256_store_si256(scratch.add(2 * i).cast(), _mm256_cvtepi8_epi16(bytes));
            }
        }
        true
    }

    #[inline(always)]
    unsafe fn tile<E: End>(rows: usize, panels: usize, input: &TileInput, end: &TileEnd) {
        // SAFETY: the caller's.
        unsafe {
            if input.widened {
                match rows {
                    1 => tile::<E, 1, 2, true>(input, end),
                    2 => tile::<E, 2, 2, true>(input, end),
                    3 => tile::<E, 3, 2, true>(input, end),
                    4 => tile::<E, 4, 2, true>(input, end),
                    5 => tile::<E, 5, 2, true>(input, end),
                    _ => tile::<E, 6, 2, true>(input, end),
                }
            } else {
                match (rows, panels) {
                    (1, 1) => tile::<E, 1, 2, false>(input, end),
                    (1, 2) => tile::<E, 1, 4, false>(input, end),
                    (1, 3) => tile::<E, 1, 6, false>(input, end),
                    (1, _) => tile::<E, 1, 8, false>(input, end),
                    (2, 1) => tile::<E, 2, 2, false>(input, end),
                    (2, _) => tile::<E, 2, 4, false>(input, end),
                    (3, _) => tile::<E, 3, 2, false>(input, end),
                    (4, _) => tile::<E, 4, 2, false>(input, end),
                    (5, _) => tile::<E, 5, 2, false>(input, end),
                    (_, _) => tile::<E, 6, 2, false>(input, end),
                }
            }
        }
    }
}

/// `R` rows by `Q` vectors (two a panel), from widened panels or from bytes.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "avx2")]
#[inline(never)]
unsafe fn tile<E: End, const R: usize, const Q: usize, const WIDENED: bool>(
    input: &TileInput,
    end: &TileEnd,
) {
    let mut sums = [[_mm256_setzero_si256(); Q]; R];
    let steps = input.k.div_ceil(KR);
    let mut done = 0;
    // SAFETY: rows and panels are readable for `steps` whole steps.
    unsafe {
        if Q == 2 && R >= 4 {
            let sums: *mut [__m256i; 2] = sums.as_mut_ptr().cast();
            let sums = core::slice::from_raw_parts_mut(sums, R);
            two_steps_a_turn::<R, WIDENED>(sums, input, steps / 2);
            done = steps / 2 * 2;
        }
        for step in done..steps {
            multiply_add::<R, Q, WIDENED>(&mut sums, input, step);
        }
        finish::<Lanes256, E, R, Q>(sums, end);
    }
}

/// Adds the products of one step.
///
/// # Safety
/// As [`tile`], for this step.
#[inline(always)]
unsafe fn multiply_add<const R: usize, const Q: usize, const WIDENED: bool>(
    sums: &mut [[__m256i; Q]; R],
    input: &TileInput,
    step: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let load_a = |r: usize| {
            let pair = input.lhs.add(r * input.lhs_stride + step * 4).cast::<i32>();
            _mm256_set1_epi32(pair.read_unaligned())
        };
        let load_b = |q: usize| {
            let panel = input.rhs.add(q / 2 * input.panel_stride);
            if WIDENED {
                _mm256_loadu_si256(panel.add(step * 64 + q % 2 * 32).cast())
            } else {
                _mm256_cvtepi8_epi16(_mm_loadu_si128(panel.add(step * 32 + q % 2 * 16).cast()))
            }
        };
        // The shorter side stays in registers while the other is loaded one by one.
        if R < Q {
            let mut a = [_mm256_setzero_si256(); R];
            a.iter_mut().enumerate().for_each(|(r, a)| *a = load_a(r));
            for q in 0..Q {
                let b = load_b(q);
                for r in 0..R {
                    sums[r][q] = _mm256_add_epi32(sums[r][q], _mm256_madd_epi16(a[r], b));
                }
            }
        } else {
            let mut b = [_mm256_setzero_si256(); Q];
            b.iter_mut().enumerate().for_each(|(q, b)| *b = load_b(q));
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = load_a(r);
                for (sum, &b) in sums.iter_mut().zip(&b) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(a, b));
                }
            }
        }
    }
}

/// The loop of the tall tiles, two steps a turn: `R` rows (4 to 6) by one panel.
///
/// It is written out because the additions leave no room: 12 multiplies and 12 additions fill the four vector ports of a
/// core such as Zen 3 for 6 cycles, in which it can start 36 instructions. The step below takes 34, where the compiler's
/// own loop took 41: rows are reached from two pointers, `p` (rows 0, 1, 2, 4) and `p + stride` (rows 3, 5), with the
/// stride as a scaled index, and never by an addition.
///
/// # Safety
/// The CPU has AVX2; rows and panel are readable for `2 * turns` steps; `sums` has `R` rows.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn two_steps_a_turn<const R: usize, const WIDENED: bool>(
    sums: &mut [[__m256i; 2]],
    input: &TileInput,
    turns: usize,
) {
    if turns == 0 {
        return;
    }
    /// Row `$row` at an address: broadcast, multiply by both vectors, add to its two sums.
    macro_rules! row {
        ($row:literal, $address:literal) => {
            concat!(
                "vpbroadcastd ymm14, dword ptr [",
                $address,
                "]\n",
                "vpmaddwd ymm15, ymm14, ymm12\n",
                "vpmaddwd ymm14, ymm14, ymm13\n",
                "vpaddd {s",
                $row,
                "0}, {s",
                $row,
                "0}, ymm15\n",
                "vpaddd {s",
                $row,
                "1}, {s",
                $row,
                "1}, ymm14\n",
            )
        };
    }
    macro_rules! turn {
        ($load0:literal, $load1:literal, $load2:literal, $load3:literal, $advance:literal,
         $($row:literal: $at:literal $at_next:literal $s0:ident $s1:ident,)*) => {{
            let [$([$s0, $s1],)* ..] = sums else { return };
            core::arch::asm!(
                "2:",
                $load0, $load1,
                $(row!($row, $at),)*
                $load2, $load3,
                $(row!($row, $at_next),)*
                "add {p}, 8", "add {p1}, 8", $advance, "dec {turns}", "jnz 2b",
                p = inout(reg) input.lhs => _,
                p1 = inout(reg) input.lhs.add(input.lhs_stride) => _,
                stride = in(reg) input.lhs_stride,
                rhs = inout(reg) input.rhs => _,
                turns = inout(reg) turns => _,
                $($s0 = inout(ymm_reg) *$s0, $s1 = inout(ymm_reg) *$s1,)*
                out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
                options(readonly, nostack)
            );
        }};
    }
    macro_rules! rows {
        ($($row:literal: $at:literal $at_next:literal $s0:ident $s1:ident,)*) => {
            if WIDENED {
                turn!(
                    "vmovdqu ymm12, [{rhs}]", "vmovdqu ymm13, [{rhs} + 32]",
                    "vmovdqu ymm12, [{rhs} + 64]", "vmovdqu ymm13, [{rhs} + 96]", "add {rhs}, 128",
                    $($row: $at $at_next $s0 $s1,)*
                )
            } else {
                turn!(
                    "vpmovsxbw ymm12, [{rhs}]", "vpmovsxbw ymm13, [{rhs} + 16]",
                    "vpmovsxbw ymm12, [{rhs} + 32]", "vpmovsxbw ymm13, [{rhs} + 48]", "add {rhs}, 64",
                    $($row: $at $at_next $s0 $s1,)*
                )
            }
        };
    }
    // SAFETY: the loop reads two whole steps of each row and of the panel a turn, and writes registers only.
    unsafe {
        match R {
            4 => rows!(
                0: "{p}" "{p} + 4" s00 s01,
                1: "{p} + {stride}" "{p} + {stride} + 4" s10 s11,
                2: "{p} + 2*{stride}" "{p} + 2*{stride} + 4" s20 s21,
                3: "{p1} + 2*{stride}" "{p1} + 2*{stride} + 4" s30 s31,
            ),
            5 => rows!(
                0: "{p}" "{p} + 4" s00 s01,
                1: "{p} + {stride}" "{p} + {stride} + 4" s10 s11,
                2: "{p} + 2*{stride}" "{p} + 2*{stride} + 4" s20 s21,
                3: "{p1} + 2*{stride}" "{p1} + 2*{stride} + 4" s30 s31,
                4: "{p} + 4*{stride}" "{p} + 4*{stride} + 4" s40 s41,
            ),
            _ => rows!(
                0: "{p}" "{p} + 4" s00 s01,
                1: "{p} + {stride}" "{p} + {stride} + 4" s10 s11,
                2: "{p} + 2*{stride}" "{p} + 2*{stride} + 4" s20 s21,
                3: "{p1} + 2*{stride}" "{p1} + 2*{stride} + 4" s30 s31,
                4: "{p} + 4*{stride}" "{p} + 4*{stride} + 4" s40 s41,
                5: "{p1} + 4*{stride}" "{p1} + 4*{stride} + 4" s50 s51,
            ),
        }
    }
}
