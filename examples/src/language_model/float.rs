//! The model in f32, as fast as it goes: what int8 has to beat.
//!
//! Several rows are multiplied by the `gemm` crate. One row is read-bound, and a loop of dot products, vectorized for the CPU
//! at hand, reads weights at the memory's speed, which `gemm` on a single row does not. Gates are one vectorized loop.

use anyhow::Result;
use pulp::Arch;
use rayon::prelude::*;

use super::model::{Layer, Model, Weights};

/// Weights, the state of each layer, and buffers.
pub struct Float<'a> {
    weights: &'a Weights,
    threads: usize,
    h: Vec<Vec<f32>>,
    c: Vec<Vec<f32>>,
    x: Vec<f32>,
    gates: Vec<f32>,
    recurrent: Vec<f32>,
}

impl<'a> Float<'a> {
    pub fn new(weights: &'a Weights, threads: usize) -> Self {
        let state: Vec<_> = weights.layers.iter().map(|layer| vec![0.0; layer.hidden]).collect();
        let (h, c) = (state.clone(), state);
        Self { weights, threads, h, c, x: Vec::new(), gates: Vec::new(), recurrent: Vec::new() }
    }
}

impl Model for Float<'_> {
    fn forward(&mut self, ids: &[u32], scores: &mut [f32]) -> Result<()> {
        let Weights { words, features, embedding, layers, decoder, bias } = self.weights;
        let steps = ids.len();
        self.x.clear();
        for &id in ids {
            self.x.extend_from_slice(&embedding[id as usize * features..][..*features]);
        }
        let arch = Arch::new();
        for (index, layer) in layers.iter().enumerate() {
            let Layer { inputs, hidden, input, recurrent, input_bias, hidden_bias } = layer;
            let (h, c) = (&mut self.h[index], &mut self.c[index]);
            self.gates.resize(steps * 4 * hidden, 0.0);
            self.recurrent.resize(4 * hidden, 0.0);
            product(self.threads, &self.x, *inputs, input, input_bias, &mut self.gates);
            self.x.resize(steps * hidden, 0.0);
            for (gates, out) in self.gates.chunks_exact(4 * hidden).zip(self.x.chunks_exact_mut(*hidden)) {
                product(self.threads, h, *hidden, recurrent, hidden_bias, &mut self.recurrent);
                arch.dispatch(|| cell(gates, &self.recurrent, h, c));
                out.copy_from_slice(h);
            }
        }
        let hidden = decoder.len() / words;
        product(self.threads, &self.x, hidden, decoder, bias, scores);
        Ok(())
    }

    fn words(&self) -> usize {
        self.weights.words
    }

    fn bytes(&self) -> usize {
        let Weights { embedding, layers, decoder, bias, .. } = self.weights;
        let layer = |l: &Layer| l.input.len() + l.recurrent.len() + l.input_bias.len() + l.hidden_bias.len();
        4 * (embedding.len() + decoder.len() + bias.len() + layers.iter().map(layer).sum::<usize>())
    }
}

/// `out = x W^T + bias`, W being N x K.
fn product(threads: usize, x: &[f32], k: usize, w: &[f32], bias: &[f32], out: &mut [f32]) {
    let (m, n) = (x.len() / k, bias.len());
    assert!(x.len() == m * k && w.len() == n * k && out.len() == m * n);
    if m == 1 {
        let rows = |first: usize, out: &mut [f32]| {
            Arch::new().dispatch(|| dots(x, &w[first * k..], &bias[first..], out));
        };
        return match threads {
            1 => rows(0, out),
            _ => {
                let part = n.div_ceil(threads).max(256);
                out.par_chunks_mut(part).enumerate().for_each(|(i, out)| rows(i * part, out));
            }
        };
    }
    for row in out.chunks_exact_mut(n) {
        row.copy_from_slice(bias);
    }
    let parallel = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    let (n_stride, k_stride) = (n as isize, k as isize);
    // SAFETY: `x` and `out` are row-major, M x K and M x N, `w` is N x K: their lengths have been checked.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n_stride,
            true,
            x.as_ptr(),
            1,
            k_stride,
            w.as_ptr(),
            k_stride,
            1,
            1.0,
            1.0,
            false,
            false,
            false,
            parallel,
        );
    }
}

/// The product of one row.
#[inline(always)]
fn dots(x: &[f32], w: &[f32], bias: &[f32], out: &mut [f32]) {
    const LANES: usize = 64;
    let k = x.len();
    for ((out, w), bias) in out.iter_mut().zip(w.chunks_exact(k)).zip(bias) {
        let mut sums = [0.0f32; LANES];
        let (xs, ws) = (x.chunks_exact(LANES), w.chunks_exact(LANES));
        let rest: f32 = xs.remainder().iter().zip(ws.remainder()).map(|(x, w)| x * w).sum();
        for (x, w) in xs.zip(ws) {
            for i in 0..LANES {
                sums[i] += x[i] * w[i];
            }
        }
        *out = sums.iter().sum::<f32>() + rest + bias;
    }
}

/// One step of a layer: gates i, f, g, o.
#[inline(always)]
fn cell(input: &[f32], recurrent: &[f32], h: &mut [f32], c: &mut [f32]) {
    let n = h.len();
    let gate = |g: usize| (&input[g * n..][..n], &recurrent[g * n..][..n]);
    let [(i0, i1), (f0, f1), (g0, g1), (o0, o1)] = [gate(0), gate(1), gate(2), gate(3)];
    let c = &mut c[..n];
    for j in 0..n {
        let (i, f, o) = (sigmoid(i0[j] + i1[j]), sigmoid(f0[j] + f1[j]), sigmoid(o0[j] + o1[j]));
        c[j] = f * c[j] + i * tanh(g0[j] + g1[j]);
        h[j] = o * tanh(c[j]);
    }
}

/// 2^n times a polynomial of what is left: to some 2e-7, in arithmetic that vectorizes.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, which its low bits then hold
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_145_75 - n * 1.428_606_8e-6;
    let p = 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    p * power
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

#[inline(always)]
fn tanh(x: f32) -> f32 {
    2.0 * sigmoid(2.0 * x) - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_are_accurate() {
        for i in -8000..=8000 {
            let x = i as f32 * 0.01;
            assert!((exp(x) / x.exp() - 1.0).abs() < 1e-6, "{x}");
            assert!((tanh(x) - x.tanh()).abs() < 1e-6, "{x}");
        }
    }
}
