//! Weights, packed once: panels in the kernel's order, and the column constants that zero points need.

use crate::{
    Broadcast, Error, Kernel, MatRef, Operand,
    gemm::{MAX_SAFE_K, output::check_zero_points},
    kernels::{
        SumOffset,
        layout::{self, RhsBytes},
    },
};

/// Weights and their zero points, before packing: `rhs`, K x N.
///
/// ```
/// use i8gemm::{MatRef, Rhs};
/// let w = [1i8, 2, 3, 4, 5, 6];
/// let rhs = Rhs::new(MatRef::row_major(&w, 3, 2)?).zero_points(&[1, -1]);
/// // The same weights stored N x K, as most frameworks do:
/// let t = [1i8, 3, 5, 2, 4, 6];
/// let same = Rhs::new(MatRef::row_major(&t, 2, 3)?.transpose()).zero_points(&[1, -1]);
/// # let _ = (rhs, same);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Rhs<'a, T> {
    pub(crate) matrix: MatRef<'a, T>,
    pub(crate) zero_points: Broadcast<'a, i32>,
    allow_wrapping: bool,
}

impl<'a, T: Operand> Rhs<'a, T> {
    /// Weights with zero point 0.
    #[must_use]
    pub fn new(matrix: MatRef<'a, T>) -> Self {
        Self { matrix, zero_points: Broadcast::All(0), allow_wrapping: false }
    }

    /// One zero point for all weights, a value of `T`.
    #[must_use]
    pub fn zero_point(self, zero_point: i32) -> Self {
        Self { zero_points: Broadcast::All(zero_point), ..self }
    }

    /// One zero point for each column (output channel), values of `T`.
    #[must_use]
    pub fn zero_points(self, zero_points: &'a [i32]) -> Self {
        Self { zero_points: Broadcast::Each(zero_points), ..self }
    }

    /// Accepts K above [`MAX_SAFE_K`]: sums are then exact modulo 2^32.
    #[must_use]
    pub fn allow_wrapping(self) -> Self {
        Self { allow_wrapping: true, ..self }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        if !self.allow_wrapping {
            check_depth(self.matrix.rows())?;
        }
        check_zero_points::<T>("rhs zero point", &self.zero_points, self.matrix.cols())
    }
}

/// Sums of K products fit an i32 whatever the values.
pub(crate) fn check_depth(k: usize) -> Result<(), Error> {
    if k <= MAX_SAFE_K { Ok(()) } else { Err(Error::KTooLong { k, max: MAX_SAFE_K }) }
}

impl<'a, T: Operand> From<MatRef<'a, T>> for Rhs<'a, T> {
    fn from(matrix: MatRef<'a, T>) -> Self {
        Self::new(matrix)
    }
}

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
    buffer: Buffer<'a>,
    parts: Parts,
    kernel: Kernel,
    k: usize,
    n: usize,
}

#[derive(Debug, Clone)]
enum Buffer<'a> {
    Borrowed(&'a [u8]),
    #[cfg(feature = "alloc")]
    Owned(alloc::vec::Vec<Line>),
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

/// Where things lie in the buffer, in bytes from its first multiple of 64.
#[derive(Debug, Clone, Copy)]
struct Parts {
    /// First aligned byte of the buffer.
    start: usize,
    /// Bytes of the column constants of one kind: `N` i32, padded to whole panels and lines.
    constants: usize,
    /// Column constants, the first of which these are.
    zero_factor: usize,
    /// `None` when every zero point is 0 as the kernel sees it: no sums of `lhs` rows are needed.
    rhs_zero: Option<usize>,
    sum_offset: Option<usize>,
    panels: usize,
    end: usize,
}

const ALIGN: usize = 64;

impl Parts {
    fn new<T: Operand>(rhs: &Rhs<T>, kernel: Kernel) -> Result<Self, Error> {
        let (k, n) = (rhs.matrix.rows(), rhs.matrix.cols());
        let overflow = Error::SizeOverflow { what: "packed rhs", rows: k, cols: n };
        let kernel = kernel.0;
        let columns = n.checked_next_multiple_of(kernel.nr).ok_or(overflow)?;
        let constants =
            columns.checked_mul(4).and_then(|b| b.checked_next_multiple_of(ALIGN)).ok_or(overflow)?;
        let depth = k.checked_next_multiple_of(kernel.kr).ok_or(overflow)?;
        let bytes = depth.checked_mul(columns).ok_or(overflow)?;
        // Without columns too, a panel has room in the address space: sizes of single rows below need no check.
        depth.checked_mul(kernel.nr).filter(|&bytes| isize::try_from(bytes).is_ok()).ok_or(overflow)?;

        let mut end = 0usize;
        let mut part = |bytes: usize| -> Result<usize, Error> {
            let at = end;
            end = end.checked_add(bytes).ok_or(overflow)?;
            Ok(at)
        };
        let zero_factor = part(constants)?;
        let has_zero = rhs.zero_points.as_slice().iter().any(|z| z + rhs_shift::<T>() != 0);
        let rhs_zero = if has_zero { Some(part(constants)?) } else { None };
        let has_offset = kernel.offset != SumOffset::None;
        let sum_offset = if has_offset { Some(part(constants)?) } else { None };
        let panels = part(bytes)?;
        // A slice holds at most isize::MAX bytes; the alignment of the caller's may cost one line.
        if end > isize::MAX as usize - ALIGN {
            return Err(overflow);
        }
        Ok(Self { start: 0, constants, zero_factor, rhs_zero, sum_offset, panels, end })
    }
}

/// What is added to a weight of type `T` to get the i8 that panels hold.
fn rhs_shift<T: Operand>() -> i32 {
    i32::from(i8::MIN) - T::MIN
}

impl PackedRhs<'static> {
    /// Packs weights for [`Kernel::best`] into a buffer of its own.
    ///
    /// # Errors
    /// [`Error::KTooLong`] above [`MAX_SAFE_K`] unless wrapping is allowed; [`Error::ZeroPoint`], [`Error::Length`] for
    /// zero points; [`Error::SizeOverflow`]; the errors of [`Kernel::best`].
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
        let PackedRhs { parts, kernel, k, n, .. } = PackedRhs::pack_into(kernel, &rhs, bytes)?;
        Ok(Self { buffer: Buffer::Owned(lines), parts, kernel, k, n })
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
        Ok(Parts::new(rhs, kernel)?.end + ALIGN - 1)
    }

    /// Packs weights into the caller's buffer, of any alignment, at least [`PackedRhs::size`] bytes (63 fewer will do if
    /// it is aligned to 64).
    ///
    /// # Errors
    /// As [`PackedRhs::pack_for`]; [`Error::BufferTooSmall`].
    pub fn pack_into<T: Operand>(kernel: Kernel, rhs: &Rhs<T>, buffer: &'a mut [u8]) -> Result<Self, Error> {
        kernel.check_available()?;
        rhs.check()?;
        let mut parts = Parts::new(rhs, kernel)?;
        parts.start = buffer.as_ptr().align_offset(ALIGN);
        let needed = parts.start.saturating_add(parts.end);
        if buffer.len() < needed {
            return Err(Error::BufferTooSmall { what: "packed rhs", needed, actual: buffer.len() });
        }
        let (k, n) = (rhs.matrix.rows(), rhs.matrix.cols());
        fill(kernel, rhs, &parts, &mut buffer[parts.start..][..parts.end]);
        Ok(Self { buffer: Buffer::Borrowed(buffer), parts, kernel, k, n })
    }

    /// Depth: rows of the weights.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of the weights, and of the output.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
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

    #[cfg_attr(not(feature = "alloc"), allow(clippy::infallible_destructuring_match))]
    fn data(&self) -> &[u8] {
        let bytes = match &self.buffer {
            Buffer::Borrowed(bytes) => bytes,
            #[cfg(feature = "alloc")]
            Buffer::Owned(lines) => bytemuck::cast_slice(lines),
        };
        &bytes[self.parts.start..][..self.parts.end]
    }

    fn constants(&self, at: usize) -> &[i32] {
        bytemuck::cast_slice(&self.data()[at..][..4 * self.n])
    }

    /// What kernels read, as slices.
    #[inline]
    pub(crate) fn contents(&self) -> Contents<'_> {
        Contents {
            panels: bytemuck::cast_slice(&self.data()[self.parts.panels..]),
            zero_factor: self.constants(self.parts.zero_factor),
            rhs_zero: self.parts.rhs_zero.map(|at| self.constants(at)),
            sum_offset: self.parts.sum_offset.map(|at| self.constants(at)),
        }
    }
}

/// The contents of packed weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contents<'a> {
    /// All panels.
    pub panels: &'a [i8],
    /// `K * zero point - column sum` of each column, as the kernel sees its values.
    pub zero_factor: &'a [i32],
    /// Zero point of each column as the kernel sees it, or `None` if all are 0.
    pub rhs_zero: Option<&'a [i32]>,
    /// What the kernel's sums lack, for each column, or `None` if nothing.
    pub sum_offset: Option<&'a [i32]>,
}

/// Fills the aligned part of a buffer.
fn fill<T: Operand>(kernel: Kernel, rhs: &Rhs<T>, parts: &Parts, data: &mut [u8]) {
    let (k, n) = (rhs.matrix.rows(), rhs.matrix.cols());
    let (nr, kr) = (kernel.0.nr, kernel.0.kr);
    let shift = rhs_shift::<T>();
    let src = RhsBytes {
        ptr: rhs.matrix.as_ptr().cast(),
        k,
        n,
        k_stride: rhs.matrix.row_stride(),
        n_stride: rhs.matrix.col_stride(),
        flip: if shift == 0 { 0 } else { 0x80 },
    };
    let (constants, panels) = data.split_at_mut(parts.panels);
    let (zero_factors, others) = constants.split_at_mut(parts.constants);
    let zero_factors: &mut [i32] = bytemuck::cast_slice_mut(zero_factors);
    let others: &mut [i32] = bytemuck::cast_slice_mut(others);
    let other = |at: usize| (at - parts.constants) / 4;
    let panel_bytes = layout::padded(k, kr) * nr;
    for first in (0..n).step_by(nr) {
        // K = 0 leaves panels without bytes.
        let panel = bytemuck::cast_slice_mut(&mut panels[first / nr * panel_bytes..][..panel_bytes]);
        let sums = &mut zero_factors[first..][..nr];
        let late_sums = match parts.sum_offset {
            Some(at) => &mut others[other(at) + first..][..nr],
            None => &mut [],
        };
        // SAFETY: the view's strides reach every element of K x N.
        unsafe { (kernel.0.pack_rhs)(&src, first, panel, sums, late_sums) };
        // What kernels add is what there is too much of.
        late_sums.iter_mut().for_each(|sum| *sum = sum.wrapping_neg());
        for (column, sum) in (first..).zip(sums) {
            let zero = if column < n { rhs.zero_points.at(column) + shift } else { 0 };
            *sum = (k as i32).wrapping_mul(zero).wrapping_sub(*sum);
            if let Some(at) = parts.rhs_zero {
                others[other(at) + column] = zero;
            }
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::kernels;
    use quickcheck::quickcheck;

    /// The slow packer: every byte by the formula of `kernels/mod.rs`, every constant by its definition.
    fn check<T: Operand>(kernel: Kernel, rhs: &Rhs<T>) {
        let (k, n) = (rhs.matrix.rows(), rhs.matrix.cols());
        let kernels::Kernel { nr, kr, offset, .. } = *kernel.0;
        let depth = layout::padded(k, kr);
        let shift = rhs_shift::<T>();
        let value = |i: usize, j: usize| rhs.matrix.get(i, j).map_or(0, |w| w.widen() + shift);
        let mut panels = vec![0i8; depth * n.next_multiple_of(nr)];
        for i in 0..k {
            for j in 0..n {
                let at = (j / nr) * (depth / kr) * nr * kr + (i / kr) * nr * kr + (j % nr) * kr + i % kr;
                panels[at] = i8::try_from(value(i, j)).unwrap();
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
            let (k, n) = (k as usize % 50, n as usize % 70);
            let byte = |i: usize| bytes.get(i % bytes.len().max(1)).copied().unwrap_or(7).wrapping_add(i as u8);
            let data: Vec<u8> = (0..2 * k * n + 2 * k + n).map(byte).collect();
            let signed: &[i8] = bytemuck::cast_slice(&data);
            let zeros: Vec<i32> = (0..n).map(|j| zeros.get(j).copied().unwrap_or(128).into()).collect();
            let signed_zeros: Vec<i32> = zeros.iter().map(|z| z - 128).collect();
            // K x N, N x K, and a view without a unit stride.
            for (row, col) in [(n, 1), (1, k), (2 * n + 1, 2)] {
                let unsigned = Rhs::new(MatRef::new(&data, k, n, row, col).unwrap());
                let signed = Rhs::new(MatRef::new(signed, k, n, row, col).unwrap());
                for kernel in Kernel::available() {
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
