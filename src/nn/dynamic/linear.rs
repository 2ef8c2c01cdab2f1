//! A fully connected layer.

use super::{DynamicConfig, projection::projection};
use crate::{
    Error, Executor, Kernel, MatMut, MatRef, Product,
    check::check_shape,
    nn::{
        Layer,
        scratch::{Activations, Carver, Size},
    },
    quant::DynamicQuantizer,
};

/// A fully connected layer, `y = x W^T + bias`, with i8 weights and dynamically quantized activations.
///
/// ```
/// use i8gemm::{MatMut, MatRef, nn::{Layer, Linear}};
/// let weights = [0.5f32, -1.0, 0.25, 2.0, 1.0, -0.5]; // 2 outputs, 3 inputs
/// let linear = Linear::new(MatRef::row_major(&weights, 2, 3)?, Some(&[0.1, -0.1]))?;
///
/// let x = [1.0f32, 2.0, -1.0]; // a batch of 1
/// let mut y = [0.0; 2];
/// let mut scratch = linear.workspace(1)?;
/// linear.forward(MatRef::row_major(&x, 1, 3)?, MatMut::row_major(&mut y, 1, 2)?, &mut scratch)?;
/// assert!((y[0] - -1.65).abs() < 0.03 && (y[1] - 4.4).abs() < 0.03);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug)]
pub struct Linear {
    product: Product,
    quantizer: DynamicQuantizer,
}

impl Linear {
    /// From weights, outputs x inputs (PyTorch's layout), and a bias, one value for each output.
    ///
    /// # Errors
    /// [`Error::Length`] for the bias; [`Error::NonFinite`], with the index in row-major order, and [`Error::Bias`] for their
    /// values; [`Error::KTooLong`] for more than [`MAX_SAFE_K`](crate::MAX_SAFE_K) inputs; [`Error::SizeOverflow`]; the
    /// errors of [`Kernel::best`].
    pub fn new(weights: MatRef<f32>, bias: Option<&[f32]>) -> Result<Self, Error> {
        Self::with_config(weights, bias, DynamicConfig::default())
    }

    /// As [`Linear::new`], quantized as the caller chooses.
    ///
    /// # Errors
    /// As [`Linear::new`]; [`Error::KernelUnavailable`] when this CPU cannot run the kernel.
    pub fn with_config(
        weights: MatRef<f32>,
        bias: Option<&[f32]>,
        config: DynamicConfig,
    ) -> Result<Self, Error> {
        let product = projection(weights, bias, &config)?;
        let quantizer = config.quantizer(product.weights().kernel());
        Ok(Self { product, quantizer })
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

    /// Bytes that the quantized weights take, with scales, bias, and what the kernel needs beside them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.product.bytes()
    }
}

impl Layer for Linear {
    type Shape = usize;
    type Input<'a> = MatRef<'a, f32>;
    type Output<'a> = MatMut<'a, f32>;
    type Done = ();

    /// Rows.
    fn shape_of(&self, x: &MatRef<f32>) -> usize {
        x.rows()
    }

    fn workspace_size_with(&self, m: usize, executor: &(impl Executor + ?Sized)) -> Result<usize, Error> {
        let product = self.product.workspace_size_with(m, executor)?;
        Size::default().add_activations(&self.quantizer, m, self.inputs())?.total(product)
    }

    /// Computes `y`, M x outputs, from `x`, M x inputs.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::BufferTooSmall`]; [`Error::NonFinite`] for a value of `x`.
    fn forward_with(
        &self,
        executor: &(impl Executor + ?Sized),
        x: MatRef<f32>,
        y: MatMut<f32>,
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        let (m, k) = (x.rows(), self.inputs());
        check_shape("columns of x (inputs)", k, x.cols())?;
        check_shape("rows of out", m, y.rows())?;
        check_shape("columns of out (outputs)", self.outputs(), y.cols())?;
        let mut carver = Carver::new(scratch, self.workspace_size_with(m, executor)?)?;
        let buffers = carver.take_activations(&self.quantizer, m, k)?;
        let Activations { values, scales, zero_points, row_sums } = buffers;
        let lhs = self.quantizer.quantize_into::<f32, u8>(x, values, scales, zero_points, row_sums)?;
        self.product.run_with(executor, lhs, y, carver.rest())
    }
}
