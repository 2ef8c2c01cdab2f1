//! Taps of depthwise convolutions on x86: `vpmaddwd`, of pairs of taps.
//!
//! The bytes of two taps are interleaved, which leaves the channels in order, and widened to i16; a multiply-add then gives one
//! i32 a channel for both. With AVX2 a tile of 4 pixels by 16 channels has 8 sums, 2 vectors of weights and 4 of values: 14
//! registers. A pair costs 8 vector instructions for 32 MAC, half of them moving bytes: 16 MAC/cycle on four vector ports. (VNNI
//! multiplies four taps at once and needs twice the moving: it gains nothing here.)

use core::arch::x86_64::*;

use super::{
    super::{
        depthwise::{Tap, Taps},
        depthwise3x3::PairTaps,
        lanes::Lanes,
    },
    lanes256::Lanes256,
    lanes512::Lanes512,
};

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
    // SAFETY: the caller's.
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
pub(super) struct Taps256;

// SAFETY: 16 bytes of each tap and 32 weights are read.
unsafe impl Taps for Taps256 {
    type V = Lanes256;

    #[inline(always)]
    unsafe fn add<const UNSIGNED: bool, const R: usize>(
        a: Tap,
        b: Tap,
        weights: *const i16,
        sums: &mut [[__m256i; 2]; R],
    ) {
        // SAFETY: the caller's.
        unsafe { add::<Self, UNSIGNED, R>(a, b, weights, sums) }
    }
}

// SAFETY: 16 bytes of each tap and 16 weights are read.
unsafe impl PairTaps for Taps256 {
    type Pair = __m256i;

    #[inline(always)]
    unsafe fn interleave<const UNSIGNED: bool>(a: *const u8, b: *const u8) -> [__m256i; 2] {
        // SAFETY: the CPU has AVX2; pointers as the caller promised.
        unsafe {
            let [a, b] = [a, b].map(|p| _mm_loadu_si128(p.cast()));
            [_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)]
                .map(|pairs| if UNSIGNED { _mm256_cvtepu8_epi16(pairs) } else { _mm256_cvtepi8_epi16(pairs) })
        }
    }

    #[inline(always)]
    unsafe fn multiply(pair: __m256i, weights: *const i16) -> __m256i {
        // SAFETY: the CPU has AVX2; pointers as the caller promised.
        unsafe { _mm256_madd_epi16(pair, _mm256_loadu_si256(weights.cast())) }
    }
}

/// 32 channels at a time.
pub(super) struct Taps512;

// SAFETY: 32 bytes of each tap and 64 weights are read.
unsafe impl Taps for Taps512 {
    type V = Lanes512;

    #[inline(always)]
    unsafe fn add<const UNSIGNED: bool, const R: usize>(
        a: Tap,
        b: Tap,
        weights: *const i16,
        sums: &mut [[__m512i; 2]; R],
    ) {
        // SAFETY: the caller's.
        unsafe { add::<Self, UNSIGNED, R>(a, b, weights, sums) }
    }
}

// SAFETY: 32 bytes of each tap and 32 weights are read.
unsafe impl PairTaps for Taps512 {
    type Pair = __m512i;

    #[inline(always)]
    unsafe fn interleave<const UNSIGNED: bool>(a: *const u8, b: *const u8) -> [__m512i; 2] {
        // SAFETY: the CPU has AVX-512 with BW; pointers as the caller promised.
        unsafe {
            // Interleaving works within halves: the first eight channels of each are the first 16 of all.
            let [a, b] =
                [a, b].map(|p| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_loadu_si256(p.cast())));
            [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)]
                .map(|pairs| if UNSIGNED { _mm512_cvtepu8_epi16(pairs) } else { _mm512_cvtepi8_epi16(pairs) })
        }
    }

    #[inline(always)]
    unsafe fn multiply(pair: __m512i, weights: *const i16) -> __m512i {
        // SAFETY: the CPU has AVX-512 with BW; pointers as the caller promised.
        unsafe { _mm512_madd_epi16(pair, _mm512_loadu_si512(weights.cast())) }
    }
}
