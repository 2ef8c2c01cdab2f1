//! Layers that take and give f32, and measure each row of activations as it comes.

mod config;
mod embedding;
mod gru;
mod linear;
mod lstm;
mod projection;
mod recurrent;

pub use {
    config::DynamicConfig,
    embedding::Embedding,
    gru::Gru,
    linear::Linear,
    lstm::{Lstm, LstmState},
    recurrent::{Recurrent, RecurrentWeights, Sequence},
};
