//! Taps of depthwise convolutions in plain Rust: 8 channels at a time.

use super::{
    super::{
        depthwise::taps::{MR, Tap, Taps},
        product::Buffers,
    },
    lanes::Scalar4,
};

/// Pairs of taps, one channel at a time.
pub(in crate::kernels) struct ScalarTaps;

// SAFETY: 8 bytes of each tap and 16 weights are read.
unsafe impl Taps for ScalarTaps {
    type V = Scalar4;
    type Buffers = Buffers<{ MR }, 8>;

    #[inline(always)]
    unsafe fn add<const UNSIGNED: bool, const R: usize>(
        a: Tap,
        b: Tap,
        weights: *const i16,
        sums: &mut [[[i32; 4]; 2]; R],
    ) {
        let widen = |byte: u8| if UNSIGNED { i32::from(byte) } else { i32::from(byte as i8) };
        // SAFETY: 8 bytes at each pixel of both taps and 16 weights are readable.
        unsafe {
            let weights = weights.cast::<[i16; 16]>().read_unaligned().map(i32::from);
            for (r, sums) in sums.iter_mut().enumerate() {
                let [a, b] = [a, b].map(|tap| tap.ptr.add(r * tap.step).cast::<[u8; 8]>().read_unaligned());
                for q in 0..2 {
                    for i in 0..4 {
                        let c = 4 * q + i;
                        let pair = widen(a[c]) * weights[2 * c] + widen(b[c]) * weights[2 * c + 1];
                        sums[q][i] = sums[q][i].wrapping_add(pair);
                    }
                }
            }
        }
    }
}
