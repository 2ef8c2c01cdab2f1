//! Depthwise convolution: every channel with filters of its own. Written once over [`Taps`], looked up by instruction
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
//! Where a tap reads is an address and a step ([`Tap`]): a run in the middle of a row has one for each tap, whatever the
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

use core::ffi::c_void;

use super::{
    Epilogue, Isa,
    epilogue::{Columns, End, Place, TileBuffer, TileBuffers, TileEnd, finish},
    isa::compiled,
    lanes::Lanes,
};

/// Pixels of the largest tile.
pub(super) const MR: usize = 4;

/// What a tap reads: channel 0 of the run's pixel `i` is at `ptr + i * step`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tap {
    pub ptr: *const u8,
    /// Bytes.
    pub step: usize,
}

/// Pixels of an output row whose taps are evenly spaced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// First pixel.
    pub pixel: usize,
    pub count: usize,
    /// One for each tap.
    pub taps: *const Tap,
}

/// Some pixels, which are rows of the epilogue, by all channels.
///
/// Safety contract of [`run`]:
/// - every tap is readable for `channels` bytes at each of its run's pixels;
/// - `weights` are those of `channels` channels and `taps` taps;
/// - the epilogue is valid for the channels, and has one zero point for all rows and no `rhs_zero`;
/// - `out` is writable at `pixel * out_row_stride + c * out_col_stride` for every pixel of a run and `c < channels`, and nothing
///   else touches those elements during the call; sums are not accumulated.
pub(crate) struct DepthwiseJob<'a> {
    pub runs: &'a [Run],
    pub taps: usize,
    pub channels: usize,
    /// Values are u8 rather than i8.
    pub unsigned: bool,
    pub weights: *const i16,
    pub epilogue: &'a Epilogue,
    /// Channel 0 among the columns of the epilogue.
    pub first_col: usize,
    /// Of pixel 0.
    pub out: *mut c_void,
    /// Elements of the output type.
    pub out_row_stride: usize,
    /// Elements of the output type.
    pub out_col_stride: usize,
}

/// Computes pixels, whose outputs end in `E`. Safety: as [`DepthwiseJob`]; its store is the end's; the CPU has the instruction set.
pub(crate) fn run<E: End>(isa: Isa) -> unsafe fn(&DepthwiseJob) {
    compiled!(isa; <E: End> fn(job: &DepthwiseJob) = run_over::<Taps, E>)
}

/// Channels of a block of weights: at most [`MAX_BLOCK`].
pub(crate) fn block(isa: Isa) -> usize {
    2 * isa.lanes()
}

/// Channels of the largest block.
pub(crate) const MAX_BLOCK: usize = 32;

/// The part that an instruction set writes for itself.
///
/// # Safety
/// `add` reads `2 * LANES` bytes at every address it is given, and twice as many weights.
pub(super) unsafe trait Taps {
    type V: Lanes;
    /// Room for a tile: [`Buffers`](super::epilogue::Buffers) of [`MR`] rows and a block of columns.
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
pub(super) const fn block_of<T: Taps>() -> usize {
    2 * T::V::LANES
}

/// # Safety
/// As [`DepthwiseJob`]; the CPU has the features of `T`.
#[inline(always)]
unsafe fn run_over<T: Taps, E: End>(job: &DepthwiseJob) {
    // SAFETY: the caller's.
    unsafe {
        if job.unsigned {
            blocks::<T, E, true>(job);
        } else {
            blocks::<T, E, false>(job);
        }
    }
}

/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn blocks<T: Taps, E: End, const UNSIGNED: bool>(job: &DepthwiseJob) {
    let width = block_of::<T>();
    let stride = job.taps.div_ceil(2) * 2 * width;
    let mut buffers = T::Buffers::NEW;
    let (mut columns, buffer) = buffers.parts();
    let mut block = 0;
    while block * width < job.channels {
        let first = (block * width).min(job.channels.saturating_sub(width));
        let count = width.min(job.channels);
        // SAFETY: channels `first .. first + count` are the job's, and the block has weights.
        unsafe {
            columns.fill::<T::V>(job.epilogue, job.first_col + first, count, width);
            let block = Block { first, count, weights: job.weights.add(block * stride), columns: &columns };
            for run in job.runs {
                pixels::<T, E, UNSIGNED>(job, run, &block, &buffer);
            }
        }
        block += 1;
    }
}

/// A block of channels.
struct Block<'a> {
    first: usize,
    count: usize,
    weights: *const i16,
    columns: &'a Columns,
}

/// All pixels of a run by a block of channels.
///
/// # Safety
/// As [`blocks`].
#[inline(always)]
unsafe fn pixels<T: Taps, E: End, const UNSIGNED: bool>(
    job: &DepthwiseJob,
    run: &Run,
    block: &Block,
    buffer: &TileBuffer,
) {
    let whole = block.count == self::block_of::<T>();
    let direct = !E::BUFFERED && job.out_col_stride == 1 && whole;
    let mut done = 0;
    while done < run.count {
        let left = run.count - done;
        let rows = if !whole {
            1
        } else if left >= MR {
            MR
        } else if left >= 2 {
            2
        } else {
            1
        };
        // SAFETY: the pixels and channels are the job's; the buffer has room for the largest tile.
        unsafe {
            let out = (run.pixel + done) * job.out_row_stride + block.first * job.out_col_stride;
            let out = job.out.cast::<u8>().add(out * E::BYTES).cast::<c_void>();
            let mut end = TileEnd {
                columns: block.columns,
                col: 0,
                epilogue: job.epilogue,
                row: 0,
                row_sums: core::ptr::null(),
                corrects: job.epilogue.corrects(),
                out,
                out_stride: job.out_row_stride,
                accumulate: false,
            };
            if !direct {
                end.out = buffer.start.cast();
                end.out_stride = buffer.stride;
            }
            match rows {
                1 if !whole => few::<T, E::Tile, UNSIGNED>(job, run, done, block, &end),
                1 => tile::<T, E::Tile, UNSIGNED, 1>(job, run, done, block, &end),
                2 => tile::<T, E::Tile, UNSIGNED, 2>(job, run, done, block, &end),
                _ => tile::<T, E::Tile, UNSIGNED, MR>(job, run, done, block, &end),
            }
            if !direct {
                let (row_stride, col_stride) = (job.out_row_stride, job.out_col_stride);
                let place = Place { rows, cols: block.count, out, row_stride, col_stride };
                E::flush::<T::V>(buffer, &end, &place);
            }
        }
        done += rows;
    }
}

/// `R` pixels by a whole block.
///
/// # Safety
/// As [`pixels`].
#[inline(always)]
unsafe fn tile<T: Taps, E: End, const UNSIGNED: bool, const R: usize>(
    job: &DepthwiseJob,
    run: &Run,
    done: usize,
    block: &Block,
    end: &TileEnd,
) {
    // SAFETY: taps and weights are readable for the block; the pixels are the run's.
    unsafe {
        let mut sums = [[T::V::splat_i(0); 2]; R];
        let at = |tap: usize| {
            let Tap { ptr, step } = *run.taps.add(tap);
            Tap { ptr: ptr.add(done * step + block.first), step }
        };
        let mut weights = block.weights;
        for pair in 0..job.taps / 2 {
            T::add::<UNSIGNED, R>(at(2 * pair), at(2 * pair + 1), weights, &mut sums);
            weights = weights.add(2 * self::block_of::<T>());
        }
        if !job.taps.is_multiple_of(2) {
            let last = at(job.taps - 1);
            T::add::<UNSIGNED, R>(last, last, weights, &mut sums);
        }
        finish::<T::V, E, R, 2>(sums, end);
    }
}

/// One pixel by a block that is all there is and not whole.
///
/// # Safety
/// As [`pixels`].
#[inline(always)]
unsafe fn few<T: Taps, E: End, const UNSIGNED: bool>(
    job: &DepthwiseJob,
    run: &Run,
    done: usize,
    block: &Block,
    end: &TileEnd,
) {
    // SAFETY: taps are readable for the block's channels, the copies for a whole block.
    unsafe {
        let mut sums = [[T::V::splat_i(0); 2]; 1];
        // Some pairs are copied before they are multiplied: between calls that copy, sums would not stay in registers.
        let mut copies = [[[0u8; MAX_BLOCK]; 2]; 4];
        let mut weights = block.weights;
        for first in (0..job.taps).step_by(2 * copies.len()) {
            let pairs = (job.taps - first).div_ceil(2).min(copies.len());
            for (i, copy) in copies[..pairs].as_flattened_mut().iter_mut().enumerate() {
                let Tap { ptr, step } = *run.taps.add((first + i).min(job.taps - 1));
                ptr.add(done * step).copy_to_nonoverlapping(copy.as_mut_ptr(), block.count);
            }
            for pair in &copies[..pairs] {
                let [a, b] = [0, 1].map(|i| Tap { ptr: pair[i].as_ptr(), step: 0 });
                T::add::<UNSIGNED, 1>(a, b, weights, &mut sums);
                weights = weights.add(2 * self::block_of::<T>());
            }
        }
        finish::<T::V, E, 1, 2>(sums, end);
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
