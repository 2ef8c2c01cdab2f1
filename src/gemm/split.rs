//! K cut into parts for threads.
//!
//! A product of few rows and columns has fewer tiles than there are threads, though K may be long. Sums of integers have no order:
//! each part of K is summed by itself, and the sums are added up before they become outputs. The bits are those of one thread.

use core::ops::Range;

use super::{
    blocking::Depth,
    call::Call,
    grid::{Grid, Shape, cycles},
};
use crate::{
    kernels::{self, EndI32, Epilogue, Job, LhsRows, Param, Store},
    parallel::{Team, cut, most_parts},
};

/// Fewest rows of K that are worth a part of their own.
const MIN_DEPTH: usize = 512;

/// Most outputs whose sums are kept for each part.
const MAX_OUTPUTS: usize = 4096;

/// Rows of K that parts are a multiple of: whole steps of every kernel, and lines of `lhs`.
const UNIT: usize = 64;

/// How K is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Split {
    workers: usize,
    parts: usize,
    k: usize,
    /// Outputs, and rows of `lhs`: sums that a part keeps.
    sums: usize,
}

impl Split {
    /// `None` unless it pays.
    pub fn new(
        kernel: &kernels::Kernel,
        depth: &Depth,
        shape @ (m, k, n): Shape,
        team: Team,
    ) -> Option<Self> {
        let parts = Self::most_parts(kernel, depth, shape, team);
        let workers = team.worthwhile(cycles(kernel, shape)).min(parts);
        let pays = m.saturating_mul(n) <= MAX_OUTPUTS && Grid::most_crossings(kernel, m, n) < workers;
        pays.then(|| Self { workers, parts, k, sums: m * n + m })
    }

    /// Bytes of sums that products of at most `m` rows on at most as many threads need, and threads that make them.
    pub fn most_sums(
        kernel: &kernels::Kernel,
        depth: &Depth,
        shape @ (m, _, n): Shape,
        team: Team,
    ) -> (usize, usize) {
        let parts = Self::most_parts(kernel, depth, shape, team);
        if parts < 2 || n > MAX_OUTPUTS {
            return (0, 1);
        }
        // No product has more rows than outputs.
        let sums = 2 * m.saturating_mul(n).min(MAX_OUTPUTS);
        (bytes(sums).saturating_mul(parts), team.worthwhile(cycles(kernel, shape)).min(parts))
    }

    /// Parts that there is work for.
    fn most_parts(kernel: &kernels::Kernel, depth: &Depth, shape @ (_, k, _): Shape, team: Team) -> usize {
        let cycles = cycles(kernel, shape);
        let workers = team.worthwhile(cycles);
        if depth.plain && workers > 1 { most_parts(cycles, workers).min(k / MIN_DEPTH) } else { 1 }
    }

    pub fn parts(&self) -> usize {
        self.parts
    }

    /// Threads that there is work for.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Bytes of a part's sums.
    fn part_bytes(&self) -> usize {
        bytes(self.sums)
    }

    /// Bytes of all sums.
    pub fn bytes(&self) -> usize {
        self.part_bytes() * self.parts
    }

    /// Rows of K of a part.
    fn part(&self, index: usize) -> Range<usize> {
        let units = cut(self.k.div_ceil(UNIT), self.parts, index);
        units.start * UNIT..(units.end * UNIT).min(self.k)
    }
}

/// Bytes of so many sums, in whole cache lines: no two threads write one.
fn bytes(sums: usize) -> usize {
    (4 * sums).next_multiple_of(64)
}

impl Call<'_> {
    /// Where a part keeps its sums: M x N, and one of each row of `lhs`.
    ///
    /// # Safety
    /// There is scratch for the workers, and for the sums of all parts behind it.
    unsafe fn part_sums(&self, split: &Split, index: usize) -> *mut i32 {
        // SAFETY: the caller's.
        unsafe { self.scratch.add(split.workers * self.worker_bytes + index * split.part_bytes()).cast() }
    }

    /// Sums a part of K of all rows and columns into its place.
    ///
    /// # Safety
    /// `lhs` is a matrix; no other thread has the same worker or index; there is scratch for all.
    pub unsafe fn sum_part(&self, split: &Split, worker: usize, index: usize) {
        let Some((rows, col_stride)) = self.lhs.matrix() else { return };
        let (m, n, depth) = (rows.rows, self.n, split.part(index));
        // SAFETY: the part's values lie in the rows, its steps in the panels; the worker's scratch has room for rows of any depth up to
        // K, and the part's sums are its own.
        unsafe {
            let sums = self.part_sums(split, index);
            let rows = LhsRows { ptr: rows.ptr.add(depth.start * col_stride), k: depth.len(), ..*rows };
            let buffers = self.buffers(worker);
            let (source, in_place) = self.contiguous(&rows, col_stride, 0..m, &buffers);
            (self.kernel.row_sums)(&source, sums.add(m * n));
            let (lhs, lhs_stride, flip_lhs) = self.prepared(&source, in_place, &buffers);
            // Nothing is corrected before all is summed.
            let epilogue = Epilogue {
                sum_offset: core::ptr::null(),
                rhs_zero: core::ptr::null(),
                lhs_zero: Param::new(&[0]),
                lhs_shift: 0,
                bias: core::ptr::null(),
                store: Store::I32 { accumulate: false },
                ..self.epilogue
            };
            kernels::multiply::<EndI32>(self.kernel.id)(&Job {
                rows: m,
                cols: n,
                k: depth.len(),
                first_k: 0,
                lhs,
                lhs_stride,
                flip_lhs,
                rhs: self.panels.as_ptr().add(self.depth.column_bytes_to(depth.start) * self.kernel.nr),
                rhs_stride: self.depth.panel_bytes,
                scratch: buffers.kernel,
                epilogue: &epilogue,
                first_row: 0,
                first_col: 0,
                row_sums: core::ptr::null(),
                out: sums.cast(),
                out_row_stride: n,
                out_col_stride: 1,
            });
        }
    }

    /// Makes outputs of the sums of all parts: row by row, as a product of no depth whose bias they are.
    ///
    /// # Safety
    /// All parts have been summed, and nobody else has the scratch or the output.
    pub unsafe fn finish_sums(&self, split: &Split) {
        let Some((rows, _)) = self.lhs.matrix() else { return };
        let (m, n) = (rows.rows, self.n);
        // SAFETY: parts have as many sums each, side by side; a bias has an element for each column.
        unsafe {
            let all = core::slice::from_raw_parts_mut(self.part_sums(split, 0), split.sums);
            for index in 1..split.parts() {
                add(all, core::slice::from_raw_parts(self.part_sums(split, index), split.sums));
            }
            let (all, row_sums) = all.split_at_mut(m * n);
            for (i, row) in all.chunks_exact_mut(n).enumerate() {
                if !self.epilogue.bias.is_null() {
                    add(row, core::slice::from_raw_parts(self.epilogue.bias, n));
                }
                let has_sums = !self.epilogue.rhs_zero.is_null();
                (self.multiply)(&Job {
                    rows: 1,
                    cols: n,
                    k: 0,
                    first_k: 0,
                    lhs: rows.ptr,
                    lhs_stride: 0,
                    flip_lhs: false,
                    rhs: self.panels.as_ptr(),
                    rhs_stride: self.depth.panel_bytes,
                    scratch: self.buffers(0).kernel,
                    epilogue: &Epilogue { bias: row.as_ptr(), ..self.epilogue },
                    first_row: i,
                    first_col: 0,
                    row_sums: if has_sums { &row_sums[i] } else { core::ptr::null() },
                    out: self.out.add(i * self.out_row_stride * self.out_size).cast(),
                    out_row_stride: self.out_row_stride,
                    out_col_stride: self.out_col_stride,
                });
            }
        }
    }
}

/// Adds modulo 2^32, as kernels do.
fn add(sums: &mut [i32], others: &[i32]) {
    for (sum, &other) in sums.iter_mut().zip(others) {
        *sum = sum.wrapping_add(other);
    }
}
