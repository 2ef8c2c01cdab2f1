//! Depthwise convolution of 3 x 3 taps that move by one pixel, two rows of output at a time, for instruction sets that
//! multiply pairs of taps or four ([`ColumnTaps`]).
//!
//! A pixel at a time ([`super::pixels`]), such instruction sets spend most of their time on interleaving the bytes of several taps.
//! Two rows of output read four rows of the image; of each column, its four values are interleaved once, for both rows of output and
//! for all three places that the column has in a window. As four (VNNI), or as pairs of i16, p = (row 0, row 1), q = (row 2, row 3):
//!
//! ```text
//! for each block of channels
//!     for each column
//!         row 0 of pixel x - v       (row 0 .. row 3) * (w[0, v], w[1, v], w[2, v], 0)                 v = 0, 1, 2
//!         row 1 of pixel x - v       (row 0 .. row 3) * (0, w[0, v], w[1, v], w[2, v])
//!     or
//!         row 0 of pixel x - v       p * (w[0, v], w[1, v]) + q * (w[2, v], 0)
//!         row 1 of pixel x - v       p * (0, w[0, v])       + q * (w[1, v], w[2, v])
//! ```
//!
//! For 16 channels with AVX2 that is 24 multiplies, 20 additions and 8 moves of bytes for 18 MAC a channel, 52 vector
//! instructions where single pixels take 80. For 32 channels with VNNI it is 12 multiplies, which add, and 12 moves, 8 of them of
//! half a vector. Sums of three pixels are in registers, 4 vectors each; the last column's place in a window finishes a pixel.
//! Weights of each block, channels with two or four taps each:
//!
//! ```text
//! pairs, i16:  (v, row, pair, vector) at ((v * 2 + row) * 2 + pair) * 2 + vector vectors, from memory
//! fours, i8:   (v, row, vector) at (v * 2 + row) * 2 + vector vectors, in registers
//! ```

use core::ffi::c_void;

#[cfg(feature = "alloc")]
use super::line::blocks_of;
use super::{
    super::{
        Epilogue,
        product::{End, TileBuffers, TileEnd, finish_from_base},
        vectors::lanes::Lanes,
    },
    taps::{Tap, Taps, block_of},
};

/// Two rows of output by all channels.
///
/// Safety contract of [`Three::run`]:
/// - every row is readable for `channels` bytes at each of `width` pixels, and `zeros` for `channels` bytes;
/// - `channels` are a block at least; `weights` are those of as many channels;
/// - the epilogue is valid for the channels, has one zero point for all rows and no `rhs_zero`, and its store is neither
///   [`Store::Fixed`](super::super::Store::Fixed) nor accumulates;
/// - `out` is writable at `row * out_row_stride + pixel * out_pixel_stride + c` for two rows, every pixel and `c < channels`, and
///   nothing else touches those elements during the call.
pub(crate) struct ThreeJob<'a> {
    /// Rows of the image, or of padding: then with a step of 0.
    pub rows: [Tap; 4],
    /// Pixels of a row of the image.
    pub width: usize,
    /// Pixels of padding to the left.
    pub before: usize,
    /// A pixel of padding, or a block of it.
    pub zeros: *const u8,
    /// Pixels of a row of output.
    pub pixels: usize,
    pub channels: usize,
    /// Values are u8 rather than i8.
    pub unsigned: bool,
    pub weights: *const u8,
    pub epilogue: &'a Epilogue,
    /// Channel 0 among the columns of the epilogue.
    pub first_col: usize,
    pub out: *mut c_void,
    /// Elements of the output type.
    pub out_row_stride: usize,
    /// Elements of the output type.
    pub out_pixel_stride: usize,
    /// Room of [`line::LINE_BYTES`](super::line::LINE_BYTES), where channels go round.
    pub line: *mut u8,
}

/// Vectors that the weights of a block take as pairs.
pub(super) const PAIRS: usize = 24;
/// Vectors that they take as fours.
pub(super) const FOURS: usize = 12;

/// Functions for two rows of output, and the form of weights that they take.
#[derive(Clone, Copy)]
pub(crate) struct Three {
    /// Safety: see [`ThreeJob`].
    pub run: unsafe fn(&ThreeJob),
    /// Where channels go round. Safety: see [`line::run`](super::line::run).
    pub round: unsafe fn(&ThreeJob),
    /// [`ColumnTaps::FOURS`].
    pub fours: bool,
}

#[cfg(feature = "alloc")]
impl Three {
    /// What is added to values of the image, and so to their zero point.
    pub fn shift(&self, unsigned: bool) -> i32 {
        if self.fours && !unsigned { 128 } else { 0 }
    }

    /// Bytes of weights of a block.
    fn block_bytes(&self, block: usize) -> usize {
        // Two vectors of channels a block: of i32 each.
        2 * block * if self.fours { FOURS } else { PAIRS }
    }

    /// Bytes that the weights of so many channels take.
    pub fn weights_len(&self, block: usize, channels: usize) -> Option<usize> {
        blocks_of(block, channels).0.checked_mul(self.block_bytes(block))
    }

    /// Packs weights, `weight(channel, tap)` with taps row by row, in the order described above.
    pub fn pack_weights(
        &self,
        block: usize,
        channels: usize,
        weight: impl Fn(usize, usize) -> i8,
        dst: &mut [u8],
    ) {
        // Which row of taps is multiplied by each of four rows of the image, for both rows of output; 3 is none.
        const ROWS: [[usize; 4]; 2] = [[0, 1, 2, 3], [3, 0, 1, 2]];
        let (_, step) = blocks_of(block, channels);
        for (index, dst) in dst.chunks_exact_mut(self.block_bytes(block)).enumerate() {
            let first = if step < block { index * step } else { (index * block).min(channels - block) };
            for (place, rows) in (0..3).flat_map(|v| ROWS.iter().map(move |rows| (v, rows))).enumerate() {
                let (v, rows) = rows;
                for c in 0..block {
                    for (i, &u) in rows.iter().enumerate() {
                        let value = if u < 3 { weight((first + c) % channels, 3 * u + v) } else { 0 };
                        if self.fours {
                            dst[(place * block + c) * 4 + i] = value as u8;
                        } else {
                            let at = ((place * 2 + i / 2) * block + c) * 4 + i % 2 * 2;
                            dst[at..][..2].copy_from_slice(&i16::from(value).to_ne_bytes());
                        }
                    }
                }
            }
        }
    }
}

/// The part that an instruction set writes for itself.
///
/// # Safety
/// `column` reads `2 * LANES` bytes at each address, `weights` and `add` those of a block, `store_column` and `load_column` what they
/// say.
pub(crate) unsafe trait ColumnTaps: Taps {
    /// Four taps are multiplied at once, u8 by i8: i8 values of the image are taken as u8 that are 128 larger.
    const FOURS: bool;
    /// Planes of a column in a line: for four rows, or for two each.
    const PLANES: usize = if Self::FOURS { 1 } else { 2 };
    /// A column's values of four rows, for two vectors of channels.
    type Column: Copy;
    /// The weights of a block, or where they are.
    type Weights: Copy;

    /// # Safety
    /// The values are readable; the CPU has the features.
    unsafe fn column<const UNSIGNED: bool>(rows: [*const u8; 4]) -> Self::Column;

    /// # Safety
    /// The weights are readable, and stay so; the CPU has the features.
    unsafe fn weights(weights: *const u8) -> Self::Weights;

    /// Adds a column in its place `v` of the window to the sums of two rows, of two vectors each.
    ///
    /// # Safety
    /// As [`ColumnTaps::weights`].
    unsafe fn add_column(
        sums: Sums<Self::V>,
        column: Self::Column,
        v: usize,
        weights: Self::Weights,
    ) -> Sums<Self::V>;

    /// Stores a column, `plane` bytes from one plane to the next.
    ///
    /// # Safety
    /// There is room for `2 * LANES` places of 4 bytes in each plane; the CPU has the features.
    unsafe fn store_column(column: Self::Column, to: *mut u8, plane: usize);

    /// A column that begins at any place of a line.
    ///
    /// # Safety
    /// As [`ColumnTaps::store_column`]: they are readable.
    unsafe fn load_column(from: *const u8, plane: usize) -> Self::Column;
}

/// The sums of two rows of output, two vectors of channels each.
pub(crate) type Sums<V> = [[<V as Lanes>::I; 2]; 2];

/// # Safety
/// As [`ThreeJob`]; the CPU has the features of `T`.
#[inline(always)]
pub(crate) unsafe fn run<T: ColumnTaps, E: End>(job: &ThreeJob) {
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
/// As [`run`].
#[inline(always)]
unsafe fn blocks<T: ColumnTaps, E: End, const UNSIGNED: bool>(job: &ThreeJob) {
    let width = block_of::<T>();
    let mut buffers = T::Buffers::NEW;
    let (mut columns, _) = buffers.parts();
    let mut index = 0;
    while index * width < job.channels {
        let first = (index * width).min(job.channels - width);
        // SAFETY: channels `first .. first + width` are the job's, and the block has weights.
        unsafe {
            columns.fill::<T::V>(job.epilogue, job.first_col + first, width, width);
            // Two vectors of channels a block, of i32 each.
            let vectors = if T::FOURS { FOURS } else { PAIRS };
            let weights = job.weights.add(index * vectors * 2 * width);
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
unsafe fn pixels<T: ColumnTaps, E: End, const UNSIGNED: bool>(
    job: &ThreeJob,
    first: usize,
    weights: *const u8,
    mut end: TileEnd,
) {
    // SAFETY: rows and padding are readable for the block at every pixel; the weights are the block's; pixels of both rows of
    // output are writable for the block.
    unsafe {
        let mut rows = job.rows.map(|row| row.ptr.wrapping_add(first));
        let padding = [job.zeros.add(first); 4];
        let weights = T::weights(weights);
        let ready = E::ready::<T::V>(end.epilogue);
        let base = [[end.base::<T::V>(0), end.base::<T::V>(1)]; 2];
        // The sums of the pixel whose window ends with this column, and of the one whose window has it in the middle.
        let (mut last, mut middle) = (base, base);
        for column in 0..job.pixels + 2 {
            let inside = column.wrapping_sub(job.before) < job.width;
            let values = T::column::<UNSIGNED>(if inside { rows } else { padding });
            if inside {
                for (row, tap) in rows.iter_mut().zip(&job.rows) {
                    *row = row.wrapping_add(tap.step);
                }
            }
            last = T::add_column(last, values, 2, weights);
            if column >= 2 {
                finish_from_base::<T::V, E, 2, 2>(last, &end, &ready);
                end.out = end.out.cast::<u8>().add(job.out_pixel_stride * E::BYTES).cast();
            }
            last = T::add_column(middle, values, 1, weights);
            middle = T::add_column(base, values, 0, weights);
        }
    }
}
