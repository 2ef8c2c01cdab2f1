//! Batch normalization becomes part of the layer before it.

use crate::{Error, check::check_len};

/// What a trained batch normalization does to channel `c`: `(x - mean[c]) / sqrt(variance[c] + epsilon) * gamma[c] + beta[c]`.
#[derive(Debug, Clone, Copy)]
pub struct BatchNorm<'a> {
    /// Running mean of each channel.
    pub mean: &'a [f32],
    /// Running variance of each channel, finite and not below 0.
    pub variance: &'a [f32],
    /// Factor of each channel (PyTorch: `weight`).
    pub gamma: &'a [f32],
    /// Summand of each channel (PyTorch: `bias`).
    pub beta: &'a [f32],
    /// Keeps the root above 0; PyTorch's default is 1e-5.
    pub epsilon: f32,
}

/// Folds a batch normalization into the convolution or linear layer before it:
/// `w' = w * gamma / sqrt(variance + epsilon)`, `bias' = (bias - mean) * gamma / sqrt(variance + epsilon) + beta`
/// (Jacob et al. 2018, equation 14).
///
/// `weights` has the output channels as its first axis (PyTorch's order, whatever the axes after it); `bias` is one value for
/// each output channel, zeros where the layer has none. Computed in f64, rounded once.
///
/// ```
/// use i8gemm::nn::{BatchNorm, fold_batch_norm};
/// let (mut w, mut bias) = ([1.0, 2.0, 3.0, 4.0], [0.5, 0.0]); // two channels of two weights
/// let norm =
///     BatchNorm { mean: &[0.5, 1.0], variance: &[4.0, 0.25], gamma: &[2.0, 1.0], beta: &[0.0, 7.0], epsilon: 0.0 };
/// fold_batch_norm(&mut w, &mut bias, &norm)?;
/// assert_eq!((w, bias), ([1.0, 2.0, 6.0, 8.0], [0.0, 5.0]));
/// # Ok::<(), i8gemm::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`] for parameters that are not one for each channel and for weights that are no multiple of the channels;
/// [`Error::NonFinite`] for what is NaN or infinite, or becomes it; [`Error::Parameter`] for a negative variance or a variance plus
/// epsilon of 0.
/// Nothing has been changed then.
pub fn fold_batch_norm(weights: &mut [f32], bias: &mut [f32], norm: &BatchNorm) -> Result<(), Error> {
    let channels = bias.len();
    let parameters =
        [("mean", norm.mean), ("variance", norm.variance), ("gamma", norm.gamma), ("beta", norm.beta)];
    for (what, values) in parameters {
        check_len(what, values.len(), channels)?;
        check_finite(what, values)?;
    }
    check_finite("weight", weights)?;
    check_finite("bias", bias)?;
    check_finite("epsilon", &[norm.epsilon])?;
    let each = weights.len().checked_div(channels).unwrap_or(0);
    check_len("weights", weights.len(), each * channels)?;
    let spread = |channel: usize| f64::from(norm.variance[channel]) + f64::from(norm.epsilon);
    for channel in 0..channels {
        let (variance, sum) = (f64::from(norm.variance[channel]), spread(channel));
        if variance < 0.0 || sum <= 0.0 {
            let value = if variance < 0.0 { variance } else { sum };
            let what = if variance < 0.0 { "variance" } else { "variance + epsilon" };
            return Err(Error::Parameter { what, value, min: 0.0, max: f64::INFINITY });
        }
    }
    let factor = |channel: usize| f64::from(norm.gamma[channel]) / libm::sqrt(spread(channel));
    let weight = |index: usize, weight: f32| (f64::from(weight) * factor(index / each)) as f32;
    let folded_bias = |channel: usize, bias: f32| {
        let centred = f64::from(bias) - f64::from(norm.mean[channel]);
        (centred * factor(channel) + f64::from(norm.beta[channel])) as f32
    };
    // What is finite may be too large for an f32 when it is folded.
    check_each("folded weight", weights, weight)?;
    check_each("folded bias", bias, folded_bias)?;
    weights.iter_mut().enumerate().for_each(|(i, w)| *w = weight(i, *w));
    bias.iter_mut().enumerate().for_each(|(i, b)| *b = folded_bias(i, *b));
    Ok(())
}

fn check_finite(what: &'static str, values: &[f32]) -> Result<(), Error> {
    check_each(what, values, |_, value| value)
}

/// What becomes of each value is finite.
fn check_each(what: &'static str, values: &[f32], of: impl Fn(usize, f32) -> f32) -> Result<(), Error> {
    let mut all = values.iter().enumerate().map(|(index, &value)| (index, of(index, value)));
    match all.find(|(_, value)| !value.is_finite()) {
        Some((index, value)) => Err(Error::NonFinite { what, index, value }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer followed by its normalization, on one input, against the folded layer.
    #[test]
    fn a_folded_layer_is_the_layer_and_its_normalization() {
        let (w, bias) = ([0.5f32, -1.5, 2.0, 0.25, 3.0, -0.75], [0.1f32, -0.2]);
        let (mean, variance) = ([0.3f32, -1.0], [0.9f32, 2.5]);
        let (gamma, beta) = ([1.5f32, -0.5], [0.25f32, 4.0]);
        let norm = BatchNorm { mean: &mean, variance: &variance, gamma: &gamma, beta: &beta, epsilon: 1e-5 };
        let (mut folded, mut folded_bias) = (w, bias);
        fold_batch_norm(&mut folded, &mut folded_bias, &norm).unwrap();
        let x = [1.0f32, -2.0, 0.5];
        let layer = |w: &[f32], bias: f32| -> f64 {
            w.iter().zip(x).map(|(&w, x)| f64::from(w) * f64::from(x)).sum::<f64>() + f64::from(bias)
        };
        for c in 0..2 {
            let y = layer(&w[3 * c..][..3], bias[c]);
            let deviation = (f64::from(variance[c]) + f64::from(1e-5f32)).sqrt();
            let expected = (y - f64::from(mean[c])) / deviation * f64::from(gamma[c]) + f64::from(beta[c]);
            let actual = layer(&folded[3 * c..][..3], folded_bias[c]);
            assert!((actual - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{actual}, {expected}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_changes_nothing() {
        let good = BatchNorm {
            mean: &[0.0; 2],
            variance: &[1.0; 2],
            gamma: &[2.0; 2],
            beta: &[0.0; 2],
            epsilon: 0.0,
        };
        let fold = |len: usize, norm: BatchNorm| {
            let (mut w, mut bias) = ([1.0f32; 8], [3.0f32; 2]);
            let result = fold_batch_norm(&mut w[..len], &mut bias, &norm);
            assert!(result.is_ok() || (w == [1.0; 8] && bias == [3.0; 2]));
            result
        };
        assert_eq!(fold(8, good), Ok(()));
        let length = |what, expected, actual| Err(Error::Length { what, expected, actual });
        assert_eq!(fold(7, good), length("weights", 6, 7));
        assert_eq!(fold(8, BatchNorm { gamma: &[1.0], ..good }), length("gamma", 2, 1));
        let negative = fold(8, BatchNorm { variance: &[1.0, -1.0], ..good });
        assert!(matches!(negative, Err(Error::Parameter { what: "variance", .. })));
        assert!(matches!(
            fold(8, BatchNorm { variance: &[1.0, 0.0], ..good }),
            Err(Error::Parameter { what: "variance + epsilon", .. })
        ));
        assert!(matches!(
            fold(8, BatchNorm { mean: &[0.0, f32::NAN], ..good }),
            Err(Error::NonFinite { what: "mean", index: 1, .. })
        ));
        // Finite, but 3e38 / 1e-3 is not.
        assert!(matches!(
            fold(8, BatchNorm { gamma: &[1.0, 3e38], variance: &[1.0, 1e-6], ..good }),
            Err(Error::NonFinite { what: "folded weight", index: 4, .. })
        ));
        assert!(matches!(
            fold(8, BatchNorm { gamma: &[1.0, 2e38], ..good }),
            Err(Error::NonFinite { what: "folded bias", index: 1, .. })
        ));
        // No channels: nothing to fold.
        let none = BatchNorm { mean: &[], variance: &[], gamma: &[], beta: &[], epsilon: 1e-5 };
        assert_eq!(fold_batch_norm(&mut [], &mut [], &none), Ok(()));
        assert!(fold_batch_norm(&mut [1.0], &mut [], &none).is_err());
    }
}
