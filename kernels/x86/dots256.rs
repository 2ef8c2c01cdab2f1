//! Few columns on avx_vnni and avx2: a vector of a row's values times one of a column's, where a tile would multiply a few values by
//! columns that are mostly padding.
//!
//! - Block: 8 rows x 1 column, or 4 x 2: eight sums, in eight parts each. Registers of 4 x 2: 8 sums, 2 of columns, 1 of a row, and 1
//!   product on avx2: 12 of 16.
//! - Sums of four rows become one vector of four at the end: 6 shuffles and 5 additions, once for all of K.
//! - Ceiling: 4 x 2 loads 6 vectors for 8 multiplies of 32 values (avx2: 16); one column is bound by the rows' way from their cache.

use core::arch::x86_64::*;

use super::{
    super::{
        Job,
        product::dots::{DotInput, DotKernel},
    },
    avx_vnni::AvxVnniTiles,
    avx_vnni_loops,
    avx2::Avx2Tiles,
    avx2_loops,
};

/// Bytes of a vector.
const BYTES: usize = 32;
/// Rows of a block: the lanes of a vector of sums.
const ROWS: usize = 8;

// SAFETY: `block` reads vectors that lie inside K of rows and columns.
unsafe impl DotKernel for AvxVnniTiles {
    type Value = i8;
    const KR: usize = avx_vnni_loops::KR;
    const COLS: usize = 4;
    const DEPTH: usize = BYTES;

    /// A tile takes half a multiply for a value of a row, whatever the columns; these a 32nd for each column, as many loads, and what it
    /// takes to add up and to store a sum. Columns are gathered a step at a time, which several rows have to make good.
    #[inline(always)]
    fn pays(job: &Job) -> bool {
        job.rows >= 8 * job.cols && job.cols * (job.k / 10 + 12) <= job.k
    }

    #[target_feature(enable = "avx2,avxvnni")]
    #[inline]
    unsafe fn dots(input: &DotInput<i8>, sums: *mut i32) {
        // SAFETY: the input has eight rows and `cols` columns, `sums` room for each of theirs; the CPU has the features.
        unsafe { blocks(input, sums, |sum, a, b| _mm256_dpbusd_avx_epi32(sum, a, b)) }
    }
}

// SAFETY: as above.
unsafe impl DotKernel for Avx2Tiles {
    type Value = i16;
    const KR: usize = avx2_loops::KR;
    const COLS: usize = 4;
    const DEPTH: usize = BYTES / 2;

    /// A tile takes two instructions for a value of a row, whatever the columns; these an eighth for each column, and the rest.
    #[inline(always)]
    fn pays(job: &Job) -> bool {
        job.rows >= 8 * job.cols && job.cols * (job.k / 8 + 8) <= 2 * job.k
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn dots(input: &DotInput<i16>, sums: *mut i32) {
        // SAFETY: the input has eight rows and `cols` columns, `sums` room for each of theirs; the CPU has the features.
        unsafe { blocks(input, sums, |sum, a, b| _mm256_add_epi32(sum, _mm256_madd_epi16(a, b))) }
    }
}

/// The sums of all blocks, `add` being what adds the products of two vectors to one of sums.
///
/// # Safety
/// As [`DotKernel::dots`].
#[inline(always)]
unsafe fn blocks<T>(
    input: &DotInput<T>,
    sums: *mut i32,
    add: impl Fn(__m256i, __m256i, __m256i) -> __m256i + Copy,
) {
    // SAFETY: there are eight rows and `cols` columns.
    unsafe {
        let mut c = 0;
        while c + 2 <= input.cols {
            for r in (0..ROWS).step_by(4) {
                block::<T, 4, 2>(input, r, c, sums, add);
            }
            c += 2;
        }
        if c < input.cols {
            block::<T, 8, 1>(input, 0, c, sums, add);
        }
    }
}

/// `R` rows from `r` on by `C` columns from `c` on; `R` is a multiple of 4.
///
/// # Safety
/// As [`DotKernel::dots`]; the block has those rows and columns.
#[inline(always)]
unsafe fn block<T, const R: usize, const C: usize>(
    input: &DotInput<T>,
    r: usize,
    c: usize,
    sums: *mut i32,
    add: impl Fn(__m256i, __m256i, __m256i) -> __m256i + Copy,
) {
    // SAFETY: vectors of rows end within K, those of columns within their stride.
    unsafe {
        let rows = input.rows.add(r * input.row_stride);
        let columns: *const u8 = input.columns.add(c * input.column_stride).cast();
        let column_stride = input.column_stride * size_of::<T>();
        let mut parts = [[_mm256_setzero_si256(); C]; R];
        let depth = input.k * size_of::<T>();
        let mut at = 0;
        while at + BYTES <= depth {
            let places =
                [(rows.wrapping_add(at), input.row_stride), (columns.wrapping_add(at), column_stride)];
            step(&mut parts, places, add);
            at += BYTES;
        }
        if at < depth {
            let rows = rows.wrapping_add(depth - BYTES);
            step(&mut parts, [(rows, input.row_stride), (columns.wrapping_add(at), column_stride)], add);
        }
        for i in (0..R).step_by(4) {
            for j in 0..C {
                let four = [parts[i][j], parts[i + 1][j], parts[i + 2][j], parts[i + 3][j]];
                _mm_storeu_si128(sums.add((c + j) * ROWS + r + i).cast(), added_up(four));
            }
        }
    }
}

/// A vector of each row times one of each column. A function rather than a closure, of which the compiler would make one that is called,
/// and keep the sums in memory for it.
///
/// # Safety
/// A vector is readable at each place and its strides, in bytes: of rows, and of columns, which are aligned. The CPU has AVX2.
#[inline(always)]
unsafe fn step<const R: usize, const C: usize>(
    parts: &mut [[__m256i; C]; R],
    [(rows, row_stride), (columns, column_stride)]: [(*const u8, usize); 2],
    add: impl Fn(__m256i, __m256i, __m256i) -> __m256i,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut b = [_mm256_setzero_si256(); C];
        for (j, b) in b.iter_mut().enumerate() {
            *b = _mm256_load_si256(columns.add(j * column_stride).cast());
        }
        for (i, parts) in parts.iter_mut().enumerate() {
            let a = _mm256_loadu_si256(rows.add(i * row_stride).cast());
            for (part, &b) in parts.iter_mut().zip(&b) {
                *part = add(*part, a, b);
            }
        }
    }
}

/// The sum of each of four vectors.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn added_up([a, b, c, d]: [__m256i; 4]) -> __m128i {
    // SAFETY: the CPU has AVX2.
    unsafe {
        let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        // Either half has a part of a, b, c and d.
        let halves = _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
        _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves))
    }
}
