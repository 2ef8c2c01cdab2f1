//! The sum of two quantized tensors.

use core::marker::PhantomData;

use super::StaticConfig;
use crate::{
    Broadcast, Error, Kernel, Operand, Output, OutputElement,
    check::{check_len, check_scales, check_zero_points},
    quant::{Engine, QParams, Terms},
};

/// Adds two quantized tensors of the same shape, each with a scale and zero point of its own: where the branches of a residual
/// network meet. Inputs of type `A`, output of type `T`, i8 or u8; ReLU can be fused.
///
/// [`reference::add`](crate::reference::add) defines it; every kernel gives the same bits.
///
/// ```
/// use i8gemm::{nn::{Add, StaticConfig}, quant::QParams};
/// let half = QParams { scale: 0.5, zero_point: 10 };
/// let unit = QParams { scale: 1.0, zero_point: 0 };
/// let add = Add::<u8, u8>::new(unit, StaticConfig::new(half, unit).relu())?; // 0.5 * (a - 10) + b
/// let mut y = [0u8; 3];
/// add.forward(&[16, 10, 0], &[20, 1, 3], &mut y)?;
/// assert_eq!(y, [23, 1, 0]);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Add<A, T> {
    terms: Terms,
    kernel: Kernel,
    element: PhantomData<(A, T)>,
}

impl<A: Operand, T: Operand + OutputElement> Add<A, T> {
    /// The configuration holds the parameters of the first input and of the output; `second` are the second input's.
    ///
    /// # Errors
    /// [`Error::Scale`], also for scales whose quotient is 0 or infinite; [`Error::ZeroPoint`], [`Error::Clamp`]; the errors of
    /// [`Kernel::best`].
    pub fn new(second: QParams, config: StaticConfig<T>) -> Result<Self, Error> {
        config.check::<A>()?;
        check_scales("second input's scale", &Broadcast::All(second.scale), 1)?;
        check_zero_points::<A>("second input's zero point", &Broadcast::All(second.zero_point), 1)?;
        let (scale, to) = config.bytes();
        let scales = [config.input.scale / scale, second.scale / scale];
        Output::<T>::requantize(&scales, to.zero_point).clamp(to.min, to.max).finish.check(2)?;
        let terms = Terms {
            zero_points: [config.input.zero_point, second.zero_point],
            scales,
            zero_point: to.zero_point,
            min: to.min,
            max: to.max,
        };
        Ok(Self { terms, kernel: config.chosen_kernel()?, element: PhantomData })
    }

    /// Computes `y` from `a` and `b`, as many values. Allocates nothing.
    ///
    /// # Errors
    /// [`Error::Length`]. Nothing has been written then.
    pub fn forward(&self, a: &[A], b: &[A], y: &mut [T]) -> Result<(), Error> {
        check_len("second input", b.len(), a.len())?;
        check_len("sums", y.len(), a.len())?;
        Engine::new(Some(self.kernel))?.add(a, b, &self.terms, y);
        Ok(())
    }
}
