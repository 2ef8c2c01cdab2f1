//! How a static layer quantizes: what is known of its input and output before it runs.

use core::marker::PhantomData;

use crate::{
    Broadcast, Error, Kernel, Operand, OutputElement,
    check::{check_scales, check_zero_points},
    gemm::Byte,
    quant::{Levels, QParams},
};

/// How a static layer quantizes: its input and output have scales and zero points that calibration found, and nothing is
/// measured when it runs. `T` is the type of the output: i8 or u8, f32 or i32.
///
/// Weights are symmetric. By default they are narrow 8-bit values (-127..=127) with a scale for each output channel, fitted to
/// their largest magnitude: as small as they ask for, and 1 where no normal f32 is small enough, as for a channel of zeros. Biases
/// are i32, in units of input scale * weight scale, as in ONNX and TFLite, where these are fine enough; see
/// [`StaticConfig::float_bias`].
///
/// ```
/// use i8gemm::{nn::StaticConfig, quant::{Levels, QParams}};
/// let input = QParams { scale: 0.02, zero_point: 128 };
/// let output = QParams { scale: 0.05, zero_point: 3 };
/// let config = StaticConfig::<u8>::new(input, output).relu6();
/// let four_bits = StaticConfig::<u8>::new(input, output).levels(Levels::signed(4)?);
/// let last = StaticConfig::<f32>::real(input); // dequantized by the layer itself
/// # let _ = (config, four_bits, last);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct StaticConfig<'a, T> {
    pub(super) input: QParams,
    pub(super) target: Target,
    pub(super) levels: Levels,
    pub(super) tensor_weights: bool,
    pub(super) weight_scales: Option<Broadcast<'a, f32>>,
    pub(super) float_bias: bool,
    kernel: Option<Kernel>,
    element: PhantomData<T>,
}

/// What the layer writes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    Sums,
    Real { min: f32, max: f32 },
    Bytes { scale: f32, to: Byte },
}

impl<T> StaticConfig<'_, T> {
    fn of(input: QParams, target: Target) -> Self {
        Self {
            input,
            target,
            levels: Levels::I8.narrow(),
            tensor_weights: false,
            weight_scales: None,
            float_bias: false,
            kernel: None,
            element: PhantomData,
        }
    }
}

impl<T: Operand + OutputElement> StaticConfig<'_, T> {
    /// Quantized input, quantized output.
    #[must_use]
    pub fn new(input: QParams, output: QParams) -> Self {
        Self::of(input, Target::Bytes { scale: output.scale, to: Byte::of::<T>(output.zero_point) })
    }
}

impl StaticConfig<'_, f32> {
    /// Quantized input, real output.
    #[must_use]
    pub fn real(input: QParams) -> Self {
        Self::of(input, Target::Real { min: f32::NEG_INFINITY, max: f32::INFINITY })
    }
}

impl StaticConfig<'_, i32> {
    /// Quantized input, and the sums themselves: zero point 0, scale input scale * weight scale. A real bias is rounded to whole
    /// steps of that, however coarse they are: to steps of the input scale in a channel whose weights are all 0, for these have
    /// scale 1.
    #[must_use]
    pub fn sums(input: QParams) -> Self {
        Self::of(input, Target::Sums)
    }
}

/// Outputs that an activation can clamp: all but sums.
pub trait Activated: OutputElement {}
impl Activated for i8 {}
impl Activated for u8 {}
impl Activated for f32 {}

impl<T: Activated> StaticConfig<'_, T> {
    /// ReLU, fused: the output is clamped from 0 up.
    #[must_use]
    pub fn relu(mut self) -> Self {
        match &mut self.target {
            Target::Sums => {}
            Target::Real { min, .. } => *min = 0.0,
            Target::Bytes { to, .. } => to.min = to.zero_point,
        }
        self
    }

    /// ReLU6, fused: the output is clamped to 0..=6, or to the quantized values of these.
    #[must_use]
    pub fn relu6(self) -> Self {
        let mut clamped = self.relu();
        match &mut clamped.target {
            Target::Sums => {}
            Target::Real { max, .. } => *max = 6.0,
            Target::Bytes { scale, to } => {
                to.max = to.max.min(to.zero_point.saturating_add(libm::rintf(6.0 / *scale) as i32));
            }
        }
        clamped
    }
}

impl<'a, T> StaticConfig<'a, T> {
    /// Quantizes weights to these integers, their smallest left out: 8, 4 or 2 bits, say, all stored as i8.
    #[must_use]
    pub fn levels(self, levels: Levels) -> Self {
        Self { levels: levels.narrow(), ..self }
    }

    /// One scale for all weights.
    #[must_use]
    pub fn per_tensor_weights(self) -> Self {
        Self { tensor_weights: true, ..self }
    }

    /// Quantizes weights with these scales, one for all or one for each output channel, such as training learned them.
    #[must_use]
    pub fn weight_scales(self, scales: impl Into<Broadcast<'a, f32>>) -> Self {
        Self { weight_scales: Some(scales.into()), ..self }
    }

    /// Keeps a real bias in f32, in steps of the output, instead of rounding it to an i32 in units of the sums. Not for i32
    /// output.
    ///
    /// A layer does so by itself, for all of its channels, where an i32 would not do for one of them: where the rounding would move
    /// its bias by more than 1/32 of a step of the output (for f32 output: by more than 2^-12 of the largest bias), as behind an
    /// activation that was always 0 and has scale 1; or where the bias would not fit an i32 beside the sums, because all weights of
    /// the channel are tiny (for i32 output that is [`Error::Bias`](crate::Error::Bias)). A channel whose weights are all 0,
    /// pruned or quantized to nothing, is no reason: its sums are its bias, which keeps all bits of an f32 in either form.
    #[must_use]
    pub fn float_bias(self) -> Self {
        Self { float_bias: true, ..self }
    }

    /// Packs for and runs on this kernel instead of [`Kernel::best`].
    #[must_use]
    pub fn kernel(self, kernel: Kernel) -> Self {
        Self { kernel: Some(kernel), ..self }
    }

    /// Scale and range of an 8-bit output.
    pub(super) fn bytes(&self) -> (f32, Byte)
    where
        T: Operand,
    {
        match self.target {
            Target::Bytes { scale, to } => (scale, to),
            // Not made for an 8-bit output.
            Target::Sums | Target::Real { .. } => (1.0, Byte::of::<T>(0)),
        }
    }

    /// What real outputs are divided by: the scale of an 8-bit output.
    pub(super) fn divisor(&self) -> f64 {
        match self.target {
            Target::Bytes { scale, .. } => scale.into(),
            Target::Sums | Target::Real { .. } => 1.0,
        }
    }

    pub(super) fn chosen_kernel(&self) -> Result<Kernel, Error> {
        Kernel::chosen(self.kernel)
    }

    /// Checks the input's parameters; the output's are checked with what is made of them.
    pub(in crate::nn) fn check<A: Operand>(&self) -> Result<(), Error> {
        check_scales("input scale", &Broadcast::All(self.input.scale), 1)?;
        check_zero_points::<A>("input zero point", &Broadcast::All(self.input.zero_point), 1)?;
        if let Target::Bytes { scale, .. } = self.target {
            check_scales("output scale", &Broadcast::All(scale), 1)?;
        }
        Ok(())
    }
}
