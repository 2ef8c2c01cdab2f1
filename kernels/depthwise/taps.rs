//! The part of depthwise convolution that an instruction set writes for itself.

use super::super::{
    product::TileBuffers,
    vectors::{lanes::Lanes, narrow::Narrow},
};

/// Pixels of the largest tile.
pub(crate) const MR: usize = 4;

/// What a tap reads: channel 0 of the run's pixel `i` is at `ptr + i * step`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tap {
    pub ptr: *const u8,
    /// Bytes.
    pub step: usize,
}

/// Channels of the largest block.
pub(crate) const MAX_BLOCK: usize = 32;

/// Multiplies taps, for two vectors of channels.
///
/// # Safety
/// `add` reads `2 * LANES` bytes at every address it is given, and twice as many weights.
pub(crate) unsafe trait Taps {
    type V: Narrow;
    /// Room for a tile: [`Buffers`](super::super::product::Buffers) of [`MR`] rows and a block of columns.
    type Buffers: TileBuffers;

    /// `sums[r] += a[r] * weights[.., 0] + b[r] * weights[.., 1]` for `R` pixels, of which `r` is at `ptr + r * step`, by two
    /// vectors of channels.
    ///
    /// # Safety
    /// The pixels and weights are readable; the CPU has the features.
    unsafe fn add<const UNSIGNED: bool, const R: usize>(
        a: Tap,
        b: Tap,
        weights: *const i16,
        sums: &mut [[<Self::V as Lanes>::I; 2]; R],
    );
}

/// Channels of a block.
pub(crate) const fn block_of<T: Taps>() -> usize {
    2 * T::V::LANES
}
