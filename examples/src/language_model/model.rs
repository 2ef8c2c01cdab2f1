//! What a model is, and the f32 weights that both are made of.

use anyhow::{Result, ensure};
use i8gemm::nn::Tensors;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// A model with a state: what it has read so far.
pub trait Model {
    /// Reads a sequence of words; writes the scores of every next word, `ids.len()` x words.
    fn forward(&mut self, ids: &[u32], scores: &mut [f32]) -> Result<()>;

    /// Words of the vocabulary.
    fn words(&self) -> usize;

    /// Bytes of all weights.
    fn bytes(&self) -> usize;
}

/// Embedding, words x features; LSTM layers; decoder, words x hidden.
pub struct Weights {
    pub words: usize,
    pub features: usize,
    pub embedding: Vec<f32>,
    pub layers: Vec<Layer>,
    pub decoder: Vec<f32>,
    pub bias: Vec<f32>,
}

/// One LSTM layer as PyTorch has it: gates i, f, g, o.
pub struct Layer {
    pub inputs: usize,
    pub hidden: usize,
    /// 4 hidden x inputs.
    pub input: Vec<f32>,
    /// 4 hidden x hidden.
    pub recurrent: Vec<f32>,
    pub input_bias: Vec<f32>,
    pub hidden_bias: Vec<f32>,
}

impl Weights {
    /// From what `train.py` writes, by PyTorch's names.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self> {
        let file = Tensors::new(bytes)?;
        let (embedding, shape) = tensor(&file, "encoder.weight", 2)?;
        let [words, features] = [shape[0], shape[1]];
        let (mut layers, mut inputs) = (Vec::new(), features);
        while file.names().any(|name| name == format!("lstm.weight_ih_l{}", layers.len())) {
            let named =
                |what: &str, rank: usize| tensor(&file, &format!("lstm.{what}_l{}", layers.len()), rank);
            let (input, _) = named("weight_ih", 2)?;
            let (recurrent, shape) = named("weight_hh", 2)?;
            let ((input_bias, _), (hidden_bias, _)) = (named("bias_ih", 1)?, named("bias_hh", 1)?);
            let hidden = shape[1];
            ensure!(shape[0] == 4 * hidden && input.len() == 4 * hidden * inputs, "the gates do not fit");
            layers.push(Layer { inputs, hidden, input, recurrent, input_bias, hidden_bias });
            inputs = hidden;
        }
        let ((decoder, shape), (bias, _)) =
            (tensor(&file, "decoder.weight", 2)?, tensor(&file, "decoder.bias", 1)?);
        ensure!(shape == [words, inputs] && bias.len() == words, "the decoder does not fit");
        Ok(Self { words, features, embedding, layers, decoder, bias })
    }

    /// Seeded weights of so many words, features, layers and units: for times and sizes.
    pub fn random(words: usize, features: usize, layers: usize, hidden: usize, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut values =
            |count: usize| (0..count).map(|_| random.random_range(-0.1f32..0.1)).collect::<Vec<_>>();
        let layers = (0..layers).map(|layer| {
            let inputs = if layer == 0 { features } else { hidden };
            Layer {
                inputs,
                hidden,
                input: values(4 * hidden * inputs),
                recurrent: values(4 * hidden * hidden),
                input_bias: values(4 * hidden),
                hidden_bias: values(4 * hidden),
            }
        });
        let layers = layers.collect();
        let (embedding, decoder, bias) = (values(words * features), values(words * hidden), values(words));
        Self { words, features, embedding, layers, decoder, bias }
    }
}

/// A tensor's values and shape.
fn tensor(file: &Tensors, name: &str, axes: usize) -> Result<(Vec<f32>, Vec<usize>)> {
    let tensor = file.get(name)?;
    ensure!(tensor.shape.len() == axes, "{name}: {axes} axes expected, not {:?}", tensor.shape);
    Ok((tensor.values, tensor.shape))
}
