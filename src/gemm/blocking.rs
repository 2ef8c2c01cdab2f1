//! How much of a product is prepared and multiplied at a time, and the scratch that takes.

use crate::kernels::{
    self, LhsFormat,
    weights::{Format, Unpacking},
};

/// Bytes of prepared `lhs` that one block of rows may take: a part of a second-level cache, so that the panels of `rhs`
/// that pass it stay there too.
const BLOCK_BYTES: usize = 256 * 1024;

/// Bytes of patches that are copied at a time before they are packed: a part of a first-level cache.
#[cfg(feature = "alloc")]
const CHUNK_BYTES: usize = 12 * 1024;

/// What follows from a kernel and a depth alone, worked out once for a product rather than in each call: it takes divisions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Depth {
    /// Panels are multiplied as they are, over all of K at a time.
    pub plain: bool,
    /// Bytes of a panel of `rhs`.
    pub panel_bytes: usize,
    /// Bytes of a column of the panels of `rhs`.
    pub column_bytes: usize,
    /// Rows of K that are summed together: those of a group, or all.
    pub group_size: usize,
    /// Groups of K, one if there are none.
    pub groups: usize,

    /// How panels of a narrow format are unpacked.
    pub unpacking: Option<Unpacking>,
    /// Bytes from one prepared row of `lhs` to the next.
    pub lhs_stride: usize,
    /// Bytes of the kernel's scratch, and of a group of panels, unpacked.
    kernel: usize,
    /// Bytes of the sums of a row of `lhs`: an i32 for each group of K.
    row_sums: usize,
    /// Bytes of a row that is gathered before it is prepared, or 0 if it never is.
    gather: usize,
    /// Most rows of `lhs` that are prepared and multiplied at a time; a multiple of `mr`.
    max_rows: usize,
    mr: usize,
}

impl Depth {
    pub fn new(
        kernel: &kernels::Kernel,
        format: &Format,
        group_size: usize,
        has_groups: bool,
        k: usize,
    ) -> Self {
        let lhs_stride = (kernel.lhs_stride)(k);
        let fit = BLOCK_BYTES / lhs_stride.max(1);
        let groups = k.div_ceil(group_size.max(1)).max(1);
        let fields = format.fields();
        let depth = |k: usize| k.next_multiple_of(fields * kernel.kr);
        let scratch = (kernel.scratch)(group_size);
        let unpacking =
            format.unpack.map(|unpack| Unpacking { function: unpack(kernel.isa), fields, at: scratch });
        // What overflows here is found where scratch is added up.
        let unpacked = unpacking.map_or(0, |_| kernel.group_cols.saturating_mul(depth(group_size)));
        Self {
            plain: format.unpack.is_none() && !has_groups,
            panel_bytes: depth(k) / fields * kernel.nr,
            column_bytes: depth(k) / fields,
            group_size,
            groups,
            unpacking,
            lhs_stride,
            kernel: scratch.saturating_add(unpacked).saturating_add(63) / 64 * 64,
            row_sums: 4usize.saturating_mul(groups),
            gather: match kernel.lhs {
                LhsFormat::Bytes { .. } => 0,
                LhsFormat::PackedUnsigned | LhsFormat::PackedSigned => kernels::layout::byte_row_stride(k),
            },
            // Few rows would read the weights too often: at least sixteen tiles, whatever the depth.
            max_rows: fit.max(16 * kernel.mr).next_multiple_of(kernel.mr),
            mr: kernel.mr,
        }
    }

    /// Bytes of a column from the first group of K to one that begins at `k`.
    pub fn column_bytes_to(&self, k: usize) -> usize {
        k / self.unpacking.map_or(1, |unpacking| unpacking.fields)
    }

    /// Rows of `lhs` that are prepared and multiplied at a time: blocks of equal size, so that the last is no sliver.
    pub fn block_rows(&self, m: usize) -> usize {
        if m <= self.max_rows { m } else { m.div_ceil(m.div_ceil(self.max_rows)).next_multiple_of(self.mr) }
    }

    /// Rows that are copied at a time on their way to a kernel's own format: whole panels, few enough for the first cache level.
    #[cfg(feature = "alloc")]
    pub fn chunk_rows(&self) -> usize {
        let fit = CHUNK_BYTES / self.gather.max(1) / self.mr * self.mr;
        fit.clamp(self.mr, 8 * self.mr)
    }

    /// The scratch of products of at most `m` rows; `None` if its size overflows.
    pub fn scratch(&self, m: usize) -> Option<Scratch> {
        // Not `block_rows`, which may be less for more rows: a workspace serves every smaller product too.
        let rows = m.min(self.max_rows);
        let line = |bytes: usize| bytes.checked_next_multiple_of(64);
        Some(Scratch {
            kernel: self.kernel,
            lhs: line(rows.checked_mul(self.lhs_stride)?)?,
            gather: rows.checked_mul(self.gather)?,
            sums: line(rows.checked_mul(self.row_sums)?)?,
        })
    }
}

/// Bytes of one thread's part of a workspace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scratch {
    /// For the kernel and for unpacked panels, first.
    pub kernel: usize,
    /// Prepared rows.
    pub lhs: usize,
    /// Rows gathered from a strided `lhs`, before they are prepared.
    pub gather: usize,
    /// i32 sums of rows, of each group of K.
    pub sums: usize,
}

impl Scratch {
    pub fn total(&self) -> Option<usize> {
        self.kernel.checked_add(self.lhs)?.checked_add(self.gather)?.checked_add(self.sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kernel, kernels::weights::i8::I8};
    use quickcheck::quickcheck;

    quickcheck! {
        fn a_workspace_serves_every_smaller_product(m: u16, k: u16, fewer: u16) -> bool {
            let (m, k, fewer) = (m as usize, k as usize, fewer as usize);
            let (m, fewer) = (m.max(fewer), m.min(fewer));
            Kernel::all().all(|kernel| {
                let depth = Depth::new(kernel.0, &I8, k, false, k);
                let size = |m| depth.scratch(m).and_then(|scratch| scratch.total());
                depth.block_rows(fewer) <= m.min(depth.max_rows) && size(fewer) <= size(m)
            })
        }
    }
}
