//! The matrix product: pack the weights, describe the output, run.

mod blocking;
mod finish;
mod output;
#[cfg(feature = "alloc")]
mod owned;
mod pack;
#[cfg(feature = "alloc")]
mod patches;
mod plan;
#[cfg(feature = "alloc")]
mod product;
#[cfg(feature = "alloc")]
mod workspace;

pub(crate) use finish::{Bias, Kind, positive_zeros};
#[cfg(feature = "alloc")]
pub(crate) use finish::{Byte, Finish};
pub use output::{FixedRounding, Output};
pub(crate) use output::{check_broadcast, check_len, check_scales, check_zero_points};
#[cfg(feature = "alloc")]
pub(crate) use owned::{OwnedBias, OwnedFinish, OwnedKind};
#[cfg(feature = "alloc")]
pub(crate) use pack::check_depth;
pub use pack::{PackedRhs, Rhs};
#[cfg(feature = "alloc")]
pub(crate) use patches::Patches;
pub(crate) use plan::check_shape;
pub use plan::{Gemm, Lhs, MAX_SAFE_K};
#[cfg(feature = "alloc")]
pub use product::Product;
#[cfg(feature = "alloc")]
pub use workspace::Workspace;
