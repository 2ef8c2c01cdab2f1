//! Weights before they are packed.

use crate::{
    Broadcast, Error, MatRef, Operand,
    check::{check_depth, check_len, check_zero_points_within},
    kernels::{
        self, EndGroups, Id, Multiply,
        weights::{Format, i2::I2, i4::I4, i8::I8},
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
    pub(crate) format: &'static Format,
    pub(crate) groups: Option<Groups<'a>>,
}

/// Scales of groups of K.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Groups<'a> {
    /// Rows of a group.
    pub size: usize,
    pub scales: &'a [f32],
    /// A kernel's product that adds groups up.
    pub product: fn(Id) -> Multiply,
}

impl Groups<'_> {
    /// What sizes of groups are multiples of: whole steps of every kernel's panels, whose depth is 16 at most, in that format; and 32
    /// at least.
    pub fn multiple(format: &Format) -> usize {
        16 * format.fields().max(2)
    }
}

impl<'a, T: Operand> Rhs<'a, T> {
    /// Weights with zero point 0.
    #[must_use]
    pub fn new(matrix: MatRef<'a, T>) -> Self {
        Self { matrix, zero_points: Broadcast::All(0), allow_wrapping: false, format: &I8, groups: None }
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

    /// Accepts K above [`MAX_SAFE_K`](crate::MAX_SAFE_K): sums are then exact modulo 2^32.
    #[must_use]
    pub fn allow_wrapping(self) -> Self {
        Self { allow_wrapping: true, ..self }
    }

    /// Stores weights in 4 bits each, half the bytes: they are -8..=7 as i8, 0..=15 as u8, and so are their zero points.
    ///
    /// The product is as exact as that of 8 bits, with every output, on every kernel.
    ///
    /// ```
    /// use i8gemm::{Gemm, MatMut, MatRef, Output, PackedRhs, Rhs};
    /// let w = [1u8, 15, 8, 0, 9, 7]; // K = 3, N = 2, zero point 8
    /// let weights = PackedRhs::pack(Rhs::new(MatRef::row_major(&w, 3, 2)?).zero_point(8).four_bits())?;
    /// let mut y = [0i32; 2];
    /// Gemm::new(&weights, Output::i32())?
    ///     .apply(MatRef::row_major(&[1i8, 2, 3], 1, 3)?, MatMut::row_major(&mut y, 1, 2)?)?;
    /// assert_eq!(y, [-7 + 2 * 0 + 3 * 1, 7 - 2 * 8 - 3]);
    /// # Ok::<(), i8gemm::Error>(())
    /// ```
    #[must_use]
    pub fn four_bits(self) -> Self {
        Self { format: &I4, ..self }
    }

    /// Stores weights in 2 bits each, a quarter of the bytes: they are -2..=1 as i8, 0..=3 as u8, and so are their zero points. As
    /// exact as [`Rhs::four_bits`], with every output, on every kernel.
    ///
    /// ```
    /// use i8gemm::{Gemm, MatMut, MatRef, Output, PackedRhs, Rhs};
    /// let w = [1i8, -2, 0, -1, -1, 1]; // K = 3, N = 2
    /// let weights = PackedRhs::pack(Rhs::new(MatRef::row_major(&w, 3, 2)?).two_bits())?;
    /// let mut y = [0i32; 2];
    /// Gemm::new(&weights, Output::i32())?
    ///     .apply(MatRef::row_major(&[1i8, 2, 3], 1, 3)?, MatMut::row_major(&mut y, 1, 2)?)?;
    /// assert_eq!(y, [1 - 3, -2 - 2 + 3]);
    /// # Ok::<(), i8gemm::Error>(())
    /// ```
    #[must_use]
    pub fn two_bits(self) -> Self {
        Self { format: &I2, ..self }
    }

    /// A scale for each column of each group of `size` rows of K, a multiple of 32, or of 64 for weights of 2 bits: `scales` are `ceil(K / size)` x N, finite, of any
    /// sign. The output is f32, in which groups are added in ascending order, every operation rounded to nearest even:
    ///
    /// ```text
    /// sum[m, n] = f32(s[0, m, n]) * scales[0, n] + f32(s[1, m, n]) * scales[1, n] + ..     s[g, m, n] the i32 sum over the group g of K
    /// out[m, n] = clamp(sum[m, n] * (lhs scale[m] * output scale[n]) + bias[n])
    /// ```
    ///
    /// Each group is a product of its own whose outputs are read, added and stored: small groups cost several times what one sum over
    /// all of K does.
    ///
    /// ```
    /// use i8gemm::{Gemm, MatMut, MatRef, Output, PackedRhs, Rhs};
    /// let (x, w) = ([1i8; 64], [1i8; 64]); // K = 64 in two groups, N = 1
    /// let weights = PackedRhs::pack(Rhs::new(MatRef::row_major(&w, 64, 1)?).four_bits().groups(32, &[0.5, -0.25]))?;
    /// let mut y = [0.0f32];
    /// Gemm::new(&weights, Output::f32(1.0))?
    ///     .apply(MatRef::row_major(&x, 1, 64)?, MatMut::row_major(&mut y, 1, 1)?)?;
    /// assert_eq!(y, [32.0 * 0.5 - 32.0 * 0.25]);
    /// # Ok::<(), i8gemm::Error>(())
    /// ```
    #[must_use]
    pub fn groups(self, size: usize, scales: &'a [f32]) -> Self {
        Self { groups: Some(Groups { size, scales, product: kernels::multiply::<EndGroups> }), ..self }
    }

    /// These are the same weights in the same place, and as much is allowed of them: packed, they are the same bytes. Groups are not
    /// looked at: weights that have some are other ones.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let place = |rhs: &Self| {
            (
                rhs.matrix.as_ptr(),
                rhs.matrix.rows(),
                rhs.matrix.cols(),
                rhs.matrix.row_stride(),
                rhs.matrix.col_stride(),
            )
        };
        let zeros = match (self.zero_points, other.zero_points) {
            (Broadcast::All(a), Broadcast::All(b)) => a == b,
            (Broadcast::Each(a), Broadcast::Each(b)) => core::ptr::eq(a, b),
            _ => false,
        };
        let like = |rhs: &Self| (place(rhs), rhs.format.bits, rhs.allow_wrapping, rhs.groups.is_none());
        self.groups.is_none() && zeros && like(self) == like(other)
    }

    /// Rows of K that are summed together: those of a group, or all.
    pub(crate) fn group_size(&self) -> usize {
        let k = self.matrix.rows();
        self.groups.map_or(k, |groups| groups.size.min(k))
    }

    /// Everything but the weights themselves.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let (k, n) = (self.matrix.rows(), self.matrix.cols());
        if let Some(Groups { size, scales, .. }) = self.groups {
            let multiple = Groups::multiple(self.format);
            if size == 0 || !size.is_multiple_of(multiple) {
                return Err(Error::GroupSize { size, multiple });
            }
            let overflow = Error::SizeOverflow { what: "group scales", rows: k, cols: n };
            check_len("group scales", scales.len(), k.div_ceil(size).checked_mul(n).ok_or(overflow)?)?;
            if let Some(index) = scales.iter().position(|scale| !scale.is_finite()) {
                let value = scales[index];
                return Err(Error::NonFinite { what: "group scale", index, value });
            }
        }
        if !self.allow_wrapping {
            check_depth(self.group_size())?;
        }
        check_zero_points_within("rhs zero point", &self.zero_points, n, self.range())
    }

    /// Every weight fits its bits.
    pub(crate) fn check_values(&self) -> Result<(), Error> {
        let [min, max] = self.range();
        if (min, max) == (T::MIN, T::MAX) || self.matrix.rows() == 0 || self.matrix.cols() == 0 {
            return Ok(());
        }
        // Lines of adjacent weights are looked at whole, which compilers make vectors of; then one by one, for the first that is wrong.
        let lines = if self.matrix.col_stride() == 1 { self.matrix } else { self.matrix.transpose() };
        let fits = |&value: &T| (value.widen() - min) as u32 <= (max - min) as u32;
        let all_fit = |line: &[T]| line.iter().fold(true, |all, value| all & fits(value));
        if (0..lines.rows()).all(|line| lines.row_slice(line).is_some_and(all_fit)) {
            return Ok(());
        }
        for row in 0..self.matrix.rows() {
            for col in 0..self.matrix.cols() {
                let value = self.matrix.get(row, col).map_or(0, Operand::widen);
                if !(min..=max).contains(&value) {
                    return Err(Error::Weight { row, col, value, min, max });
                }
            }
        }
        Ok(())
    }

    /// Smallest and largest weight.
    fn range(&self) -> [i32; 2] {
        let unsigned = usize::from(T::MIN == 0);
        [self.format.min[unsigned], self.format.max[unsigned]]
    }
}

impl<'a, T: Operand> From<MatRef<'a, T>> for Rhs<'a, T> {
    fn from(matrix: MatRef<'a, T>) -> Self {
        Self::new(matrix)
    }
}
