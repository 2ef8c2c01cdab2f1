//! AVX2 kernel: any x86-64 CPU since 2013 (Intel) or 2015 (AMD).
//!
//! - Instruction: `vpmaddwd` (16 products of i16, added in pairs to 8 i32) and `vpaddd`. Not `vpmaddubsw`, which is
//!   twice as wide and saturates its pair sums at 16 bits.
//! - Tile: 6 rows x 16 columns. Registers: 12 sums, 2 of `rhs`, 1 broadcast of `lhs`, 1 product: 16. With fewer rows
//!   the tile is wider (1x64, 2x48, 3x32), so that about 12 sums stay in flight.
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
};
use super::{
    lanes256::Lanes256,
    ymm_tiles::{self, MR, NR},
};

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
            if src.k % KR != 0 {
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
        ymm_tiles::next_panels(remaining, rows)
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
                ymm_tiles::dispatch!(tile, rows, panels, (input, end), false)
            }
        }
    }
}

/// `R` rows by `Q` vectors (two a panel), from widened panels or from bytes.
///
/// # Safety
/// As [`MicroKernel::tile`].
#[target_feature(enable = "avx2")]
unsafe fn tile<E: End, const R: usize, const Q: usize, const WIDENED: bool>(input: &TileInput, end: &TileEnd) {
    let mut sums = [[_mm256_setzero_si256(); Q]; R];
    let steps = input.k.div_ceil(KR);
    // SAFETY: rows and panels are readable for `steps` whole steps.
    unsafe {
        for step in 0..steps {
            let mut b = [_mm256_setzero_si256(); Q];
            for (q, b) in b.iter_mut().enumerate() {
                let panel = input.rhs.add(q / 2 * input.panel_stride);
                *b = if WIDENED {
                    _mm256_load_si256(panel.add(step * 64 + q % 2 * 32).cast())
                } else {
                    _mm256_cvtepi8_epi16(_mm_loadu_si128(panel.add(step * 32 + q % 2 * 16).cast()))
                };
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let pair = input.lhs.add(r * input.lhs_stride + step * 4).cast::<i32>();
                let a = _mm256_set1_epi32(pair.read_unaligned());
                for (sum, &b) in sums.iter_mut().zip(&b) {
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(a, b));
                }
            }
        }
        finish::<Lanes256, E, R, Q>(sums, end);
    }
}
