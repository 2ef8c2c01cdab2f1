//! Reals to integers and back, a slice at a time.

use core::{marker::PhantomData, ops::Range};

use super::{
    Grouping, Levels, QParams, Real, Rounding,
    engine::{Engine, How, Steps, Values},
};
use crate::{
    Broadcast, Error, Kernel, Operand,
    gemm::{check_len, check_scales, check_zero_points},
    kernels::slices::AHEAD,
};

/// Quantizes and dequantizes slices, in vector code of the kernel that this CPU gets; every kernel gives the same bits.
///
/// `q = clamp(round(r / scale) + zero_point)`; infinities saturate, NaN becomes the zero point. `r = scale * (q - zero_point)`.
///
/// ```
/// use i8gemm::quant::{Grouping, Levels, QParams, Quantizer};
/// let x = [-2.0, 0.0, 0.28, 6.0, f32::INFINITY, f32::NAN];
/// let quantizer = Quantizer::per_tensor(QParams::affine(Levels::I8, -2.0, 6.0)?);
/// let mut q = [0i8; 6];
/// quantizer.quantize(&x, &mut q)?;
/// assert_eq!(q, [-128, -64, -55, 127, 127, -64]);
///
/// // Two channels with a scale each, to 4 bits.
/// let channels = Grouping::per_channel(&[2, 3], 0)?;
/// let quantizer = Quantizer::<i8>::new(channels, &[0.5, 1.0], 0).levels(Levels::signed(4)?);
/// let (mut q, mut back) = ([0; 6], [0.0; 6]);
/// quantizer.quantize(&[1.0, -1.0, 9.0, 1.0, -1.0, -9.0], &mut q)?;
/// assert_eq!(q, [2, -2, 7, 1, -1, -8]);
/// quantizer.dequantize(&q, &mut back)?;
/// assert_eq!(back, [1.0, -1.0, 3.5, 1.0, -1.0, -8.0]);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Quantizer<'a, T> {
    grouping: Grouping,
    scales: Broadcast<'a, f32>,
    zero_points: Broadcast<'a, i32>,
    levels: Levels,
    rounding: Rounding,
    reciprocal: bool,
    kernel: Option<Kernel>,
    element: PhantomData<T>,
}

impl<T: Operand> Quantizer<'static, T> {
    /// One scale and zero point for all values, to all levels of `T`.
    #[must_use]
    pub fn per_tensor(params: QParams) -> Self {
        Self::new(Grouping::per_tensor(), params.scale, params.zero_point)
    }
}

impl<'a, T: Operand> Quantizer<'a, T> {
    /// Scales and zero points, one for all values or one for each channel or group, to all levels of `T`.
    #[must_use]
    pub fn new(
        grouping: Grouping,
        scales: impl Into<Broadcast<'a, f32>>,
        zero_points: impl Into<Broadcast<'a, i32>>,
    ) -> Self {
        Self {
            grouping,
            scales: scales.into(),
            zero_points: zero_points.into(),
            levels: Levels::of::<T>(),
            rounding: Rounding::HalfEven,
            reciprocal: false,
            kernel: None,
            element: PhantomData,
        }
    }

    /// Clamps to these levels instead of all values of `T`.
    #[must_use]
    pub fn levels(self, levels: Levels) -> Self {
        Self { levels, ..self }
    }

    /// Rounds in this mode; half to even if not told.
    #[must_use]
    pub fn rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    /// Multiplies by `1 / scale`, rounded to f32, as PyTorch does, instead of dividing by the scale, as ONNX does. Some
    /// values close to a tie come out one step apart.
    #[must_use]
    pub fn reciprocal(self) -> Self {
        Self { reciprocal: true, ..self }
    }

    /// Runs on this kernel instead of [`Kernel::best`].
    #[must_use]
    pub fn kernel(self, kernel: Kernel) -> Self {
        Self { kernel: Some(kernel), ..self }
    }

    /// Quantizes `real` (f32; f16 or bf16 with the feature `half`) into `out`, as many values.
    ///
    /// # Errors
    /// [`Error::Length`] when lengths, grouping and parameters disagree; [`Error::Scale`], also for a scale whose reciprocal is
    /// asked for and infinite; [`Error::ZeroPoint`]; [`Error::Levels`] when `T` cannot hold them; [`Error::KernelUnavailable`].
    pub fn quantize<R: Real>(&self, real: &[R], out: &mut [T]) -> Result<(), Error> {
        check_len("quantized values", out.len(), real.len())?;
        let engine = self.check("real values", real.len())?;
        self.grouping.runs(real.len(), |elements, params| {
            let (start, out) = (elements.start, &mut out[elements.clone()]);
            R::parts(&real[elements], |at, real| {
                let how = self.how(&part(&params, at, real.len()), start + at);
                engine.quantize(Values::F32(real), how, &mut out[at..][..real.len()]);
                Ok(())
            })
        })
    }

    /// Dequantizes `quantized` into `out`, as many values.
    ///
    /// # Errors
    /// As [`Quantizer::quantize`].
    pub fn dequantize(&self, quantized: &[T], out: &mut [f32]) -> Result<(), Error> {
        check_len("real values", out.len(), quantized.len())?;
        let engine = self.check("quantized values", quantized.len())?;
        self.grouping.runs(quantized.len(), |elements, params| {
            let How { zero_points, .. } = self.how(&params, 0);
            let scales = self.scales.range(&params);
            engine.dequantize(&quantized[elements.clone()], scales, zero_points, &mut out[elements]);
            Ok(())
        })
    }

    fn check(&self, what: &'static str, len: usize) -> Result<Engine, Error> {
        self.grouping.check_len(what, len)?;
        self.levels.check::<T>()?;
        check_zero_points::<T>("zero point", &self.zero_points, self.grouping.count())?;
        check_scales("scale", &self.scales, self.grouping.count())?;
        if self.reciprocal {
            let scales = self.scales.as_slice();
            if let Some(index) = scales.iter().position(|s| !(1.0 / s).is_finite()) {
                let what = "scale without a finite reciprocal,";
                return Err(Error::Scale { what, index, value: scales[index].into() });
            }
        }
        Engine::new(self.kernel)
    }

    fn how(&self, params: &Range<usize>, index: usize) -> How<'_> {
        let scales = self.scales.range(params);
        How {
            steps: if self.reciprocal { Steps::Reciprocal(scales) } else { Steps::Divide(scales) },
            zero_points: self.zero_points.range(params),
            levels: self.levels,
            rounding: self.rounding,
            index,
            ahead: AHEAD,
        }
    }
}

/// The parameters of `len` values from `at` of a run.
fn part(params: &Range<usize>, at: usize, len: usize) -> Range<usize> {
    if params.len() == 1 { params.clone() } else { params.start + at..params.start + at + len }
}
