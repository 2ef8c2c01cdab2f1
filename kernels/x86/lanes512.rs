//! [`Lanes`] of AVX-512: sixteen i32 or f32 in a zmm register.

use core::arch::x86_64::*;

use super::super::lanes::Lanes;

/// Sixteen lanes.
#[derive(Clone, Copy)]
pub(in super::super) struct Lanes512;

/// Zero point as i16, and the range as i8.
#[derive(Clone, Copy)]
pub(in super::super) struct ByteRange {
    zero_point: __m512i,
    min: __m512i,
    max: __m512i,
    /// What turns i8 into the bytes of the range: 0, or the sign bit.
    flip: __m512i,
}

// SAFETY: loads and stores touch 16 elements of their type, `store_low_bytes` 16 bytes.
unsafe impl Lanes for Lanes512 {
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    type I = __m512i;
    type F = __m512;

    #[inline(always)]
    unsafe fn load_i(p: *const i32) -> Self::I {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_i(v: Self::I, p: *mut i32) {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn splat_i(x: i32) -> Self::I {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    unsafe fn add_i(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub_i(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_i(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_mullo_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn min_i(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_min_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn max_i(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_max_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn and_i(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn xor_i(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_xor_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn shift_right<const N: i32>(v: Self::I) -> Self::I {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_srlv_epi32(v, _mm512_set1_epi32(N)) }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> Self::I {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_low_bytes(v: Self::I, p: *mut u8) {
        // SAFETY: the CPU has AVX-512; the caller gives room for 16 bytes.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(v)) }
    }
    type ByteRange = ByteRange;
    #[inline(always)]
    unsafe fn byte_range(zero_point: i32, min: i32, max: i32) -> ByteRange {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            // A range of u8 is taken as one of i8, 128 lower.
            let lower = if min >= 0 { 128 } else { 0 };
            ByteRange {
                zero_point: _mm512_set1_epi16((zero_point - lower) as i16),
                min: _mm512_set1_epi8((min - lower) as i8),
                max: _mm512_set1_epi8((max - lower) as i8),
                flip: _mm512_set1_epi8(lower as i8),
            }
        }
    }
    type Bytes = __m512i;
    #[inline(always)]
    unsafe fn narrow(steps: [Self::F; 4], to: &ByteRange, in_range: bool) -> __m512i {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            // What is too large for i32 would convert to its smallest value, as what is too small does.
            let largest = _mm512_set1_ps(32767.0);
            let round = |v| _mm512_cvtps_epi32(if in_range { v } else { _mm512_min_ps(v, largest) });
            let [a, b, c, d] = steps;
            let [a, b, c, d] = [round(a), round(b), round(c), round(d)];
            // Every step saturates, and what has saturated stays outside of 8 bits.
            let low = _mm512_adds_epi16(_mm512_packs_epi32(a, b), to.zero_point);
            let high = _mm512_adds_epi16(_mm512_packs_epi32(c, d), to.zero_point);
            _mm512_packs_epi16(low, high)
        }
    }
    #[inline(always)]
    unsafe fn limit(bytes: __m512i, to: &ByteRange) -> __m512i {
        // SAFETY: the CPU has AVX-512.
        unsafe {
            let bytes = _mm512_min_epi8(_mm512_max_epi8(bytes, to.min), to.max);
            _mm512_xor_si512(bytes, to.flip)
        }
    }
    #[inline(always)]
    unsafe fn store_bytes<const TOGETHER: usize>(
        bytes: __m512i,
        _to: &ByteRange,
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
    #[inline(always)]
    unsafe fn prefetch(p: *const f32) {
        // SAFETY: a hint, which never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_f(p: *const f32) -> Self::F {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store_f(v: Self::F, p: *mut f32) {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn splat_f(x: f32) -> Self::F {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn add_f(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_f(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub_f(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div_f(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn all_below(v: Self::F, bound: Self::F) -> bool {
        // SAFETY: the CPU has the feature.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(v, bound) == 0xffff }
    }
    #[inline(always)]
    unsafe fn ge_f(a: Self::F, b: Self::F) -> Self::I {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_maskz_set1_epi32(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b), -1) }
    }
    #[inline(always)]
    unsafe fn zero_nan(v: Self::F) -> Self::F {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_ORD_Q>(v, v), v) }
    }
    #[inline(always)]
    unsafe fn bits(v: Self::F) -> Self::I {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_castps_si512(v) }
    }
    #[inline(always)]
    unsafe fn from_bits(v: Self::I) -> Self::F {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_castsi512_ps(v) }
    }
    #[inline(always)]
    unsafe fn min_f(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn max_f(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn to_f(v: Self::I) -> Self::F {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    unsafe fn to_i(v: Self::F) -> Self::I {
        // SAFETY: the CPU has the feature; pointers as the caller promised.
        unsafe { _mm512_cvtps_epi32(v) }
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

/// The sixteen i32 as two vectors of i64.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn widen(v: __m512i) -> [__m512i; 2] {
    // SAFETY: the caller's.
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
    // SAFETY: the caller's.
    unsafe {
        let low = _mm512_castsi256_si512(_mm512_cvtsepi64_epi32(low));
        _mm512_inserti64x4::<1>(low, _mm512_cvtsepi64_epi32(high))
    }
}
