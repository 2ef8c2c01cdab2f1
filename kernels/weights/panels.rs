//! Panels of 8-bit weights, packed by vectors: written once over [`Pieces`], for kernels whose steps are whole pieces.
//!
//! A chunk of a panel is sixteen bytes: `KR` rows of K of `16 / KR` columns (layout: see [`super`]). A step of a panel is `NR * KR / 16` of them.
//!
//! - Rows of K x N: `KR` rows of sixteen columns in each piece. `log2(KR)` rounds of zips of bytes make `KR` chunks, one a vector; the
//!   pieces of a vector go to other panels.
//! - Columns, stored one after the other (N x K): `16 / KR` columns of sixteen rows in each piece. `log2(16 / KR)` rounds of zips of
//!   `KR` bytes make as many chunks, of as many steps. The pieces of a vector are the chunks of a step, loaded from other columns;
//!   where a step is one chunk, they are other rows of K.
//!
//! Sums of columns are taken of the chunks, in fours. What a step lacks at the edges is copied to a buffer between zeros first; so is
//! every column whose bytes are not adjacent.

use super::{
    super::{LhsRows, product::layout::copy_rows, vectors::pieces::Pieces},
    Panels, RhsBytes,
};

/// Bytes of a piece.
const PIECE: usize = 16;
/// Pieces of the widest vector.
const MAX_PIECES: usize = 4;

/// Packs panels, as [`Kernel::pack_rhs`](super::super::Kernel::pack_rhs) does: one of `NR` columns and steps of `KR` for each `NR` sums.
///
/// # Safety
/// As [`RhsBytes`]; the CPU has the features of `V`.
#[inline(always)]
pub(in super::super) unsafe fn pack_panels<V: Pieces, const NR: usize, const KR: usize>(
    src: &RhsBytes,
    first: usize,
    to: Panels,
) {
    const {
        assert!(matches!(KR, 2 | 4 | 8 | 16) && PIECE.is_multiple_of(NR) && (NR * KR).is_multiple_of(PIECE));
        let chunks = NR * KR / PIECE;
        assert!(V::PIECES <= MAX_PIECES && (chunks == 1 || chunks.is_multiple_of(V::PIECES)));
    }
    debug_assert!(KR > 4 || to.late_sums.is_empty(), "a sum of four is of one half of a step");
    to.sums.fill(0);
    to.late_sums.fill(0);
    // SAFETY: the caller's.
    unsafe {
        if src.n_stride == 1 {
            from_rows::<V, NR, KR>(src, first, to);
        } else {
            from_columns::<V, NR, KR>(src, first, to);
        }
    }
}

/// # Safety
/// As [`pack_panels`], and the bytes of a row are adjacent.
#[inline(always)]
unsafe fn from_rows<V: Pieces, const NR: usize, const KR: usize>(
    src: &RhsBytes,
    first: usize,
    mut to: Panels,
) {
    /// Rows in the buffer: whole steps.
    const ROWS: usize = 16;
    let width = PIECE * V::PIECES;
    for at in (0..to.sums.len()).step_by(width) {
        let columns = (src.n - first - at).min(width);
        let written = (to.sums.len() - at).min(width);
        // SAFETY: the CPU has the features of `V`.
        let mut sums = [unsafe { Sums::<V, KR>::new() }; KR];
        // SAFETY: the rows from `row` on and the columns from `first + at` on lie inside the source, and the panels of the columns
        // that are written inside `to`; the buffer holds `ROWS` rows.
        unsafe {
            let from = src.ptr.wrapping_add(first + at);
            let panel = to.bytes.as_mut_ptr().add(at / NR * to.stride);
            let whole = if columns == width && written == width { src.k / KR } else { 0 };
            for step in 0..whole {
                let from = from.add(step * KR * src.k_stride);
                let chunks = chunks_of_rows::<V, KR>(from, src.k_stride, src.flip, &mut sums);
                store_to_panels::<V, NR, KR>(&chunks, panel.add(step * NR * KR), to.stride, width);
            }
            for row in (whole * KR..src.k).step_by(ROWS) {
                let rows = (src.k - row).min(ROWS);
                let mut buffer = [src.flip; ROWS * PIECE * MAX_PIECES];
                copy(
                    from.add(row * src.k_stride),
                    [src.k_stride, 1],
                    [rows, columns],
                    buffer.as_mut_ptr(),
                    width,
                );
                for step in 0..rows.div_ceil(KR) {
                    let from = buffer.as_ptr().add(step * KR * width);
                    let chunks = chunks_of_rows::<V, KR>(from, width, src.flip, &mut sums);
                    let panel = panel.add((row + step * KR) * NR);
                    store_to_panels::<V, NR, KR>(&chunks, panel, to.stride, written);
                }
            }
            for (chunk, sums) in sums.iter().enumerate() {
                sums.add_to(&mut to, |piece| at + PIECE * piece + PIECE / KR * chunk);
            }
        }
    }
}

/// The chunks of a step, of `KR` rows; takes their sums.
///
/// # Safety
/// A vector is readable at `from` and each `stride` behind it; the CPU has the features of `V`.
#[inline(always)]
unsafe fn chunks_of_rows<V: Pieces, const KR: usize>(
    from: *const u8,
    stride: usize,
    flip: u8,
    sums: &mut [Sums<V, KR>; KR],
) -> [V::I; PIECE] {
    // SAFETY: the caller's.
    unsafe {
        let flip = V::splat_i(i32::from_ne_bytes([flip; 4]));
        let mut rows = [flip; PIECE];
        for t in 0..KR {
            rows[t] = V::xor_i(V::load_i(from.add(t * stride).cast()), flip);
        }
        let chunks = zips::<V, 1>(rows, KR);
        for i in 0..KR {
            sums[i].take(chunks[i]);
        }
        chunks
    }
}

/// Stores the chunks of a step of `columns` columns, from the first of a panel on.
///
/// # Safety
/// The step is writable in each panel; the CPU has the features of `V`.
#[inline(always)]
unsafe fn store_to_panels<V: Pieces, const NR: usize, const KR: usize>(
    chunks: &[V::I; PIECE],
    step: *mut u8,
    panel_stride: usize,
    columns: usize,
) {
    for i in 0..KR {
        let column = PIECE / KR * i;
        let count = columns.saturating_sub(column).div_ceil(PIECE);
        // SAFETY: the pieces of a chunk are as many columns apart as a piece has; of those that there are, the chunk is writable.
        unsafe {
            let chunk = step.wrapping_add(column / NR * panel_stride + column % NR * KR);
            V::store_pieces(chunks[i], chunk, PIECE / NR * panel_stride, count);
        }
    }
}

/// # Safety
/// As [`pack_panels`].
#[inline(always)]
unsafe fn from_columns<V: Pieces, const NR: usize, const KR: usize>(
    src: &RhsBytes,
    first: usize,
    mut to: Panels,
) {
    /// Most columns of a chunk: of `KR` 2.
    const COLUMNS: usize = 8;
    let step_chunks = NR * KR / PIECE;
    // Of the pieces of a vector, as many are chunks of a step, and the rest rows of K.
    let chunks = if step_chunks == 1 { 1 } else { V::PIECES };
    let (width, depth) = (PIECE / KR * chunks, PIECE * V::PIECES / chunks);
    for (panel, chunk) in
        (0..to.sums.len() / NR).flat_map(|p| (0..step_chunks).step_by(chunks).map(move |c| (p, c)))
    {
        let at = panel * NR + PIECE / KR * chunk;
        // None, in a panel that N ends in.
        let columns = src.n.saturating_sub(first + at).min(width);
        // SAFETY: the CPU has the features of `V`.
        let mut sums = unsafe { Sums::<V, KR>::new() };
        // SAFETY: rows from `row` on and columns from `first + at` on lie inside the source, and the steps of those rows inside the
        // panel; the buffer holds `width` columns.
        unsafe {
            // Where there is nothing to read, strides may be of any size.
            let from = src.ptr.wrapping_add((first + at).wrapping_mul(src.n_stride));
            let panel = to.bytes.as_mut_ptr().add(panel * to.stride + PIECE * chunk);
            let whole = if columns == width && src.k_stride == 1 { src.k / depth } else { 0 };
            for block in 0..whole {
                let (from, panel) = (from.add(block * depth), panel.add(block * depth * NR));
                steps_of_columns::<V, NR, KR>(from, src.n_stride, src.flip, panel, depth / KR, &mut sums);
            }
            for row in (whole * depth..src.k).step_by(depth) {
                let rows = (src.k - row).min(depth);
                let mut buffer = [src.flip; COLUMNS * PIECE * MAX_PIECES];
                let strides = [src.n_stride, src.k_stride];
                copy(
                    from.wrapping_add(row.wrapping_mul(src.k_stride)),
                    strides,
                    [columns, rows],
                    buffer.as_mut_ptr(),
                    depth,
                );
                let (from, panel) = (buffer.as_ptr(), panel.add(row * NR));
                steps_of_columns::<V, NR, KR>(from, depth, src.flip, panel, rows.div_ceil(KR), &mut sums);
            }
            // Pieces of other rows have the columns of the first.
            sums.add_to(&mut to, |piece| at + if chunks == 1 { 0 } else { PIECE / KR * piece });
        }
    }
}

/// Packs one chunk, or as many as a vector has pieces, of `steps` steps; takes their sums.
///
/// # Safety
/// The columns of a vector's chunks, `stride` bytes apart, are readable for all rows of a vector, and the steps writable; the CPU has the
/// features of `V`.
#[inline(always)]
unsafe fn steps_of_columns<V: Pieces, const NR: usize, const KR: usize>(
    from: *const u8,
    stride: usize,
    flip: u8,
    panel: *mut u8,
    steps: usize,
    sums: &mut Sums<V, KR>,
) {
    let turn = PIECE / KR;
    // SAFETY: the caller's.
    unsafe {
        let flip = V::splat_i(i32::from_ne_bytes([flip; 4]));
        let mut columns = [flip; PIECE];
        for i in 0..turn {
            let from = from.add(i * stride);
            let column =
                if NR * KR == PIECE { V::load_i(from.cast()) } else { V::load_pieces(from, turn * stride) };
            columns[i] = V::xor_i(column, flip);
        }
        let chunks = zips::<V, KR>(columns, turn);
        for i in 0..turn {
            sums.take(chunks[i]);
            let step = panel.wrapping_add(i * NR * KR);
            if NR * KR == PIECE {
                V::store_pieces(chunks[i], step, turn * PIECE, steps.saturating_sub(i).div_ceil(turn));
            } else if i < steps {
                V::store_i(chunks[i], step.cast());
            }
        }
    }
}

/// Transposes the elements of `BYTES` bytes of the first `count` vectors, as many as a piece has elements, or all bytes: element `e` of
/// vector `v` becomes element `e * count + v` of all. A zip of the vectors of the first half with those of the second moves the
/// highest bit of a vector's number behind the bits of its element, and all others one up.
///
/// # Safety
/// The CPU has the features of `V`.
#[inline(always)]
unsafe fn zips<V: Pieces, const BYTES: usize>(mut vectors: [V::I; PIECE], count: usize) -> [V::I; PIECE] {
    let mut rounds = count;
    while rounds > 1 {
        let mut next = vectors;
        for i in 0..count / 2 {
            // SAFETY: the CPU has the features of `V`.
            [next[2 * i], next[2 * i + 1]] = unsafe { V::zip::<BYTES>(vectors[i], vectors[i + count / 2]) };
        }
        vectors = next;
        rounds /= 2;
    }
    vectors
}

/// Sums of the columns of a chunk in each piece.
struct Sums<V: Pieces, const KR: usize> {
    /// Of fours of bytes, which are of one column; with `KR` 2, of the first and of the second column of a four.
    fours: [V::I; 2],
}

impl<V: Pieces, const KR: usize> Clone for Sums<V, KR> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V: Pieces, const KR: usize> Copy for Sums<V, KR> {}

impl<V: Pieces, const KR: usize> Sums<V, KR> {
    /// # Safety
    /// The CPU has the features of `V`, here and below.
    #[inline(always)]
    unsafe fn new() -> Self {
        // SAFETY: the CPU has the features of `V`.
        Self { fours: [unsafe { V::splat_i(0) }; 2] }
    }

    /// # Safety
    /// As [`Sums::new`].
    #[inline(always)]
    unsafe fn take(&mut self, chunk: V::I) {
        let [first, second] = &mut self.fours;
        // SAFETY: the CPU has the features of `V`.
        unsafe {
            if KR == 2 {
                let half = i32::from_ne_bytes([0xff, 0xff, 0, 0]);
                *first = V::add_fours(*first, V::and_i(chunk, V::splat_i(half)));
                *second = V::add_fours(*second, V::and_i(chunk, V::splat_i(!half)));
            } else {
                *first = V::add_fours(*first, chunk);
            }
        }
    }

    /// Adds them up, those of each piece from a column on; there may be fewer columns than that.
    ///
    /// # Safety
    /// As [`Sums::new`].
    #[inline(always)]
    unsafe fn add_to(&self, to: &mut Panels, column: impl Fn(usize) -> usize) {
        let mut words = [[0i32; 4 * MAX_PIECES]; 2];
        // SAFETY: a vector has no more words; the CPU has the features of `V`.
        unsafe {
            V::store_i(self.fours[0], words[0].as_mut_ptr());
            V::store_i(self.fours[1], words[1].as_mut_ptr());
        }
        for piece in 0..V::PIECES {
            let at = column(piece);
            let Some(to_sums) = to.sums.get_mut(at..at + PIECE / KR) else { continue };
            let mut late_sums = to.late_sums.get_mut(at..at + PIECE / KR);
            for i in 0..PIECE / KR {
                let (word, half) = (4 * piece + i * KR / 4, if KR == 2 { i % 2 } else { 0 });
                let fours = &words[half][word..][..KR.div_ceil(4)];
                let add =
                    |sum: i32, fours: &[i32]| fours.iter().fold(sum, |sum, &four| sum.wrapping_add(four));
                to_sums[i] = add(to_sums[i], fours);
                if let Some(late_sums) = &mut late_sums {
                    late_sums[i] = add(late_sums[i], &fours[fours.len() / 2..]);
                }
            }
        }
    }
}

/// Copies lines of bytes, `stride` apart: what lies at `i * strides[0] + j * strides[1]` for `i` below the first count and `j` below the
/// second.
///
/// # Safety
/// These bytes are readable, and their copies writable.
unsafe fn copy(src: *const u8, strides: [usize; 2], counts: [usize; 2], dst: *mut u8, stride: usize) {
    let [lines, len] = counts;
    // SAFETY: the caller's.
    unsafe {
        if strides[1] == 1 {
            let lines = LhsRows { ptr: src, row_stride: strides[0], rows: lines, k: len, unsigned: true };
            copy_rows(&lines, 0, stride, dst);
        } else {
            for (i, j) in (0..lines).flat_map(|i| (0..len).map(move |j| (i, j))) {
                *dst.add(i * stride + j) = *src.add(i * strides[0] + j * strides[1]);
            }
        }
    }
}
