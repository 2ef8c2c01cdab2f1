//! [`Lanes`] and [`Narrow`] of AVX-512: sixteen i32 or f32 in a zmm register.

use core::arch::x86_64::*;

use super::{
    super::vectors::{
        lanes::{Lanes, methods},
        narrow::Narrow,
        pieces::Pieces,
    },
    narrow::{ByteRange, narrow},
};

/// Sixteen lanes.
#[derive(Clone, Copy)]
pub(in super::super) struct Lanes512;

// SAFETY: loads and stores touch 16 elements of their type, `store_low_bytes` 16 bytes.
unsafe impl Lanes for Lanes512 {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    type I = __m512i;
    type F = __m512;

    methods! {
        load_i(p: *const i32) -> Self::I = _mm512_loadu_si512(p.cast());
        store_i(v: Self::I, p: *mut i32) = _mm512_storeu_si512(p.cast(), v);
        splat_i(x: i32) -> Self::I = _mm512_set1_epi32(x);
        add_i(a: Self::I, b: Self::I) -> Self::I = _mm512_add_epi32(a, b);
        sub_i(a: Self::I, b: Self::I) -> Self::I = _mm512_sub_epi32(a, b);
        total(v: Self::I) -> i32 = _mm512_reduce_add_epi32(v);
        mul_i(a: Self::I, b: Self::I) -> Self::I = _mm512_mullo_epi32(a, b);
        min_i(a: Self::I, b: Self::I) -> Self::I = _mm512_min_epi32(a, b);
        max_i(a: Self::I, b: Self::I) -> Self::I = _mm512_max_epi32(a, b);
        and_i(a: Self::I, b: Self::I) -> Self::I = _mm512_and_si512(a, b);
        xor_i(a: Self::I, b: Self::I) -> Self::I = _mm512_xor_si512(a, b);
        shift_right<const N: i32>(v: Self::I) -> Self::I = _mm512_srlv_epi32(v, _mm512_set1_epi32(N));
        load_bytes(p: *const u8) -> Self::I = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
        store_low_bytes(v: Self::I, p: *mut u8) = _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(v));
        prefetch(p: *const f32) = _mm_prefetch::<_MM_HINT_T0>(p.cast());
        load_f(p: *const f32) -> Self::F = _mm512_loadu_ps(p);
        store_f(v: Self::F, p: *mut f32) = _mm512_storeu_ps(p, v);
        splat_f(x: f32) -> Self::F = _mm512_set1_ps(x);
        add_f(a: Self::F, b: Self::F) -> Self::F = _mm512_add_ps(a, b);
        sub_f(a: Self::F, b: Self::F) -> Self::F = _mm512_sub_ps(a, b);
        mul_f(a: Self::F, b: Self::F) -> Self::F = _mm512_mul_ps(a, b);
        div_f(a: Self::F, b: Self::F) -> Self::F = _mm512_div_ps(a, b);
        min_f(a: Self::F, b: Self::F) -> Self::F = _mm512_min_ps(a, b);
        max_f(a: Self::F, b: Self::F) -> Self::F = _mm512_max_ps(a, b);
        all_below(v: Self::F, bound: Self::F) -> bool = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(v, bound) == 0xffff;
        ge_f(a: Self::F, b: Self::F) -> Self::I = _mm512_maskz_set1_epi32(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b), -1);
        zero_nan(v: Self::F) -> Self::F = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(v, v), v);
        bits(v: Self::F) -> Self::I = _mm512_castps_si512(v);
        from_bits(v: Self::I) -> Self::F = _mm512_castsi512_ps(v);
        to_f(v: Self::I) -> Self::F = _mm512_cvtepi32_ps(v);
        to_i(v: Self::F) -> Self::I = _mm512_cvtps_epi32(v);
    }

    #[inline(always)]
    unsafe fn quotient(a: Self::F, b: Self::F, inverse: Self::F) -> Self::F {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            let mut quotient = _mm512_mul_ps(a, inverse);
            for _ in 0..2 {
                quotient = _mm512_fmadd_ps(_mm512_fnmadd_ps(quotient, b, a), inverse, quotient);
            }
            quotient
        }
    }
    #[inline(always)]
    unsafe fn scale_single_rounding(x: Self::I, m: Self::I, e: Self::I) -> Self::I {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            let scale = |x, m, e| {
                let right = _mm512_sub_epi64(_mm512_set1_epi64(31), e);
                let half =
                    _mm512_sllv_epi64(_mm512_set1_epi64(1), _mm512_sub_epi64(right, _mm512_set1_epi64(1)));
                _mm512_srav_epi64(_mm512_add_epi64(_mm512_mul_epi32(x, m), half), right)
            };
            let [x, m, e] = [widen(x), widen(m), widen(e)];
            narrow(scale(x[0], m[0], e[0]), scale(x[1], m[1], e[1]))
        }
    }
    #[inline(always)]
    unsafe fn scale_double_rounding(x: Self::I, m: Self::I, e: Self::I) -> Self::I {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            let zero = _mm512_setzero_si512();
            let left = widen(_mm512_max_epi32(e, zero));
            let right = _mm512_max_epi32(_mm512_sub_epi32(zero, e), zero);
            let [x, m] = [widen(x), widen(m)];
            let shifted = narrow(_mm512_sllv_epi64(x[0], left[0]), _mm512_sllv_epi64(x[1], left[1]));
            let high = |x, m| {
                let product = _mm512_mul_epi32(x, m);
                _mm512_srai_epi64::<31>(_mm512_add_epi64(product, _mm512_set1_epi64(1 << 30)))
            };
            let shifted = widen(shifted);
            let high = narrow(high(shifted[0], m[0]), high(shifted[1], m[1]));
            // Rounding divide by 2^right: the floor, plus one where the remainder exceeds the threshold.
            let one = _mm512_set1_epi32(1);
            let mask = _mm512_sub_epi32(_mm512_sllv_epi32(one, right), one);
            let remainder = _mm512_and_si512(high, mask);
            let threshold = _mm512_add_epi32(_mm512_srli_epi32::<1>(mask), _mm512_srli_epi32::<31>(high));
            let up = _mm512_cmpgt_epi32_mask(remainder, threshold);
            let floor = _mm512_srav_epi32(high, right);
            _mm512_mask_add_epi32(floor, up, floor, one)
        }
    }
}

// SAFETY: `store_bytes` writes 16 bytes at each pointer that it stores to.
unsafe impl Narrow for Lanes512 {
    narrow! {
        asks_range: true,
        splat_i16: _mm512_set1_epi16,
        splat_i8: _mm512_set1_epi8,
        pack_i32: _mm512_packs_epi32,
        add_i16: _mm512_adds_epi16,
        pack_i16: _mm512_packs_epi16,
        max_i8: _mm512_max_epi8,
        min_i8: _mm512_min_epi8,
    }

    #[inline(always)]
    unsafe fn store_bytes<const TOGETHER: usize>(
        bytes: Self::I,
        _to: &Self::ByteRange,
        p: [*mut u8; 4],
        count: usize,
    ) {
        // SAFETY: the CPU has AVX-512; the caller gives room for 16 bytes at each pointer that is stored to.
        unsafe {
            // Packing works within quarters: the groups of four bytes are put in order.
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let bytes = _mm512_permutexvar_epi32(order, bytes);
            match TOGETHER {
                4 => _mm512_storeu_si512(p[0].cast(), bytes),
                2 => {
                    _mm256_storeu_si256(p[0].cast(), _mm512_castsi512_si256(bytes));
                    if count > 2 {
                        _mm256_storeu_si256(p[2].cast(), _mm512_extracti64x4_epi64::<1>(bytes));
                    }
                }
                _ => {
                    let quarters = [
                        _mm512_castsi512_si128(bytes),
                        _mm512_extracti32x4_epi32::<1>(bytes),
                        _mm512_extracti32x4_epi32::<2>(bytes),
                        _mm512_extracti32x4_epi32::<3>(bytes),
                    ];
                    for i in 0..count {
                        _mm_storeu_si128(p[i].cast(), quarters[i]);
                    }
                }
            }
        }
    }
}

/// The sixteen i32 as two vectors of i64.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn widen(v: __m512i) -> [__m512i; 2] {
    // SAFETY: the CPU has AVX-512.
    unsafe {
        [
            _mm512_cvtepi32_epi64(_mm512_castsi512_si256(v)),
            _mm512_cvtepi32_epi64(_mm512_extracti64x4_epi64::<1>(v)),
        ]
    }
}

/// Two vectors of i64 saturated to i32.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn narrow(low: __m512i, high: __m512i) -> __m512i {
    // SAFETY: the CPU has AVX-512.
    unsafe {
        let low = _mm512_castsi256_si512(_mm512_cvtsepi64_epi32(low));
        _mm512_inserti64x4::<1>(low, _mm512_cvtsepi64_epi32(high))
    }
}

// SAFETY: pieces are read or written where they are said to be.
unsafe impl Pieces for Lanes512 {
    methods! {
        add_fours(sums: Self::I, bytes: Self::I) -> Self::I = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), bytes);
    }

    #[inline(always)]
    unsafe fn load_pieces(p: *const u8, stride: usize) -> Self::I {
        // SAFETY: the CPU has AVX-512; four pieces are readable.
        unsafe {
            let piece = |i: usize| _mm_loadu_si128(p.add(i * stride).cast());
            let v = _mm512_castsi128_si512(piece(0));
            let v = _mm512_inserti32x4::<1>(v, piece(1));
            let v = _mm512_inserti32x4::<2>(v, piece(2));
            _mm512_inserti32x4::<3>(v, piece(3))
        }
    }
    #[inline(always)]
    unsafe fn store_pieces(v: Self::I, p: *mut u8, stride: usize, count: usize) {
        // SAFETY: the CPU has AVX-512; the caller gives room for the pieces that are stored.
        unsafe {
            if count > 0 {
                _mm_storeu_si128(p.cast(), _mm512_castsi512_si128(v));
            }
            if count > 1 {
                _mm_storeu_si128(p.add(stride).cast(), _mm512_extracti32x4_epi32::<1>(v));
            }
            if count > 2 {
                _mm_storeu_si128(p.add(2 * stride).cast(), _mm512_extracti32x4_epi32::<2>(v));
            }
            if count > 3 {
                _mm_storeu_si128(p.add(3 * stride).cast(), _mm512_extracti32x4_epi32::<3>(v));
            }
        }
    }
    #[inline(always)]
    unsafe fn zip<const BYTES: usize>(a: Self::I, b: Self::I) -> [Self::I; 2] {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            match BYTES {
                1 => [_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)],
                2 => [_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b)],
                4 => [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)],
                _ => [_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)],
            }
        }
    }
}
