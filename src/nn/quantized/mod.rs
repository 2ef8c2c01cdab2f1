//! Layers between quantized tensors, whose scales and zero points are known before they run.

mod add;
mod config;
mod conv;
mod depthwise;
mod filters;
mod linear;
mod pool;
mod taps;
mod weights;

pub(super) use pool::largest;
pub use {
    add::Add,
    config::{Activated, StaticConfig},
    conv::Conv2d,
    depthwise::DepthwiseConv2d,
    filters::Filters,
    linear::StaticLinear,
    pool::{AveragePool, MaxPool},
};
