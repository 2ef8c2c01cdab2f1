//! A word-level language model of LSTMs, in f32 and in int8.

pub mod float;
pub mod int8;
pub mod model;
pub mod pool;
