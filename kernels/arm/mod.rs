//! 32-bit ARM kernels.

pub(crate) mod neon;
