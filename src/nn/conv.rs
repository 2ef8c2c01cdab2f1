//! Convolution as a product: patches of the image by filters.

use alloc::vec::Vec;
use core::marker::PhantomData;

use super::{
    Filters, Nhwc, StaticConfig, Window,
    static_weights::{StaticBias, StaticWeights},
};
use crate::{
    Broadcast, Error, Executor, Kernel, Lhs, MatMut, MatRef, Operand, OutputElement, PackedRhs, Product,
    Sequential, Workspace,
    gemm::{Patches, check_shape},
    memory,
    quant::QParams,
};

/// A statically quantized convolution of NHWC images: input of type `A` (i8 or u8), output of type `T` (i8, u8, f32 or i32),
/// symmetric i8 filters, in any number of groups.
///
/// ```text
/// y[n, i, j, o] = quantize(bias[o] + sum over taps u, v and channels c of r(x[n, i', j', c]) * r(w[o, c, u, v]))
/// ```
///
/// with `i' = i * stride + u * dilation - padding` and `r` the real value of a quantized one; taps in the padding are 0. The
/// sums are exact, so every kernel gives the same bits. No matrix of patches is made, and where the image is one already
/// (1 x 1 filters of stride 1) it is read in place.
///
/// ```
/// use i8gemm::{nn::{Conv2d, Filters, Nhwc, StaticConfig, Window}, quant::QParams};
/// // The mean of 3 x 3 pixels of one channel.
/// let config = StaticConfig::new(QParams { scale: 0.1, zero_point: 128 }, QParams { scale: 0.1, zero_point: 128 });
/// let filters = Filters::new(1, 1, Window::new(3, 3).padding(1, 1));
/// let conv = Conv2d::<u8, u8>::new(filters, &[1.0 / 9.0; 9], None, config)?;
///
/// let image = Nhwc::new(1, 2, 2, 1);
/// let (x, mut y) = ([218u8, 146, 128, 110], [0u8; 4]); // 9, 1.8, 0, -1.8
/// let mut scratch = conv.workspace(image)?;
/// assert_eq!(conv.forward(&x, image, &mut y, &mut scratch)?, Nhwc::new(1, 2, 2, 1));
/// assert_eq!(y, [138; 4]);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug)]
pub struct Conv2d<A, T> {
    filters: Filters,
    /// One for each group, whose weights are taps x input channels by output channels.
    groups: Vec<Product>,
    /// Input channels of a group.
    depth: usize,
    /// Filters are of one pixel and move by one: every image is a matrix, and calls of one row need no look at the patches.
    pointwise: bool,
    input: QParams,
    kernel: Kernel,
    elements: PhantomData<(A, T)>,
}

impl<A: Operand, T: OutputElement> Conv2d<A, T> {
    /// From real weights, outputs x (inputs / groups) x height x width (PyTorch's layout), and a bias, one value for each
    /// output channel, in units of the real output.
    ///
    /// # Errors
    /// [`Error::Zero`], [`Error::Groups`] for the filters; [`Error::Length`], [`Error::NonFinite`], [`Error::Bias`] for weights
    /// and bias; [`Error::Scale`], [`Error::ZeroPoint`] for the parameters of input, output and weights, and for scales whose
    /// quotient is 0 or infinite; [`Error::BiasType`] for an f32 bias of i32 output; [`Error::KTooLong`] for filters of more
    /// than [`MAX_SAFE_K`](crate::MAX_SAFE_K) values; [`Error::SizeOverflow`]; the errors of [`Kernel::best`].
    pub fn new(
        filters: Filters,
        weights: &[f32],
        bias: Option<&[f32]>,
        config: StaticConfig<T>,
    ) -> Result<Self, Error> {
        let (_, size) = filters.check()?;
        let weights = StaticWeights::quantize(weights, filters.outputs, size, &config)?;
        Self::from_parts(filters, &weights, bias.into(), &config)
    }

    /// From weights that are quantized already, in the same layout, their scales (one, or one for each output channel), and a
    /// bias in units of input scale * weight scale. What the configuration says of weights is not used.
    ///
    /// # Errors
    /// As [`Conv2d::new`]; [`Error::Bias`] for a bias with which some input would make a sum leave i32.
    pub fn from_quantized<'s>(
        filters: Filters,
        weights: &[i8],
        scales: impl Into<Broadcast<'s, f32>>,
        bias: Option<&[i32]>,
        config: StaticConfig<T>,
    ) -> Result<Self, Error> {
        let (_, size) = filters.check()?;
        let weights = StaticWeights::new(weights, scales.into(), filters.outputs, size)?;
        Self::from_parts(filters, &weights, bias.into(), &config)
    }

    fn from_parts(
        filters: Filters,
        weights: &StaticWeights,
        bias: StaticBias,
        config: &StaticConfig<T>,
    ) -> Result<Self, Error> {
        let (depth, size) = filters.check()?;
        let kernel = config.chosen_kernel()?;
        let finish = weights.finish::<A, T>(config, bias, filters.outputs)?;
        // Channels last, as in the patches.
        let taps = size / depth;
        let mut ordered = memory::room("weights", filters.outputs, size)?;
        for filter in weights.values.chunks_exact(size) {
            ordered.extend((0..size).map(|at| filter[at % depth * taps + at / depth]));
        }
        let outputs = filters.outputs / filters.groups;
        let groups = ordered.chunks_exact(outputs * size).enumerate().map(|(group, weights)| {
            let rhs = MatRef::row_major(weights, outputs, size)?.transpose();
            let finish = finish.columns(outputs, |column| group * outputs + column)?;
            Product::from_parts::<T>(PackedRhs::pack_for(kernel, rhs)?, finish)
        });
        let groups = memory::try_collected("groups", groups)?;
        let pointwise = filters.window == Window::new(1, 1);
        Ok(Self { filters, groups, depth, pointwise, input: config.input, kernel, elements: PhantomData })
    }

    /// What the filters read and write.
    #[must_use]
    pub fn filters(&self) -> &Filters {
        &self.filters
    }

    /// The kernel that the layer runs on.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// The shape of the output for images of that shape.
    ///
    /// # Errors
    /// [`Error::Shape`] for other channels than the filters read; [`Error::Window`]; [`Error::SizeOverflow`].
    #[inline]
    pub fn output_shape(&self, shape: Nhwc) -> Result<Nhwc, Error> {
        check_shape("channels of x", self.filters.inputs, shape.channels)?;
        shape.elements()?;
        let out = self.filters.window.output(shape, self.filters.outputs)?;
        out.elements()?;
        Ok(out)
    }

    /// Bytes of scratch that [`Conv2d::forward`] needs for images of that shape. Bounded: it stops growing with the image when
    /// a block of patches fills a part of the cache.
    ///
    /// # Errors
    /// As [`Conv2d::output_shape`].
    pub fn workspace_size(&self, shape: Nhwc) -> Result<usize, Error> {
        self.workspace_size_with(shape, &Sequential)
    }

    /// Bytes of scratch that [`Conv2d::forward_with`] needs on that executor.
    ///
    /// # Errors
    /// As [`Conv2d::output_shape`].
    pub fn workspace_size_with(
        &self,
        shape: Nhwc,
        executor: &(impl Executor + ?Sized),
    ) -> Result<usize, Error> {
        let pixels = self.output_shape(shape)?.pixels()?;
        // Groups are alike, and run one after the other.
        self.groups.first().map_or(Ok(0), |product| product.workspace_size_with(pixels, executor))
    }

    /// Scratch for [`Conv2d::forward`] with images of that shape.
    ///
    /// # Errors
    /// As [`Conv2d::output_shape`].
    pub fn workspace(&self, shape: Nhwc) -> Result<Workspace, Error> {
        Workspace::with_size(self.workspace_size(shape)?)
    }

    /// Computes `y` from the images `x` and gives its shape. Allocates nothing.
    ///
    /// # Errors
    /// As [`Conv2d::output_shape`]; [`Error::Shape`] for slices that are not of the shapes; [`Error::BufferTooSmall`] for the
    /// scratch. Nothing has been written to `y` then.
    pub fn forward(&self, x: &[A], shape: Nhwc, y: &mut [T], scratch: &mut [u8]) -> Result<Nhwc, Error> {
        self.forward_with(&Sequential, x, shape, y, scratch)
    }

    /// As [`Conv2d::forward`], in parts on the threads of an executor.
    ///
    /// # Errors
    /// As [`Conv2d::forward`]; the scratch must have [`Conv2d::workspace_size_with`] bytes.
    pub fn forward_with(
        &self,
        executor: &(impl Executor + ?Sized),
        x: &[A],
        shape: Nhwc,
        y: &mut [T],
        scratch: &mut [u8],
    ) -> Result<Nhwc, Error> {
        let out = self.output_shape(shape)?;
        check_shape("elements of x", shape.elements()?, x.len())?;
        check_shape("elements of y", out.elements()?, y.len())?;
        let (pixels, window, zero) = (out.pixels()?, &self.filters.window, self.input.zero_point);
        if pixels == 0 {
            return Ok(out);
        }
        let patches = || Patches::new(x, shape, window, out, zero);
        // From one row of the product to the next, where the image is its matrix.
        let stride = if self.pointwise {
            Some(shape.channels)
        } else {
            patches()?.channels(0..self.depth)?.row_stride()
        };
        let (mut first, mut column) = (0, 0);
        for product in &self.groups {
            let columns = product.weights().n();
            let y = MatMut::new(&mut y[column..], pixels, columns, out.channels, 1)?;
            match stride {
                Some(stride) => {
                    let matrix = MatRef::new(&x[first..], pixels, product.weights().k(), stride, 1)?;
                    product.run_with(executor, Lhs::new(matrix).zero_point(zero), y, scratch)?;
                }
                None => product.run_patches(
                    executor,
                    &patches()?.channels(first..first + self.depth)?,
                    y,
                    scratch,
                )?,
            }
            (first, column) = (first + self.depth, column + columns);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::trust::{self, UNIT};

    /// Groups, and both ways to the product: the image as it is, and patches of it.
    #[test]
    fn calls_trust_what_was_checked() -> Result<(), Error> {
        for window in [Window::new(1, 1), Window::new(3, 1).padding(1, 0)] {
            let (filters, weights) =
                (Filters::new(3, 3, window).groups(3), &[127.0; 9][..3 * window.size().0]);
            let mut conv = Conv2d::<i8, i8>::new(filters, weights, None, StaticConfig::new(UNIT, UNIT))?;
            if let Some(last) = conv.groups.last_mut() {
                *last = last.spoiled()?;
            }
            let image = Nhwc::new(1, 1, 1, 3);
            let mut scratch = conv.workspace(image)?;
            trust::check(|y| conv.forward(&[1; 3], image, y, &mut scratch).map(drop))?;
        }
        Ok(())
    }
}
