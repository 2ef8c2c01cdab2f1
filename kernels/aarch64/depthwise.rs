//! Taps of depthwise convolutions on 64-bit ARM: `smlal` of i16.
//!
//! The bytes of a tap are widened once (`sshll` or `ushll`), and multiplied into the i32 sums of 4 channels at a time: 8
//! instructions, six of them multiplies or widenings, for a pair of taps by 8 channels. `smull` and `smlal` of bytes with a `saddw`
//! would take 4, but are exact only for i8 values by weights other than -128. A tile of 4 pixels by 8 channels has 8 sums, 2 vectors
//! of weights and 2 of values.

use core::arch::aarch64::*;

use super::{
    super::{
        depthwise::taps::{MR, Tap, Taps},
        product::Buffers,
    },
    lanes128::Lanes128,
};

/// 8 channels at a time.
pub(in crate::kernels) struct Taps128;

// SAFETY: 8 bytes of each tap and 16 weights are read.
unsafe impl Taps for Taps128 {
    type V = Lanes128;
    type Buffers = Buffers<MR, 8>;

    #[inline(always)]
    unsafe fn add<const UNSIGNED: bool, const R: usize>(
        a: Tap,
        b: Tap,
        weights: *const i16,
        sums: &mut [[int32x4_t; 2]; R],
    ) {
        // SAFETY: the CPU has NEON; 8 bytes at each pixel of both taps and 16 weights are readable.
        unsafe {
            let int16x8x2_t(even, odd) = vld2q_s16(weights);
            for (r, [low, high]) in sums.iter_mut().enumerate() {
                for (tap, weights) in [(a, even), (b, odd)] {
                    let bytes = vld1_u8(tap.ptr.add(r * tap.step));
                    let wide = if UNSIGNED {
                        vreinterpretq_s16_u16(vmovl_u8(bytes))
                    } else {
                        vmovl_s8(vreinterpret_s8_u8(bytes))
                    };
                    *low = vmlal_s16(*low, vget_low_s16(wide), vget_low_s16(weights));
                    *high = vmlal_high_s16(*high, wide, weights);
                }
            }
        }
    }
}
