//! Depthwise convolution: every channel with filters of its own. Written once over [`taps::Taps`], looked up by instruction
//! set.
//!
//! A product would have one column for each group, so this has a loop of its own: channels are the lanes, and a tile is `R`
//! pixels of an output row by two vectors of channels. Taps come in pairs, which is what multiply-adds of i16 take:
//!
//! ```text
//! for each block of channels                       two vectors; column parameters are gathered
//!     for each run of pixels                       pixels whose taps are evenly spaced in memory
//!         for each tile of R pixels
//!             for each pair of taps                sums[r] += a[r] * w[a] + b[r] * w[b]
//! ```
//!
//! Where a tap reads is an address and a step ([`taps::Tap`]): a run in the middle of a row has one for each tap, whatever the
//! stride and dilation; a pixel at the border is a run of its own, whose taps in the padding read a row of zero points. Nothing
//! is copied.
//!
//! Weights are i16, in blocks of `B` = two vectors of channels, tap pairs side by side, an odd last tap with a pair of weight 0:
//!
//! ```text
//! value(c, t) at (c / B) * pairs * 2 B + (t / 2) * 2 B + (c % B) * 2 + t % 2
//! ```
//!
//! The last block holds the last `B` channels, so it overlaps the one before where channels are not a multiple of B, and
//! nothing is read behind a pixel; fewer than `B` channels are copied into a buffer.
//!
//! Exact: products of i8 or u8 by i8 are at most 255 * 128 in magnitude, and every sum of them is i32.

use super::{Isa, isa::compiled, product::End};

#[cfg_attr(
    not(i8gemm_x86_64),
    allow(dead_code, reason = "no other target has instruction sets that gain by it")
)]
pub(crate) mod columns;
#[cfg_attr(not(i8gemm_x86_64), allow(dead_code, reason = "as for columns"))]
pub(crate) mod line;
pub(crate) mod pixels;
pub(crate) mod taps;

use columns::Three;
use pixels::{DepthwiseJob, run_over};

/// Computes pixels, whose outputs end in `E`. Safety: as [`DepthwiseJob`]; its store is the end's; the CPU has the instruction set.
pub(crate) fn run<E: End>(isa: Isa) -> unsafe fn(&DepthwiseJob) {
    compiled!(isa; <E: End> fn(job: &DepthwiseJob) = run_over::<Taps, E>)
}

/// Channels of a block of weights: at most [`taps::MAX_BLOCK`].
pub(crate) fn block(isa: Isa) -> usize {
    2 * isa.lanes()
}

/// Two rows of output at a time, for outputs that end in `E`, if the instruction set has a function for that which is better than [`run`].
pub(crate) fn three<E: End>(isa: Isa) -> Option<Three> {
    match isa {
        #[cfg(i8gemm_x86_64)]
        Isa::Avx2 => Some(super::x86::depthwise::three_avx2::<E>()),
        #[cfg(i8gemm_x86_64)]
        Isa::Avx512Vnni => Some(super::x86::depthwise::three_avx512_vnni::<E>()),
        _ => None,
    }
}

/// i16 that the weights of so many channels and taps take.
#[cfg(feature = "alloc")]
pub(crate) fn weights_len(block: usize, channels: usize, taps: usize) -> Option<usize> {
    channels.checked_next_multiple_of(block)?.checked_mul(taps.checked_next_multiple_of(2)?)
}

/// Packs weights, `weight(channel, tap)`, in the order described above.
#[cfg(feature = "alloc")]
pub(crate) fn pack_weights(
    block: usize,
    channels: usize,
    taps: usize,
    weight: impl Fn(usize, usize) -> i8,
    dst: &mut [i16],
) {
    let pairs = taps.div_ceil(2);
    dst.fill(0);
    for (index, dst) in dst.chunks_exact_mut(pairs * 2 * block).enumerate() {
        let first = (index * block).min(channels.saturating_sub(block));
        for c in 0..block.min(channels) {
            for t in 0..taps {
                dst[t / 2 * 2 * block + 2 * c + t % 2] = weight(first + c, t).into();
            }
        }
    }
}
