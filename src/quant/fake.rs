//! Fake quantization: what training sees of quantization, forward and backward.
//!
//! Forward, reals become the reals that their quantized values stand for. Backward, rounding counts as if it were not there
//! (the straight-through estimator, Y. Bengio et al. 2013), and what was clipped gets no gradient. Scale and zero point can be
//! learned too (S. Jain et al. 2019, "Trained Quantization Thresholds"; S. Esser et al. 2020, "Learned StepRange Size
//! Quantization", LSQ). What has been learned goes through [`Network::convert`](crate::nn::Network::convert) into integers; the
//! example `digits_cnn` does all of it.
//!
//! ```
//! use i8gemm::quant::{Grouping, Levels, fake::FakeQuantizer};
//! let x = [0.26, -0.1, 9.0];
//! let quantizer = FakeQuantizer::new(Grouping::per_tensor(), 0.5, 0).levels(Levels::signed(4)?);
//! let (mut y, mut mask) = ([0.0; 3], [0u8; 1]);
//! quantizer.forward(&x, &mut y, &mut mask)?;
//! assert_eq!((y, mask), ([0.5, 0.0, 3.5], [0b011])); // 9.0 is clipped
//! let mut dx = [0.0; 3];
//! quantizer.backward(&[1.0, 2.0, 3.0], &mask, &mut dx)?;
//! assert_eq!(dx, [1.0, 2.0, 0.0]);
//! # Ok::<(), i8gemm::Error>(())
//! ```

use core::ops::Range;

use super::{Grouping, Levels, qparams::normal_or_one, quantizer::check_reciprocals};
use crate::{
    Broadcast, Error,
    check::{check_broadcast, check_len, check_scales},
};

/// Fake quantization with given scales and zero points, one for all values or one for each channel or group.
///
/// `y = (clamp(Z + rint(x / S)) - Z) * S`; NaN becomes 0. To all i8 levels if not told otherwise.
#[derive(Debug, Clone, Copy)]
pub struct FakeQuantizer<'a> {
    grouping: Grouping,
    scales: Broadcast<'a, f32>,
    zero_points: Broadcast<'a, i32>,
    levels: Levels,
    reciprocal: bool,
    gradient_factor: f32,
}

impl<'a> FakeQuantizer<'a> {
    /// Scales and zero points. A learned zero point is a real number: its nearest integer goes here.
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
            levels: Levels::I8,
            reciprocal: false,
            gradient_factor: 1.0,
        }
    }

    /// Clamps to these levels.
    #[must_use]
    pub fn levels(self, levels: Levels) -> Self {
        Self { levels, ..self }
    }

    /// Multiplies by `1 / S`, as PyTorch does, instead of dividing by `S`.
    #[must_use]
    pub fn reciprocal(self) -> Self {
        Self { reciprocal: true, ..self }
    }

    /// Multiplies the gradients of scales and zero points by this; LSQ by [`lsq_factor`].
    #[must_use]
    pub fn gradient_factor(self, gradient_factor: f32) -> Self {
        Self { gradient_factor, ..self }
    }

    /// Quantizes `x` and comes back to reals in `y`; bit `i % 8` of byte `i / 8` of `mask` tells that value `i` was not clipped.
    ///
    /// `y` has as many values as `x`, `mask` a byte for every 8 of them; bits behind the last value are 0.
    ///
    /// # Errors
    /// [`Error::Length`] when lengths, grouping and parameters disagree; [`Error::Scale`], also for a scale whose reciprocal is
    /// asked for and infinite; [`Error::ZeroPoint`] outside the levels.
    pub fn forward(&self, x: &[f32], y: &mut [f32], mask: &mut [u8]) -> Result<(), Error> {
        check_len("fake-quantized values", y.len(), x.len())?;
        check_mask(mask.len(), x.len())?;
        self.check(x.len())?;
        mask.fill(0);
        self.runs(x.len(), |elements, params| {
            let start = elements.start;
            let run = x[elements.clone()].iter().zip(&mut y[elements]).enumerate();
            if params.len() == 1 {
                let step = self.step(params.start);
                for (i, (x, y)) in run {
                    let taken = step.take(*x);
                    *y = taken.steps * step.scale;
                    mask[(start + i) / 8] |= u8::from(taken.inside) << ((start + i) % 8);
                }
            } else {
                for (i, (x, y)) in run {
                    let step = self.step(params.start + i);
                    let taken = step.take(*x);
                    *y = taken.steps * step.scale;
                    mask[(start + i) / 8] |= u8::from(taken.inside) << ((start + i) % 8);
                }
            }
        })
    }

    /// The gradient of the input: that of the output where the value was not clipped, 0 where it was.
    ///
    /// # Errors
    /// [`Error::Length`] when lengths disagree.
    pub fn backward(&self, dy: &[f32], mask: &[u8], dx: &mut [f32]) -> Result<(), Error> {
        check_len("gradients of the input", dx.len(), dy.len())?;
        check_mask(mask.len(), dy.len())?;
        self.grouping.check_len("gradients of the output", dy.len())?;
        for (i, (dx, dy)) in dx.iter_mut().zip(dy).enumerate() {
            *dx = if mask[i / 8] >> (i % 8) & 1 == 1 { *dy } else { 0.0 };
        }
        Ok(())
    }

    /// The gradients of input, scales and zero points; of the latter two there is one for each group, summed in
    /// f64 over contiguous elements and in f32 over the rest. Where zero points are not learned, as with symmetric weights,
    /// `dzero_points` may be empty.
    ///
    /// Inside the levels `dS = dy * (y - x) / S` and `dZ = 0`; below `dS = dy * (qmin - Z)`, above `dS = dy * (qmax - Z)`, and
    /// `dZ = -dy * S`. Both are multiplied by the gradient factor.
    ///
    /// ```
    /// use i8gemm::quant::{Grouping, Levels, fake::FakeQuantizer};
    /// // Weights of two output channels: -1, 0 and 1 times a learned scale.
    /// let (weights, scales) = ([0.3, -0.6, 0.1, 2.0], [0.5, 1.0]);
    /// let channels = Grouping::per_channel(&[2, 2], 0)?;
    /// let quantizer = FakeQuantizer::new(channels, &scales, 0).levels(Levels::signed(2)?.narrow());
    /// let (mut dx, mut dscales) = ([0.0; 4], [0.0; 2]);
    /// quantizer.backward_learnable(&weights, &[1.0; 4], &mut dx, &mut dscales, &mut [])?;
    /// assert_eq!(dx, [1.0, 1.0, 1.0, 0.0]); // 2.0 is clipped
    /// assert!((dscales[0] - (0.4 + 0.2)).abs() < 1e-6 && (dscales[1] - (-0.1 + 1.0)).abs() < 1e-6);
    /// # Ok::<(), i8gemm::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`FakeQuantizer::forward`].
    pub fn backward_learnable(
        &self,
        x: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        dscales: &mut [f32],
        dzero_points: &mut [f32],
    ) -> Result<(), Error> {
        check_len("gradients of the output", dy.len(), x.len())?;
        check_len("gradients of the input", dx.len(), x.len())?;
        check_len("gradients of scales", dscales.len(), self.grouping.count())?;
        if !dzero_points.is_empty() {
            check_len("gradients of zero points", dzero_points.len(), self.grouping.count())?;
        }
        self.check(x.len())?;
        let factor = f64::from(self.gradient_factor);
        dscales.fill(0.0);
        dzero_points.fill(0.0);
        self.runs(x.len(), |elements, params| {
            let each = params.len() > 1;
            let mut sums = (0.0, 0.0);
            for (i, element) in elements.enumerate() {
                let param = if each { params.start + i } else { params.start };
                let step = self.step(param);
                let (x, dy) = (x[element], dy[element]);
                let taken = step.take(x);
                dx[element] = if taken.inside { dy } else { 0.0 };
                let (dscale, dzero) = if taken.inside {
                    (taken.steps - if x.is_nan() { 0.0 } else { step.steps(x) }, 0.0)
                } else {
                    (taken.steps, -step.scale)
                };
                let (dscale, dzero) =
                    (f64::from(dy) * f64::from(dscale) * factor, f64::from(dy) * f64::from(dzero) * factor);
                if each {
                    dscales[param] += dscale as f32;
                    add(dzero_points, param, dzero);
                } else {
                    sums = (sums.0 + dscale, sums.1 + dzero);
                }
            }
            if !each {
                dscales[params.start] += sums.0 as f32;
                add(dzero_points, params.start, sums.1);
            }
        })
    }

    fn check(&self, len: usize) -> Result<(), Error> {
        self.grouping.check_len("real values", len)?;
        check_scales("scale", &self.scales, self.grouping.count())?;
        if self.reciprocal {
            check_reciprocals(&self.scales)?;
        }
        check_broadcast("zero points", &self.zero_points, self.grouping.count())?;
        let (min, max) = (self.levels.min(), self.levels.max());
        match self.zero_points.as_slice().iter().position(|z| !(min..=max).contains(z)) {
            Some(index) => {
                let value = self.zero_points.at(index);
                Err(Error::ZeroPoint { what: "zero point", index, value, min, max })
            }
            None => Ok(()),
        }
    }

    fn runs(&self, len: usize, mut visit: impl FnMut(Range<usize>, Range<usize>)) -> Result<(), Error> {
        self.grouping.runs(len, |elements, params| {
            visit(elements, params);
            Ok(())
        })
    }

    fn step(&self, param: usize) -> StepRange {
        let (scale, zero_point) = (self.scales.at(param), self.zero_points.at(param));
        StepRange {
            scale,
            factor: if self.reciprocal { Some(1.0 / scale) } else { None },
            low: (self.levels.min() - zero_point) as f32,
            high: (self.levels.max() - zero_point) as f32,
        }
    }
}

/// To the gradient of one zero point, if they are wanted.
fn add(dzero_points: &mut [f32], param: usize, term: f64) {
    if let Some(sum) = dzero_points.get_mut(param) {
        *sum += term as f32;
    }
}

fn check_mask(actual: usize, values: usize) -> Result<(), Error> {
    check_len("bytes of the mask", actual, values.div_ceil(8))
}

/// One scale and zero point, the latter as the range of steps that the levels leave.
#[derive(Clone, Copy)]
struct StepRange {
    scale: f32,
    factor: Option<f32>,
    low: f32,
    high: f32,
}

struct Taken {
    /// Whole steps from the zero point, clamped.
    steps: f32,
    inside: bool,
}

impl StepRange {
    #[inline(always)]
    fn steps(&self, x: f32) -> f32 {
        self.factor.map_or(x / self.scale, |factor| x * factor)
    }

    #[inline(always)]
    fn take(&self, x: f32) -> Taken {
        // Adding 1.5 * 2^23 leaves no fraction bits, so that the addition itself rounds half to even.
        const SHIFT: f32 = 12_582_912.0;
        let steps = self.steps(x);
        let steps = if steps.is_nan() { 0.0 } else { steps };
        // One beyond either end is as far outside as any.
        let rounded = (steps.max(self.low - 1.0).min(self.high + 1.0) + SHIFT) - SHIFT;
        let clamped = rounded.max(self.low).min(self.high);
        Taken { steps: clamped, inside: clamped == rounded }
    }
}

/// LSQ's gradient factor of a scale that `count` values share: `1 / sqrt(count * qmax)`.
#[must_use]
pub fn lsq_factor(count: usize, levels: Levels) -> f32 {
    (1.0 / libm::sqrt(count as f64 * f64::from(levels.max()))) as f32
}

/// LSQ's first scale: `2 * mean |x| / sqrt(qmax)`; 1 where that is below the normal f32, as for values that are all 0.
///
/// # Errors
/// [`Error::NothingObserved`] for no values, [`Error::NonFinite`].
pub fn lsq_scale(values: &[f32], levels: Levels) -> Result<f32, Error> {
    let mean = super::weights::mean_abs(values)?;
    let scale = (2.0 * mean / libm::sqrt(levels.max().into())) as f32;
    Ok(normal_or_one(scale.min(f32::MAX)))
}

/// Binary forward: the sign, +1 for 0; NaN becomes +1.
///
/// # Errors
/// [`Error::Length`] when lengths disagree.
pub fn binary_forward(x: &[f32], y: &mut [f32]) -> Result<(), Error> {
    check_len("signs", y.len(), x.len())?;
    for (y, x) in y.iter_mut().zip(x) {
        *y = if *x < 0.0 { -1.0 } else { 1.0 };
    }
    Ok(())
}

/// Binary backward (M. Courbariaux et al. 2016): the gradient of the output where `|x| <= 1`, 0 elsewhere.
///
/// # Errors
/// [`Error::Length`] when lengths disagree.
pub fn binary_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) -> Result<(), Error> {
    check_len("gradients of the output", dy.len(), x.len())?;
    check_len("gradients of the input", dx.len(), x.len())?;
    for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
        *dx = if x.abs() <= 1.0 { *dy } else { 0.0 };
    }
    Ok(())
}
