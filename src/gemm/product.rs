//! A product that owns all it needs.

use super::{Finish, Gemm, Kind, Lhs, Output, PackedRhs, Patches, Workspace, owned::OwnedFinish};
use crate::{
    ElementType, Error, Executor, MatMut, Operand, OutputElement, Sequential,
    kernels::{self, Multiply},
    parallel::Team,
    shared::Shared,
};

/// A product that owns its packed weights and its output, checked once: what a layer, an operator of a runtime, or a handle keeps.
///
/// It computes as [`Gemm`] does, and as fast. Clones are cheap: they share weights and parameters. Several threads can run
/// one at the same time, each with a scratch of its own (it is `Send` and `Sync` wherever the target has atomic counters). The type of
/// its elements is a value that may come from a file; views of another type are refused.
///
/// ```
/// use i8gemm::{ElementType, Error, Lhs, MatMut, MatRef, Output, PackedRhs, Product};
/// struct Operator {
///     product: Product, // no lifetime
/// }
///
/// fn load(weights: &[i8], scales: &[f32], bias: &[i32]) -> Result<Operator, Error> {
///     let weights = PackedRhs::pack(MatRef::row_major(weights, 3, 2)?)?; // K = 3, N = 2
///     let output = Output::<u8>::requantize(scales, 10).bias(bias);
///     Ok(Operator { product: Product::new(weights, output)? }) // scales and bias are copied
/// }
///
/// let operator = load(&[1, -2, 3, 4, -5, 6], &[0.5, 0.25], &[4, -4])?;
/// assert_eq!(operator.product.output_type(), ElementType::U8);
/// let x = [130u8, 127, 128, 255, 0, 128]; // M = 2, zero point 128
/// let mut y = [0u8; 4];
/// let mut scratch = operator.product.workspace(2)?;
/// let lhs = Lhs::new(MatRef::row_major(&x, 2, 3)?).zero_point(128);
/// operator.product.run(lhs, MatMut::row_major(&mut y, 2, 2)?, &mut scratch)?;
/// assert_eq!(y, [12, 7, 0, 0]);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Product {
    weights: Shared<PackedRhs<'static>>,
    finish: Shared<OwnedFinish>,
    multiply: Multiply,
    element: ElementType,
}

impl Product {
    /// Checks the output against the weights, and copies its scales and bias.
    ///
    /// ```
    /// # use i8gemm::{MatMut, MatRef, Output, PackedRhs, Product};
    /// let product = Product::new(PackedRhs::pack(MatRef::row_major(&[1i8, 2, 3], 3, 1)?)?, Output::f32(0.5))?;
    /// # let mut y = [0.0f32];
    /// # product.apply(MatRef::row_major(&[1i8, 1, 1], 1, 3)?, MatMut::row_major(&mut y, 1, 1)?)?;
    /// # assert_eq!(y, [3.0]);
    /// # Ok::<(), i8gemm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Gemm::new`]; [`Error::SizeOverflow`] when there is no memory for the copies.
    pub fn new<T: OutputElement>(weights: PackedRhs<'static>, output: Output<T>) -> Result<Self, Error> {
        let finish = OwnedFinish::copied(&output.finish, weights.n())?;
        let multiply = weights.product(output.product, &output.finish)?;
        Self::assemble(weights, finish, multiply, T::TYPE)
    }

    /// The same weights with another output: they are shared.
    ///
    /// ```
    /// # use i8gemm::{ElementType, MatRef, Output, PackedRhs, Product};
    /// let sums = Product::new(PackedRhs::pack(MatRef::row_major(&[1i8, 2, 3], 3, 1)?)?, Output::i32())?;
    /// let real = sums.with_output(Output::f32(0.5))?;
    /// assert_eq!([sums, real].map(|product| product.output_type()), [ElementType::I32, ElementType::F32]);
    /// # Ok::<(), i8gemm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`Product::new`].
    pub fn with_output<T: OutputElement>(&self, output: Output<T>) -> Result<Self, Error> {
        let finish = OwnedFinish::copied(&output.finish, self.weights.n())?;
        let multiply = self.weights.product(output.product, &output.finish)?;
        let (finish, element) = (Shared::new("output", finish)?, T::TYPE);
        Ok(Self { weights: self.weights.clone(), finish, multiply, element })
    }

    /// Of a layer with outputs of type `T`, not requantized in integers; checked for as many columns.
    pub(crate) fn from_parts<T: OutputElement>(
        weights: PackedRhs<'static>,
        finish: OwnedFinish,
    ) -> Result<Self, Error> {
        debug_assert!(!matches!(finish.view().kind, Kind::Fixed { .. }), "that has an end of its own");
        let multiply = weights.product(kernels::multiply::<T::End>, &finish.view())?;
        Self::assemble(weights, finish, multiply, T::TYPE)
    }

    pub(super) fn assemble(
        weights: PackedRhs<'static>,
        finish: OwnedFinish,
        multiply: Multiply,
        element: ElementType,
    ) -> Result<Self, Error> {
        let weights = Shared::new("packed rhs", weights)?;
        Ok(Self { weights, finish: Shared::new("output", finish)?, multiply, element })
    }

    /// The weights: their shape and kernel.
    #[must_use]
    pub fn weights(&self) -> &PackedRhs<'static> {
        &self.weights
    }

    /// What becomes of sums.
    pub(super) fn finish(&self) -> Finish<'_> {
        self.finish.view()
    }

    /// The type of the elements that [`Product::run`] writes.
    #[must_use]
    pub fn output_type(&self) -> ElementType {
        self.element
    }

    /// Bytes that packed weights, scales and bias take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.weights.bytes() + self.finish.bytes()
    }

    /// Bytes of scratch that [`Product::run`] needs for up to `m` rows, as [`Gemm::workspace_size`].
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn workspace_size(&self, m: usize) -> Result<usize, Error> {
        self.workspace_size_with(m, &Sequential)
    }

    /// Bytes of scratch that [`Product::run_with`] needs for up to `m` rows on that executor.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn workspace_size_with(&self, m: usize, executor: &(impl Executor + ?Sized)) -> Result<usize, Error> {
        self.weights.workspace_size(m, Team::of(executor))
    }

    /// Scratch for [`Product::run`] with up to `m` rows.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn workspace(&self, m: usize) -> Result<Workspace, Error> {
        Workspace::with_size(self.workspace_size(m)?)
    }

    /// Computes `out` on the caller's thread. Allocates nothing.
    ///
    /// # Errors
    /// [`Error::OutputType`] unless `out` has elements of [`Product::output_type`]; otherwise as [`Gemm::run`]. Nothing has been
    /// written then.
    pub fn run<'l, A: Operand, T: OutputElement>(
        &self,
        lhs: impl Into<Lhs<'l, A>>,
        out: MatMut<T>,
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        self.run_with(&Sequential, lhs, out, scratch)
    }

    /// As [`Product::run`], in parts on the threads of an executor.
    ///
    /// # Errors
    /// As [`Product::run`]; the scratch must have [`Product::workspace_size_with`] bytes.
    pub fn run_with<'l, A: Operand, T: OutputElement>(
        &self,
        executor: &(impl Executor + ?Sized),
        lhs: impl Into<Lhs<'l, A>>,
        out: MatMut<T>,
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        self.check_type::<T>()?;
        self.gemm().run_with(executor, lhs, out, scratch)
    }

    /// As [`Product::run_with`], with the patches of an image as the rows of `lhs`.
    ///
    /// # Errors
    /// As [`Product::run_with`].
    pub(crate) fn run_patches<A: Operand, T: OutputElement>(
        &self,
        executor: &(impl Executor + ?Sized),
        patches: &Patches<A>,
        out: MatMut<T>,
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        self.check_type::<T>()?;
        self.gemm().run_patches(executor, patches, out, scratch)
    }

    /// Computes `out` with scratch of its own: the convenient form.
    ///
    /// # Errors
    /// As [`Product::run`]; [`Error::SizeOverflow`] when there is no memory for the scratch.
    pub fn apply<'l, A: Operand, T: OutputElement>(
        &self,
        lhs: impl Into<Lhs<'l, A>>,
        out: MatMut<T>,
    ) -> Result<(), Error> {
        self.check_type::<T>()?;
        self.gemm().apply(lhs, out)
    }

    /// Nothing else of the output is checked again.
    #[inline]
    fn check_type<T: OutputElement>(&self) -> Result<(), Error> {
        let (expected, actual) = (self.element, T::TYPE);
        if expected == actual { Ok(()) } else { Err(Error::OutputType { expected, actual }) }
    }

    /// The product as it is computed, to a type that has been checked.
    #[inline]
    fn gemm<T: OutputElement>(&self) -> Gemm<'_, T> {
        Gemm::checked(&self.weights, self.finish.view(), self.multiply)
    }

    /// With an output that [`OwnedFinish::spoiled`] makes of its own.
    #[cfg(test)]
    pub(crate) fn spoiled(&self) -> Result<Self, Error> {
        Ok(Self { finish: Shared::new("output", self.finish.spoiled(self.weights.n())?)?, ..self.clone() })
    }
}
