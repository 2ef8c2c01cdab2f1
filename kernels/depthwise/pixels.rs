//! Pixels of an output row by blocks of channels: see [`super`].

use core::ffi::c_void;

use super::{
    super::{
        Epilogue,
        product::{Columns, End, Place, TileBuffer, TileBuffers, TileEnd, finish},
        vectors::lanes::Lanes,
    },
    taps::{MAX_BLOCK, MR, Tap, Taps, block_of},
};

/// Pixels of an output row whose taps are evenly spaced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// The first of them in the output row.
    pub pixel: usize,
    pub count: usize,
    /// Where each tap reads for the first pixel.
    pub taps: *const Tap,
}

/// Some pixels, which are rows of the epilogue, by all channels.
///
/// Safety contract of [`super::run`]:
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
    /// Channel 0 of pixel 0.
    pub out: *mut c_void,
    /// Elements of the output type.
    pub out_row_stride: usize,
    /// Elements of the output type.
    pub out_col_stride: usize,
}

/// # Safety
/// As [`DepthwiseJob`]; the CPU has the features of `T`.
#[inline(always)]
pub(super) unsafe fn run_over<T: Taps, E: End>(job: &DepthwiseJob) {
    // SAFETY: the job is valid and the CPU has the features of `T`; the signedness is the job's.
    unsafe {
        if job.unsigned {
            blocks::<T, E, true>(job);
        } else {
            blocks::<T, E, false>(job);
        }
    }
}

/// # Safety
/// As [`run_over`].
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
    let whole = block.count == block_of::<T>();
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
                let place = Place {
                    rows,
                    cols: block.count,
                    col: job.first_col + block.first,
                    out,
                    row_stride,
                    col_stride,
                };
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
            weights = weights.add(2 * block_of::<T>());
        }
        if !job.taps.is_multiple_of(2) {
            let last = at(job.taps - 1);
            T::add::<UNSIGNED, R>(last, last, weights, &mut sums);
        }
        finish::<T::V, E, R, 2>(sums, end);
    }
}

/// One pixel by a single block that has fewer channels than its vectors have lanes.
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
                weights = weights.add(2 * block_of::<T>());
            }
        }
        finish::<T::V, E, 1, 2>(sums, end);
    }
}
