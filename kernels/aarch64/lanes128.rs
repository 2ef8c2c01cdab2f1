//! [`Lanes`] of NEON: four i32 or f32 in a q register.

use core::arch::aarch64::*;

use super::super::lanes::Lanes;

/// Four lanes.
#[derive(Clone, Copy)]
pub(in super::super) struct Lanes128;

// SAFETY: loads and stores touch 4 elements of their type, `store_low_bytes` 4 bytes.
unsafe impl Lanes for Lanes128 {
    const LANES: usize = 4;
    type I = int32x4_t;
    type F = float32x4_t;

    #[inline(always)]
    unsafe fn load_i(p: *const i32) -> Self::I {
        // SAFETY: the CPU has NEON; pointers as the caller promised.
        unsafe { vld1q_s32(p) }
    }
    #[inline(always)]
    unsafe fn store_i(v: Self::I, p: *mut i32) {
        // SAFETY: as above.
        unsafe { vst1q_s32(p, v) }
    }
    #[inline(always)]
    unsafe fn splat_i(x: i32) -> Self::I {
        // SAFETY: the CPU has NEON.
        unsafe { vdupq_n_s32(x) }
    }
    #[inline(always)]
    unsafe fn add_i(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the CPU has NEON.
        unsafe { vaddq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub_i(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the CPU has NEON.
        unsafe { vsubq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_i(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the CPU has NEON.
        unsafe { vmulq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn min_i(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the CPU has NEON.
        unsafe { vminq_s32(a, b) }
    }
    #[inline(always)]
    unsafe fn max_i(a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: the CPU has NEON.
        unsafe { vmaxq_s32(a, b) }
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
    unsafe fn load_f(p: *const f32) -> Self::F {
        // SAFETY: the CPU has NEON; pointers as the caller promised.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store_f(v: Self::F, p: *mut f32) {
        // SAFETY: as above.
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn splat_f(x: f32) -> Self::F {
        // SAFETY: the CPU has NEON.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn add_f(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has NEON.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_f(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has NEON.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn min_f(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has NEON.
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn max_f(a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: the CPU has NEON.
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn to_f(v: Self::I) -> Self::F {
        // SAFETY: the CPU has NEON.
        unsafe { vcvtq_f32_s32(v) }
    }
    #[inline(always)]
    unsafe fn to_i(v: Self::F) -> Self::I {
        // SAFETY: the CPU has NEON.
        unsafe { vcvtnq_s32_f32(v) }
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
