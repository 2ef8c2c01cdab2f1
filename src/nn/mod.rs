//! Layers: compositions of the product and of quantization, for a network trained in f32 (post-training dynamic quantization).
//!
//! Weights become narrow symmetric i8 when a layer is made, one scale for each output channel, and are packed once.
//! Activations come and leave as f32; on the way in each row becomes u8 with a scale and zero point of its own
//! ([`DynamicQuantizer`](crate::quant::DynamicQuantizer)). The product is exact, so every kernel gives the same bits.
//!
//! *Batch*: rows that do not know of each other. *Sequence*: T steps, one after the other; its matrix has T * batch rows, row
//! `t * batch + b`: PyTorch's (T, batch, features) with the first two axes as one. *State*: what a recurrent layer carries
//! from one step to the next. *Hidden size*: units of a recurrent layer.
//!
//! | | weights, as PyTorch lays them out | computes |
//! |---|---|---|
//! | [`Linear`] | out x in | `x W^T + bias` |
//! | [`Lstm`] | 4H x in, 4H x H, gates i, f, g, o | layers of long short-term memory, in one or both directions |
//! | [`Gru`] | 3H x in, 3H x H, gates r, z, n | layers of gated recurrent units, in one or both directions |
//! | [`Embedding`] | rows x features | rows of a table of 8 or 4 bits, as f32 |
//! | [`fold_batch_norm`] | output channels first | the layer before it and the normalization as one layer |
//!
//! `forward` allocates nothing: scratch is the caller's, of `workspace_size` bytes, and any alignment. It also serves any
//! call with fewer rows. All errors are found before anything is written. `forward_with` runs the products on the threads of an
//! [`Executor`](crate::Executor).

mod batch_norm;
mod config;
mod embedding;
mod gru;
mod linear;
mod lstm;
mod projection;
mod recurrent;
mod scratch;

pub use {
    batch_norm::{BatchNorm, fold_batch_norm},
    config::Config,
    embedding::Embedding,
    gru::Gru,
    linear::Linear,
    lstm::{Lstm, LstmState},
    recurrent::RecurrentWeights,
};
