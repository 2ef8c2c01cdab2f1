//! The model in int8: three layers of the crate.

use anyhow::Result;
use i8gemm::{
    Kernel, MatMut, MatRef, Workspace,
    nn::{DynamicConfig, Embedding, Layer, Linear, Lstm, LstmState, RecurrentWeights, Sequence},
};

use super::{
    model::{Model, Weights},
    pool::Pool,
};

/// Weights, the state, and buffers that grow to the longest sequence and are reused.
pub struct Int8 {
    embedding: Embedding,
    lstm: Lstm,
    decoder: Linear,
    h: Vec<f32>,
    c: Vec<f32>,
    x: Vec<f32>,
    y: Vec<f32>,
    scratch: Workspace,
    pool: Pool,
}

impl Int8 {
    pub fn new(weights: &Weights, embedding_bits: u32, threads: usize) -> Result<Self> {
        let Weights { words, features, embedding, layers, decoder, bias } = weights;
        let layers = layers.iter().map(|layer| {
            Ok(RecurrentWeights::new(
                MatRef::row_major(&layer.input, 4 * layer.hidden, layer.inputs)?,
                MatRef::row_major(&layer.recurrent, 4 * layer.hidden, layer.hidden)?,
            )
            .biases(Some(&layer.input_bias), Some(&layer.hidden_bias)))
        });
        let lstm = Lstm::new(&layers.collect::<Result<Vec<_>>>()?, false)?;
        let table = MatRef::row_major(embedding, *words, *features)?;
        let state = vec![0.0; lstm.state_len(1)?];
        Ok(Self {
            embedding: Embedding::with_config(table, embedding_bits, DynamicConfig::default())?,
            decoder: Linear::new(MatRef::row_major(decoder, *words, lstm.outputs())?, Some(bias))?,
            lstm,
            h: state.clone(),
            c: state,
            x: Vec::new(),
            y: Vec::new(),
            scratch: Workspace::default(),
            pool: Pool(threads),
        })
    }

    /// What the layers run on.
    #[allow(dead_code, reason = "for those who measure it")]
    pub fn kernel(&self) -> Kernel {
        self.lstm.kernel()
    }

    /// Bytes of the weights that every word reads: all but the embedding.
    pub fn bytes_read(&self) -> usize {
        self.lstm.bytes() + self.decoder.bytes()
    }
}

impl Model for Int8 {
    fn forward(&mut self, ids: &[u32], scores: &mut [f32]) -> Result<()> {
        let Self { embedding, lstm, decoder, h, c, x, y, scratch, pool } = self;
        let (steps, inputs, hidden) = (ids.len(), lstm.inputs(), lstm.outputs());
        x.resize(steps * inputs, 0.0);
        y.resize(steps * hidden, 0.0);
        scratch.grow(lstm.workspace_size_with((steps, 1), pool)?)?;
        scratch.grow(decoder.workspace_size_with(steps, pool)?)?;

        embedding.lookup(ids, MatMut::row_major(x, steps, inputs)?)?;
        let (input, out) = (MatRef::row_major(x, steps, inputs)?, MatMut::row_major(y, steps, hidden)?);
        lstm.forward_with(pool, Sequence::new(input, 1)?, (out, LstmState { h, c }), scratch)?;
        let scores = MatMut::row_major(scores, steps, decoder.outputs())?;
        Ok(decoder.forward_with(pool, MatRef::row_major(y, steps, hidden)?, scores, scratch)?)
    }

    fn words(&self) -> usize {
        self.embedding.rows()
    }

    fn bytes(&self) -> usize {
        self.embedding.bytes() + self.bytes_read()
    }
}
