//! Activations: the operand that each call brings.

use super::output::BorrowedKind;
use crate::{
    Broadcast, Error, MatRef, Operand,
    check::{check_scales, check_shape, check_zero_points},
};

/// Activations, M x K, with their zero points and scales: `r = scale * (q - zero_point)`.
///
/// ```
/// use i8gemm::{Lhs, MatRef};
/// let x = [200u8, 100, 0, 50];
/// let matrix = MatRef::row_major(&x, 2, 2)?;
/// let per_tensor = Lhs::new(matrix).zero_point(128);
/// let per_row = Lhs::new(matrix).zero_points(&[128, 7]).scales(&[0.5, 0.1]); // dynamic quantization
/// # let _ = (per_tensor, per_row);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Lhs<'a, A> {
    pub(crate) matrix: MatRef<'a, A>,
    pub(crate) zero_points: Broadcast<'a, i32>,
    pub(crate) scales: Option<Broadcast<'a, f32>>,
    /// Sums of the rows, if whoever quantized them has taken them already.
    pub(crate) row_sums: Option<&'a [i32]>,
}

impl<'a, A: Operand> Lhs<'a, A> {
    /// Activations with zero point 0 and scale 1.
    #[must_use]
    pub fn new(matrix: MatRef<'a, A>) -> Self {
        Self { matrix, zero_points: Broadcast::All(0), scales: None, row_sums: None }
    }

    /// One zero point for all rows, a value of `A`.
    #[must_use]
    pub fn zero_point(self, zero_point: i32) -> Self {
        Self { zero_points: Broadcast::All(zero_point), ..self }
    }

    /// One zero point for each row, values of `A`.
    #[must_use]
    pub fn zero_points(self, zero_points: &'a [i32]) -> Self {
        Self { zero_points: Broadcast::Each(zero_points), ..self }
    }

    /// One scale for all rows, finite and above zero; for f32 output only.
    #[must_use]
    pub fn scale(self, scale: f32) -> Self {
        Self { scales: Some(Broadcast::All(scale)), ..self }
    }

    /// One scale for each row, finite and above zero; for f32 output only.
    #[must_use]
    pub fn scales(self, scales: &'a [f32]) -> Self {
        Self { scales: Some(Broadcast::Each(scales)), ..self }
    }

    pub(crate) fn row_scales(&self) -> Broadcast<'a, f32> {
        self.scales.unwrap_or(Broadcast::All(1.0))
    }

    /// Checks the activations against the depth of the weights and the kind of output.
    pub(crate) fn check(&self, k: usize, kind: &BorrowedKind) -> Result<(), Error> {
        check_shape("columns of lhs (K)", k, self.matrix.cols())?;
        check_zero_points::<A>("lhs zero point", &self.zero_points, self.matrix.rows())?;
        if let Some(scales) = &self.scales {
            if !kind.takes_row_scales() {
                return Err(Error::UnusedLhsScale);
            }
            check_scales("lhs scale", scales, self.matrix.rows())?;
        }
        Ok(())
    }
}

impl<'a, A: Operand> From<MatRef<'a, A>> for Lhs<'a, A> {
    fn from(matrix: MatRef<'a, A>) -> Self {
        Self::new(matrix)
    }
}
