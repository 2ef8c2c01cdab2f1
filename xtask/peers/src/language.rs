//! The language model of the example at full size, beside its f32 form, PyTorch's, and the time that reading its weights takes.

use anyhow::Result;
use i8gemm::Kernel;
use i8gemm_examples::language_model::{
    float::Float,
    int8::Int8,
    model::{Model, Weights},
};

use crate::{
    hardware::VectorSum,
    ours::Shape,
    pairs::{self, Effort, Pairs, Timed},
    plan::Opponent,
    python::Python,
};

const WORDS: usize = 33_278;
const FEATURES: usize = 512;
const LAYERS: usize = 5;
const HIDDEN: usize = 256;

/// So many words, read in one call. The model has a state: each call goes on where the one before ended.
#[derive(Debug, Clone, Copy)]
pub struct Text(usize);

/// A sequence, and one word at a time.
pub const TEXTS: [Text; 2] = [Text(25), Text(1)];

impl Text {
    pub const OP: &'static str = "language-model";

    /// Words of the text, features, words of the vocabulary.
    pub fn shape(self) -> Shape {
        (self.0, FEATURES, WORDS)
    }

    /// Whom it meets. Memory is the limit of one word at a time.
    pub fn opponents(self) -> Vec<Opponent> {
        let mut all = vec![
            Opponent::GemmF32,
            Opponent::Python("PyTorch LSTM, f32"),
            Opponent::Python("PyTorch LSTM, int8"),
            Opponent::Python("ONNX Runtime LSTM, int8"),
        ];
        if self.0 == 1 {
            all.push(Opponent::VectorSum);
        }
        all
    }
}

/// Ours and the f32 form. Its products of one row are dot products, which are faster there than the `gemm` crate.
pub struct Models {
    int8: Int8,
    weights: Weights,
}

impl Models {
    pub fn new() -> Result<Self> {
        let weights = Weights::random(WORDS, FEATURES, LAYERS, HIDDEN, 1);
        Ok(Self { int8: Int8::new(&weights, 8, 1)?, weights })
    }

    /// What the layers run on.
    pub fn kernel(&self) -> Kernel {
        self.int8.kernel()
    }

    /// Measures one pair; none if there is nothing to measure against.
    pub fn meet(
        &mut self,
        text: Text,
        opponent: Opponent,
        effort: Effort,
        python: &mut Option<Python>,
    ) -> Result<Option<Pairs>> {
        let ids: Vec<u32> = (0..text.0).map(|i| (i * 1327 % WORDS) as u32).collect();
        let bytes = vec![1u8; self.int8.bytes_read()];
        // For each word, a multiply-add with each weight.
        let layers =
            (0..LAYERS).map(|layer| 4 * HIDDEN * (HIDDEN + if layer == 0 { FEATURES } else { HIDDEN }));
        let work = (text.0 * (layers.sum::<usize>() + WORDS * HIDDEN)) as f64;
        let mut scores = vec![0.0; text.0 * WORDS];
        let mut theirs = scores.clone();
        let int8 = &mut self.int8;
        let mut ours = Timed { work, call: || int8.forward(&ids, &mut scores) };
        Ok(Some(match opponent {
            Opponent::Python(name) => {
                let Some(python) = python else { return Ok(None) };
                let mut peer = python.prepare(name, text.shape(), 1)?;
                peer.work = work;
                pairs::pairs(effort, 1, &mut ours, &mut peer)?
            }
            Opponent::VectorSum => {
                let mut sum = VectorSum { bytes: &bytes, work };
                pairs::pairs(effort, 1, &mut ours, &mut sum)?
            }
            _ => {
                let mut float = Float::new(&self.weights, 1);
                let mut float = Timed { work, call: || float.forward(&ids, &mut theirs) };
                pairs::pairs(effort, 1, &mut ours, &mut float)?
            }
        }))
    }
}
