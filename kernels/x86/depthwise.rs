//! Taps of depthwise convolutions on x86: `vpmaddwd`, of pairs of taps.
//!
//! The bytes of two taps are interleaved, which leaves the channels in order, and widened to i16; a multiply-add then gives one
//! i32 a channel for both. With AVX2 a tile of 4 pixels by 16 channels has 8 sums, 2 vectors of weights and 4 of values: 14
//! registers. A pair costs 8 vector instructions for 32 MAC, half of them moving bytes: 16 MAC/cycle on four vector ports. (VNNI
//! multiplies four taps at once and needs twice the moving: it gains where what was moved serves several pixels, in
//! [`columns`].)

use core::arch::x86_64::*;

use super::{
    super::{
        depthwise::{
            columns::{self, ColumnTaps, Sums, Three, ThreeJob},
            line,
            taps::{MR, Tap, Taps},
        },
        product::{Buffers, End},
        vectors::lanes::Lanes,
    },
    lanes256::Lanes256,
    lanes512::Lanes512,
};

/// Pairs of taps, with AVX2.
pub(in crate::kernels) fn three_avx2<E: End>() -> Three {
    /// # Safety
    /// As [`ThreeJob`]; the CPU has AVX2.
    #[target_feature(enable = "avx2")]
    unsafe fn run<E: End>(job: &ThreeJob) {
        // SAFETY: the job is valid, and the CPU has what this is compiled for.
        unsafe { columns::run::<Taps256, E>(job) }
    }
    /// # Safety
    /// As [`line::run`]; the CPU has the same.
    #[target_feature(enable = "avx2")]
    unsafe fn round<E: End>(job: &ThreeJob) {
        // SAFETY: as above.
        unsafe { line::run::<Taps256, E>(job) }
    }
    Three { run: run::<E>, round: round::<E>, fours: Taps256::FOURS }
}

/// Fours of taps, with VNNI.
pub(in crate::kernels) fn three_avx512_vnni<E: End>() -> Three {
    /// # Safety
    /// As [`ThreeJob`]; the CPU has AVX-512 with VNNI.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn run<E: End>(job: &ThreeJob) {
        // SAFETY: the job is valid, and the CPU has what this is compiled for.
        unsafe { columns::run::<Taps512, E>(job) }
    }
    /// # Safety
    /// As [`line::run`]; the CPU has the same.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn round<E: End>(job: &ThreeJob) {
        // SAFETY: as above.
        unsafe { line::run::<Taps512, E>(job) }
    }
    Three { run: run::<E>, round: round::<E>, fours: Taps512::FOURS }
}

/// Pairs of taps.
///
/// # Safety
/// `interleave` reads `2 * LANES` bytes at both addresses, `multiply` `2 * LANES` weights.
unsafe trait PairTaps: Taps {
    /// `LANES` channels, each with the values of two taps as i16.
    type Pair: Copy;

    /// The values of two taps for two vectors of channels.
    ///
    /// # Safety
    /// They are readable; the CPU has the features.
    unsafe fn interleave<const UNSIGNED: bool>(a: *const u8, b: *const u8) -> [Self::Pair; 2];

    /// `pair[.., 0] * weights[.., 0] + pair[.., 1] * weights[.., 1]`.
    ///
    /// # Safety
    /// The weights are readable; the CPU has the features.
    unsafe fn multiply(pair: Self::Pair, weights: *const i16) -> <Self::V as Lanes>::I;
}

/// [`Taps::add`] from pairs.
///
/// # Safety
/// As [`Taps::add`].
#[inline(always)]
unsafe fn add<T: PairTaps, const UNSIGNED: bool, const R: usize>(
    a: Tap,
    b: Tap,
    weights: *const i16,
    sums: &mut [[<T::V as Lanes>::I; 2]; R],
) {
    // SAFETY: pixels and weights are readable for two vectors of channels, as both methods ask.
    unsafe {
        for (r, sums) in sums.iter_mut().enumerate() {
            let pairs = T::interleave::<UNSIGNED>(a.ptr.add(r * a.step), b.ptr.add(r * b.step));
            for q in 0..2 {
                sums[q] = T::V::add_i(sums[q], T::multiply(pairs[q], weights.add(q * 2 * T::V::LANES)));
            }
        }
    }
}

/// 16 channels at a time.
pub(in crate::kernels) struct Taps256;

// SAFETY: 16 bytes of each tap and 32 weights are read.
unsafe impl Taps for Taps256 {
    type V = Lanes256;
    type Buffers = Buffers<MR, 16>;

    #[inline(always)]
    unsafe fn add<const UNSIGNED: bool, const R: usize>(
        a: Tap,
        b: Tap,
        weights: *const i16,
        sums: &mut [[__m256i; 2]; R],
    ) {
        // SAFETY: pixels and weights are readable for two vectors of channels, as both methods ask.
        unsafe { add::<Self, UNSIGNED, R>(a, b, weights, sums) }
    }
}

// SAFETY: 16 bytes of each tap and 16 weights are read.
unsafe impl PairTaps for Taps256 {
    type Pair = __m256i;

    #[inline(always)]
    unsafe fn interleave<const UNSIGNED: bool>(a: *const u8, b: *const u8) -> [__m256i; 2] {
        // SAFETY: both taps are readable for two vectors of channels, and the CPU has the features.
        unsafe {
            let [a, b] = [_mm_loadu_si128(a.cast()), _mm_loadu_si128(b.cast())];
            let [low, high] = [_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)];
            if UNSIGNED {
                [_mm256_cvtepu8_epi16(low), _mm256_cvtepu8_epi16(high)]
            } else {
                [_mm256_cvtepi8_epi16(low), _mm256_cvtepi8_epi16(high)]
            }
        }
    }

    #[inline(always)]
    unsafe fn multiply(pair: __m256i, weights: *const i16) -> __m256i {
        // SAFETY: a vector of weights is readable, and the CPU has the features.
        unsafe { _mm256_madd_epi16(pair, _mm256_loadu_si256(weights.cast())) }
    }
}

// SAFETY: 16 bytes of each row are read, and 24 vectors of weights.
unsafe impl ColumnTaps for Taps256 {
    const FOURS: bool = false;
    type Column = [[__m256i; 2]; 2];
    type Weights = *const i16;

    #[inline(always)]
    unsafe fn column<const UNSIGNED: bool>([a, b, c, d]: [*const u8; 4]) -> Self::Column {
        // SAFETY: all rows are readable for two vectors of channels, and the CPU has the features.
        unsafe { [Self::interleave::<UNSIGNED>(a, b), Self::interleave::<UNSIGNED>(c, d)] }
    }

    #[inline(always)]
    unsafe fn weights(weights: *const u8) -> *const i16 {
        weights.cast()
    }

    #[inline(always)]
    unsafe fn add_column(
        mut sums: Sums<Lanes256>,
        column: Self::Column,
        v: usize,
        weights: *const i16,
    ) -> Sums<Lanes256> {
        // SAFETY: the weights of the block are readable, and `v` is one of its three places.
        unsafe {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    for (pair, values) in column.iter().enumerate() {
                        let at = ((v * 2 + row) * 2 + pair) * 2 + vector;
                        *sum = _mm256_add_epi32(*sum, Self::multiply(values[vector], weights.add(at * 16)));
                    }
                }
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn store_column(column: Self::Column, to: *mut u8, plane: usize) {
        // SAFETY: there is room for both planes: an array of vectors is laid out as they are.
        unsafe {
            to.cast::<[__m256i; 2]>().write_unaligned(column[0]);
            to.add(plane).cast::<[__m256i; 2]>().write_unaligned(column[1]);
        }
    }

    #[inline(always)]
    unsafe fn load_column(from: *const u8, plane: usize) -> Self::Column {
        // SAFETY: both planes are readable, as above.
        unsafe {
            let [first, second] = [from, from.add(plane)].map(|from| from.cast::<[__m256i; 2]>());
            [first.read_unaligned(), second.read_unaligned()]
        }
    }
}

/// 32 channels at a time.
pub(in crate::kernels) struct Taps512;

// SAFETY: 32 bytes of each tap and 64 weights are read.
unsafe impl Taps for Taps512 {
    type V = Lanes512;
    type Buffers = Buffers<MR, 32>;

    #[inline(always)]
    unsafe fn add<const UNSIGNED: bool, const R: usize>(
        a: Tap,
        b: Tap,
        weights: *const i16,
        sums: &mut [[__m512i; 2]; R],
    ) {
        // SAFETY: pixels and weights are readable for two vectors of channels, as both methods ask.
        unsafe { add::<Self, UNSIGNED, R>(a, b, weights, sums) }
    }
}

// SAFETY: 32 bytes of each tap and 32 weights are read.
unsafe impl PairTaps for Taps512 {
    type Pair = __m512i;

    #[inline(always)]
    unsafe fn interleave<const UNSIGNED: bool>(a: *const u8, b: *const u8) -> [__m512i; 2] {
        // SAFETY: both taps are readable for two vectors of channels, and the CPU has the features.
        unsafe {
            // Interleaving works within halves: the first eight channels of each are the first 16 of all.
            let a = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_loadu_si256(a.cast()));
            let b = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_loadu_si256(b.cast()));
            let [low, high] = [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)];
            if UNSIGNED {
                [_mm512_cvtepu8_epi16(low), _mm512_cvtepu8_epi16(high)]
            } else {
                [_mm512_cvtepi8_epi16(low), _mm512_cvtepi8_epi16(high)]
            }
        }
    }

    #[inline(always)]
    unsafe fn multiply(pair: __m512i, weights: *const i16) -> __m512i {
        // SAFETY: a vector of weights is readable, and the CPU has the features.
        unsafe { _mm512_madd_epi16(pair, _mm512_loadu_si512(weights.cast())) }
    }
}

// SAFETY: 32 bytes of each row are read, and 12 vectors of weights.
unsafe impl ColumnTaps for Taps512 {
    const FOURS: bool = true;
    /// Sixteen channels of four rows each.
    type Column = [__m512i; 2];
    type Weights = [[[__m512i; 2]; 2]; 3];

    #[inline(always)]
    unsafe fn column<const UNSIGNED: bool>(rows: [*const u8; 4]) -> [__m512i; 2] {
        // SAFETY: all rows are readable for two vectors of channels, and the CPU has the features.
        unsafe {
            let [a, b, c, d] = rows;
            let [a, b] = [_mm256_loadu_si256(a.cast()), _mm256_loadu_si256(b.cast())];
            let [c, d] = [_mm256_loadu_si256(c.cast()), _mm256_loadu_si256(d.cast())];
            // Interleaving works within halves, in which there are then channels 0 .. 3 and 16 .. 19, 4 .. 7 and 20 .. 23, and so
            // on: their quarters are put in order last.
            let join = |ab, cd| {
                let first = _mm512_castsi256_si512(_mm256_unpacklo_epi16(ab, cd));
                _mm512_inserti64x4::<1>(first, _mm256_unpackhi_epi16(ab, cd))
            };
            let low = join(_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d));
            let high = join(_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d));
            let fours = [
                _mm512_shuffle_i64x2::<0b10_00_10_00>(low, high),
                _mm512_shuffle_i64x2::<0b11_01_11_01>(low, high),
            ];
            if UNSIGNED {
                return fours;
            }
            let sign_bits = _mm512_set1_epi8(i8::MIN);
            [_mm512_xor_si512(fours[0], sign_bits), _mm512_xor_si512(fours[1], sign_bits)]
        }
    }

    #[inline(always)]
    unsafe fn weights(weights: *const u8) -> Self::Weights {
        // SAFETY: the weights of the block are readable: an array of vectors is laid out as they are.
        unsafe { weights.cast::<Self::Weights>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn add_column(
        mut sums: Sums<Lanes512>,
        column: [__m512i; 2],
        v: usize,
        weights: Self::Weights,
    ) -> Sums<Lanes512> {
        // SAFETY: the CPU has AVX-512 with VNNI.
        unsafe {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (q, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_dpbusd_epi32(*sum, column[q], weights[v][row][q]);
                }
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn store_column(column: [__m512i; 2], to: *mut u8, _plane: usize) {
        // SAFETY: there is room: an array of vectors is laid out as they are.
        unsafe { to.cast::<[__m512i; 2]>().write_unaligned(column) }
    }

    #[inline(always)]
    unsafe fn load_column(from: *const u8, _plane: usize) -> [__m512i; 2] {
        // SAFETY: the column is readable, as above.
        unsafe { from.cast::<[__m512i; 2]>().read_unaligned() }
    }
}
