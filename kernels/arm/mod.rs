//! 32-bit ARM kernels.

mod ends;
pub(crate) mod neon;
mod pack;
mod tiles;
