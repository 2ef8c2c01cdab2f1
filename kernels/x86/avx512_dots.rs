//! AVX-512 VNNI, few columns: 64 values of a row times 64 of a column in an instruction, where a tile would multiply 4 values by 16
//! columns that are mostly padding.
//!
//! - Block: 8 rows x 1 column, 4 x 2, or 4 x 4: sums of 16 parts each, 8 or 16 chains. Registers of 4 x 4: 16 sums, 4 of columns, 1 of a
//!   row, the sign bits of i8 values or zeros: 22 of 32.
//! - Sums of four rows become one vector of four at the end: 6 shuffles and 5 additions, once for all of K.
//! - Ceiling: one column is bound by the rows' way from their cache; 4 x 4 loads 8 vectors for 16 multiplies.

use core::arch::x86_64::*;

use super::{
    super::{
        Job,
        product::dots::{DotInput, DotKernel},
    },
    avx512_vnni::{Avx512VnniTiles, KR, sign_bits},
};

/// Values in a vector.
const DEPTH: usize = 64;
/// Rows of a block: the lanes of a vector of sums.
const ROWS: usize = 16;

// SAFETY: `block` reads vectors that lie inside K of rows and columns.
unsafe impl DotKernel for Avx512VnniTiles {
    type Value = i8;
    const KR: usize = KR;
    const COLS: usize = 8;
    const DEPTH: usize = DEPTH;

    /// Against a tile's multiply for 4 values stand those for 64 of each column and what it takes to add up and to store them; and columns are
    /// gathered a step at a time, which several rows have to make good.
    #[inline(always)]
    fn pays(job: &Job) -> bool {
        job.rows >= 8 * job.cols && job.cols * (job.k / 16 + 16) <= job.k
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    #[inline]
    unsafe fn dots(input: &DotInput<i8>, sums: *mut i32) {
        // SAFETY: the input has 16 rows and `cols` columns, `sums` room for each of theirs.
        unsafe {
            if input.cols == 1 {
                for r in (0..ROWS).step_by(8) {
                    block::<8, 1>(input, r, 0, sums);
                }
                return;
            }
            for r in (0..ROWS).step_by(4) {
                let mut c = 0;
                while c + 4 <= input.cols {
                    block::<4, 4>(input, r, c, sums);
                    c += 4;
                }
                if c + 2 <= input.cols {
                    block::<4, 2>(input, r, c, sums);
                    c += 2;
                }
                if c < input.cols {
                    block::<4, 1>(input, r, c, sums);
                }
            }
        }
    }
}

/// `R` rows from `r` on by `C` columns from `c` on; `R` is a multiple of 4.
///
/// # Safety
/// As [`DotKernel::dots`]; the block has those rows and columns.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn block<const R: usize, const C: usize>(input: &DotInput<i8>, r: usize, c: usize, sums: *mut i32) {
    // SAFETY: vectors of rows end within K, those of columns within their stride.
    unsafe {
        let zero = _mm512_setzero_si512();
        let flip = if input.flip_lhs { sign_bits() } else { zero };
        let rows = input.rows.add(r * input.row_stride);
        let columns = input.columns.add(c * input.column_stride);
        let mut parts = [[zero; C]; R];
        let mut add = |in_row: usize, in_column: usize| {
            let mut b = [zero; C];
            for (j, b) in b.iter_mut().enumerate() {
                *b = _mm512_load_si512(columns.add(j * input.column_stride + in_column).cast());
            }
            for (i, parts) in parts.iter_mut().enumerate() {
                let a = _mm512_loadu_si512(rows.add(i * input.row_stride + in_row).cast());
                let a = _mm512_xor_si512(a, flip);
                for (part, &b) in parts.iter_mut().zip(&b) {
                    *part = _mm512_dpbusd_epi32(*part, a, b);
                }
            }
        };
        let mut k = 0;
        while k + DEPTH <= input.k {
            add(k, k);
            k += DEPTH;
        }
        if k < input.k {
            add(input.k - DEPTH, k);
        }
        for i in (0..R).step_by(4) {
            for j in 0..C {
                let four = [parts[i][j], parts[i + 1][j], parts[i + 2][j], parts[i + 3][j]];
                _mm_storeu_si128(sums.add((c + j) * ROWS + r + i).cast(), added_up(four));
            }
        }
    }
}

/// The sum of each of four vectors.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn added_up([a, b, c, d]: [__m512i; 4]) -> __m128i {
    // SAFETY: the CPU has AVX-512.
    unsafe {
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        // Each quarter has a part of a, b, c and d.
        let quarters = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        let halves =
            _mm256_add_epi32(_mm512_castsi512_si256(quarters), _mm512_extracti64x4_epi64::<1>(quarters));
        _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves))
    }
}
