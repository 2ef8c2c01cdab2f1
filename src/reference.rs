//! The scalar definition of every operation: what the kernels compute, as plainly as it can be said.
//!
//! This is the specification, and what tests compare every kernel with. It is slow and allocates nothing.
//!
//! ```
//! use i8gemm::{MatMut, MatRef, Output, Lhs, Rhs, reference};
//! let (x, w) = ([1u8, 2], [3i8, -4]);
//! let mut y = [0i32];
//! let lhs = Lhs::new(MatRef::row_major(&x, 1, 2)?).zero_point(1);
//! reference::gemm(lhs, Rhs::new(MatRef::row_major(&w, 2, 1)?), &Output::i32(), MatMut::row_major(&mut y, 1, 1)?)?;
//! assert_eq!(y, [-4]); // (1 - 1) * 3 + (2 - 1) * -4
//! # Ok::<(), i8gemm::Error>(())
//! ```

use core::ops::Range;

#[cfg(feature = "alloc")]
use crate::{
    Broadcast,
    check::check_zero_points,
    image::{Nhwc, Window},
    nn::Filters,
};
use crate::{
    Error, FixedPoint, FixedRounding, Lhs, MatMut, Operand, Output, OutputElement, Rhs,
    check::check_shape,
    gemm::{Bias, Groups, Kind, positive_zeros},
    kernels::{
        vectors::gates::{TANH_CLAMP, TANH_P, TANH_Q},
        vectors::rounding::random_key,
    },
    quant::{Levels, QParams, Rounding},
};

/// The whole call: checks, sums, and the output. It takes M x N x K steps, also where strides of 0 make a small slice a large
/// matrix.
///
/// # Errors
/// Those of [`Gemm::new`](crate::Gemm::new) and [`Gemm::run`](crate::Gemm::run).
pub fn gemm<'l, 'r, A: Operand, B: Operand, T: OutputElement>(
    lhs: impl Into<Lhs<'l, A>>,
    rhs: impl Into<Rhs<'r, B>>,
    output: &Output<T>,
    mut out: MatMut<T>,
) -> Result<(), Error> {
    let (lhs, rhs) = (lhs.into(), rhs.into());
    rhs.check()?;
    rhs.check_values()?;
    output.finish.check(rhs.matrix.cols())?;
    if rhs.groups.is_some() {
        output.finish.check_groups()?;
    }
    lhs.check(rhs.matrix.rows(), &output.finish.kind)?;
    check_shape("rows of out (M)", lhs.matrix.rows(), out.rows())?;
    check_shape("columns of out (N)", rhs.matrix.cols(), out.cols())?;
    if out.cols() == 0 {
        // However many rows, none has elements.
        return Ok(());
    }
    for m in 0..out.rows() {
        for n in 0..out.cols() {
            let old = out.get(m, n).unwrap_or(T::from_i32(0));
            let value = match rhs.groups {
                None => finish(
                    dot(&lhs, &rhs, 0..lhs.matrix.cols(), m, n),
                    output,
                    lhs.row_scales().at(m),
                    n,
                    old,
                ),
                Some(groups) => {
                    real(sum_of_groups(&lhs, &rhs, &groups, m, n), output, lhs.row_scales().at(m), n, old)
                }
            };
            out.set(m, n, value);
        }
    }
    Ok(())
}

/// A convolution of NHWC images with filters, outputs x (inputs / groups) x height x width as PyTorch lays them out, of zero
/// point 0. With `c` a channel of the group of the output channel `o`, and taps in the padding left out:
///
/// ```text
/// y[n, i, j, o] = output(sum over u, v, c of (x[n, i * stride + u * dilation - padding, j .. v .., c] - zero_point) * w[o, c, u, v])
/// ```
///
/// # Errors
/// [`Error::Shape`] for lengths that are not the shapes'; the errors of the filters and of the output.
#[cfg(feature = "alloc")]
pub fn conv2d<A: Operand, T: OutputElement>(
    x: &[A],
    shape: Nhwc,
    zero_point: i32,
    weights: &[i8],
    filters: &Filters,
    output: &Output<T>,
    y: &mut [T],
) -> Result<Nhwc, Error> {
    let (depth, size) = filters.check()?;
    output.finish.check(filters.outputs)?;
    check_zero_points::<A>("input zero point", &Broadcast::All(zero_point), 1)?;
    check_shape("channels of x", filters.inputs, shape.channels)?;
    check_shape("elements of x", shape.elements()?, x.len())?;
    check_shape("weights", size * filters.outputs, weights.len())?;
    let out = filters.window.output(shape, filters.outputs)?;
    check_shape("elements of y", out.elements()?, y.len())?;
    let (rows, cols) = (&filters.window.height, &filters.window.width);
    for (index, y) in y.iter_mut().enumerate() {
        let (o, place) = (index % out.channels, index / out.channels);
        let (j, i, n) = (place % out.width, place / out.width % out.height, place / out.width / out.height);
        let first = o / (filters.outputs / filters.groups) * depth;
        let mut sum = 0i32;
        for u in 0..rows.size {
            for v in 0..cols.size {
                let inside = (rows.pixel(i, u, shape.height), cols.pixel(j, v, shape.width));
                let (Some(row), Some(column)) = inside else { continue };
                for c in 0..depth {
                    let pixel = (n * shape.height + row) * shape.width + column;
                    let a = x[pixel * shape.channels + first + c].widen() - zero_point;
                    let w = weights[((o * depth + c) * rows.size + u) * cols.size + v];
                    sum = sum.wrapping_add(a * i32::from(w));
                }
            }
        }
        *y = finish(sum, output, 1.0, o, *y);
    }
    Ok(out)
}

/// `sum over k of (lhs[m, k] - za[m]) * (rhs[k, n] - zb[n])`, modulo 2^32: exact for K up to
/// [`MAX_SAFE_K`](crate::MAX_SAFE_K).
fn dot<A: Operand, B: Operand>(lhs: &Lhs<A>, rhs: &Rhs<B>, ks: Range<usize>, m: usize, n: usize) -> i32 {
    let (za, zb) = (lhs.zero_points.at(m), rhs.zero_points.at(n));
    ks.fold(0i32, |sum, k| {
        let a = lhs.matrix.get(m, k).map_or(0, Operand::widen) - za;
        let b = rhs.matrix.get(k, n).map_or(0, Operand::widen) - zb;
        sum.wrapping_add(a * b)
    })
}

/// Of groups of K with scales of their own, in ascending order.
fn sum_of_groups<A: Operand, B: Operand>(
    lhs: &Lhs<A>,
    rhs: &Rhs<B>,
    groups: &Groups,
    m: usize,
    n: usize,
) -> f32 {
    let (k, size) = (rhs.matrix.rows(), groups.size);
    let scaled = |group: usize| {
        let sum = dot(lhs, rhs, group * size..k.min((group + 1) * size), m, n);
        sum as f32 * groups.scales[group * rhs.matrix.cols() + n]
    };
    // Not from 0.0, which would make 0.0 of -0.0.
    (0..k.div_ceil(size)).map(scaled).reduce(|sum, next| sum + next).unwrap_or(0.0)
}

/// The output element of a sum; `old` is what the output held.
fn finish<T: OutputElement>(sum: i32, output: &Output<T>, row_scale: f32, n: usize, old: T) -> T {
    let (bias_i32, bias_f32) = match output.finish.bias {
        Bias::None => (0, 0.0),
        Bias::I32(bias) => (bias[n], 0.0),
        Bias::F32(bias) => (0, bias[n]),
    };
    let sum = sum.wrapping_add(bias_i32);
    match &output.finish.kind {
        Kind::I32 { accumulate: false } => T::from_i32(sum),
        Kind::I32 { accumulate: true } => T::from_i32(old.to_i32().wrapping_add(sum)),
        Kind::F32 { .. } => real(sum as f32, output, row_scale, n, old),
        Kind::HalfEven { scales, to } => {
            let rounded = half_even(sum, scales.at(n), bias_f32);
            T::from_i32(rounded.saturating_add(to.zero_point).clamp(to.min, to.max))
        }
        Kind::Fixed { multipliers, rounding, to } => {
            let scaled = match rounding {
                FixedRounding::Single => single_rounding(sum, multipliers.at(n)),
                FixedRounding::Double => double_rounding(sum, multipliers.at(n)),
            };
            T::from_i32(scaled.saturating_add(to.zero_point).clamp(to.min, to.max))
        }
    }
}

/// The output element, an f32, of a sum that is one; `old` is what the output held.
fn real<T: OutputElement>(sum: f32, output: &Output<T>, row_scale: f32, n: usize, old: T) -> T {
    let Kind::F32 { scales, min, max, accumulate } = &output.finish.kind else { return T::from_i32(0) };
    let product = sum * (row_scale * scales.at(n));
    // Not to 0.0, which would make 0.0 of -0.0.
    let product = if *accumulate { old.to_f32() + product } else { product };
    let value = if let Bias::F32(bias) = output.finish.bias { product + bias[n] } else { product };
    let clamps = *min > f32::NEG_INFINITY || *max < f32::INFINITY;
    T::from_f32(if clamps { clamp(value, positive_zeros([*min, *max])) } else { value })
}

/// NaN and zeros of either sign, which the clamps of the standard library leave open, are decided here.
fn clamp(value: f32, [min, max]: [f32; 2]) -> f32 {
    let raised = if value > min { value } else { min };
    if raised > max { max } else { raised }
}

/// `rint(f32(sum) * scale + bias)`, every operation rounded to nearest, ties to even; saturated to i32.
#[must_use]
pub fn half_even(sum: i32, scale: f32, bias: f32) -> i32 {
    libm::rintf(sum as f32 * scale + bias) as i32
}

/// `(x * multiplier + 2^(30 - shift)) >> (31 - shift)`, saturated to i32: ties go up.
#[must_use]
pub fn single_rounding(x: i32, scale: FixedPoint) -> i32 {
    let right = 31 - scale.shift();
    let product = i64::from(x) * i64::from(scale.multiplier());
    saturate((product + (1 << (right - 1))) >> right)
}

/// gemmlowp and TFLite: `RoundingDivideByPOT(SaturatingRoundingDoublingHighMul(x * 2^left, multiplier), right)` with
/// `left = max(shift, 0)`, `right = max(-shift, 0)`; the shift left saturates.
#[must_use]
pub fn double_rounding(x: i32, scale: FixedPoint) -> i32 {
    let shifted = saturate(i64::from(x) << scale.shift().max(0));
    rounding_divide_by_power_of_two(
        saturating_rounding_doubling_high_mul(shifted, scale.multiplier()),
        (-scale.shift()).max(0) as u32,
    )
}

/// The high half of `2 * a * b`, rounded to nearest with ties up; only `i32::MIN * i32::MIN` saturates.
#[must_use]
pub fn saturating_rounding_doubling_high_mul(a: i32, b: i32) -> i32 {
    saturate((i64::from(a) * i64::from(b) + (1 << 30)) >> 31)
}

/// `x / 2^exponent` rounded to nearest, ties away from zero: 0 above an exponent of 32.
#[must_use]
pub fn rounding_divide_by_power_of_two(x: i32, exponent: u32) -> i32 {
    let divisor = 1i64 << exponent.min(33);
    let half = divisor / 2;
    let magnitude = (i64::from(x).abs() + half) / divisor;
    saturate(if x < 0 { -magnitude } else { magnitude })
}

/// A number of steps as an integer, rounded in a mode; `index` is the place of the value in its slice.
#[must_use]
pub fn round(steps: f32, rounding: Rounding, index: usize) -> f64 {
    // In f64 nothing below rounds.
    let x = f64::from(steps);
    match rounding {
        Rounding::HalfEven => libm::rint(x),
        Rounding::HalfAway => libm::round(x),
        Rounding::HalfUp => libm::floor(x + 0.5),
        Rounding::Floor => libm::floor(x),
        Rounding::Ceil => libm::ceil(x),
        Rounding::Trunc => libm::trunc(x),
        Rounding::Stochastic { seed } => {
            let low = libm::floor(x);
            // The fraction rounds to f32 as the kernels have it: it is exact unless the value is tiny.
            low + f64::from(u8::from(uniform(seed, index as u32) < steps - low as f32))
        }
    }
}

/// The draw of stochastic rounding, in 0..1: two rounds of C. Wellons' 32-bit integer hash "lowbias32", a word of the key
/// before each.
fn uniform(seed: u64, index: u32) -> f32 {
    let x = random_key(seed).into_iter().fold(index, |x, word| {
        let x = x ^ word;
        let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
        x ^ (x >> 16)
    });
    (x >> 8) as f32 / (1 << 24) as f32
}

/// `clamp(round(real / scale) + zero_point)` to the levels; with `reciprocal`, `real * (1 / scale)` in place of the quotient.
/// NaN becomes the zero point.
#[must_use]
pub fn quantize(
    real: f32,
    params: QParams,
    levels: Levels,
    rounding: Rounding,
    reciprocal: bool,
    index: usize,
) -> i32 {
    let QParams { scale, zero_point } = params;
    let steps = if reciprocal { real * (1.0 / scale) } else { real / scale };
    to_levels(steps, zero_point, levels, rounding, index)
}

/// `clamp(round(f32(value - from_zero_point) * scale) + zero_point)` to the levels.
#[must_use]
pub fn requantize(
    value: i32,
    from_zero_point: i32,
    scale: f32,
    zero_point: i32,
    levels: Levels,
    rounding: Rounding,
    index: usize,
) -> i32 {
    let difference = i64::from(value) - i64::from(from_zero_point);
    to_levels(difference as f32 * scale, zero_point, levels, rounding, index)
}

/// The sum of two quantized values:
/// `clamp(rint(f32(a - za) * (sa / so) + f32(b - zb) * (sb / so)) + zo)`, both quotients, both products and the sum of them each
/// rounded to f32, ties to even. A clamp narrower than the levels comes after it.
///
/// ```
/// use i8gemm::{quant::{Levels, QParams}, reference};
/// let half = QParams { scale: 0.5, zero_point: 10 };
/// let unit = QParams { scale: 1.0, zero_point: 0 };
/// assert_eq!(reference::add([13, 20], [half, unit], unit, Levels::U8), 22); // 1.5 + 20, a tie
/// ```
#[must_use]
pub fn add(values: [i32; 2], inputs: [QParams; 2], output: QParams, levels: Levels) -> i32 {
    let term = |i: usize| {
        let difference = i64::from(values[i]) - i64::from(inputs[i].zero_point);
        difference as f32 * (inputs[i].scale / output.scale)
    };
    to_levels(term(0) + term(1), output.zero_point, levels, Rounding::HalfEven, 0)
}

/// Average pooling of NHWC images, in every channel by itself:
///
/// ```text
/// y[n, i, j, c] = clamp(rint(f32(sum over taps (x - zero_point)) * (input scale / output scale / f32(count))) + output zero point)
/// ```
///
/// Taps in the padding add 0. `count` is the number of taps: all of the window's if `count_padding`, only those inside the image
/// otherwise. The sum is an exact integer; every operation on f32 is rounded, ties to even.
///
/// # Errors
/// [`Error::Shape`] for lengths that are not the shapes'; [`Error::ZeroPoint`]; [`Error::WindowTooLarge`] and the other errors of
/// the window.
#[cfg(feature = "alloc")]
pub fn average_pool<A: Operand, T: Operand + OutputElement>(
    x: &[A],
    shape: Nhwc,
    window: &Window,
    count_padding: bool,
    params: [QParams; 2],
    y: &mut [T],
) -> Result<Nhwc, Error> {
    let [input, output] = params;
    check_zero_points::<A>("input zero point", &Broadcast::All(input.zero_point), 1)?;
    check_zero_points::<T>("output zero point", &Broadcast::All(output.zero_point), 1)?;
    let all = window.summed_taps()?;
    pool(x, shape, window, y, |taps| {
        let (inside, sum) =
            taps.fold((0, 0), |(count, sum), x| (count + 1, sum + (x.widen() - input.zero_point)));
        let count = if count_padding { all } else { inside };
        let steps = sum as f32 * (input.scale / output.scale / count as f32);
        T::from_i32(to_levels(steps, output.zero_point, Levels::of::<T>(), Rounding::HalfEven, 0))
    })
}

/// Max pooling of NHWC images: the largest value under the window, in every channel by itself; padding is left out.
///
/// # Errors
/// [`Error::Shape`] for lengths that are not the shapes'; the errors of the window.
#[cfg(feature = "alloc")]
pub fn max_pool<A: Operand>(x: &[A], shape: Nhwc, window: &Window, y: &mut [A]) -> Result<Nhwc, Error> {
    let larger = |a: A, b: A| if b.widen() > a.widen() { b } else { a };
    pool(x, shape, window, y, |taps| taps.reduce(larger).unwrap_or(A::zeroed()))
}

/// Each output from the taps inside the image.
#[cfg(feature = "alloc")]
fn pool<A: Operand, T>(
    x: &[A],
    shape: Nhwc,
    window: &Window,
    y: &mut [T],
    of: impl Fn(&mut dyn Iterator<Item = A>) -> T,
) -> Result<Nhwc, Error> {
    let out = window.output(shape, shape.channels)?;
    check_shape("elements of x", shape.elements()?, x.len())?;
    check_shape("elements of y", out.elements()?, y.len())?;
    let (rows, cols) = (&window.height, &window.width);
    for (index, y) in y.iter_mut().enumerate() {
        let (c, place) = (index % out.channels, index / out.channels);
        let (j, i, n) = (place % out.width, place / out.width % out.height, place / out.width / out.height);
        let pixel = |row, column| (n * shape.height + row) * shape.width + column;
        let columns = cols.pixels(j, shape.width);
        let mut taps = rows
            .pixels(i, shape.height)
            .flat_map(|row| columns.clone().map(move |column| x[pixel(row, column) * shape.channels + c]));
        *y = of(&mut taps);
    }
    Ok(out)
}

/// tanh as the recurrent layers compute it: a quotient of polynomials in plain f32 arithmetic, within 5e-7 of the exact value
/// everywhere, never beyond -1..=1. NaN counts as 0.
///
/// ```
/// # use i8gemm::reference;
/// assert_eq!(reference::tanh(0.0), 0.0);
/// for (x, exact) in [(0.5, 0.46211717f32), (f32::INFINITY, 1.0)] {
///     assert!((reference::tanh(x) - exact).abs() <= 5e-7);
/// }
/// ```
#[must_use]
pub fn tanh(x: f32) -> f32 {
    let x = if x.is_nan() { 0.0 } else { x.clamp(-TANH_CLAMP, TANH_CLAMP) };
    let square = x * x;
    let horner = |sum: f32, coefficient: &f32| sum * square + coefficient;
    let p = TANH_P[1..].iter().fold(TANH_P[0], horner);
    let q = TANH_Q[1..].iter().fold(TANH_Q[0], horner);
    (x * p / q).clamp(-1.0, 1.0)
}

/// The logistic sigmoid as the recurrent layers compute it, `0.5 + 0.5 * tanh(x / 2)`: within 3e-7 of the exact value
/// everywhere, never outside 0..=1. NaN counts as 0.
#[must_use]
pub fn sigmoid(x: f32) -> f32 {
    tanh(x * 0.5) * 0.5 + 0.5
}

fn to_levels(steps: f32, zero_point: i32, levels: Levels, rounding: Rounding, index: usize) -> i32 {
    let steps = if steps.is_nan() { 0.0 } else { steps };
    let q = round(steps, rounding, index) + f64::from(zero_point);
    q.clamp(levels.min().into(), levels.max().into()) as i32
}

fn saturate(x: i64) -> i32 {
    x.clamp(i32::MIN.into(), i32::MAX.into()) as i32
}
