//! Convolution as a product: patches of the image by filters.

use alloc::vec::Vec;
use core::marker::PhantomData;

use super::{
    Filters, StaticConfig,
    filters::convolution,
    weights::{StaticBias, StaticWeights},
};
use crate::{
    Broadcast, Error, Executor, Kernel, Lhs, MatMut, MatRef, Operand, OutputElement, PackedRhs, Product,
    check::check_shape,
    gemm::Patches,
    image::{Images, Nhwc, Window},
    memory,
    nn::Layer,
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
/// use i8gemm::{nn::{Conv2d, Filters, Images, Layer, Nhwc, StaticConfig, Window}, quant::QParams};
/// // The mean of 3 x 3 pixels of one channel.
/// let config = StaticConfig::new(QParams { scale: 0.1, zero_point: 128 }, QParams { scale: 0.1, zero_point: 128 });
/// let filters = Filters::new(1, 1, Window::new(3, 3).padding(1, 1));
/// let conv = Conv2d::<u8, u8>::new(filters, &[1.0 / 9.0; 9], None, config)?;
///
/// let image = Nhwc::new(1, 2, 2, 1);
/// let (x, mut y) = ([218u8, 146, 128, 110], [0u8; 4]); // 9, 1.8, 0, -1.8
/// let mut scratch = conv.workspace(image)?;
/// assert_eq!(conv.forward(Images::new(&x, image)?, &mut y, &mut scratch)?, Nhwc::new(1, 2, 2, 1));
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

convolution!(Conv2d);

impl<A: Operand, T: OutputElement> Conv2d<A, T> {
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
}

impl<A: Operand, T: OutputElement> Layer for Conv2d<A, T> {
    type Shape = Nhwc;
    type Input<'a> = Images<'a, A>;
    type Output<'a> = &'a mut [T];
    type Done = Nhwc;

    fn shape_of(&self, x: &Images<A>) -> Nhwc {
        x.shape()
    }

    /// Bounded: it stops growing with the image when a block of patches fills a part of the cache.
    ///
    /// # Errors
    /// As [`Conv2d::output_shape`].
    fn workspace_size_with(&self, shape: Nhwc, executor: &(impl Executor + ?Sized)) -> Result<usize, Error> {
        let pixels = self.output_shape(shape)?.pixels()?;
        // Groups are alike, and run one after the other.
        self.groups.first().map_or(Ok(0), |product| product.workspace_size_with(pixels, executor))
    }

    /// Computes `y` from the images `x` and gives its shape.
    ///
    /// # Errors
    /// As [`Conv2d::output_shape`]; [`Error::Shape`] for a `y` that does not have that shape; [`Error::BufferTooSmall`].
    fn forward_with(
        &self,
        executor: &(impl Executor + ?Sized),
        x: Images<A>,
        y: &mut [T],
        scratch: &mut [u8],
    ) -> Result<Nhwc, Error> {
        let (window, zero) = (&self.filters.window, self.input.zero_point);
        // What a pixel is multiplied by takes a microsecond where there is one: no division then.
        let shape = x.shape();
        let out = if self.pointwise && shape.height > 0 && shape.width > 0 {
            check_shape("channels of x", self.filters.inputs, shape.channels)?;
            Nhwc { channels: self.filters.outputs, ..shape }
        } else {
            self.output_shape(shape)?
        };
        check_shape("elements of y", out.elements()?, y.len())?;
        let pixels = out.pixels()?;
        if pixels == 0 {
            return Ok(out);
        }
        let patches = || Patches::new(x, window, out, zero);
        // From one row of the product to the next, where the image is its matrix.
        let stride = if self.pointwise {
            Some(x.shape().channels)
        } else {
            patches()?.channels(0..self.depth)?.row_stride()
        };
        let (mut first, mut column) = (0, 0);
        for product in &self.groups {
            let columns = product.weights().n();
            let y = MatMut::new(&mut y[column..], pixels, columns, out.channels, 1)?;
            match stride {
                Some(stride) => {
                    let matrix = MatRef::new(&x.values()[first..], pixels, product.weights().k(), stride, 1)?;
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
            trust::check(|y| conv.forward(Images::new(&[1; 3], image)?, y, &mut scratch).map(drop))?;
        }
        Ok(())
    }
}
