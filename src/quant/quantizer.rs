//! Reals to integers and back, a slice at a time.

use core::{marker::PhantomData, ops::Range};

use super::{
    Grouping, Levels, QParams, Real, Rounding,
    engine::{Engine, How, Steps, Values},
};
use crate::{
    Broadcast, Error, Kernel, Operand,
    check::{check_len, check_scales, check_zero_points},
    kernels::vectors::AHEAD,
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
        self.runs(real.len(), |elements, scales, zero_points| {
            let (start, out) = (elements.start, &mut out[elements.clone()]);
            R::parts(&real[elements], |at, real| {
                let (scales, zero_points) = (part(scales, at, real.len()), part(zero_points, at, real.len()));
                let how = self.how(scales, zero_points, start + at);
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
        self.runs(quantized.len(), |elements, scales, zero_points| {
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
            check_reciprocals(&self.scales)?;
        }
        Engine::new(self.kernel)
    }

    /// Visits the elements in runs with their scales and zero points: one for all of the run, or one for each element.
    fn runs(
        &self,
        len: usize,
        mut visit: impl FnMut(Range<usize>, &[f32], &[i32]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        /// Elements of a run that is worth a call of its own.
        const LONG: usize = 64;
        const BLOCK: usize = 256;
        if self.grouping.run_len() >= LONG {
            return self.grouping.runs(len, |elements, params| {
                visit(elements, self.scales.range(&params), self.zero_points.range(&params))
            });
        }
        // Short runs are put together, with a scale and a zero point for each of their elements.
        let (mut scales, mut zero_points) = ([0.0; BLOCK], [0; BLOCK]);
        let mut start = 0;
        self.grouping.runs(len, |elements, params| {
            if elements.end - start > BLOCK {
                let held = elements.start - start;
                visit(start..elements.start, &scales[..held], &zero_points[..held])?;
                start = elements.start;
            }
            for (i, element) in elements.enumerate() {
                let param = if params.len() == 1 { params.start } else { params.start + i };
                scales[element - start] = self.scales.at(param);
                zero_points[element - start] = self.zero_points.at(param);
            }
            Ok(())
        })?;
        if start < len {
            visit(start..len, &scales[..len - start], &zero_points[..len - start])?;
        }
        Ok(())
    }

    fn how<'p>(&self, scales: &'p [f32], zero_points: &'p [i32], index: usize) -> How<'p> {
        How {
            steps: if self.reciprocal { Steps::Reciprocal(scales) } else { Steps::Divide(scales) },
            zero_points,
            levels: self.levels,
            rounding: self.rounding,
            index,
            near: false,
            ahead: AHEAD,
        }
    }
}

/// Every scale has a reciprocal that is finite.
pub(super) fn check_reciprocals(scales: &Broadcast<f32>) -> Result<(), Error> {
    let scales = scales.as_slice();
    match scales.iter().position(|s| !(1.0 / s).is_finite()) {
        Some(index) => {
            let what = "scale without a finite reciprocal,";
            Err(Error::Scale { what, index, value: scales[index].into() })
        }
        None => Ok(()),
    }
}

/// The parameters of `len` values from `at` of a run: one for all, or one for each.
fn part<P>(params: &[P], at: usize, len: usize) -> &[P] {
    if params.len() == 1 { params } else { &params[at..][..len] }
}
