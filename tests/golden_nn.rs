//! Recurrent layers against PyTorch: an f64 network with PyTorch's equations gives what `torch.nn.LSTM` and `GRU` gave in f32
//! (so that equations, gate order and order of layers are theirs), and the quantized layer comes close to it.

mod answers;
mod common;

use std::collections::HashMap;

use answers::cases;
use common::kernels;
use i8gemm::{
    Error, MatMut, MatRef,
    nn::{DynamicConfig, Gru, Layer, Lstm, LstmState, RecurrentWeights, Sequence},
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    kind: String,
    inputs: usize,
    hidden: usize,
    layers: usize,
    bidirectional: bool,
    steps: usize,
    batch: usize,
    /// By PyTorch's names.
    weights: HashMap<String, Vec<f32>>,
    x: Vec<f32>,
    h0: Vec<f32>,
    c0: Option<Vec<f32>>,
    y: Vec<f32>,
    h: Vec<f32>,
    c: Option<Vec<f32>>,
}

/// Most that the quantized layers may differ from PyTorch's. A weight is off by at most 1/254 of the largest of its row, no
/// more than 0.58 here (PyTorch draws them below 1/sqrt(hidden)): 0.0023. An activation is off by about half a step, 1/510 of a range
/// of some 5 in the first layer, 1 above: 0.01. Errors of random signs over sums of at most 11 terms make some 0.01 of a gate's
/// argument, 0.03 where all of them agree; sigmoid's slope leaves a quarter of it, tanh's at most all, and a gate weighs it
/// down again. A wrong order of gates is off by tenths.
const QUANTIZED: f64 = 0.02;

impl Case {
    fn gates(&self) -> usize {
        if self.kind == "lstm" { 4 } else { 3 }
    }

    fn directions(&self) -> usize {
        if self.bidirectional { 2 } else { 1 }
    }

    /// The parameter of a layer and direction.
    fn named(&self, what: &str, index: usize) -> Option<&[f32]> {
        let reverse = if index % self.directions() == 1 { "_reverse" } else { "" };
        self.weights.get(&format!("{what}_l{}{reverse}", index / self.directions())).map(Vec::as_slice)
    }

    /// Columns of the input of a layer.
    fn width(&self, index: usize) -> usize {
        if index < self.directions() { self.inputs } else { self.directions() * self.hidden }
    }

    fn cells(&self) -> usize {
        self.layers * self.directions()
    }

    /// Outputs, and the last states, in f64.
    fn exact(&self) -> [Vec<f64>; 3] {
        let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
        let (hidden, batch, width) = (self.hidden, self.batch, self.directions() * self.hidden);
        let mut x = wide(&self.x);
        let mut h = wide(&self.h0);
        let mut c = self.c0.as_deref().map_or(vec![0.0; h.len()], wide);
        for layer in 0..self.layers {
            let mut y = vec![0.0; self.steps * batch * width];
            for direction in 0..self.directions() {
                let index = layer * self.directions() + direction;
                for at in 0..self.steps {
                    let t = if direction == 0 { at } else { self.steps - 1 - at };
                    for b in 0..batch {
                        let row = t * batch + b;
                        let input = &x[row * self.width(index)..][..self.width(index)];
                        let state = (index * batch + b) * hidden..(index * batch + b + 1) * hidden;
                        let a = self.project("ih", index, input);
                        let r = self.project("hh", index, &h[state.clone()]);
                        self.cell(&a, &r, &mut h[state.clone()], &mut c[state.clone()]);
                        y[row * width + direction * hidden..][..hidden].copy_from_slice(&h[state]);
                    }
                }
            }
            x = y;
        }
        [x, h, c]
    }

    fn project(&self, which: &str, index: usize, x: &[f64]) -> Vec<f64> {
        let w = self.named(&format!("weight_{which}"), index).expect("every cell has both weights");
        let bias = self.named(&format!("bias_{which}"), index);
        let rows = w.chunks_exact(x.len()).enumerate();
        rows.map(|(n, w)| {
            let products = w.iter().zip(x).map(|(&w, x)| f64::from(w) * x);
            products.sum::<f64>() + bias.map_or(0.0, |bias| bias[n].into())
        })
        .collect()
    }

    fn cell(&self, a: &[f64], r: &[f64], h: &mut [f64], c: &mut [f64]) {
        let n = self.hidden;
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        for j in 0..n {
            let sum = |gate: usize| a[gate * n + j] + r[gate * n + j];
            if self.gates() == 4 {
                c[j] = sigmoid(sum(1)) * c[j] + sigmoid(sum(0)) * sum(2).tanh();
                h[j] = sigmoid(sum(3)) * c[j].tanh();
            } else {
                let (reset, z) = (sigmoid(sum(0)), sigmoid(sum(1)));
                let new = (a[2 * n + j] + reset * r[2 * n + j]).tanh();
                h[j] = (1.0 - z) * new + z * h[j];
            }
        }
    }

    /// Outputs, and the last states, of the layer of this crate.
    fn quantized(&self, config: DynamicConfig) -> Result<[Vec<f32>; 3], Error> {
        let gates = self.gates() * self.hidden;
        let matrix = |what, index, cols| {
            MatRef::row_major(self.named(what, index).expect("every cell has both weights"), gates, cols)
        };
        let weights = (0..self.cells()).map(|index| {
            Ok(RecurrentWeights::new(
                matrix("weight_ih", index, self.width(index))?,
                matrix("weight_hh", index, self.hidden)?,
            )
            .biases(self.named("bias_ih", index), self.named("bias_hh", index)))
        });
        let weights = weights.collect::<Result<Vec<_>, Error>>()?;
        if self.gates() == 4 {
            self.run(Recurrent::Lstm(Lstm::with_config(&weights, self.bidirectional, config)?))
        } else {
            self.run(Recurrent::Gru(Gru::with_config(&weights, self.bidirectional, config)?))
        }
    }

    /// Outputs, and the last states.
    fn run(&self, layer: Recurrent) -> Result<[Vec<f32>; 3], Error> {
        let (rows, width) = (self.steps * self.batch, self.directions() * self.hidden);
        let mut y = vec![0.0; rows * width];
        let (mut h, mut c) = (self.h0.clone(), self.c0.clone().unwrap_or_default());
        let (x, out) =
            (MatRef::row_major(&self.x, rows, self.inputs)?, MatMut::row_major(&mut y, rows, width)?);
        match layer {
            Recurrent::Lstm(lstm) => {
                lstm.apply(Sequence::new(x, self.batch)?, (out, LstmState { h: &mut h, c: &mut c }))?;
            }
            Recurrent::Gru(gru) => {
                gru.apply(Sequence::new(x, self.batch)?, (out, &mut h))?;
            }
        }
        Ok([y, h, c])
    }

    /// The weights as a file, as parts of a module `net.rnn`; in f64, to which every f32 belongs.
    #[cfg(feature = "safetensors")]
    fn file(&self) -> Vec<u8> {
        use safetensors::{Dtype, tensor::TensorView};

        let bytes: Vec<_> = self
            .weights
            .iter()
            .map(|(name, values)| {
                let gates = self.gates() * self.hidden;
                let shape =
                    if name.starts_with("bias") { vec![gates] } else { vec![gates, values.len() / gates] };
                let bytes: Vec<_> = values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect();
                (format!("net.rnn.{name}"), shape, bytes)
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            (name, TensorView::new(Dtype::F64, shape.clone(), bytes).expect("the shape fits"))
        });
        safetensors::serialize(views, None).expect("tensors of a state fit in a file")
    }
}

enum Recurrent {
    Lstm(Lstm),
    Gru(Gru),
}

/// Largest difference; there is one if the lengths differ or a value is NaN.
fn difference<T: Copy + Into<f64>>(actual: &[T], expected: &[f32]) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let each = actual.iter().zip(expected).map(|(&a, &e)| (a.into() - f64::from(e)).abs());
    each.fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a })
}

#[test]
fn torch_lstm_and_gru() -> Result<(), Error> {
    let cases = cases::<Case>("nn_torch.json");
    assert!(["lstm", "gru"].iter().all(|kind| cases.iter().any(|case| case.kind == *kind)));
    for case in &cases {
        let what = format!("{}, {} layers, {} directions", case.kind, case.layers, case.directions());
        let no_c = Vec::new();
        let expected = [&case.y, &case.h, case.c.as_ref().unwrap_or(&no_c)];
        for (exact, expected) in case.exact().iter().zip(expected) {
            if !expected.is_empty() {
                let largest = difference(exact, expected);
                assert!(largest <= 1e-5, "{what}: the f64 network is off by {largest:e}");
            }
        }
        for kernel in kernels() {
            for (actual, expected) in
                case.quantized(DynamicConfig::default().kernel(kernel))?.iter().zip(expected)
            {
                let largest = difference(actual, expected);
                assert!(largest <= QUANTIZED, "{what}: {kernel} is off by {largest}");
            }
        }
    }
    Ok(())
}

/// Layers from a file are those from its values: the same bits.
#[cfg(feature = "safetensors")]
#[test]
fn layers_from_safetensors() -> Result<(), Box<dyn std::error::Error>> {
    use i8gemm::nn::Tensors;

    for case in &cases::<Case>("nn_torch.json") {
        let file = case.file();
        let (tensors, config) = (Tensors::new(&file)?, DynamicConfig::default());
        let layer = match case.kind.as_str() {
            "lstm" => Recurrent::Lstm(tensors.lstm("net.rnn", config)?),
            _ => Recurrent::Gru(tensors.gru("net.rnn", config)?),
        };
        assert_eq!(case.run(layer)?, case.quantized(config)?, "{}", case.kind);
    }
    Ok(())
}
