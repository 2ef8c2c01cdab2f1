//! Where the parts of packed weights lie.

use super::rhs::{Groups, Rhs};
use crate::{
    Error, Operand,
    kernels::{self, Id, Multiply, SumOffset, weights::Format},
};

/// Alignment of what packed weights hold.
pub(super) const ALIGN: usize = 64;

/// What is known of weights without seeing them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Described {
    /// Columns of a panel of the kernel.
    pub nr: usize,
    /// Depth of a step of the kernel.
    pub kr: usize,
    pub offset: SumOffset,
    pub format: &'static Format,
    pub k: usize,
    pub n: usize,
    /// Rows of K that are summed together: those of a group, or all.
    pub group_size: usize,
    /// Groups of K have scales.
    pub grouped: bool,
    /// Some zero point is not 0 as the kernel sees it.
    pub has_zero: bool,
}

impl Described {
    pub fn new<T: Operand>(rhs: &Rhs<T>, kernel: &kernels::Kernel) -> Self {
        let shift = rhs.format.shift(T::MIN == 0);
        Self {
            nr: kernel.nr,
            kr: kernel.kr,
            offset: kernel.offset,
            format: rhs.format,
            k: rhs.matrix.rows(),
            n: rhs.matrix.cols(),
            group_size: rhs.group_size(),
            grouped: rhs.groups.is_some(),
            has_zero: rhs.zero_points.as_slice().iter().any(|z| z + shift != 0),
        }
    }

    /// Groups are of a size that kernels take.
    pub fn groups_fit(&self) -> bool {
        let size = self.group_size;
        size == self.k || size < self.k && size > 0 && size.is_multiple_of(Groups::multiple(self.format))
    }
}

/// Where things lie in the buffer, in bytes from its first multiple of 64.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    /// First aligned byte of the buffer.
    pub start: usize,
    /// Bytes of the column constants of one kind and one group of K: `N` i32, padded to whole panels and lines.
    pub constants: usize,
    /// Rows of K that are summed together: those of a group, or all.
    pub group_size: usize,
    /// How groups are added up, if there are some.
    pub product: Option<fn(Id) -> Multiply>,
    /// Column constants, the first of which these are.
    pub zero_factor: usize,
    /// `None` when every zero point is 0 as the kernel sees it: no sums of `lhs` rows are needed.
    pub rhs_zero: Option<usize>,
    pub sum_offset: Option<usize>,
    pub group_scales: Option<usize>,
    pub panels: usize,
    pub end: usize,
}

impl Parts {
    /// With the product that adds up groups, if there are some.
    pub fn new(of: &Described, product: Option<fn(Id) -> Multiply>) -> Result<Self, Error> {
        let overflow = Error::SizeOverflow { what: "packed rhs", rows: of.k, cols: of.n };
        let columns = of.n.checked_next_multiple_of(of.nr).ok_or(overflow)?;
        let constants =
            columns.checked_mul(4).and_then(|b| b.checked_next_multiple_of(ALIGN)).ok_or(overflow)?;
        let depth = of.format.depth(of.k, of.kr).ok_or(overflow)?;
        let bytes = depth.checked_mul(columns).ok_or(overflow)? / of.format.fields();
        let groups = of.k.div_ceil(of.group_size.max(1)).max(1);
        // Without columns too, a panel has room in the address space: sizes of single rows below need no check.
        depth.checked_mul(of.nr).filter(|&bytes| isize::try_from(bytes).is_ok()).ok_or(overflow)?;

        let mut end = 0usize;
        let mut part = |bytes: usize| -> Result<usize, Error> {
            let at = end;
            end = end.checked_add(bytes).ok_or(overflow)?;
            Ok(at)
        };
        let of_groups = constants.checked_mul(groups).ok_or(overflow)?;
        let zero_factor = part(of_groups)?;
        let rhs_zero = if of.has_zero { Some(part(constants)?) } else { None };
        let has_offset = of.offset != SumOffset::None;
        let sum_offset = if has_offset { Some(part(of_groups)?) } else { None };
        let group_scales = if of.grouped { Some(part(of_groups)?) } else { None };
        let panels = part(bytes)?;
        // A slice holds at most isize::MAX bytes; the alignment of the caller's may cost one line.
        if end > isize::MAX as usize - ALIGN {
            return Err(overflow);
        }
        Ok(Self {
            start: 0,
            constants,
            group_size: of.group_size,
            product,
            zero_factor,
            rhs_zero,
            sum_offset,
            group_scales,
            panels,
            end,
        })
    }
}
