//! Batch normalization while it is trained.

use i8gemm::nn::BatchNorm;

use crate::{ops::column_sums, param::Param};

/// Keeps the root above 0.
const EPSILON: f32 = 1e-5;

/// Of the channels behind a layer.
#[derive(Clone)]
pub struct Norm {
    pub gamma: Param,
    pub beta: Param,
    /// Averages over the batches seen so far, for use after training.
    mean: Vec<f32>,
    variance: Vec<f32>,
}

/// What the backward pass needs of the forward pass.
pub struct Tape {
    /// The input with mean 0 and variance 1.
    normal: Vec<f32>,
    mean: Vec<f64>,
    variance: Vec<f64>,
}

impl Norm {
    pub fn new(channels: usize) -> Self {
        let (zeros, ones) = (vec![0.0; channels], vec![1.0; channels]);
        let (gamma, beta) = (Param::new(ones.clone()), Param::new(zeros.clone()));
        Self { gamma, beta, mean: zeros, variance: ones }
    }

    /// With mean and variance of this batch.
    pub fn forward(&self, x: &[f32]) -> (Vec<f32>, Tape) {
        let channels = self.mean.len();
        let count = (x.len() / channels) as f64;
        let mean: Vec<f64> = column_sums(x, channels).iter().map(|sum| sum / count).collect();
        let centred: Vec<f32> =
            x.iter().enumerate().map(|(i, &x)| (f64::from(x) - mean[i % channels]) as f32).collect();
        let squares: Vec<f32> = centred.iter().map(|x| x * x).collect();
        let variance: Vec<f64> = column_sums(&squares, channels).iter().map(|sum| sum / count).collect();
        let factors = factors(&variance);
        let normal: Vec<f32> = centred.iter().enumerate().map(|(i, x)| x * factors[i % channels]).collect();
        let (gamma, beta) = (&self.gamma.values, &self.beta.values);
        let y = normal.iter().enumerate().map(|(i, x)| x * gamma[i % channels] + beta[i % channels]);
        (y.collect(), Tape { mean, variance, normal })
    }

    /// The gradient of the input. The batch joins the averages.
    pub fn backward(&mut self, tape: &Tape, dy: &[f32]) -> Vec<f32> {
        let channels = self.mean.len();
        let count = (dy.len() / channels) as f64;
        let products: Vec<f32> = dy.iter().zip(&tape.normal).map(|(dy, x)| dy * x).collect();
        let (dbeta, dgamma) = (column_sums(dy, channels), column_sums(&products, channels));
        let factors = factors(&tape.variance);
        let dx = dy.iter().zip(&tape.normal).enumerate().map(|(i, (&dy, &x))| {
            let c = i % channels;
            let rest = (dbeta[c] + f64::from(x) * dgamma[c]) / count;
            self.gamma.values[c] * factors[c] * (f64::from(dy) - rest) as f32
        });
        let dx = dx.collect();
        for c in 0..channels {
            (self.gamma.gradient[c], self.beta.gradient[c]) = (dgamma[c] as f32, dbeta[c] as f32);
            let average = |old: &mut f32, new: f64| *old += 0.1 * (new as f32 - *old);
            average(&mut self.mean[c], tape.mean[c]);
            // Of a sample: one degree of freedom went to its mean.
            average(&mut self.variance[c], tape.variance[c] * count / (count - 1.0));
        }
        dx
    }

    /// As it is to be folded into the layer before it.
    pub fn trained(&self) -> BatchNorm<'_> {
        let (gamma, beta) = (&self.gamma.values, &self.beta.values);
        BatchNorm { mean: &self.mean, variance: &self.variance, gamma, beta, epsilon: EPSILON }
    }
}

fn factors(variance: &[f64]) -> Vec<f32> {
    variance.iter().map(|v| (1.0 / (v + f64::from(EPSILON)).sqrt()) as f32).collect()
}
