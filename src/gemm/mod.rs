//! The matrix product: pack the weights, describe the output, run.

mod blocking;
mod output;
mod pack;
#[cfg(feature = "alloc")]
mod patches;
mod plan;
#[cfg(feature = "alloc")]
mod workspace;

#[cfg(feature = "alloc")]
pub(crate) use output::Byte;
pub(crate) use output::{
    Bias, Kind, check_broadcast, check_len, check_scales, check_zero_points, positive_zeros,
};
pub use output::{FixedRounding, Output};
#[cfg(feature = "alloc")]
pub(crate) use pack::check_depth;
pub use pack::{PackedRhs, Rhs};
#[cfg(feature = "alloc")]
pub(crate) use patches::Patches;
pub(crate) use plan::check_shape;
pub use plan::{Gemm, Lhs, MAX_SAFE_K};
#[cfg(feature = "alloc")]
pub use workspace::Workspace;
