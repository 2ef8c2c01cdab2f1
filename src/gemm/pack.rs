//! Weights, packed once: panels in the kernel's order, and the column constants that zero points need.

use core::fmt;

use super::{
    blocking::Depth,
    grid::Grid,
    output::Finish,
    parts::{ALIGN, Described, Parts},
    rhs::Rhs,
    split::Split,
};
use crate::{
    Error, Kernel, Operand,
    kernels::{
        self, Id, Multiply,
        weights::{PACKED_COLS, Panels, RhsBytes},
    },
    parallel::Team,
};

/// Weights in the order that one kernel reads them, with their column constants.
///
/// i8 or u8, from any strides: the type is brought to the kernel's own while packing. The zero point of `lhs` need not be
/// known. The buffer is the caller's ([`PackedRhs::pack_into`]) or owned ([`PackedRhs::pack`]).
///
/// ```
/// use i8gemm::{MatRef, PackedRhs};
/// let w = [1i8, 2, 3, 4, 5, 6];
/// let packed = PackedRhs::pack(MatRef::row_major(&w, 3, 2)?)?;
/// assert_eq!((packed.k(), packed.n()), (3, 2));
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct PackedRhs<'a> {
    buffer: PackedBytes<'a>,
    parts: Parts,
    kernel: Kernel,
    depth: Depth,
    described: Described,
}

#[derive(Clone)]
pub(super) enum PackedBytes<'a> {
    Borrowed(&'a [u8]),
    #[cfg(feature = "alloc")]
    Owned(alloc::vec::Vec<Line>),
}

/// How many, and not which: a product may be printed.
impl fmt::Debug for PackedBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.as_slice().len())
    }
}

impl PackedBytes<'_> {
    #[cfg_attr(not(feature = "alloc"), allow(clippy::infallible_destructuring_match))]
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            #[cfg(feature = "alloc")]
            Self::Owned(lines) => bytemuck::cast_slice(lines),
        }
    }
}

/// A cache line: the unit and alignment of owned buffers.
#[cfg(feature = "alloc")]
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

#[cfg(feature = "alloc")]
impl Line {
    /// Lines for so many bytes of something of so many rows and columns.
    pub(crate) fn zeroed(
        what: &'static str,
        rows: usize,
        cols: usize,
        bytes: usize,
    ) -> Result<alloc::vec::Vec<Self>, Error> {
        let overflow = |_| Error::SizeOverflow { what, rows, cols };
        crate::memory::zeroed(what, bytes.div_ceil(size_of::<Self>()), 1).map_err(overflow)
    }
}

// SAFETY: 64 bytes, no padding, any bit pattern.
#[cfg(feature = "alloc")]
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
#[cfg(feature = "alloc")]
unsafe impl bytemuck::Pod for Line {}

impl PackedRhs<'static> {
    /// Packs weights for [`Kernel::best`] into a buffer of its own.
    ///
    /// # Errors
    /// [`Error::KTooLong`] above [`MAX_SAFE_K`](crate::MAX_SAFE_K) unless wrapping is allowed; [`Error::ZeroPoint`], [`Error::Length`] for
    /// zero points; [`Error::Weight`] for values beyond their bits; [`Error::GroupSize`], [`Error::Length`], [`Error::NonFinite`] for
    /// groups and their scales; [`Error::SizeOverflow`]; the errors of [`Kernel::best`].
    #[cfg(feature = "alloc")]
    pub fn pack<'r, T: Operand>(rhs: impl Into<Rhs<'r, T>>) -> Result<Self, Error> {
        Self::pack_for(Kernel::best()?, rhs)
    }

    /// Packs weights for a kernel of the caller's choice into a buffer of its own.
    ///
    /// # Errors
    /// As [`PackedRhs::pack`]; [`Error::KernelUnavailable`] when this CPU cannot run the kernel.
    #[cfg(feature = "alloc")]
    pub fn pack_for<'r, T: Operand>(kernel: Kernel, rhs: impl Into<Rhs<'r, T>>) -> Result<Self, Error> {
        let rhs = rhs.into();
        let size = Self::size(kernel, &rhs)? - (ALIGN - 1);
        let mut lines = Line::zeroed("packed rhs", rhs.matrix.rows(), rhs.matrix.cols(), size)?;
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut lines);
        let PackedRhs { parts, kernel, depth, described, .. } = PackedRhs::pack_into(kernel, &rhs, bytes)?;
        Ok(Self { buffer: PackedBytes::Owned(lines), parts, kernel, depth, described })
    }
}

impl<'a> PackedRhs<'a> {
    /// Bytes that [`PackedRhs::pack_into`] needs, alignment included.
    ///
    /// # Errors
    /// As [`PackedRhs::pack_for`].
    pub fn size<T: Operand>(kernel: Kernel, rhs: &Rhs<T>) -> Result<usize, Error> {
        kernel.check_available()?;
        rhs.check()?;
        Ok(parts_of(rhs, &Described::new(rhs, kernel.0))?.end + ALIGN - 1)
    }

    /// Packs weights into the caller's buffer, of any alignment, at least [`PackedRhs::size`] bytes (63 fewer will do if
    /// it is aligned to 64).
    ///
    /// # Errors
    /// As [`PackedRhs::pack_for`]; [`Error::BufferTooSmall`].
    pub fn pack_into<T: Operand>(kernel: Kernel, rhs: &Rhs<T>, buffer: &'a mut [u8]) -> Result<Self, Error> {
        let needed = Self::size(kernel, rhs)? - (ALIGN - 1) + buffer.as_ptr().align_offset(ALIGN);
        if buffer.len() < needed {
            return Err(Error::BufferTooSmall { what: "packed rhs", needed, actual: buffer.len() });
        }
        // Last, for it takes as long as there are weights, which need not be in memory: strides may be 0.
        rhs.check_values()?;
        Self::pack_or_keep(kernel, rhs, buffer, true)
    }

    /// As [`PackedRhs::pack_into`], of weights that have been checked; unless they are `fresh`, the buffer holds them already.
    pub(super) fn pack_or_keep<T: Operand>(
        kernel: Kernel,
        rhs: &Rhs<T>,
        buffer: &'a mut [u8],
        fresh: bool,
    ) -> Result<Self, Error> {
        let described = Described::new(rhs, kernel.0);
        let mut parts = parts_of(rhs, &described)?;
        parts.start = buffer.as_ptr().align_offset(ALIGN);
        let needed = parts.start.saturating_add(parts.end);
        if buffer.len() < needed {
            return Err(Error::BufferTooSmall { what: "packed rhs", needed, actual: buffer.len() });
        }
        if fresh {
            fill(kernel.0, rhs, &parts, &mut buffer[parts.start..][..parts.end]);
        }
        Ok(Self::assemble(PackedBytes::Borrowed(buffer), parts, kernel, described))
    }

    /// Bytes of weights that are packed into a buffer that is aligned, and of the scratch of their product.
    pub(super) fn sizes<T: Operand>(
        kernel: Kernel,
        rhs: &Rhs<T>,
        m: usize,
        team: Team,
    ) -> Result<(usize, usize), Error> {
        let described = Described { has_zero: true, ..Described::new(rhs, kernel.0) };
        let parts = parts_of(rhs, &described)?;
        let packed = parts.end;
        let weights = Self::assemble(PackedBytes::Borrowed(&[]), parts, kernel, described);
        Ok((packed, weights.workspace_size(m, team)?))
    }

    /// Of a buffer that holds those parts.
    pub(super) fn assemble(
        buffer: PackedBytes<'a>,
        parts: Parts,
        kernel: Kernel,
        described: Described,
    ) -> Self {
        let Described { format, group_size, grouped, k, .. } = described;
        let depth = Depth::new(kernel.0, format, group_size, grouped, k);
        Self { buffer, parts, kernel, depth, described }
    }

    /// Depth: rows of the weights.
    #[must_use]
    pub fn k(&self) -> usize {
        self.described.k
    }

    /// Columns of the weights, and of the output.
    #[must_use]
    pub fn n(&self) -> usize {
        self.described.n
    }

    /// The kernel that the weights are packed for.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Bytes that the packed weights and their constants take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.parts.end
    }

    pub(super) fn described(&self) -> &Described {
        &self.described
    }

    pub(super) fn parts(&self) -> &Parts {
        &self.parts
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.buffer.as_slice()[self.parts.start..][..self.parts.end]
    }

    /// Bytes of scratch for products of at most `m` rows by these weights on so many threads, of any alignment.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub(super) fn workspace_size(&self, m: usize, team: Team) -> Result<usize, Error> {
        let overflow = Error::SizeOverflow { what: "workspace", rows: m, cols: self.k() };
        let part = self.depth.scratch(m).and_then(|scratch| scratch.total()).ok_or(overflow)?;
        let shape = (m, self.k(), self.n());
        let (sums, workers) = Split::most_sums(self.kernel.0, &self.depth, shape, team);
        let workers = workers.max(Grid::most_workers(self.kernel.0, shape, team));
        let bytes = part.checked_mul(workers).and_then(|b| b.checked_add(sums)?.checked_add(63));
        // No slice is larger.
        let bytes = bytes.filter(|&bytes| isize::try_from(bytes).is_ok());
        bytes.ok_or(Error::SizeOverflow { what: "workspace, threads x bytes", rows: workers, cols: part })
    }

    /// What follows from them alone of how products are computed.
    #[inline]
    pub(super) fn depth(&self) -> &Depth {
        &self.depth
    }

    /// The kernel's product for an output, of which `output` gives the one that needs no groups.
    ///
    /// # Errors
    /// [`Error::GroupedOutput`].
    pub(crate) fn product(&self, output: fn(Id) -> Multiply, finish: &Finish) -> Result<Multiply, Error> {
        if self.parts.product.is_some() {
            finish.check_groups()?;
        }
        let product = self.parts.product.unwrap_or(output);
        Ok(product(self.kernel.0.id))
    }

    /// The constants of one kind, of the first group and all that follow.
    fn constants<C: bytemuck::Pod>(&self, at: usize, groups: usize) -> &[C] {
        bytemuck::cast_slice(&self.data()[at..][..(groups - 1) * self.parts.constants + 4 * self.n()])
    }

    /// What kernels read, as slices.
    #[inline]
    pub(crate) fn contents(&self) -> Contents<'_> {
        let groups = self.depth.groups;
        Contents {
            panels: &self.data()[self.parts.panels..],
            zero_factor: self.constants(self.parts.zero_factor, groups),
            rhs_zero: self.parts.rhs_zero.map(|at| self.constants(at, 1)),
            sum_offset: self.parts.sum_offset.map(|at| self.constants(at, groups)),
            group_scales: self.parts.group_scales.map(|at| self.constants(at, groups)),
            stride: self.parts.constants / 4,
        }
    }
}

/// The contents of packed weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contents<'a> {
    /// All panels.
    pub panels: &'a [u8],
    /// `K * zero point - column sum` of each column of each group, as the kernel sees its values.
    pub zero_factor: &'a [i32],
    /// Zero point of each column as the kernel sees it, or `None` if all are 0.
    pub rhs_zero: Option<&'a [i32]>,
    /// What the kernel's sums lack, for each column of each group, or `None` if nothing.
    pub sum_offset: Option<&'a [i32]>,
    /// Scale of each column of each group, if there are groups.
    pub group_scales: Option<&'a [f32]>,
    /// From the constants of one group to those of the next.
    pub stride: usize,
}

/// Where things lie in packed weights.
pub(super) fn parts_of<T: Operand>(rhs: &Rhs<T>, described: &Described) -> Result<Parts, Error> {
    Parts::new(described, rhs.groups.map(|groups| groups.product))
}

/// Fills the aligned part of a buffer.
pub(super) fn fill<T: Operand>(kernel: &kernels::Kernel, rhs: &Rhs<T>, parts: &Parts, data: &mut [u8]) {
    let (k, n) = (rhs.matrix.rows(), rhs.matrix.cols());
    let (nr, kr) = (kernel.nr, kernel.kr);
    let format = rhs.format;
    let unsigned = T::MIN == 0;
    let shift = format.shift(unsigned);
    let src = RhsBytes {
        ptr: rhs.matrix.as_ptr().cast(),
        k,
        n,
        // Without rows nothing is read, and strides may be of any size.
        k_stride: if k == 0 { 1 } else { rhs.matrix.row_stride() },
        n_stride: if k == 0 { 1 } else { rhs.matrix.col_stride() },
        flip: if unsigned { 0x80 } else { 0 },
    };
    let (constants, panels) = data.split_at_mut(parts.panels);
    let constants: &mut [i32] = bytemuck::cast_slice_mut(constants);
    let stride = parts.constants / 4;
    // K = 0 is one group without rows, and leaves panels without bytes.
    let size = parts.group_size.max(1);
    let column_bytes = |k: usize| k.next_multiple_of(format.fields() * kr) / format.fields();
    for first in (0..n).step_by(PACKED_COLS) {
        let columns = (n - first).min(PACKED_COLS).next_multiple_of(nr);
        let panels = &mut panels[first * column_bytes(k)..][..columns * column_bytes(k)];
        for (group, start) in (0..k.max(1)).step_by(size).enumerate() {
            let k_of_group = (k - start).min(size);
            let (factors, others) = constants.split_at_mut(parts.zero_factor / 4 + (group + 1) * stride);
            let factors = &mut factors[parts.zero_factor / 4 + group * stride + first..][..columns];
            let other = |at: usize| (at - parts.zero_factor) / 4 - (group + 1) * stride;
            let late_sums = match parts.sum_offset {
                Some(at) => &mut others[other(at) + group * stride + first..][..columns],
                None => &mut [],
            };
            let to = Panels {
                bytes: &mut panels[nr * column_bytes(start)..],
                stride: nr * column_bytes(k),
                sums: &mut *factors,
                late_sums: &mut *late_sums,
            };
            // SAFETY: the view's strides reach every element of K x N; without rows none is read. The kernel is available.
            unsafe {
                let src = RhsBytes { ptr: src.ptr.wrapping_add(start * src.k_stride), k: k_of_group, ..src };
                (format.pack)(kernel, &src, first, to);
            }
            // What kernels add is what there is too much of.
            late_sums.iter_mut().for_each(|sum| *sum = sum.wrapping_neg());
            let (padded, columns) = (columns, columns.min(n - first));
            // Columns beyond N have zeros for weights and for a zero point.
            let mut zeros = [0; PACKED_COLS];
            match rhs.zero_points.range(&(first..first + columns)) {
                &[zero] => zeros[..columns].fill(zero + shift),
                each => zeros.iter_mut().zip(each).for_each(|(to, zero)| *to = zero + shift),
            }
            for (factor, zero) in factors.iter_mut().zip(zeros) {
                *factor = (k_of_group as i32).wrapping_mul(zero).wrapping_sub(*factor);
            }
            if let Some(at) = parts.rhs_zero {
                others[other(at) + first..][..padded].copy_from_slice(&zeros[..padded]);
            }
            if let (Some(at), Some(groups)) = (parts.group_scales, &rhs.groups) {
                let to = &mut others[other(at) + group * stride + first..][..columns];
                match groups.scales.get(group * n + first..) {
                    Some(scales) if k_of_group > 0 => {
                        to.copy_from_slice(bytemuck::cast_slice(&scales[..columns]))
                    }
                    _ => to.fill(0),
                }
            }
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::{MatRef, kernels::SumOffset};
    use quickcheck::quickcheck;

    /// The slow packer: every byte by the formula of `kernels/weights/mod.rs`, every constant by its definition.
    fn check<T: Operand>(kernel: Kernel, rhs: &Rhs<T>) {
        let (k, n) = (rhs.matrix.rows(), rhs.matrix.cols());
        let kernels::Kernel { nr, kr, offset, .. } = *kernel.0;
        let (bits, fields) = (rhs.format.bits, rhs.format.fields());
        let depth = k.next_multiple_of(fields * kr);
        let shift = rhs.format.shift(T::MIN == 0);
        let value = |i: usize, j: usize| rhs.matrix.get(i, j).map_or(0, |w| w.widen() + shift);
        let mut panels = vec![0u8; depth / fields * n.next_multiple_of(nr)];
        for i in 0..depth {
            for j in 0..n.next_multiple_of(nr) {
                let step = (j / nr) * (depth / (fields * kr)) + i / (fields * kr);
                let at = step * nr * kr + (j % nr) * kr + i % kr;
                // Codes of few bits are larger than their values by half of their range.
                let value = if i < k && j < n { value(i, j) } else { 0 };
                let code = if bits == 8 { value } else { value + (1 << (bits - 1)) };
                panels[at] |= ((code & ((1 << bits) - 1)) << (i / kr % fields * bits)) as u8;
            }
        }
        let packed = PackedRhs::pack_for(kernel, *rhs).unwrap();
        assert_eq!(packed.contents().panels, panels, "{kernel}: {k} x {n}");
        for j in 0..n {
            let zero = rhs.zero_points.at(j) + shift;
            let sum = |first: usize| (0..k).filter(|i| i % kr >= first).map(|i| value(i, j)).sum::<i32>();
            assert_eq!(packed.contents().zero_factor[j], k as i32 * zero - sum(0), "{kernel}: column {j}");
            assert_eq!(packed.contents().rhs_zero.map_or(0, |zeros| zeros[j]), zero, "{kernel}: column {j}");
            let expected = if offset == SumOffset::SecondHalves { -sum(kr / 2) } else { 0 };
            assert_eq!(
                packed.contents().sum_offset.map_or(0, |offsets| offsets[j]),
                expected,
                "{kernel}: column {j}"
            );
        }
    }

    quickcheck! {
        fn fast_packing_is_the_formula(bytes: Vec<u8>, k: u8, n: u8, zeros: Vec<u8>) -> bool {
            let (k, n) = (k as usize % 70, n as usize % 140);
            let byte = |i: usize| bytes.get(i % bytes.len().max(1)).copied().unwrap_or(7).wrapping_add(i as u8);
            let data: Vec<u8> = (0..2 * k * n + 2 * k + n).map(byte).collect();
            let signed: &[i8] = bytemuck::cast_slice(&data);
            let zeros: Vec<i32> = (0..n).map(|j| zeros.get(j).copied().unwrap_or(128).into()).collect();
            let signed_zeros: Vec<i32> = zeros.iter().map(|z| z - 128).collect();
            // K x N, N x K, and a view without a unit stride.
            for (row, col) in [(n, 1), (1, k), (2 * n + 1, 2)] {
                let unsigned = Rhs::new(MatRef::new(&data, k, n, row, col).unwrap());
                let signed = Rhs::new(MatRef::new(signed, k, n, row, col).unwrap());
                let [four, two] = [4, 2].map(|bits| {
                    let code = |byte: &u8| (*byte as i8 >> (8 - bits)) as u8;
                    data.iter().map(code).collect::<Vec<u8>>()
                });
                let [four, two] = [&four, &two].map(|data| {
                    let signed: &[i8] = bytemuck::cast_slice(data);
                    Rhs::new(MatRef::new(signed, k, n, row, col).unwrap())
                });
                for kernel in Kernel::available() {
                    check(kernel, &four.four_bits().zero_point(-3));
                    check(kernel, &two.two_bits().zero_point(1));
                    check(kernel, &unsigned.zero_points(&zeros));
                    check(kernel, &unsigned.zero_point(128));
                    check(kernel, &signed.zero_points(&signed_zeros));
                    check(kernel, &signed);
                }
            }
            true
        }
    }
}
