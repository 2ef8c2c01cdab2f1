#![doc = "Exact int8 matrix multiplication, as fast as the CPU can."]
#![cfg_attr(not(feature = "std"), no_std)]

#[cfg(feature = "alloc")]
extern crate alloc;

mod dispatch;
mod element;
mod error;
mod gemm;
#[path = "../kernels/mod.rs"]
mod kernels;
mod matrix;
mod parallel;
pub mod quant;
pub mod reference;

#[cfg(feature = "rayon")]
pub use crate::parallel::Rayon;
#[cfg(feature = "alloc")]
pub use crate::gemm::Workspace;
pub use crate::{
    dispatch::Kernel,
    element::{Broadcast, Operand, OutputElement},
    error::{Error, KernelName},
    gemm::{FixedRounding, Gemm, Lhs, MAX_SAFE_K, Output, PackedRhs, Rhs},
    kernels::FixedPoint,
    matrix::{MatMut, MatRef},
    parallel::{Executor, Sequential},
};
