//! The checks that products, quantizers and layers share: each gives the error that names what is wrong.

use crate::{Broadcast, Error, Operand};

/// The longest K whose sums fit an i32 whatever the values: `floor((2^31 - 1) / 255^2)`.
pub const MAX_SAFE_K: usize = 33_025;

/// Sums of K products fit an i32 whatever the values.
pub(crate) fn check_depth(k: usize) -> Result<(), Error> {
    if k <= MAX_SAFE_K { Ok(()) } else { Err(Error::KTooLong { k, max: MAX_SAFE_K }) }
}

/// Two shapes agree.
#[inline]
pub(crate) fn check_shape(what: &'static str, expected: usize, actual: usize) -> Result<(), Error> {
    if expected == actual { Ok(()) } else { Err(Error::Shape { what, expected, actual }) }
}

/// A slice has the length that it must have.
pub(crate) fn check_len(what: &'static str, actual: usize, expected: usize) -> Result<(), Error> {
    if actual == expected { Ok(()) } else { Err(Error::Length { what, expected, actual }) }
}

/// One value, or as many as there are rows or columns.
pub(crate) fn check_broadcast<T>(
    what: &'static str,
    values: &Broadcast<T>,
    count: usize,
) -> Result<(), Error> {
    match values {
        Broadcast::All(_) => Ok(()),
        Broadcast::Each(values) => check_len(what, values.len(), count),
    }
}

/// Every scale is finite and above zero.
pub(crate) fn check_scales(what: &'static str, scales: &Broadcast<f32>, count: usize) -> Result<(), Error> {
    check_broadcast(what, scales, count)?;
    let scales = scales.as_slice();
    match scales.iter().position(|&s| !(s > 0.0 && s.is_finite())) {
        Some(index) => Err(Error::Scale { what, index, value: scales[index].into() }),
        None => Ok(()),
    }
}

/// Every zero point is a value of the element type.
pub(crate) fn check_zero_points<T: Operand>(
    what: &'static str,
    zero_points: &Broadcast<i32>,
    count: usize,
) -> Result<(), Error> {
    check_zero_points_within(what, zero_points, count, [T::MIN, T::MAX])
}

/// Every zero point lies in a range.
#[inline]
pub(crate) fn check_zero_points_within(
    what: &'static str,
    zero_points: &Broadcast<i32>,
    count: usize,
    [min, max]: [i32; 2],
) -> Result<(), Error> {
    check_broadcast(what, zero_points, count)?;
    let values = zero_points.as_slice();
    match values.iter().position(|z| !(min..=max).contains(z)) {
        Some(index) => Err(Error::ZeroPoint { what, index, value: values[index], min, max }),
        None => Ok(()),
    }
}
