//! The network in f32: what quantization is compared with.

use super::Layer;

/// A linear layer in f32, its weights inputs x outputs.
pub struct Linear {
    inputs: usize,
    outputs: usize,
    weights: Vec<f32>,
    bias: Vec<f32>,
    relu: bool,
}

impl Linear {
    pub fn new(layer: &Layer) -> Self {
        let &Layer { inputs, outputs, relu, .. } = layer;
        let weights =
            (0..inputs * outputs).map(|i| layer.weights[i % outputs * inputs + i / outputs]).collect();
        Self { inputs, outputs, weights, bias: layer.bias.clone(), relu }
    }

    /// Many rows by a well-kept f32 GEMM that chooses its kernel at run time too; one row, for which that would first copy
    /// all weights, as a sum of weight rows.
    pub fn forward(&self, x: &[f32], rows: usize) -> Vec<f32> {
        let (k, n) = (self.inputs, self.outputs);
        let mut y: Vec<f32> = self.bias.iter().copied().cycle().take(rows * n).collect();
        if rows == 1 {
            for (x, weights) in x.iter().zip(self.weights.chunks(n)) {
                y.iter_mut().zip(weights).for_each(|(y, w)| *y += x * w);
            }
        } else {
            // SAFETY: x is rows x k, the weights k x n, y rows x n, all dense; the strides say so.
            unsafe {
                let (x, w, y) = (x.as_ptr(), self.weights.as_ptr(), y.as_mut_ptr());
                let (k_stride, n_stride) = (k as isize, n as isize);
                matrixmultiply::sgemm(rows, k, n, 1.0, x, k_stride, 1, w, n_stride, 1, 1.0, y, n_stride, 1);
            }
        }
        if self.relu {
            y.iter_mut().for_each(|v| *v = v.max(0.0));
        }
        y
    }
}
