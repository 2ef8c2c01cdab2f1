//! Taps of depthwise convolutions on x86: `vpmaddwd`, of pairs of taps.
//!
//! The bytes of two taps are interleaved, which leaves the channels in order, and widened to i16; a multiply-add then gives one
//! i32 a channel for both. With AVX2 a tile of 4 pixels by 16 channels has 8 sums, 2 vectors of weights and 4 of values: 14
//! registers. A pair costs 8 vector instructions for 32 MAC, half of them moving bytes: 16 MAC/cycle on four vector ports. (VNNI
//! multiplies four taps at once and needs twice the moving: it gains nothing here.)

use core::arch::x86_64::*;

use super::{
    super::depthwise::{Tap, Taps},
    lanes256::Lanes256,
    lanes512::Lanes512,
};

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
        // SAFETY: the CPU has AVX2; pointers as the caller promised.
        unsafe {
            let weights = [0, 16].map(|at| _mm256_loadu_si256(weights.add(at).cast()));
            for (r, sums) in sums.iter_mut().enumerate() {
                let [a, b] = [a, b].map(|tap| _mm_loadu_si128(tap.ptr.add(r * tap.step).cast()));
                let pairs = [_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b)];
                for q in 0..2 {
                    let wide = if UNSIGNED {
                        _mm256_cvtepu8_epi16(pairs[q])
                    } else {
                        _mm256_cvtepi8_epi16(pairs[q])
                    };
                    sums[q] = _mm256_add_epi32(sums[q], _mm256_madd_epi16(wide, weights[q]));
                }
            }
        }
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
        // SAFETY: the CPU has AVX-512 with BW; pointers as the caller promised.
        unsafe {
            let weights = [0, 32].map(|at| _mm512_loadu_si512(weights.add(at).cast()));
            for (r, sums) in sums.iter_mut().enumerate() {
                let [a, b] = [a, b].map(|tap| {
                    let bytes = _mm256_loadu_si256(tap.ptr.add(r * tap.step).cast());
                    // Interleaving works within halves: the first eight channels of each are the first 16 of all.
                    _mm256_permute4x64_epi64::<0b11_01_10_00>(bytes)
                });
                let pairs = [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)];
                for q in 0..2 {
                    let wide = if UNSIGNED {
                        _mm512_cvtepu8_epi16(pairs[q])
                    } else {
                        _mm512_cvtepi8_epi16(pairs[q])
                    };
                    sums[q] = _mm512_add_epi32(sums[q], _mm512_madd_epi16(wide, weights[q]));
                }
            }
        }
    }
}
