//! The loops around a micro-kernel, written once for every instruction set.
//!
//! ```text
//! for each group of panels of rhs       column parameters are gathered, panels widened if that pays
//!     for each tile of rows of lhs      R x Q vectors of sums over all of the job's K, then the epilogue
//! ```
//!
//! The group of panels stays in the first or second cache level while row tiles pass it; the sums never leave
//! registers until they are outputs.

use core::ffi::c_void;

use super::{
    super::{Job, vectors::narrow::Narrow},
    columns::{Columns, TileBuffer, TileBuffers},
    ends::End,
    place::Place,
    tile::TileEnd,
};

/// What a tile multiplies.
#[allow(dead_code, reason = "not every target has wide groups of panels, or widens them")]
pub(crate) struct TileInput {
    /// First row of the tile, prepared.
    pub lhs: *const u8,
    /// Bytes.
    pub lhs_stride: usize,
    /// [`Job::flip_lhs`].
    pub flip_lhs: bool,
    /// First panel of the group.
    pub rhs: *const u8,
    /// Bytes from one panel to the next.
    pub panel_stride: usize,
    pub k: usize,
    /// The panels that are multiplied next, for tiles to fetch as they multiply these; null if there are none.
    pub next_rhs: *const u8,
    /// Rows of the job.
    pub job_rows: usize,
    /// Tiles before this one in its group of panels.
    pub tiles_before: usize,
    /// Of all panels of the job.
    pub job_bytes: usize,
    /// The panels were widened by [`MicroKernel::widen`].
    pub widened: bool,
}

#[allow(dead_code, reason = "not every target has kernels whose tiles are of one panel")]
impl TileInput {
    /// The rows and one panel of the group.
    ///
    /// # Safety
    /// The group has that panel.
    #[inline(always)]
    pub unsafe fn panel(&self, index: usize) -> Self {
        // SAFETY: the group has that panel.
        Self { rhs: unsafe { self.rhs.add(index * self.panel_stride) }, ..*self }
    }
}

/// The part that an instruction set writes for itself.
///
/// # Safety
/// `tile` computes exactly the dot products it is asked for, reads nothing outside the rows and panels it is given
/// and writes through [`super::ends::finish`] or [`End::store`] only.
pub(crate) unsafe trait MicroKernel {
    type V: Narrow;
    /// Columns of a panel.
    const NR: usize;
    /// [`Buffers`](super::columns::Buffers) of as many rows and columns as its largest tiles have.
    type Buffers: TileBuffers;

    /// Rows of the next tile when `remaining` of the job's are left: at most the rows of its buffers, at least 1 for
    /// `remaining >= 1`. The packing of `lhs` follows the same rule.
    fn next_rows(remaining: usize, job: &Job) -> usize;

    /// Panels of the next group when `remaining` of the job's are left: at most the columns of its buffers.
    fn next_panels(remaining: usize, job: &Job) -> usize;

    /// A panel whose columns are not all wanted is a group by itself, so that the others need no buffer: for kernels that lose
    /// nothing by it.
    const RAGGED_ALONE: bool = false;

    /// Bytes of a value of a prepared row.
    const LHS_BYTES: usize = 1;
    /// The rows of a tile are a panel, step by step, rather than one behind the other.
    const LHS_PANELS: bool = false;

    /// Rewrites a group of panels into the job's scratch if that pays.
    ///
    /// # Safety
    /// As [`super::super::Multiply`].
    #[inline(always)]
    unsafe fn widen(_rhs: *const u8, _panels: usize, _job: &Job) -> bool {
        false
    }

    /// Computes and finishes a tile of `rows` rows by `panels` panels.
    ///
    /// # Safety
    /// `rows` and `panels` are what `next_rows` and `next_panels` can give; the input is valid for them, and the end
    /// as [`super::ends::finish`] says; the CPU has the features.
    unsafe fn tile<E: End>(rows: usize, panels: usize, input: &TileInput, end: &TileEnd);
}

/// Most columns of a group of a kernel's panels.
pub(crate) const fn group_cols<K: MicroKernel>() -> usize {
    K::Buffers::COLS
}

/// Computes a job with a micro-kernel. To be called inside a function compiled for its features.
///
/// # Safety
/// As [`super::super::Multiply`].
#[inline(always)]
pub(crate) unsafe fn multiply<K: MicroKernel, E: End>(job: &Job) {
    if job.rows == 0 || job.cols == 0 {
        return;
    }
    let mut buffers = K::Buffers::NEW;
    let (mut columns, buffer) = buffers.parts();
    let corrects = job.epilogue.corrects();
    let mut col = 0;
    while col < job.cols {
        let mut panels = K::next_panels((job.cols - col).div_ceil(K::NR), job);
        let mut cols = (panels * K::NR).min(job.cols - col);
        if K::RAGGED_ALONE && panels > 1 && cols < panels * K::NR {
            panels -= 1;
            cols = panels * K::NR;
        }
        debug_assert!(panels * K::NR <= K::Buffers::COLS, "a group is no wider than the buffers");
        // SAFETY: the job's panels and column parameters reach to `job.cols`; the buffers have room for a group.
        unsafe {
            columns.fill::<K::V>(job.epilogue, job.first_col + col, cols, panels * K::NR);
            let rhs = job.rhs.add(col / K::NR * job.rhs_stride);
            let widened = K::widen(rhs, panels, job);
            let input = TileInput {
                lhs: job.lhs,
                lhs_stride: job.lhs_stride,
                flip_lhs: job.flip_lhs,
                rhs: if widened { job.scratch } else { rhs },
                panel_stride: if widened { 2 * job.rhs_stride } else { job.rhs_stride },
                k: job.k,
                job_rows: job.rows,
                tiles_before: 0,
                next_rhs: if col + cols < job.cols {
                    rhs.wrapping_add(panels * job.rhs_stride)
                } else {
                    core::ptr::null()
                },
                job_bytes: job.cols.div_ceil(K::NR) * job.rhs_stride,
                widened,
            };
            rows::<K, E>(job, input, &columns, &buffer, col, panels, cols, corrects);
        }
        col += cols;
    }
}

/// All row tiles of one group of panels.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn rows<K: MicroKernel, E: End>(
    job: &Job,
    mut input: TileInput,
    columns: &Columns,
    buffer: &TileBuffer,
    col: usize,
    panels: usize,
    cols: usize,
    corrects: bool,
) {
    let direct = !E::BUFFERED && job.out_col_stride == 1 && cols == panels * K::NR;
    let mut end = TileEnd {
        columns,
        col: 0,
        epilogue: job.epilogue,
        row: 0,
        row_sums: job.row_sums,
        corrects,
        out: buffer.start.cast(),
        out_stride: if direct { job.out_row_stride } else { buffer.stride },
        accumulate: direct && job.epilogue.store.accumulates(),
    };
    // Where the job's depth begins: in each row, or, of panels, in each tile.
    let first = K::LHS_BYTES * job.first_k;
    if !K::LHS_PANELS {
        input.lhs = input.lhs.wrapping_add(first);
    }
    let mut lhs = job.lhs;
    let mut row = 0;
    while row < job.rows {
        let count = K::next_rows(job.rows - row, job);
        if K::LHS_PANELS {
            input.lhs = lhs.wrapping_add(first * count);
            lhs = lhs.wrapping_add(count * job.lhs_stride);
        }
        // SAFETY: rows `row .. row + count` and columns `col .. col + cols` belong to the job; the buffer has room
        // for the largest tile.
        unsafe {
            let out = job
                .out
                .cast::<u8>()
                .add((row * job.out_row_stride + col * job.out_col_stride) * E::BYTES)
                .cast::<c_void>();
            end.row = job.first_row + row;
            end.row_sums = job.row_sums.wrapping_add(row);
            if direct {
                end.out = out;
                K::tile::<E::Tile>(count, panels, &input, &end);
            } else {
                K::tile::<E::Tile>(count, panels, &input, &end);
                let (row_stride, col_stride) = (job.out_row_stride, job.out_col_stride);
                E::flush::<K::V>(
                    buffer,
                    &end,
                    &Place { rows: count, cols, col: job.first_col + col, out, row_stride, col_stride },
                );
            }
            if !K::LHS_PANELS {
                input.lhs = input.lhs.wrapping_add(count * job.lhs_stride);
            }
            input.tiles_before += 1;
        }
        row += count;
    }
}

/// The first part of `remaining`, of at most `max`: whole parts, then two that are as equal as they can be, so that no
/// sliver is left. Without a division, which would cost as much as a small tile.
#[inline(always)]
pub(crate) fn next_part(remaining: usize, max: usize) -> usize {
    if remaining >= 2 * max {
        max
    } else if remaining > max {
        remaining.div_ceil(2)
    } else {
        remaining
    }
}
