//! Exact int8 matrix multiplication, as fast as the CPU can.
//!
//! `out[m, n] = output(sum over k of (lhs[m, k] - za[m]) * (rhs[k, n] - zb[n]))`, with i8 or u8 operands, sums in i32, and
//! the zero-point correction, bias, scaling, rounding and clamp that a quantized network wants done in the same pass.
//! The kernel is chosen at run time from what the CPU has, and every kernel gives the same bits.
//!
//! Three steps: pack the weights, describe the output, run.
//!
//! ```
//! use i8gemm::{Gemm, Lhs, MatMut, MatRef, Output, PackedRhs};
//! # fn main() -> Result<(), i8gemm::Error> {
//! let (m, k, n) = (2, 3, 2);
//! let w = [1i8, -2, 3, 4, -5, 6]; // K x N weights, here row-major
//! let x = [130u8, 127, 128, 255, 0, 128]; // M x K activations, zero point 128
//!
//! // Once: weights in the order of the kernel that this CPU gets.
//! let weights = PackedRhs::pack(MatRef::row_major(&w, k, n)?)?;
//! // What becomes of the sums: u8 with one scale for each column, zero point 10, and a bias.
//! let output = Output::<u8>::requantize(&[0.5, 0.25], 10).bias(&[4, -4]);
//! let gemm = Gemm::new(&weights, output)?;
//!
//! // Each time: nothing below allocates.
//! let mut scratch = gemm.workspace(m)?;
//! let mut y = [0u8; 4];
//! let lhs = Lhs::new(MatRef::row_major(&x, m, k)?).zero_point(128);
//! gemm.run(lhs, MatMut::row_major(&mut y, m, n)?, &mut scratch)?;
//! assert_eq!(y, [12, 7, 0, 0]);
//! # Ok(())
//! # }
//! ```
//!
//! # Vocabulary
//!
//! `lhs`: activations, M x K. `rhs`: weights, K x N. `out`: M x N. *Panel*: rows or columns packed together in the order
//! that a kernel reads them. *Epilogue*: what turns i32 sums into outputs. *Requantize*: an epilogue to i8 or u8. *Kernel*:
//! one micro-kernel family on one instruction set. A quantized value `q` stands for the real `scale * (q - zero_point)`.
//!
//! # Features
//!
//! - `std` (default): CPU detection by the standard library, the environment variable `I8GEMM_KERNEL`.
//! - `alloc` (part of `std`): packed weights and workspaces that own their memory. Where there is not enough of it, that is an
//!   error and ends no program. Without `alloc`, the caller supplies every buffer: [`PackedRhs::pack_into`],
//!   [`Gemm::workspace_size`], [`Gemm::run`].
//! - `rayon`: an [`Executor`] for rayon's thread pools.
//! - `half`: quantizing f16 and bf16.
//! - `safetensors`: layers from the tensors of a file, by PyTorch's names.
//! - `serde`: parameters and the states of observers as plain data.
//!
//! # Where things are
//!
//! [`MatRef`], [`MatMut`]: views. [`Rhs`], [`PackedRhs`], [`Lhs`], [`Output`], [`Gemm`]: the product; [`BatchGemm`]: many of activations. [`Kernel`]: which
//! kernels there are. [`Executor`]: threads. [`quant`]: scales and zero points. [`reference`](mod@reference): the scalar definition of
//! everything, slow and plain. [`Error`]: what can be wrong with a call.
#![cfg_attr(
    feature = "alloc",
    doc = "[`Product`]: a product that owns its weights and its output, for whoever keeps one. [`nn`]: layers that multiply in int8, from f32 weights, and whole networks of them: observed, calibrated, converted."
)]
#![cfg_attr(not(feature = "std"), no_std)]

#[cfg(feature = "alloc")]
extern crate alloc;

mod check;
mod cores;
mod dispatch;
mod element;
mod error;
mod fixed_point;
mod gemm;
#[cfg(feature = "alloc")]
mod image;
#[path = "../kernels/mod.rs"]
mod kernels;
mod matrix;
#[cfg(feature = "alloc")]
mod memory;
#[cfg(feature = "alloc")]
pub mod nn;
mod parallel;
pub mod quant;
pub mod reference;
#[cfg(feature = "alloc")]
mod shared;

#[cfg(feature = "alloc")]
pub use crate::gemm::{Product, Workspace};
#[cfg(feature = "rayon")]
pub use crate::parallel::Rayon;
pub use crate::{
    check::MAX_SAFE_K,
    dispatch::Kernel,
    element::{Broadcast, ElementType, Operand, OutputElement},
    error::{Error, KernelName, StoredError},
    fixed_point::FixedRounding,
    gemm::{BatchGemm, Gemm, Lhs, Output, PackedRhs, Rhs},
    kernels::{FixedPoint, KernelInfo},
    matrix::{MatMut, MatRef},
    parallel::{Executor, Sequential},
};

/// The examples of the README, run as tests.
#[cfg(all(doctest, feature = "std", feature = "safetensors"))]
#[doc = include_str!("../README.md")]
struct Readme;
