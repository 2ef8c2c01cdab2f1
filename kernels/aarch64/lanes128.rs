//! [`Lanes`] and [`Narrow`] of NEON: four i32 or f32 in a q register.

use core::arch::{aarch64::*, asm};

use super::{
    super::vectors::{
        lanes::{Lanes, methods},
        narrow::Narrow,
        pieces::Pieces,
    },
    opaque,
};

/// Four lanes.
#[derive(Clone, Copy)]
pub(in super::super) struct Lanes128;

/// A range of i8, or of u8 less 128.
#[derive(Clone, Copy)]
pub(in super::super) struct ByteRange {
    zero_point: i32,
    min: i32,
    max: i32,
    /// What is taken off: 0 or 128.
    lower: i32,
    /// This is not all of i8.
    limited: bool,
}

// SAFETY: loads and stores touch 4 elements of their type, `store_low_bytes` 4 bytes.
unsafe impl Lanes for Lanes128 {
    const LANES: usize = 4;
    const REGISTERS: usize = 32;
    type I = int32x4_t;
    type F = float32x4_t;

    methods! {
        load_i(p: *const i32) -> Self::I = vld1q_s32(p);
        store_i(v: Self::I, p: *mut i32) = vst1q_s32(p, v);
        splat_i(x: i32) -> Self::I = vdupq_n_s32(x);
        add_i(a: Self::I, b: Self::I) -> Self::I = vaddq_s32(a, b);
        sub_i(a: Self::I, b: Self::I) -> Self::I = vsubq_s32(a, b);
        total(v: Self::I) -> i32 = vaddvq_s32(v);
        mul_i(a: Self::I, b: Self::I) -> Self::I = vmulq_s32(a, b);
        min_i(a: Self::I, b: Self::I) -> Self::I = vminq_s32(a, b);
        max_i(a: Self::I, b: Self::I) -> Self::I = vmaxq_s32(a, b);
        and_i(a: Self::I, b: Self::I) -> Self::I = vandq_s32(a, b);
        xor_i(a: Self::I, b: Self::I) -> Self::I = veorq_s32(a, b);
        shift_right<const N: i32>(v: Self::I) -> Self::I = vreinterpretq_s32_u32(vshrq_n_u32::<N>(vreinterpretq_u32_s32(v)));
        prefetch(p: *const f32) = asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(nostack, readonly, preserves_flags));
        load_f(p: *const f32) -> Self::F = vld1q_f32(p);
        store_f(v: Self::F, p: *mut f32) = vst1q_f32(p, v);
        splat_f(x: f32) -> Self::F = vdupq_n_f32(x);
        add_f(a: Self::F, b: Self::F) -> Self::F = vaddq_f32(a, b);
        sub_f(a: Self::F, b: Self::F) -> Self::F = vsubq_f32(a, b);
        mul_f(a: Self::F, b: Self::F) -> Self::F = vmulq_f32(a, b);
        div_f(a: Self::F, b: Self::F) -> Self::F = vdivq_f32(a, b);
        min_f(a: Self::F, b: Self::F) -> Self::F = vminnmq_f32(a, b);
        max_f(a: Self::F, b: Self::F) -> Self::F = vmaxnmq_f32(a, b);
        ge_f(a: Self::F, b: Self::F) -> Self::I = vreinterpretq_s32_u32(vcgeq_f32(a, b));
        zero_nan(v: Self::F) -> Self::F =
            vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), vceqq_f32(v, v)));
        bits(v: Self::F) -> Self::I = vreinterpretq_s32_f32(v);
        from_bits(v: Self::I) -> Self::F = vreinterpretq_f32_s32(v);
        to_f(v: Self::I) -> Self::F = vcvtq_f32_s32(v);
        to_i(v: Self::F) -> Self::I = vcvtnq_s32_f32(v);
    }

    #[inline(always)]
    unsafe fn quotient(a: Self::F, b: Self::F, inverse: Self::F) -> Self::F {
        // SAFETY: the CPU has NEON.
        unsafe {
            let mut quotient = vmulq_f32(a, inverse);
            for _ in 0..2 {
                quotient = vfmaq_f32(quotient, vfmsq_f32(a, quotient, b), inverse);
            }
            quotient
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> Self::I {
        // SAFETY: the CPU has NEON; pointers as the caller promised.
        unsafe {
            let word = p.cast::<u32>().read_unaligned();
            let halves = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(word)));
            vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(halves)))
        }
    }
    #[inline(always)]
    unsafe fn store_low_bytes(v: Self::I, p: *mut u8) {
        // SAFETY: the CPU has NEON; the caller gives room for 4 bytes.
        unsafe {
            let halves = vmovn_s32(v);
            let bytes = vmovn_s16(vcombine_s16(halves, halves));
            p.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_s8(bytes)));
        }
    }
    #[inline(always)]
    unsafe fn store_low_bytes_of_4(v: [Self::I; 4], p: *mut u8) {
        // SAFETY: the CPU has NEON; the caller gives room for 16 bytes.
        unsafe {
            let [a, b, c, d] = v;
            // The low halves of each lane, then their low bytes: the even elements of pairs of vectors.
            let low = vuzp1q_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
            let high = vuzp1q_s16(vreinterpretq_s16_s32(c), vreinterpretq_s16_s32(d));
            vst1q_u8(p, vuzp1q_u8(vreinterpretq_u8_s16(low), vreinterpretq_u8_s16(high)));
        }
    }
    #[inline(always)]
    fn row<T>(first: *mut T, before: *mut T, row: usize, stride: usize) -> *mut T {
        if row == 0 { first } else { opaque(before.wrapping_add(stride)).cast_mut() }
    }
    #[inline(always)]
    unsafe fn scale_single_rounding(x: Self::I, m: Self::I, e: Self::I) -> Self::I {
        // SAFETY: the CPU has NEON.
        unsafe {
            // A rounding shift by a negative count is the shift right that adds half of the last place first.
            let count = vsubq_s32(e, vdupq_n_s32(31));
            let low = vmull_s32(vget_low_s32(x), vget_low_s32(m));
            let high = vmull_high_s32(x, m);
            let low = vrshlq_s64(low, vmovl_s32(vget_low_s32(count)));
            let high = vrshlq_s64(high, vmovl_high_s32(count));
            vcombine_s32(vqmovn_s64(low), vqmovn_s64(high))
        }
    }
    #[inline(always)]
    unsafe fn scale_double_rounding(x: Self::I, m: Self::I, e: Self::I) -> Self::I {
        // SAFETY: the CPU has NEON.
        unsafe {
            let zero = vdupq_n_s32(0);
            let shifted = vqshlq_s32(x, vmaxq_s32(e, zero));
            let high = vqrdmulhq_s32(shifted, m);
            // A rounding shift sends ties up; taking 1 from negative numbers first sends theirs away from zero. The sign
            // of the count masks the correction where nothing is shifted.
            let count = vminq_s32(e, zero);
            let correction = vshrq_n_s32::<31>(vandq_s32(high, count));
            vrshlq_s32(vqaddq_s32(high, correction), count)
        }
    }
}

// SAFETY: `store_bytes` writes 4 bytes at each pointer that it stores to.
unsafe impl Narrow for Lanes128 {
    type ByteRange = ByteRange;
    type Bytes = int8x16_t;
    const LIMITS_TOGETHER: bool = true;

    #[inline(always)]
    unsafe fn byte_range(zero_point: i32, min: i32, max: i32) -> ByteRange {
        // A range of u8 is taken as one of i8, 128 lower.
        let lower = if min >= 0 { 128 } else { 0 };
        let limited = (min, max) != (i8::MIN.into(), i8::MAX.into());
        ByteRange { zero_point: zero_point - lower, min: min - lower, max: max - lower, lower, limited }
    }
    #[inline(always)]
    unsafe fn narrow(steps: [Self::F; 4], to: &ByteRange, _in_range: bool) -> int8x16_t {
        // SAFETY: the CPU has NEON.
        unsafe {
            let zero_point = vdupq_n_s16(to.zero_point as i16);
            let [a, b, c, d] = steps;
            let [a, b, c, d] = [vcvtnq_s32_f32(a), vcvtnq_s32_f32(b), vcvtnq_s32_f32(c), vcvtnq_s32_f32(d)];
            // Every step saturates, and what has saturated stays outside of 8 bits.
            let low = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(a), b), zero_point);
            let high = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(c), d), zero_point);
            vqmovn_high_s16(vqmovn_s16(low), high)
        }
    }
    #[inline(always)]
    unsafe fn limits(to: &ByteRange) -> bool {
        to.limited
    }
    #[inline(always)]
    unsafe fn limit(bytes: int8x16_t, to: &ByteRange) -> int8x16_t {
        // SAFETY: the CPU has NEON.
        unsafe {
            let (min, max) = (vdupq_n_s8(to.min as i8), vdupq_n_s8(to.max as i8));
            // The flip turns i8 into the bytes of the range.
            veorq_s8(vminq_s8(vmaxq_s8(bytes, min), max), vdupq_n_s8(to.lower as i8))
        }
    }
    #[inline(always)]
    unsafe fn store_bytes<const TOGETHER: usize>(
        bytes: int8x16_t,
        _to: &ByteRange,
        p: [*mut u8; 4],
        count: usize,
    ) {
        // SAFETY: the CPU has NEON; the caller gives room for 4 bytes at each pointer that is stored to.
        unsafe {
            let bytes = vreinterpretq_u8_s8(bytes);
            match TOGETHER {
                4 => vst1q_u8(p[0], bytes),
                2 => {
                    vst1_u8(p[0], vget_low_u8(bytes));
                    if count > 2 {
                        vst1_u8(p[2], vget_high_u8(bytes));
                    }
                }
                _ => {
                    let words = vreinterpretq_u32_u8(bytes);
                    p[0].cast::<u32>().write_unaligned(vgetq_lane_u32::<0>(words));
                    if count > 1 {
                        p[1].cast::<u32>().write_unaligned(vgetq_lane_u32::<1>(words));
                    }
                    if count > 2 {
                        p[2].cast::<u32>().write_unaligned(vgetq_lane_u32::<2>(words));
                    }
                    if count > 3 {
                        p[3].cast::<u32>().write_unaligned(vgetq_lane_u32::<3>(words));
                    }
                }
            }
        }
    }
}

// SAFETY: the one piece is read or written whole.
unsafe impl Pieces for Lanes128 {
    #[inline(always)]
    unsafe fn load_pieces(p: *const u8, _stride: usize) -> Self::I {
        // SAFETY: the CPU has NEON; the caller's pointer.
        unsafe { vreinterpretq_s32_u8(vld1q_u8(p)) }
    }
    #[inline(always)]
    unsafe fn store_pieces(v: Self::I, p: *mut u8, _stride: usize, count: usize) {
        if count > 0 {
            // SAFETY: the CPU has NEON; the caller's pointer.
            unsafe { vst1q_u8(p, vreinterpretq_u8_s32(v)) }
        }
    }
    #[inline(always)]
    unsafe fn zip<const BYTES: usize>(a: Self::I, b: Self::I) -> [Self::I; 2] {
        // SAFETY: the CPU has NEON.
        unsafe {
            match BYTES {
                1 => {
                    let [a, b] = [vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b)];
                    [vreinterpretq_s32_s8(vzip1q_s8(a, b)), vreinterpretq_s32_s8(vzip2q_s8(a, b))]
                }
                2 => {
                    let [a, b] = [vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b)];
                    [vreinterpretq_s32_s16(vzip1q_s16(a, b)), vreinterpretq_s32_s16(vzip2q_s16(a, b))]
                }
                4 => [vzip1q_s32(a, b), vzip2q_s32(a, b)],
                _ => {
                    let [a, b] = [vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b)];
                    [vreinterpretq_s32_s64(vzip1q_s64(a, b)), vreinterpretq_s32_s64(vzip2q_s64(a, b))]
                }
            }
        }
    }
    #[inline(always)]
    unsafe fn add_fours(sums: Self::I, bytes: Self::I) -> Self::I {
        // SAFETY: the CPU has NEON.
        unsafe { vpadalq_s16(sums, vpaddlq_s8(vreinterpretq_s8_s32(bytes))) }
    }
}
