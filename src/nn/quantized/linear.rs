//! A fully connected layer between quantized tensors.

use core::marker::PhantomData;

use super::{
    StaticConfig,
    weights::{StaticBias, StaticWeights},
};
use crate::{
    Broadcast, Error, Executor, Kernel, Lhs, MatMut, MatRef, Operand, OutputElement, PackedRhs, Product,
    check::{check_depth, check_shape},
    nn::Layer,
    quant::QParams,
};

/// A statically quantized fully connected layer, `y = x W^T + bias`: input of type `A` (i8 or u8), output of type `T` (i8, u8, f32
/// or i32), symmetric i8 weights.
///
/// ```
/// use i8gemm::{MatMut, MatRef, nn::{Layer, StaticConfig, StaticLinear}, quant::QParams};
/// let weights = [0.5f32, -1.0, 0.25, 2.0, 1.0, -0.5]; // 2 outputs, 3 inputs
/// let (input, output) = (QParams { scale: 0.02, zero_point: 128 }, QParams { scale: 0.05, zero_point: 100 });
/// let config = StaticConfig::new(input, output).relu();
/// let linear = StaticLinear::<u8, u8>::new(MatRef::row_major(&weights, 2, 3)?, Some(&[0.1, -0.1]), config)?;
///
/// let x = [178u8, 228, 78]; // 1, 2, -1
/// let mut y = [0u8; 2];
/// let mut scratch = linear.workspace(1)?;
/// linear.forward(MatRef::row_major(&x, 1, 3)?, MatMut::row_major(&mut y, 1, 2)?, &mut scratch)?;
/// assert_eq!(y, [100, 188]); // -1.65 behind the ReLU, 4.4
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug)]
pub struct StaticLinear<A, T> {
    product: Product,
    input: QParams,
    elements: PhantomData<(A, T)>,
}

impl<A: Operand, T: OutputElement> StaticLinear<A, T> {
    /// From real weights, outputs x inputs (PyTorch's layout), and a bias, one value for each output, in units of the real
    /// output.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::NonFinite`] (with the index in row-major order), [`Error::Bias`] for weights and bias;
    /// [`Error::Scale`], [`Error::ZeroPoint`] for the parameters of input, output and weights, and for scales whose quotient is 0
    /// or infinite; [`Error::BiasType`] for an f32 bias of i32 output; [`Error::KTooLong`] for more than
    /// [`MAX_SAFE_K`](crate::MAX_SAFE_K) inputs; [`Error::SizeOverflow`]; the errors of [`Kernel::best`].
    pub fn new(weights: MatRef<f32>, bias: Option<&[f32]>, config: StaticConfig<T>) -> Result<Self, Error> {
        let (outputs, inputs) = (weights.rows(), weights.cols());
        check_depth(inputs)?;
        let weights = StaticWeights::quantize(&weights.copied("weights")?, outputs, inputs, &config)?;
        Self::from_parts(&weights, outputs, inputs, bias.into(), &config)
    }

    /// From weights that are quantized already, in the same layout, their scales (one, or one for each output), and a bias in units
    /// of input scale * weight scale. What the configuration says of weights is not used.
    ///
    /// # Errors
    /// As [`StaticLinear::new`]; [`Error::Bias`] for a bias with which some input would make a sum leave i32.
    pub fn from_quantized<'s>(
        weights: MatRef<i8>,
        scales: impl Into<Broadcast<'s, f32>>,
        bias: Option<&[i32]>,
        config: StaticConfig<T>,
    ) -> Result<Self, Error> {
        let (outputs, inputs) = (weights.rows(), weights.cols());
        check_depth(inputs)?;
        let weights = StaticWeights::new(&weights.copied("weights")?, scales.into(), outputs, inputs)?;
        Self::from_parts(&weights, outputs, inputs, bias.into(), &config)
    }

    fn from_parts(
        weights: &StaticWeights,
        outputs: usize,
        inputs: usize,
        bias: StaticBias,
        config: &StaticConfig<T>,
    ) -> Result<Self, Error> {
        let kernel = config.chosen_kernel()?;
        let finish = weights.finish::<A, T>(config, bias, outputs)?;
        let rhs = MatRef::row_major(&weights.values, outputs, inputs)?.transpose();
        let product = Product::from_parts::<T>(PackedRhs::pack_for(kernel, rhs)?, finish)?;
        Ok(Self { product, input: config.input, elements: PhantomData })
    }

    /// Features of a row of `x`.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.product.weights().k()
    }

    /// Features of a row of the output.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.product.weights().n()
    }

    /// The kernel that the layer runs on.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.product.weights().kernel()
    }
}

impl<A: Operand, T: OutputElement> Layer for StaticLinear<A, T> {
    type Shape = usize;
    type Input<'a> = MatRef<'a, A>;
    type Output<'a> = MatMut<'a, T>;
    type Done = ();

    /// Rows.
    fn shape_of(&self, x: &MatRef<A>) -> usize {
        x.rows()
    }

    fn workspace_size_with(&self, m: usize, executor: &(impl Executor + ?Sized)) -> Result<usize, Error> {
        self.product.workspace_size_with(m, executor)
    }

    /// Computes `y`, M x outputs, from `x`, M x inputs.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::BufferTooSmall`].
    fn forward_with(
        &self,
        executor: &(impl Executor + ?Sized),
        x: MatRef<A>,
        y: MatMut<T>,
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        check_shape("columns of x (inputs)", self.inputs(), x.cols())?;
        self.product.run_with(executor, Lhs::new(x).zero_point(self.input.zero_point), y, scratch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::trust::{self, UNIT};

    #[test]
    fn calls_trust_what_was_checked() -> Result<(), Error> {
        let (weights, config) = (MatRef::row_major(&[127.0; 3], 3, 1)?, StaticConfig::new(UNIT, UNIT));
        let mut linear = StaticLinear::<i8, i8>::new(weights, None, config)?;
        linear.product = linear.product.spoiled()?;
        let mut scratch = linear.workspace(1)?;
        let x = MatRef::row_major(&[1], 1, 1)?;
        trust::check(|y| linear.forward(x, MatMut::row_major(y, 1, 3)?, &mut scratch))
    }
}
