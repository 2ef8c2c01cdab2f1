//! Numbers: scales and zero points, what shares them, quantizing with them, and finding them from data.
//!
//! A quantized value `q` stands for the real `scale * (q - zero_point)`.
//!
//! | | |
//! |---|---|
//! | [`Levels`], [`Scheme`], [`QParams`] | the integers to quantize to (2 to 8 bits), affine or symmetric, scale and zero point from a range |
//! | [`Grouping`] | what shares a scale: the tensor, each channel of an axis, each group along an axis |
//! | [`Quantizer`], [`Requantizer`], [`DynamicQuantizer`] | vectorised on every kernel: reals to integers and back, integers to integers, activations to the `lhs` of a product |
//! | [`Observer`] and its implementors | ranges from calibration data that comes in pieces |
//! | [`Calibrator`] | which part of what was observed to keep: all, a percentile, least squared error, least divergence |
//! | [`fake`] | quantization in training: forward, backward |
//! | [`Codebook`] | values from a table of 16 instead of a line |
//! | [`binary_weights`], [`ternary_weights`] | weights of one bit and of three values |
//!
//! # Where this differs from what is often written
//!
//! uint8 is unsigned. "Z = min(x)" is a real offset; a zero point is an integer, and 0 stays representable: every range is
//! widened to hold it. Symmetric weights use -127..=127 ([`Levels::narrow`]), so that -128 is never produced; activations use
//! all of -128..=127. "Group" counts elements that share a scale, not groups. Dropping the top 1 % of a normal distribution
//! costs 21 times the least squared error; a percentile of 99.99 costs next to nothing.

#[cfg(feature = "alloc")]
mod calibrate;
mod codebook;
mod dynamic;
mod engine;
pub mod fake;
mod grouping;
mod levels;
mod observe;
#[cfg(feature = "alloc")]
mod param_list;
mod qparams;
mod quantizer;
mod real;
mod requantizer;
mod weights;

#[cfg(feature = "alloc")]
pub(crate) use engine::{Engine, How, Steps, Terms, Values};

#[cfg(feature = "alloc")]
pub use calibrate::{Calibrator, Quality};
#[cfg(feature = "alloc")]
pub use dynamic::DynamicBuffers;
#[cfg(feature = "alloc")]
pub use observe::{Histogram, HistogramState, PerChannel};
#[cfg(feature = "alloc")]
pub use param_list::ParamList;
pub use {
    crate::kernels::vectors::rounding::Rounding,
    codebook::Codebook,
    dynamic::DynamicQuantizer,
    grouping::Grouping,
    levels::{Interval, Levels, Scheme},
    observe::{MinMax, MovingAverage, MovingAverageState, NonFinite, Observer},
    qparams::QParams,
    quantizer::Quantizer,
    real::Real,
    requantizer::{Integer, Requantizer},
    weights::{Ternary, binary_weights, ternary_weights},
};
