//! Numbers: quantization parameters, and quantizing slices with them.

mod qparams;

pub use qparams::QParams;
