//! [`Lanes`] and [`Narrow`] of AVX2: eight i32 or f32 in a ymm register.

use core::arch::x86_64::*;

use super::{
    super::vectors::{
        lanes::{Lanes, methods},
        narrow::Narrow,
        pieces::Pieces,
    },
    narrow::{ByteRange, narrow},
};

/// Eight lanes.
#[derive(Clone, Copy)]
pub(in super::super) struct Lanes256;

// SAFETY: loads and stores touch 8 elements of their type, `store_low_bytes` 8 bytes.
unsafe impl Lanes for Lanes256 {
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    type I = __m256i;
    type F = __m256;

    methods! {
        load_i(p: *const i32) -> Self::I = _mm256_loadu_si256(p.cast());
        store_i(v: Self::I, p: *mut i32) = _mm256_storeu_si256(p.cast(), v);
        splat_i(x: i32) -> Self::I = _mm256_set1_epi32(x);
        add_i(a: Self::I, b: Self::I) -> Self::I = _mm256_add_epi32(a, b);
        sub_i(a: Self::I, b: Self::I) -> Self::I = _mm256_sub_epi32(a, b);
        mul_i(a: Self::I, b: Self::I) -> Self::I = _mm256_mullo_epi32(a, b);
        min_i(a: Self::I, b: Self::I) -> Self::I = _mm256_min_epi32(a, b);
        max_i(a: Self::I, b: Self::I) -> Self::I = _mm256_max_epi32(a, b);
        and_i(a: Self::I, b: Self::I) -> Self::I = _mm256_and_si256(a, b);
        xor_i(a: Self::I, b: Self::I) -> Self::I = _mm256_xor_si256(a, b);
        shift_right<const N: i32>(v: Self::I) -> Self::I = _mm256_srli_epi32::<N>(v);
        load_bytes(p: *const u8) -> Self::I = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
        prefetch(p: *const f32) = _mm_prefetch::<_MM_HINT_T0>(p.cast());
        load_f(p: *const f32) -> Self::F = _mm256_loadu_ps(p);
        store_f(v: Self::F, p: *mut f32) = _mm256_storeu_ps(p, v);
        splat_f(x: f32) -> Self::F = _mm256_set1_ps(x);
        add_f(a: Self::F, b: Self::F) -> Self::F = _mm256_add_ps(a, b);
        sub_f(a: Self::F, b: Self::F) -> Self::F = _mm256_sub_ps(a, b);
        mul_f(a: Self::F, b: Self::F) -> Self::F = _mm256_mul_ps(a, b);
        div_f(a: Self::F, b: Self::F) -> Self::F = _mm256_div_ps(a, b);
        min_f(a: Self::F, b: Self::F) -> Self::F = _mm256_min_ps(a, b);
        max_f(a: Self::F, b: Self::F) -> Self::F = _mm256_max_ps(a, b);
        ge_f(a: Self::F, b: Self::F) -> Self::I = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GE_OQ>(a, b));
        zero_nan(v: Self::F) -> Self::F = _mm256_and_ps(v, _mm256_cmp_ps::<_CMP_ORD_Q>(v, v));
        bits(v: Self::F) -> Self::I = _mm256_castps_si256(v);
        from_bits(v: Self::I) -> Self::F = _mm256_castsi256_ps(v);
        to_f(v: Self::I) -> Self::F = _mm256_cvtepi32_ps(v);
        to_i(v: Self::F) -> Self::I = _mm256_cvtps_epi32(v);
    }

    #[inline(always)]
    unsafe fn total(v: Self::I) -> i32 {
        // SAFETY: the CPU has AVX2.
        unsafe {
            let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let v = _mm_add_epi32(v, _mm_unpackhi_epi64(v, v));
            _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<1>(v)))
        }
    }
    #[inline(always)]
    unsafe fn store_low_bytes(v: Self::I, p: *mut u8) {
        // SAFETY: the CPU has AVX2; the caller gives room for 8 bytes.
        unsafe {
            let pick = _mm256_setr_epi8(
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, //
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
            );
            let picked = _mm256_shuffle_epi8(v, pick);
            let low = _mm256_castsi256_si128(picked);
            let high = _mm256_extracti128_si256::<1>(picked);
            _mm_storel_epi64(p.cast(), _mm_unpacklo_epi32(low, high));
        }
    }
    #[inline(always)]
    unsafe fn store_low_bytes_of_4(v: [Self::I; 4], p: *mut u8) {
        // SAFETY: the CPU has AVX2; the caller gives room for 32 bytes.
        unsafe {
            let low = _mm256_set1_epi32(0xff);
            let [a, b, c, d] = v;
            let [a, b] = [_mm256_and_si256(a, low), _mm256_and_si256(b, low)];
            let [c, d] = [_mm256_and_si256(c, low), _mm256_and_si256(d, low)];
            // Packing works within halves: the groups of four bytes are put in order at the end.
            let packed = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            _mm256_storeu_si256(p.cast(), _mm256_permutevar8x32_epi32(packed, order));
        }
    }
    #[inline(always)]
    unsafe fn scale_single_rounding(x: Self::I, m: Self::I, e: Self::I) -> Self::I {
        // SAFETY: the CPU has AVX2.
        unsafe {
            let [x, m, e] = [widen(x), widen(m), widen(e)];
            narrow(scale_half(x[0], m[0], e[0]), scale_half(x[1], m[1], e[1]))
        }
    }
    #[inline(always)]
    unsafe fn scale_double_rounding(x: Self::I, m: Self::I, e: Self::I) -> Self::I {
        // SAFETY: the CPU has AVX2.
        unsafe {
            let zero = _mm256_setzero_si256();
            let left = _mm256_max_epi32(e, zero);
            let right = _mm256_max_epi32(_mm256_sub_epi32(zero, e), zero);
            let [x, m, left] = [widen(x), widen(m), widen(left)];
            let high = narrow(high_half(x[0], m[0], left[0]), high_half(x[1], m[1], left[1]));
            // Rounding divide by 2^right: the floor, plus one where the remainder exceeds the threshold.
            let one = _mm256_set1_epi32(1);
            let mask = _mm256_sub_epi32(_mm256_sllv_epi32(one, right), one);
            let remainder = _mm256_and_si256(high, mask);
            let negative = _mm256_srai_epi32::<31>(high);
            let threshold = _mm256_sub_epi32(_mm256_srli_epi32::<1>(mask), negative);
            let up = _mm256_cmpgt_epi32(remainder, threshold);
            _mm256_sub_epi32(_mm256_srav_epi32(high, right), up)
        }
    }
}

// SAFETY: `store_bytes` writes 8 bytes at each pointer that it stores to.
unsafe impl Narrow for Lanes256 {
    narrow! {
        asks_range: false,
        splat_i16: _mm256_set1_epi16,
        splat_i8: _mm256_set1_epi8,
        pack_i32: _mm256_packs_epi32,
        add_i16: _mm256_adds_epi16,
        pack_i16: _mm256_packs_epi16,
        max_i8: _mm256_max_epi8,
        min_i8: _mm256_min_epi8,
    }

    #[inline(always)]
    unsafe fn store_bytes<const TOGETHER: usize>(
        bytes: Self::I,
        _to: &Self::ByteRange,
        p: [*mut u8; 4],
        count: usize,
    ) {
        // SAFETY: the CPU has AVX2; the caller gives room for 8 bytes at each pointer that is stored to.
        unsafe {
            // Packing works within halves: the groups of four bytes are put in order.
            let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            let (ab, cd) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
            match TOGETHER {
                4 => _mm256_storeu_si256(p[0].cast(), bytes),
                2 => {
                    _mm_storeu_si128(p[0].cast(), ab);
                    if count > 2 {
                        _mm_storeu_si128(p[2].cast(), cd);
                    }
                }
                _ => {
                    let halves = [ab, _mm_unpackhi_epi64(ab, ab), cd, _mm_unpackhi_epi64(cd, cd)];
                    for i in 0..count {
                        _mm_storel_epi64(p[i].cast(), halves[i]);
                    }
                }
            }
        }
    }
}

/// [`Lanes::scale_single_rounding`] of four. A function, not a closure: one that is not inlined would be compiled without AVX2, every
/// intrinsic in it a call.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn scale_half(x: __m256i, m: __m256i, e: __m256i) -> __m256i {
    // SAFETY: the CPU has AVX2.
    unsafe {
        let right = _mm256_sub_epi64(_mm256_set1_epi64x(31), e);
        let half = _mm256_sllv_epi64(_mm256_set1_epi64x(1), _mm256_sub_epi64(right, _mm256_set1_epi64x(1)));
        saturate(shift_right(_mm256_add_epi64(_mm256_mul_epi32(x, m), half), right))
    }
}

/// The saturating rounding doubling high multiply of four that were shifted left.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn high_half(x: __m256i, m: __m256i, left: __m256i) -> __m256i {
    // SAFETY: the CPU has AVX2.
    unsafe {
        let product = _mm256_mul_epi32(saturate(_mm256_sllv_epi64(x, left)), m);
        shift_right(_mm256_add_epi64(product, _mm256_set1_epi64x(1 << 30)), _mm256_set1_epi64x(31))
    }
}

/// The eight i32 as two vectors of i64.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn widen(v: __m256i) -> [__m256i; 2] {
    // SAFETY: the CPU has AVX2.
    unsafe {
        [
            _mm256_cvtepi32_epi64(_mm256_castsi256_si128(v)),
            _mm256_cvtepi32_epi64(_mm256_extracti128_si256::<1>(v)),
        ]
    }
}

/// The low halves of two vectors of i64.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn narrow(low: __m256i, high: __m256i) -> __m256i {
    // SAFETY: the CPU has AVX2.
    unsafe {
        let even = _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6);
        let low = _mm256_permutevar8x32_epi32(low, even);
        let high = _mm256_permutevar8x32_epi32(high, even);
        _mm256_blend_epi32::<0b1111_0000>(low, high)
    }
}

/// i64 shifted right with its sign, by 0..=63: AVX2 has the unsigned shift only.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn shift_right(v: __m256i, count: __m256i) -> __m256i {
    // SAFETY: the CPU has AVX2.
    unsafe {
        let sign = _mm256_set1_epi64x(i64::MIN);
        let shifted = _mm256_srlv_epi64(_mm256_xor_si256(v, sign), count);
        _mm256_sub_epi64(shifted, _mm256_srlv_epi64(sign, count))
    }
}

/// i64 clamped to the range of i32.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn saturate(v: __m256i) -> __m256i {
    // SAFETY: the CPU has AVX2.
    unsafe {
        let max = _mm256_set1_epi64x(i32::MAX as i64);
        let min = _mm256_set1_epi64x(i32::MIN as i64);
        let v = _mm256_blendv_epi8(v, max, _mm256_cmpgt_epi64(v, max));
        _mm256_blendv_epi8(v, min, _mm256_cmpgt_epi64(min, v))
    }
}

// SAFETY: pieces are read or written where they are said to be.
unsafe impl Pieces for Lanes256 {
    #[inline(always)]
    unsafe fn load_pieces(p: *const u8, stride: usize) -> Self::I {
        // SAFETY: the CPU has AVX2; two pieces are readable.
        unsafe { _mm256_loadu2_m128i(p.add(stride).cast(), p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_pieces(v: Self::I, p: *mut u8, stride: usize, count: usize) {
        // SAFETY: the CPU has AVX2; the caller gives room for the pieces that are stored.
        unsafe {
            if count > 0 {
                _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(v));
            }
            if count > 1 {
                _mm_storeu_si128(p.add(stride).cast(), _mm256_extracti128_si256::<1>(v));
            }
        }
    }
    #[inline(always)]
    unsafe fn zip<const BYTES: usize>(a: Self::I, b: Self::I) -> [Self::I; 2] {
        // SAFETY: the CPU has AVX2.
        unsafe {
            match BYTES {
                1 => [_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)],
                2 => [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)],
                4 => [_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)],
                _ => [_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b)],
            }
        }
    }
    #[inline(always)]
    unsafe fn add_fours(sums: Self::I, bytes: Self::I) -> Self::I {
        // SAFETY: the CPU has AVX2. Sums of two i8 do not saturate.
        unsafe {
            let twos = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
            _mm256_add_epi32(sums, _mm256_madd_epi16(twos, _mm256_set1_epi16(1)))
        }
    }
}
