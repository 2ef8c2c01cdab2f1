//! How a product is cut: rows that fit a cache level, and parts for threads.

use core::ops::Range;

use crate::kernels::{self, LhsFormat};

/// Bytes of prepared `lhs` that one block of rows may take: a part of a second-level cache, so that the panels of `rhs`
/// that pass it stay there too.
const BLOCK_BYTES: usize = 256 * 1024;

/// Fewest multiply-adds that are worth waking a thread for.
const MIN_MACS_PER_PART: usize = 1 << 16;

/// Most rows of `lhs` that are prepared and multiplied at a time; a multiple of the kernel's tile.
fn max_block_rows(kernel: &kernels::Kernel, k: usize) -> usize {
    let fit = BLOCK_BYTES / (kernel.lhs_stride)(k).max(1);
    // Few rows would read the weights too often: at least eight tiles, whatever the depth.
    fit.max(8 * kernel.mr).next_multiple_of(kernel.mr)
}

/// Rows of `lhs` that are prepared and multiplied at a time: blocks of equal size, so that the last is no sliver.
pub(super) fn block_rows(kernel: &kernels::Kernel, k: usize, m: usize) -> usize {
    let most = max_block_rows(kernel, k);
    if m <= most { m } else { m.div_ceil(m.div_ceil(most)).next_multiple_of(kernel.mr) }
}

/// Bytes of one thread's part of a workspace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scratch {
    /// For the kernel, first.
    pub kernel: usize,
    /// Prepared rows.
    pub lhs: usize,
    /// Rows gathered from a strided `lhs`, before they are prepared.
    pub gather: usize,
    /// i32 sums of rows.
    pub sums: usize,
}

impl Scratch {
    /// For products of at most `m` rows; `None` if the size overflows.
    pub fn new(kernel: &kernels::Kernel, k: usize, m: usize) -> Option<Self> {
        // Not `block_rows`, which may be less for more rows: a workspace serves every smaller product too.
        let rows = m.min(max_block_rows(kernel, k));
        let line = |bytes: usize| bytes.checked_next_multiple_of(64);
        let gather = match kernel.lhs {
            LhsFormat::Bytes { .. } => 0,
            LhsFormat::PackedAsIs | LhsFormat::PackedSigned => kernels::layout::byte_row_stride(k),
        };
        Some(Self {
            kernel: (kernel.scratch)(k),
            lhs: line(rows.checked_mul((kernel.lhs_stride)(k))?)?,
            gather: rows.checked_mul(gather)?,
            sums: line(rows.checked_mul(4)?)?,
        })
    }

    pub fn total(&self) -> Option<usize> {
        self.kernel.checked_add(self.lhs)?.checked_add(self.gather)?.checked_add(self.sums)
    }
}

/// A grid of parts for threads: rows are cut first, because a part then prepares its own rows of `lhs` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grid {
    rows: usize,
    cols: usize,
    m: usize,
    panels: usize,
    nr: usize,
    n: usize,
}

impl Grid {
    pub fn new(kernel: &kernels::Kernel, m: usize, k: usize, n: usize, threads: usize) -> Self {
        let panels = n.div_ceil(kernel.nr);
        let macs = m.saturating_mul(n).saturating_mul(k);
        let parts = threads.min(macs / MIN_MACS_PER_PART).max(1);
        let rows = parts.min(m / (2 * kernel.mr)).max(1);
        let cols = (parts / rows).min(panels).max(1);
        Self { rows, cols, m, panels, nr: kernel.nr, n }
    }

    /// Parts that the rows are cut into.
    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn parts(&self) -> usize {
        self.rows * self.cols
    }

    /// Rows and columns of a part; columns start at a panel.
    pub fn part(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let cut = |i: usize, parts: usize, len: usize| len / parts * i + (len % parts).min(i);
        let (row, col) = (index / self.cols, index % self.cols);
        let rows = cut(row, self.rows, self.m)..cut(row + 1, self.rows, self.m);
        let first = cut(col, self.cols, self.panels) * self.nr;
        let end = (cut(col + 1, self.cols, self.panels) * self.nr).min(self.n);
        (rows, first..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kernel;
    use quickcheck::quickcheck;

    quickcheck! {
        fn parts_cover_every_output_once(m: u8, n: u16, threads: u8) -> bool {
            let (m, n, threads) = (m as usize, n as usize % 300, threads as usize % 17);
            Kernel::all().all(|kernel| {
                let grid = Grid::new(kernel.0, m, 4096, n, threads);
                let mut seen = vec![0u8; m * n];
                for index in 0..grid.parts() {
                    let (rows, cols) = grid.part(index);
                    assert_eq!(cols.start % kernel.0.nr, 0);
                    for i in rows {
                        for j in cols.clone() {
                            seen[i * n + j] += 1;
                        }
                    }
                }
                grid.parts() <= threads.max(1) && seen.iter().all(|&count| count == 1)
            })
        }

        fn a_workspace_serves_every_smaller_product(m: u16, k: u16, fewer: u16) -> bool {
            let (m, k, fewer) = (m as usize, k as usize, fewer as usize);
            Kernel::all().all(|kernel| block_rows(kernel.0, k, fewer.min(m)) <= m.min(max_block_rows(kernel.0, k)))
        }
    }
}
