//! Depthwise convolution of 3 x 3 taps that move by one pixel, two rows of output at a time, for instruction sets that
//! multiply pairs of taps ([`PairTaps`]).
//!
//! Most of the work of [`super::depthwise`] there is bringing bytes of two taps together as i16. Two rows of output read four
//! rows of the image, and the pairs of a column, rows 0 and 1, rows 2 and 3, serve both rows and all three places that the
//! column has in a window:
//!
//! ```text
//! for each block of channels
//!     for each column                      p = (row 0, row 1), q = (row 2, row 3)
//!         row 0 of pixel x - v             p * (w[0, v], w[1, v]) + q * (w[2, v], 0)           v = 0, 1, 2
//!         row 1 of pixel x - v             p * (0, w[0, v])       + q * (w[1, v], w[2, v])
//! ```
//!
//! For 16 channels with AVX2 that is 24 multiplies, 20 additions and 8 moves of bytes for 18 MAC a channel, 52 vector
//! instructions where single pixels take 80. Sums of three pixels are in registers, 4 vectors each; the last column's place
//! in a window finishes a pixel. Weights come from memory, 24 vectors of each block:
//!
//! ```text
//! (v, row, pair, vector) at ((v * 2 + row) * 2 + pair) * 2 + vector vectors, channels with two taps each
//! ```

use core::ffi::c_void;

use super::{
    Epilogue, Store,
    depthwise::{Tap, Taps, block},
    epilogue::{Columns, End, EndByte, EndF32, EndI32, TileEnd, finish},
    lanes::Lanes,
};

/// Two rows of output by all channels.
///
/// Safety contract of [`Depthwise::three`](super::depthwise::Depthwise::three):
/// - every row is readable for `channels` bytes at each of `width` pixels, and `zeros` for `channels` bytes;
/// - `channels` are a block at least; `weights` are those of as many channels;
/// - the epilogue is valid for the channels, has one zero point for all rows and no `rhs_zero`, and its store is neither
///   [`Store::Fixed`] nor accumulates;
/// - `out` is writable at `row * out_row_stride + pixel * out_pixel_stride + c` for two rows, every pixel and `c < channels`, and
///   nothing else touches those elements during the call.
pub(crate) struct ThreeJob<'a> {
    /// Rows of the image, or of padding: then with a step of 0.
    pub rows: [Tap; 4],
    /// Pixels of a row of the image.
    pub width: usize,
    /// Pixels of padding to the left.
    pub before: usize,
    /// A pixel of padding.
    pub zeros: *const u8,
    /// Pixels of a row of output.
    pub pixels: usize,
    pub channels: usize,
    /// Values are u8 rather than i8.
    pub unsigned: bool,
    pub weights: *const i16,
    pub epilogue: &'a Epilogue,
    /// Channel 0 among the columns of the epilogue.
    pub first_col: usize,
    pub out: *mut c_void,
    /// Elements of the output type.
    pub out_row_stride: usize,
    /// Elements of the output type.
    pub out_pixel_stride: usize,
}

/// Vectors of weights of a block.
const VECTORS: usize = 24;

/// The part that an instruction set writes for itself.
///
/// # Safety
/// `interleave` reads `2 * LANES` bytes at both addresses, `multiply` `2 * LANES` weights.
pub(super) unsafe trait PairTaps: Taps {
    /// `LANES` channels, each with the values of two taps as i16.
    type Pair: Copy;

    /// The values of two taps for two vectors of channels.
    ///
    /// # Safety
    /// They are readable; the CPU has the features.
    unsafe fn interleave<const UNSIGNED: bool>(a: *const u8, b: *const u8) -> [Self::Pair; 2];

    /// `pair[.., 0] * weights[.., 0] + pair[.., 1] * weights[.., 1]`.
    ///
    /// # Safety
    /// The weights are readable; the CPU has the features.
    unsafe fn multiply(pair: Self::Pair, weights: *const i16) -> <Self::V as Lanes>::I;
}

/// # Safety
/// As [`ThreeJob`]; the CPU has the features of `T`.
#[inline(always)]
pub(super) unsafe fn run<T: PairTaps>(job: &ThreeJob) {
    // SAFETY: the caller's; the end agrees with the store.
    unsafe {
        match job.epilogue.store {
            Store::I32 { .. } | Store::Fixed { .. } => signs::<T, EndI32>(job),
            Store::F32 { .. } => signs::<T, EndF32>(job),
            Store::HalfEven { .. } => signs::<T, EndByte>(job),
        }
    }
}

/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn signs<T: PairTaps, E: End>(job: &ThreeJob) {
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
/// As [`signs`].
#[inline(always)]
unsafe fn blocks<T: PairTaps, E: End, const UNSIGNED: bool>(job: &ThreeJob) {
    let width = block::<T>();
    let mut columns = Columns::NEW;
    let mut index = 0;
    while index * width < job.channels {
        let first = (index * width).min(job.channels - width);
        // SAFETY: channels `first .. first + width` are the job's, and the block has weights.
        unsafe {
            columns.fill::<T::V>(job.epilogue, job.first_col + first, width, width);
            let weights = job.weights.add(index * VECTORS * width);
            let out = job.out.cast::<u8>().add(first * E::BYTES);
            let end = TileEnd {
                columns: &columns,
                col: 0,
                epilogue: job.epilogue,
                row: 0,
                row_sums: core::ptr::null(),
                corrects: job.epilogue.corrects(),
                out: out.cast(),
                out_stride: job.out_row_stride,
                accumulate: false,
            };
            pixels::<T, E, UNSIGNED>(job, first, weights, end);
        }
        index += 1;
    }
}

/// Two rows of output by a block of channels.
///
/// # Safety
/// As [`blocks`].
#[inline(always)]
unsafe fn pixels<T: PairTaps, E: End, const UNSIGNED: bool>(
    job: &ThreeJob,
    first: usize,
    weights: *const i16,
    mut end: TileEnd,
) {
    // SAFETY: rows and padding are readable for the block at every pixel; the block's weights are VECTORS vectors; pixels of
    // both rows of output are writable for the block.
    unsafe {
        let mut rows = job.rows.map(|row| row.ptr.wrapping_add(first));
        let padding = [job.zeros.add(first); 4];
        let zero = [[T::V::splat_i(0); 2]; 2];
        // Pixels of which this column is the last and the middle one.
        let (mut last, mut middle) = (zero, zero);
        for column in 0..job.pixels + 2 {
            let inside = column.wrapping_sub(job.before) < job.width;
            let [a, b, c, d] = if inside { rows } else { padding };
            if inside {
                for (row, tap) in rows.iter_mut().zip(&job.rows) {
                    *row = row.wrapping_add(tap.step);
                }
            }
            let pairs = [T::interleave::<UNSIGNED>(a, b), T::interleave::<UNSIGNED>(c, d)];
            let product = |v: usize, row: usize, pair: usize, vector: usize| {
                let at = ((v * 2 + row) * 2 + pair) * 2 + vector;
                T::multiply(pairs[pair][vector], weights.add(at * 2 * T::V::LANES))
            };
            for row in 0..2 {
                for vector in 0..2 {
                    let sum = T::V::add_i(last[row][vector], product(2, row, 0, vector));
                    last[row][vector] = T::V::add_i(sum, product(2, row, 1, vector));
                }
            }
            if column >= 2 {
                finish::<T::V, E, 2, 2>(last, &end);
                end.out = end.out.cast::<u8>().add(job.out_pixel_stride * E::BYTES).cast();
            }
            for row in 0..2 {
                for vector in 0..2 {
                    let sum = T::V::add_i(middle[row][vector], product(1, row, 0, vector));
                    last[row][vector] = T::V::add_i(sum, product(1, row, 1, vector));
                    middle[row][vector] = T::V::add_i(product(0, row, 0, vector), product(0, row, 1, vector));
                }
            }
        }
    }
}

/// i16 that the weights of so many channels take.
#[cfg(feature = "alloc")]
pub(crate) fn weights_len(block: usize, channels: usize) -> Option<usize> {
    channels.checked_next_multiple_of(block)?.checked_mul(VECTORS)
}

/// Packs weights, `weight(channel, tap)` with taps row by row, in the order described above.
#[cfg(feature = "alloc")]
pub(crate) fn pack_weights(
    block: usize,
    channels: usize,
    weight: impl Fn(usize, usize) -> i8,
    dst: &mut [i16],
) {
    // Rows of taps of the two values of both pairs; 3 is none.
    const ROWS: [[[usize; 2]; 2]; 2] = [[[0, 1], [2, 3]], [[3, 0], [1, 2]]];
    for (index, dst) in dst.chunks_exact_mut(VECTORS * block).enumerate() {
        let first = (index * block).min(channels - block);
        for v in 0..3 {
            for (row, pairs) in ROWS.iter().enumerate() {
                for (pair, taps) in pairs.iter().enumerate() {
                    let at = ((v * 2 + row) * 2 + pair) * 2 * block;
                    for c in 0..block {
                        for (i, &u) in taps.iter().enumerate() {
                            dst[at + 2 * c + i] = if u < 3 { weight(first + c, 3 * u + v).into() } else { 0 };
                        }
                    }
                }
            }
        }
    }
}
