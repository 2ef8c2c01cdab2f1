//! Weights of one bit and of three values.

use crate::{Error, check::check_len};

/// How ternary weights choose what becomes 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ternary {
    /// Ternary weight networks (F. Li et al. 2016): below 0.7 mean `|w|` becomes 0; the scale is the mean of the others'
    /// magnitudes.
    Twn,
    /// BitNet b1.58 (S. Ma et al. 2024): the scale is mean `|w|`, weights are rounded to steps of it.
    AbsMean,
}

/// Binary weights (XNOR-Net, M. Rastegari et al. 2016): signs -1 and +1, 0 becoming +1, and the scale mean `|w|`, which is the
/// best for them.
///
/// ```
/// use i8gemm::quant::binary_weights;
/// let mut signs = [0; 4];
/// let scale = binary_weights(&[0.5, -1.5, 0.0, 2.0], &mut signs)?;
/// assert_eq!((scale, signs), (1.0, [1, -1, 1, 1]));
/// # Ok::<(), i8gemm::Error>(())
/// ```
///
/// # Errors
/// [`Error::Length`] when lengths disagree; [`Error::NothingObserved`] for no weights; [`Error::NonFinite`].
pub fn binary_weights(weights: &[f32], signs: &mut [i8]) -> Result<f32, Error> {
    check_len("signs", signs.len(), weights.len())?;
    let scale = mean_abs(weights)?;
    for (sign, w) in signs.iter_mut().zip(weights) {
        *sign = if *w < 0.0 { -1 } else { 1 };
    }
    Ok(scale as f32)
}

/// Ternary weights: -1, 0 and +1, and their scale.
///
/// ```
/// use i8gemm::quant::{Ternary, ternary_weights};
/// let mut codes = [0; 4];
/// let scale = ternary_weights(Ternary::Twn, &[0.5, -1.5, 0.0, 2.0], &mut codes)?;
/// assert_eq!((scale, codes), (1.75, [0, -1, 0, 1]));
/// # Ok::<(), i8gemm::Error>(())
/// ```
///
/// # Errors
/// As [`binary_weights`].
pub fn ternary_weights(rule: Ternary, weights: &[f32], codes: &mut [i8]) -> Result<f32, Error> {
    check_len("ternary codes", codes.len(), weights.len())?;
    let mean = mean_abs(weights)?;
    let threshold = match rule {
        Ternary::Twn => 0.7 * mean,
        // Half a step, which rounds to even: to 0.
        Ternary::AbsMean => 0.5 * mean,
    };
    let (mut sum, mut kept) = (0.0, 0u64);
    for (code, &w) in codes.iter_mut().zip(weights) {
        let magnitude = f64::from(w.abs());
        let keep = magnitude > threshold;
        *code = i8::from(keep) * if w < 0.0 { -1 } else { 1 };
        if keep {
            (sum, kept) = (sum + magnitude, kept + 1);
        }
    }
    Ok(match rule {
        Ternary::Twn if kept > 0 => (sum / kept as f64) as f32,
        _ => mean as f32,
    })
}

/// Mean magnitude.
pub(super) fn mean_abs(values: &[f32]) -> Result<f64, Error> {
    if values.is_empty() {
        return Err(Error::NothingObserved);
    }
    if let Some(index) = values.iter().position(|x| !x.is_finite()) {
        return Err(Error::NonFinite { what: "value", index, value: values[index] });
    }
    Ok(values.iter().map(|x| f64::from(x.abs())).sum::<f64>() / values.len() as f64)
}
