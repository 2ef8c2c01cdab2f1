//! Weights and outputs of static layers: quantized once, with everything that a sum needs on its way out.

use alloc::vec::Vec;
use core::ops::RangeInclusive;

use super::{StaticConfig, config::Target};
use crate::{
    Broadcast, Error, Operand,
    check::{check_depth, check_len, check_scales},
    gemm::{OwnedBias, OwnedFinish, OwnedKind},
    memory,
    quant::{Grouping, ParamList, Scheme},
};

/// Symmetric i8 weights, output channels first.
#[derive(Debug)]
pub(super) struct StaticWeights {
    pub values: Vec<i8>,
    /// One, or one for each output channel.
    pub scales: Vec<f32>,
}

impl StaticWeights {
    /// Quantizes `outputs` rows of `size` weights.
    ///
    /// # Errors
    /// [`Error::KTooLong`]; [`Error::Length`] for weights or scales, [`Error::NonFinite`], [`Error::Scale`] for their values.
    pub fn quantize<T>(
        weights: &[f32],
        outputs: usize,
        size: usize,
        config: &StaticConfig<T>,
    ) -> Result<Self, Error> {
        check_depth(size)?;
        let overflow = Error::SizeOverflow { what: "weights", rows: outputs, cols: size };
        check_len("weights", weights.len(), outputs.checked_mul(size).ok_or(overflow)?)?;
        if let Some(index) = weights.iter().position(|w| !w.is_finite()) {
            return Err(Error::NonFinite { what: "weight", index, value: weights[index] });
        }
        let per_tensor = match config.weight_scales {
            Some(scales) => matches!(scales, Broadcast::All(_)),
            None => config.tensor_weights,
        };
        let grouping =
            if per_tensor { Grouping::per_tensor() } else { Grouping::per_channel(&[outputs, size], 0)? };
        let params = match config.weight_scales {
            Some(scales) => {
                check_scales("weight scale", &scales, outputs)?;
                let scales = memory::copied("weight scales", scales.as_slice())?;
                ParamList { zero_points: memory::zeroed("weight scales", scales.len(), 1)?, scales }
            }
            None => {
                let mut params = ParamList::fit(grouping, config.levels, Scheme::Symmetric, weights)?;
                for scale in &mut params.scales {
                    // No output could tell such sums from 0: the weights become 0, with the scale that weights of 0 have.
                    if (sum_step(config, *scale) / config.divisor()) as f32 == 0.0 {
                        *scale = 1.0;
                    }
                }
                params
            }
        };
        let mut values = memory::zeroed("weights", outputs, size)?;
        params.quantizer(grouping).levels(config.levels).quantize(weights, &mut values)?;
        Ok(Self { values, scales: params.scales })
    }

    /// Weights that are quantized already.
    ///
    /// # Errors
    /// [`Error::KTooLong`]; [`Error::Length`] for weights or scales, [`Error::Scale`].
    pub fn new(weights: &[i8], scales: Broadcast<f32>, outputs: usize, size: usize) -> Result<Self, Error> {
        check_depth(size)?;
        let overflow = Error::SizeOverflow { what: "weights", rows: outputs, cols: size };
        check_len("weights", weights.len(), outputs.checked_mul(size).ok_or(overflow)?)?;
        check_scales("weight scale", &scales, outputs)?;
        let values = memory::copied("weights", weights)?;
        Ok(Self { values, scales: memory::copied("weight scales", scales.as_slice())? })
    }

    /// What becomes of the sums of `outputs` channels.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Bias`], [`Error::BiasType`] for the bias; [`Error::Scale`] for scales whose quotient is 0 or
    /// infinite; [`Error::ZeroPoint`], [`Error::Clamp`] for the output.
    pub fn finish<A: Operand, T>(
        &self,
        config: &StaticConfig<T>,
        bias: StaticBias,
        outputs: usize,
    ) -> Result<OwnedFinish, Error> {
        config.check::<A>()?;
        let size = self.values.len().checked_div(outputs).unwrap_or(0);
        let steps = self.scales.iter().map(|&scale| sum_step(config, scale));
        let mut steps = memory::collected("steps of sums", steps)?;
        let bias = match bias {
            StaticBias::None => OwnedBias::None,
            StaticBias::Sums(bias) => {
                check_len("bias", bias.len(), outputs)?;
                let weights = |i: usize| &self.values[i * size..][..size];
                let safe = |i: usize| is_safe::<A>(bias[i].into(), weights(i), config.input.zero_point);
                if let Some(index) = (0..outputs).find(|&i| !safe(i)) {
                    return Err(Error::Bias { index, value: bias[index].into() });
                }
                OwnedBias::I32(memory::copied("bias", bias)?)
            }
            StaticBias::Real(bias) => real_bias::<A, T>(config, self, bias, outputs, &mut steps)?,
        };
        let scales = || {
            let scale = |step: &f64| (step / config.divisor()) as f32;
            memory::collected("output scales", steps.iter().map(scale))
        };
        let kind = match config.target {
            Target::Sums => OwnedKind::I32 { accumulate: false },
            Target::Real { min, max } => OwnedKind::f32(scales()?, min, max),
            Target::Bytes { to, .. } => OwnedKind::HalfEven { scales: scales()?, to },
        };
        OwnedFinish::new(kind, bias, outputs)
    }
}

/// A bias as the user has it.
#[derive(Debug, Clone, Copy)]
pub(super) enum StaticBias<'a> {
    None,
    /// In units of input scale * weight scale.
    Sums(&'a [i32]),
    Real(&'a [f32]),
}

impl<'a> From<Option<&'a [i32]>> for StaticBias<'a> {
    fn from(bias: Option<&'a [i32]>) -> Self {
        bias.map_or(Self::None, Self::Sums)
    }
}

impl<'a> From<Option<&'a [f32]>> for StaticBias<'a> {
    fn from(bias: Option<&'a [f32]>) -> Self {
        bias.map_or(Self::None, Self::Real)
    }
}

/// The real size of a step of the sums: input scale * weight scale, in f32 as PyTorch and ONNX Runtime have it, unless that alone
/// leaves the normal f32.
fn sum_step<T>(config: &StaticConfig<T>, weight_scale: f32) -> f64 {
    let step = config.input.scale * weight_scale;
    if step.is_normal() { step.into() } else { f64::from(config.input.scale) * f64::from(weight_scale) }
}

/// The i32 biases of an output channel with which no input makes a sum leave i32.
fn safe_biases<A: Operand>(weights: &[i8], zero_point: i32) -> RangeInclusive<i64> {
    // An input less its zero point lies in this range, which holds 0: padding adds nothing.
    let (low, high) = (i64::from(A::MIN - zero_point), i64::from(A::MAX - zero_point));
    // Of negative and of positive weights; MAX_SAFE_K of them are far inside i32.
    let (below, above) = weights.iter().fold((0, 0), |(below, above), &w| {
        let w = i32::from(w);
        (below + w.min(0), above + w.max(0))
    });
    let (below, above) = (i64::from(below), i64::from(above));
    let (smallest, largest) = (high * below + low * above, low * below + high * above);
    i64::from(i32::MIN) - smallest..=i64::from(i32::MAX) - largest
}

/// With this bias no input makes a sum of these weights leave i32. Nearly all biases are so small that weights of any values leave
/// room for them.
fn is_safe<A: Operand>(bias: i64, weights: &[i8], zero_point: i32) -> bool {
    let most = weights.len() as u64 * 255 * 128;
    bias.unsigned_abs().saturating_add(most) <= i32::MAX as u64
        || safe_biases::<A>(weights, zero_point).contains(&bias)
}

/// The step of the sums of a channel whose weights are all 0: they are its bias, so that any step will do. With this one the bias
/// is 2^24 steps, which f32 holds exactly, unless the step were no normal f32 in units of the output.
fn pruned_step(bias: f32, divisor: f64) -> f64 {
    let scale = f64::from(bias.abs()) / f64::from(1 << 24) / divisor;
    scale.clamp(f32::MIN_POSITIVE.into(), f32::MAX.into()) * divisor
}

/// A real bias, rounded to steps of the sums where these are fine enough. Channels without weights get steps of their own in `steps`.
///
/// # Errors
/// [`Error::Length`], [`Error::Bias`].
fn real_bias<A: Operand, T>(
    config: &StaticConfig<T>,
    weights: &StaticWeights,
    bias: &[f32],
    outputs: usize,
    steps: &mut [f64],
) -> Result<OwnedBias, Error> {
    check_len("bias", bias.len(), outputs)?;
    if let Some(index) = bias.iter().position(|b| !b.is_finite()) {
        return Err(Error::Bias { index, value: bias[index].into() });
    }
    let size = weights.values.len().checked_div(outputs).unwrap_or(0);
    let weights_of = |channel: usize| &weights.values[channel * size..][..size];
    let sums = matches!(config.target, Target::Sums);
    // Sums mean something to whoever reads them: their steps stay.
    if !sums && steps.len() == outputs {
        for (channel, step) in steps.iter_mut().enumerate() {
            if weights_of(channel).iter().all(|&w| w == 0) {
                *step = pruned_step(bias[channel], config.divisor());
            }
        }
    }
    let step = |channel: usize| steps[if steps.len() == 1 { 0 } else { channel }];
    let rounded = |channel: usize| libm::rint(f64::from(bias[channel]) / step(channel));
    // A channel whose weights are next to nothing has sums of tiny steps. The cast saturates.
    let unsafe_at =
        (0..outputs).find(|&i| !is_safe::<A>(rounded(i) as i64, weights_of(i), config.input.zero_point));
    if let (Some(index), true) = (unsafe_at, sums) {
        return Err(Error::Bias { index, value: bias[index].into() });
    }
    // Behind an activation that is always 0 steps are as coarse as its scale, which nothing has measured.
    let most = match config.target {
        Target::Sums => f64::INFINITY,
        Target::Bytes { scale, .. } => f64::from(scale) / 32.0,
        Target::Real { .. } => bias.iter().fold(0.0, |most: f64, &b| most.max(b.abs().into())) / 4096.0,
    };
    let coarse = |i: usize| (rounded(i) * step(i) - f64::from(bias[i])).abs() > most;
    if unsafe_at.is_some() || config.float_bias || (0..outputs).any(coarse) {
        let real = |&b: &f32| (f64::from(b) / config.divisor()) as f32;
        return Ok(OwnedBias::F32(memory::collected("bias", bias.iter().map(real))?));
    }
    Ok(OwnedBias::I32(memory::collected("bias", (0..outputs).map(|i| rounded(i) as i32))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bound is that of the filter's own weights: one more in either direction, and the input that makes the sum largest or
    /// smallest takes it out of i32.
    #[test]
    fn biases_are_bounded_by_the_largest_and_smallest_sum() {
        fn check<A: Operand>(weights: &[i8], zero_point: i32) {
            let sums = |pick: fn(i64, i64) -> i64| -> i64 {
                let of = |w: i8, x: i32| i64::from(w) * i64::from(x - zero_point);
                weights.iter().map(|&w| pick(of(w, A::MIN), of(w, A::MAX))).sum()
            };
            let range = safe_biases::<A>(weights, zero_point);
            assert_eq!(range.start() + sums(i64::min), i64::from(i32::MIN), "{weights:?}, {zero_point}");
            assert_eq!(range.end() + sums(i64::max), i64::from(i32::MAX), "{weights:?}, {zero_point}");
        }
        for weights in [&[][..], &[0], &[-128], &[127, -128, 3], &[127; 100], &[-128; 1000]] {
            for zero_point in [-128, -1, 0, 127] {
                check::<i8>(weights, zero_point);
                check::<u8>(weights, zero_point + 128);
            }
        }
    }
}
