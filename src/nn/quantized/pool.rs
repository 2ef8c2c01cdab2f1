//! Pooling of quantized images.

use core::marker::PhantomData;

use super::StaticConfig;
use crate::{
    Error, Executor, Kernel, Operand, Output, OutputElement,
    check::check_shape,
    gemm::Byte,
    image::{Images, Nhwc, Window},
    kernels::vectors::AHEAD,
    nn::{
        Layer,
        scratch::{Carver, Size},
    },
    quant::{Engine, How, Levels, QParams, Rounding, Steps, Values},
};

/// Averages the pixels under a window that slides over NHWC images, each channel by itself; or all pixels of an image
/// ([`AveragePool::global`]). Input of type `A`, output of type `T`, i8 or u8.
///
/// Sums are exact integers; [`reference::average_pool`](crate::reference::average_pool) defines the rounding. Padding is counted,
/// as PyTorch does, unless [`AveragePool::exclude_padding`].
///
/// ```
/// use i8gemm::{nn::{AveragePool, Images, Layer, Nhwc, StaticConfig, Window}, quant::QParams};
/// let unit = QParams { scale: 1.0, zero_point: 0 };
/// let halving = Window::new(2, 2).stride(2, 2);
/// let pool = AveragePool::<u8, u8>::new(halving, StaticConfig::new(unit, unit))?;
/// let image = Nhwc::new(1, 2, 4, 1);
/// let (x, mut y) = ([1u8, 3, 10, 20, 5, 7, 30, 41], [0u8; 2]);
/// let mut scratch = pool.workspace(image)?;
/// assert_eq!(pool.forward(Images::new(&x, image)?, &mut y, &mut scratch)?, Nhwc::new(1, 1, 2, 1));
/// assert_eq!(y, [4, 25]);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct AveragePool<A, T> {
    /// None: the whole image.
    window: Option<Window>,
    count_padding: bool,
    input: QParams,
    /// Input scale / output scale.
    scale: f32,
    to: Byte,
    kernel: Kernel,
    element: PhantomData<(A, T)>,
}

impl<A: Operand, T: Operand + OutputElement> AveragePool<A, T> {
    /// Of the pixels under a window.
    ///
    /// # Errors
    /// [`Error::Zero`] for a size, stride or dilation of 0; [`Error::WindowTooLarge`] for a window whose sum could overflow an i32;
    /// [`Error::Scale`], [`Error::ZeroPoint`] for the parameters; the errors of [`Kernel::best`].
    pub fn new(window: Window, config: StaticConfig<T>) -> Result<Self, Error> {
        window.check()?;
        window.summed_taps()?;
        Self::with_window(Some(window), config)
    }

    /// Of all pixels of an image: 1 x 1 pixels are left.
    ///
    /// # Errors
    /// As [`AveragePool::new`].
    pub fn global(config: StaticConfig<T>) -> Result<Self, Error> {
        Self::with_window(None, config)
    }

    fn with_window(window: Option<Window>, config: StaticConfig<T>) -> Result<Self, Error> {
        config.check::<A>()?;
        let (scale, to) = config.bytes();
        let (input, scale) = (config.input, config.input.scale / scale);
        Output::<T>::requantize(scale, to.zero_point).clamp(to.min, to.max).finish.check(1)?;
        let kernel = config.chosen_kernel()?;
        Ok(Self { window, count_padding: true, input, scale, to, kernel, element: PhantomData })
    }

    /// Divides by the number of pixels that lie inside the image instead of by the size of the window: PyTorch's
    /// `count_include_pad=False`.
    #[must_use]
    pub fn exclude_padding(self) -> Self {
        Self { count_padding: false, ..self }
    }

    /// The shape of the output for images of that shape.
    ///
    /// # Errors
    /// [`Error::Window`]; [`Error::EmptyWindow`]; [`Error::Zero`] for the average of no pixels, [`Error::WindowTooLarge`] for that of
    /// too many; [`Error::SizeOverflow`].
    pub fn output_shape(&self, shape: Nhwc) -> Result<Nhwc, Error> {
        self.window_of(shape)?.pooled(shape)
    }

    fn window_of(&self, shape: Nhwc) -> Result<Window, Error> {
        let window = self.window.unwrap_or(Window::new(shape.height, shape.width));
        window.check()?;
        window.summed_taps()?;
        Ok(window)
    }
}

impl<A: Operand, T: Operand + OutputElement> Layer for AveragePool<A, T> {
    type Shape = Nhwc;
    type Input<'a> = Images<'a, A>;
    type Output<'a> = &'a mut [T];
    type Done = Nhwc;

    fn shape_of(&self, x: &Images<A>) -> Nhwc {
        x.shape()
    }

    /// A sum for each channel.
    ///
    /// # Errors
    /// As [`AveragePool::output_shape`].
    fn workspace_size_with(&self, shape: Nhwc, _: &(impl Executor + ?Sized)) -> Result<usize, Error> {
        self.output_shape(shape)?;
        Size::default().add::<i32>(shape.channels, 1)?.total(0)
    }

    /// Computes `y` from the images `x` and gives its shape, on the caller's thread.
    ///
    /// # Errors
    /// As [`AveragePool::output_shape`]; [`Error::Shape`] for a `y` that does not have that shape; [`Error::BufferTooSmall`].
    fn forward_with(
        &self,
        _: &(impl Executor + ?Sized),
        x: Images<A>,
        y: &mut [T],
        scratch: &mut [u8],
    ) -> Result<Nhwc, Error> {
        let shape = x.shape();
        let window = self.window_of(shape)?;
        let out = window.pooled(shape)?;
        check_shape("elements of y", out.elements()?, y.len())?;
        let mut carver = Carver::new(scratch, self.workspace_size(shape)?)?;
        let sums: &mut [i32] = carver.take(shape.channels, 1)?;
        let engine = Engine::new(Some(self.kernel))?;
        if shape.channels == 0 {
            return Ok(out);
        }
        let all = window.summed_taps()?;
        for (place, y) in y.chunks_exact_mut(shape.channels).enumerate() {
            sums.fill(0);
            let mut inside = 0;
            for pixel in window.pixels(shape, out, place) {
                let x = &x.values()[pixel * shape.channels..][..shape.channels];
                sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x.widen());
                inside += 1;
            }
            sums.iter_mut().for_each(|sum| *sum -= inside as i32 * self.input.zero_point);
            let count = if self.count_padding { all } else { inside };
            let how = How {
                steps: Steps::Multiply(&[self.scale / count as f32]),
                zero_points: &[self.to.zero_point],
                levels: Levels::between(self.to.min, self.to.max),
                rounding: Rounding::HalfEven,
                index: 0,
                near: false,
                ahead: AHEAD,
            };
            engine.quantize(Values::I32(sums), how, y);
        }
        Ok(out)
    }
}

/// The largest of the pixels under a window that slides over NHWC images, each channel by itself. Padding is left out. Scale and
/// zero point stay what they were.
///
/// ```
/// use i8gemm::nn::{Images, Layer, MaxPool, Nhwc, Window};
/// let pool = MaxPool::new(Window::new(1, 3).padding(0, 1).stride(1, 2))?;
/// let mut y = [0i8; 2];
/// let image = Images::new(&[-3i8, -1, -7, -5], Nhwc::new(1, 1, 4, 1))?;
/// assert_eq!(pool.forward(image, &mut y, &mut [])?, Nhwc::new(1, 1, 2, 1));
/// assert_eq!(y, [-1, -1]);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct MaxPool<A> {
    window: Window,
    element: PhantomData<A>,
}

impl<A: Operand> MaxPool<A> {
    /// Of the pixels under a window.
    ///
    /// # Errors
    /// [`Error::Zero`] for a size, stride or dilation of 0.
    pub fn new(window: Window) -> Result<Self, Error> {
        window.check()?;
        Ok(Self { window, element: PhantomData })
    }

    /// The shape of the output for images of that shape.
    ///
    /// # Errors
    /// [`Error::Window`]; [`Error::EmptyWindow`]; [`Error::SizeOverflow`].
    pub fn output_shape(&self, shape: Nhwc) -> Result<Nhwc, Error> {
        self.window.pooled(shape)
    }
}

impl<A: Operand> Layer for MaxPool<A> {
    type Shape = Nhwc;
    type Input<'a> = Images<'a, A>;
    type Output<'a> = &'a mut [A];
    type Done = Nhwc;

    fn shape_of(&self, x: &Images<A>) -> Nhwc {
        x.shape()
    }

    /// None.
    ///
    /// # Errors
    /// As [`MaxPool::output_shape`].
    fn workspace_size_with(&self, shape: Nhwc, _: &(impl Executor + ?Sized)) -> Result<usize, Error> {
        self.output_shape(shape).map(|_| 0)
    }

    /// Computes `y` from the images `x` and gives its shape, on the caller's thread, without scratch.
    ///
    /// # Errors
    /// As [`MaxPool::output_shape`]; [`Error::Shape`] for a `y` that does not have that shape.
    fn forward_with(
        &self,
        _: &(impl Executor + ?Sized),
        x: Images<A>,
        y: &mut [A],
        _: &mut [u8],
    ) -> Result<Nhwc, Error> {
        let (x, shape) = (x.values(), x.shape());
        let out = self.output_shape(shape)?;
        check_shape("elements of y", out.elements()?, y.len())?;
        // As integers of the machine, which compilers have vector instructions for.
        if A::MIN == 0 {
            largest::<u8>(bytemuck::cast_slice(x), shape, &self.window, out, bytemuck::cast_slice_mut(y));
        } else {
            largest::<i8>(bytemuck::cast_slice(x), shape, &self.window, out, bytemuck::cast_slice_mut(y));
        }
        Ok(out)
    }
}

/// The largest under each place of the window.
pub(in crate::nn) fn largest<T: Copy + PartialOrd>(
    x: &[T],
    shape: Nhwc,
    window: &Window,
    out: Nhwc,
    y: &mut [T],
) {
    if shape.channels == 0 {
        return;
    }
    for (place, y) in y.chunks_exact_mut(shape.channels).enumerate() {
        let (j, i, n) = (place % out.width, place / out.width % out.height, place / out.width / out.height);
        let columns = window.width.pixels(j, shape.width);
        let mut first = true;
        for row in window.height.pixels(i, shape.height) {
            let row = (n * shape.height + row) * shape.width;
            for column in columns.clone() {
                let x = &x[(row + column) * shape.channels..][..shape.channels];
                if first {
                    // Every place holds a pixel.
                    y.copy_from_slice(x);
                    first = false;
                } else {
                    y.iter_mut().zip(x).for_each(|(y, &x)| *y = if x > *y { x } else { *y });
                }
            }
        }
    }
}
