//! The matrix product: pack the weights, describe the output, run.

mod batch;
mod blocking;
mod call;
mod grid;
mod lhs;
mod output;
#[cfg(feature = "alloc")]
mod owned;
mod pack;
mod parts;
#[cfg(feature = "alloc")]
mod patches;
mod plan;
#[cfg(feature = "alloc")]
mod product;
mod rhs;
mod split;
mod stored;
#[cfg(feature = "alloc")]
mod workspace;

pub use batch::BatchGemm;
pub use lhs::Lhs;
pub use output::Output;
pub(crate) use output::{Bias, Kind, positive_zeros};
#[cfg(feature = "alloc")]
pub(crate) use output::{Byte, Finish};
#[cfg(feature = "alloc")]
pub(crate) use owned::{OwnedBias, OwnedFinish, OwnedKind};
#[cfg(feature = "alloc")]
pub(crate) use pack::Line;
pub use pack::PackedRhs;
#[cfg(feature = "alloc")]
pub(crate) use patches::Patches;
pub use plan::Gemm;
#[cfg(feature = "alloc")]
pub use product::Product;
pub(crate) use rhs::Groups;
pub use rhs::Rhs;
#[cfg(feature = "alloc")]
pub use workspace::Workspace;
