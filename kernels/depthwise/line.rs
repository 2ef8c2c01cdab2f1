//! [`super::columns`] for channels that do not fill its blocks: few, or so many that the last block would be mostly done already.
//!
//! A row of an image is read as a line of values, without regard to where pixels begin: the output at place `i` of a row reads the
//! places `i`, `i + channels` and `i + 2 * channels` of the padded row, whatever `i`. So a vector holds the channels of several
//! pixels, or the end of one and the beginning of the next, and no lane is idle:
//!
//! ```text
//! for each part of a row that is at home in the first cache
//!     for each block
//!         four rows of the image, interleaved once for both rows of output, to the line
//!         sums of both rows, some blocks before, from the line at i, i + channels, i + 2 * channels
//! ```
//!
//! The block at place `i` begins with channel `i % channels`. A row's blocks begin with multiples of what channels and block are both
//! divisible by; there are weights for a block that begins with each of those, in the form of [`super::columns`]. Channels that divide
//! a block have one, whose weights stay where they are. Zero points, scales and biases are those of a round: all channels, and from
//! the first again until the last of those blocks is whole. The last block of a row begins so early that it is whole, and does some
//! outputs again.
//!
//! ```text
//! line: four bytes of each place of the padded row, or pairs of i16 in two planes
//! ```
//!
//! A vector of the line is stored once and loaded three times. Beside that, weights of blocks in several positions come from memory.

use core::ops::Range;

use super::{
    super::product::{Buffers, End, TileBuffers, TileEnd, finish_from_base},
    columns::{ColumnTaps, FOURS, PAIRS, ThreeJob},
    taps::{MAX_BLOCK, block_of},
};

/// Most channels that go round.
const MAX_CHANNELS: usize = 96;
/// Most values of a round.
const MAX_ROUND: usize = MAX_CHANNELS + MAX_BLOCK;
/// Outputs of a part of a row, with one plane; a multiple of every block.
const PART: usize = 2048;
/// Room in a plane: for a part, what its windows reach beyond it, and a block before and behind.
const PLANE: usize = PART + 2 * MAX_CHANNELS + 2 * MAX_BLOCK;
/// Bytes of a place in a plane.
const PLACE: usize = 4;

/// Bytes of a line.
pub(crate) const LINE_BYTES: usize = 2 * PLANE * PLACE;

/// Blocks that are filled before the one that is needed next.
const AHEAD: usize = 6;
/// Most blocks that channels go round in: their weights are to stay in the first cache.
const MAX_BLOCKS: usize = 32;

/// Where blocks begin: at multiples of so many channels. A block is a power of two.
fn step_of(block: usize, channels: usize) -> usize {
    block.min(1 << channels.trailing_zeros())
}

/// Whether channels are to go round: they are less than a block, or it gains an eighth at least.
pub(crate) fn goes_round(block: usize, channels: usize) -> bool {
    let gains = channels < block || 9 * channels < 8 * channels.next_multiple_of(block);
    gains && channels <= MAX_CHANNELS && channels <= MAX_BLOCKS * step_of(block, channels)
}

/// How many blocks have weights, and how many channels lie between the first channels of two; the last may overlap the one before.
pub(super) fn blocks_of(block: usize, channels: usize) -> (usize, usize) {
    let step = if goes_round(block, channels) { step_of(block, channels) } else { block };
    (channels.div_ceil(step), step)
}

/// Values of a round.
pub(crate) fn round_of(block: usize, channels: usize) -> usize {
    (channels + block - step_of(block, channels)).next_multiple_of(block)
}

/// Two rows of output whose channels go round, by a block of values at a time.
///
/// # Safety
/// As [`ThreeJob`], but that channels may be fewer than a block; the CPU has the features of `T`. Rows of the image and of output have
/// a block of values at least; rows of padding are as long as those of the image; weights are those of [`blocks_of`] blocks, the
/// epilogue is valid for [`round_of`] channels; the line has [`LINE_BYTES`], which nothing else touches during the call.
#[inline(always)]
pub(crate) unsafe fn run<T: ColumnTaps, E: End>(job: &ThreeJob) {
    // SAFETY: the job is valid and the CPU has the features of `T`; the signedness is the job's.
    unsafe {
        if job.unsigned {
            parts::<T, E, true>(job);
        } else {
            parts::<T, E, false>(job);
        }
    }
}

/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn parts<T: ColumnTaps, E: End, const UNSIGNED: bool>(job: &ThreeJob) {
    let (block, outputs) = (block_of::<T>(), job.pixels * job.channels);
    let mut buffers = Buffers::<1, MAX_ROUND>::NEW;
    let (mut columns, _) = buffers.parts();
    let round = round_of(block, job.channels);
    // SAFETY: the epilogue is valid for a round, whole vectors, for which there is room; parts lie in the row of output, and their
    // windows in the padded row.
    unsafe {
        columns.fill::<T::V>(job.epilogue, job.first_col, round, round);
        let end = TileEnd {
            columns: &columns,
            col: 0,
            epilogue: job.epilogue,
            row: 0,
            row_sums: core::ptr::null(),
            corrects: job.epilogue.corrects(),
            out: job.out,
            out_stride: job.out_row_stride,
            accumulate: false,
        };
        let mut next = 0;
        while next < outputs {
            // A last part of less than a block begins earlier.
            let start = next.min(outputs - block);
            next = (start + PART / T::PLANES).min(outputs);
            if block.is_multiple_of(job.channels) {
                part::<T, E, UNSIGNED, false>(job, start..next, end);
            } else {
                part::<T, E, UNSIGNED, true>(job, start..next, end);
            }
        }
    }
}

/// Fills the ends of the padded rows' places in the line, and gives those places of the image that are left for whole blocks.
///
/// # Safety
/// As [`run`]; the padded rows have the places, and the line has room for them.
#[inline(always)]
unsafe fn fill_ends<T: ColumnTaps, const UNSIGNED: bool>(
    job: &ThreeJob,
    places: Range<usize>,
) -> Range<usize> {
    let block = block_of::<T>();
    let (before, values) = (job.before * job.channels, job.width * job.channels);
    let Range { start, end } = places;
    // SAFETY: rows are readable for `values`, padding for a block. Blocks of padding reach into the image by less than a block, and behind
    // the last place, for which there is room: the image's own blocks come later.
    unsafe {
        let padding = T::column::<UNSIGNED>([job.zeros; 4]);
        for at in (start..end.min(before)).step_by(block) {
            T::store_column(padding, place::<T>(job, start, at), PLANE * PLACE);
        }
        for at in (start.max(before + values)..end).step_by(block) {
            T::store_column(padding, place::<T>(job, start, at), PLANE * PLACE);
        }
        let (first, last) = (start.saturating_sub(before), end.saturating_sub(before).min(values));
        if first < last && last > values - block {
            fill::<T, UNSIGNED>(job, start, values - block);
        }
        first..last.min(values - block + 1)
    }
}

/// Interleaves a block of the image's places.
///
/// # Safety
/// As [`fill_ends`]; the places are the image's.
#[inline(always)]
unsafe fn fill<T: ColumnTaps, const UNSIGNED: bool>(job: &ThreeJob, start: usize, at: usize) {
    // SAFETY: the rows are readable for the block, and the line has room.
    unsafe {
        let column = T::column::<UNSIGNED>(job.rows.map(|row| row.ptr.add(at)));
        T::store_column(column, place::<T>(job, start, job.before * job.channels + at), PLANE * PLACE);
    }
}

/// Where a place of the padded rows is in a line whose part begins at `start`: behind a block of room.
#[inline(always)]
fn place<T: ColumnTaps>(job: &ThreeJob, start: usize, at: usize) -> *mut u8 {
    job.line.wrapping_add((at + block_of::<T>() - start) * PLACE)
}

/// Some outputs of both rows; with `TURNS` blocks begin with channels of more than one.
///
/// The line is filled some blocks ahead of where it is read: what moves bytes and what multiplies use units of the CPU of their own,
/// and a block is no longer on its way to the cache when it is read, from other addresses than those at which it was stored.
///
/// # Safety
/// As [`run`]; the row of output has those outputs, a block at least.
#[inline(always)]
unsafe fn part<T: ColumnTaps, E: End, const UNSIGNED: bool, const TURNS: bool>(
    job: &ThreeJob,
    outputs: Range<usize>,
    mut tile: TileEnd,
) {
    let (block, channels) = (block_of::<T>(), job.channels);
    let Range { start, end } = outputs;
    let turn = block % channels;
    // Two vectors a block, of 4 bytes a channel.
    let bytes = (if T::FOURS { FOURS } else { PAIRS }) * 2 * block / step_of(block, channels);
    // SAFETY: the weights are those of every block that a row has; the line holds what blocks read before they do; the outputs are
    // writable.
    unsafe {
        let Range { start: mut next, end: image } = fill_ends::<T, UNSIGNED>(job, start..end + 2 * channels);
        // From a block's first output to the places that have been filled.
        let ahead = (2 * channels + (1 + AHEAD) * block).saturating_sub(job.before * channels);
        let ready = E::ready::<T::V>(tile.epilogue);
        let (mut at, mut phase) = (start, start % channels);
        // The weights of the block, as an address that is counted on: added up for each of its loads, it would be an operation for each.
        let mut at_weights = job.weights.add(phase * bytes);
        let mut weights = T::weights(at_weights);
        let mut base = [tile.base::<T::V>(0), tile.base::<T::V>(1)];
        while at < end {
            if next < image {
                fill::<T, UNSIGNED>(job, start, next);
                next += block;
                if next < at + ahead {
                    continue;
                }
            }
            if at + block > end {
                at = end - block;
                phase = at % channels;
                at_weights = job.weights.add(phase * bytes);
            }
            tile.out = job.out.wrapping_byte_add(at * E::BYTES);
            if TURNS {
                weights = T::weights(at_weights);
                // The end counts outputs from the column that it begins with.
                tile.col = phase;
                tile.out = tile.out.wrapping_byte_sub(phase * E::BYTES);
                base = [tile.base::<T::V>(0), tile.base::<T::V>(1)];
            }
            let [first, second, third] = [0, 1, 2].map(|v| place::<T>(job, start, at + v * channels));
            let sums = T::add_column([base; 2], T::load_column(first, PLANE * PLACE), 0, weights);
            let sums = T::add_column(sums, T::load_column(second, PLANE * PLACE), 1, weights);
            let sums = T::add_column(sums, T::load_column(third, PLANE * PLACE), 2, weights);
            finish_from_base::<T::V, E, 2, 2>(sums, &tile, &ready);
            at += block;
            phase += turn;
            at_weights = at_weights.wrapping_add(turn * bytes);
            if phase >= channels {
                phase -= channels;
                at_weights = at_weights.wrapping_sub(channels * bytes);
            }
        }
    }
}
