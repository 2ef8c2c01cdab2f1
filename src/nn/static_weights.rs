//! Weights and outputs of static layers: quantized once, with everything that a sum needs on its way out.

use alloc::{borrow::ToOwned, vec::Vec};
use core::{marker::PhantomData, ops::Range};

use super::{StaticConfig, static_config::Target};
use crate::{
    Broadcast, Error, MAX_SAFE_K, Operand, Output, OutputElement,
    gemm::{Bias, Kind, check_len, check_scales},
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
    /// [`Error::Length`] for weights or scales, [`Error::NonFinite`], [`Error::Scale`] for their values.
    pub fn quantize<T>(
        weights: &[f32],
        outputs: usize,
        size: usize,
        config: &StaticConfig<T>,
    ) -> Result<Self, Error> {
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
                let scales = scales.as_slice().to_owned();
                ParamList { zero_points: alloc::vec![0; scales.len()], scales }
            }
            None => ParamList::fit(grouping, config.levels, Scheme::Symmetric, weights)?,
        };
        let mut values = alloc::vec![0i8; weights.len()];
        params.quantizer(grouping).levels(config.levels).quantize(weights, &mut values)?;
        Ok(Self { values, scales: params.scales })
    }

    /// Weights that are quantized already.
    ///
    /// # Errors
    /// [`Error::Length`] for weights or scales, [`Error::Scale`].
    pub fn new(weights: &[i8], scales: Broadcast<f32>, outputs: usize, size: usize) -> Result<Self, Error> {
        let overflow = Error::SizeOverflow { what: "weights", rows: outputs, cols: size };
        check_len("weights", weights.len(), outputs.checked_mul(size).ok_or(overflow)?)?;
        check_scales("weight scale", &scales, outputs)?;
        Ok(Self { values: weights.to_owned(), scales: scales.as_slice().to_owned() })
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

/// What becomes of the sums of a static layer: an [`Output`] that owns its parameters.
#[derive(Debug)]
pub(super) struct StaticOutput<T> {
    target: Target,
    /// One, or one for each output channel: input scale * weight scale / output scale. None for sums.
    scales: Vec<f32>,
    bias: OwnedBias,
    element: PhantomData<T>,
}

#[derive(Debug)]
enum OwnedBias {
    None,
    I32(Vec<i32>),
    F32(Vec<f32>),
}

/// Largest bias in units of the sums with which no sum of [`MAX_SAFE_K`] products leaves an i32.
const MAX_BIAS: f64 = (i32::MAX as usize - MAX_SAFE_K * 255 * 128) as f64;

impl<T: OutputElement> StaticOutput<T> {
    /// Of `outputs` channels.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Bias`], [`Error::BiasType`] for the bias; [`Error::Scale`] for scales whose quotient is 0 or
    /// infinite; [`Error::ZeroPoint`], [`Error::Clamp`] for the output.
    pub fn new<A: Operand>(
        config: &StaticConfig<T>,
        weight_scales: &[f32],
        bias: StaticBias,
        outputs: usize,
    ) -> Result<Self, Error> {
        config.check::<A>()?;
        let sums = |index: usize| {
            let scale = weight_scales[if weight_scales.len() == 1 { 0 } else { index }];
            config.input.scale * scale
        };
        let (divisor, needs_scales) = match config.target {
            Target::Sums => (1.0, false),
            Target::Real { .. } => (1.0, true),
            Target::Bytes { scale, .. } => (scale, true),
        };
        let count = if needs_scales { weight_scales.len() } else { 0 };
        let bias = match bias {
            StaticBias::None => OwnedBias::None,
            StaticBias::Sums(bias) => OwnedBias::I32(bias.to_owned()),
            StaticBias::Real(bias) => {
                check_len("bias", bias.len(), outputs)?;
                if let Some(index) = bias.iter().position(|b| !b.is_finite()) {
                    return Err(Error::Bias { index, value: bias[index] });
                }
                let steps = |(i, b): (usize, &f32)| libm::rint(f64::from(*b) / f64::from(sums(i)));
                let steps: Vec<f64> = bias.iter().enumerate().map(steps).collect();
                // A channel whose weights are next to nothing, pruned or folded away, has sums of tiny steps.
                let too_large = steps.iter().position(|steps| steps.abs() > MAX_BIAS);
                match too_large {
                    None if !config.float_bias => OwnedBias::I32(steps.iter().map(|&s| s as i32).collect()),
                    Some(index) if matches!(config.target, Target::Sums) => {
                        return Err(Error::Bias { index, value: bias[index] });
                    }
                    _ => OwnedBias::F32(bias.iter().map(|b| b / divisor).collect()),
                }
            }
        };
        let scales = (0..count).map(|i| sums(i) / divisor).collect();
        let output = Self { target: config.target, scales, bias, element: PhantomData };
        output.range(0..outputs).check(outputs)?;
        Ok(output)
    }

    /// Puts parameters in another order: channel `at` gets those of channel `from(at)`.
    pub fn reorder(&mut self, outputs: usize, from: impl Fn(usize) -> usize) {
        fn permuted<P: Copy>(values: &mut Vec<P>, outputs: usize, from: &impl Fn(usize) -> usize) {
            if values.len() == outputs {
                *values = (0..outputs).map(|at| values[from(at)]).collect();
            }
        }
        permuted(&mut self.scales, outputs, &from);
        match &mut self.bias {
            OwnedBias::None => {}
            OwnedBias::I32(bias) => permuted(bias, outputs, &from),
            OwnedBias::F32(bias) => permuted(bias, outputs, &from),
        }
    }

    /// Of some channels.
    pub fn range(&self, channels: Range<usize>) -> Output<'_, T> {
        let scales = match self.scales[..] {
            [scale] => Broadcast::All(scale),
            ref scales => Broadcast::Each(scales.get(channels.clone()).unwrap_or(scales)),
        };
        let kind = match self.target {
            Target::Sums => Kind::I32 { accumulate: false },
            Target::Real { min, max } => Kind::F32 { scales, min, max },
            Target::Bytes { to, .. } => Kind::HalfEven { scales, to },
        };
        let bias = match &self.bias {
            OwnedBias::None => Bias::None,
            OwnedBias::I32(bias) => Bias::I32(bias.get(channels).unwrap_or(bias)),
            OwnedBias::F32(bias) => Bias::F32(bias.get(channels).unwrap_or(bias)),
        };
        Output::from_parts(kind, bias)
    }
}
