//! A layer in training: convolution or linear, then batch normalization, ReLU, fake quantization and a max pool, as it has them.

use anyhow::Result;
use i8gemm::nn::{Filters, Nhwc, Window, fold_batch_norm};
use rand::{RngExt, rngs::StdRng};

use crate::{
    learned::Learned,
    norm::{self, Norm},
    ops::{self, Matrix, TAPS, product},
    param::Param,
};

/// What a layer computes from its input.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A convolution with windows of 3 x 3 pixels.
    Convolution,
    /// The same, each channel by itself.
    Depthwise,
    /// Each pixel by itself: a 1 x 1 convolution, and, where the image is one pixel, a linear layer.
    Pixelwise,
}

/// The shape of a layer.
#[derive(Clone, Copy)]
pub struct Shape {
    pub kind: Kind,
    /// One image.
    pub input: Nhwc,
    pub outputs: usize,
    /// A batch normalization and a ReLU follow; else this is the last layer.
    pub hidden: bool,
    /// A 2 x 2 max pool follows.
    pub pool: bool,
}

impl Shape {
    /// Weights of an output channel.
    pub fn size(&self) -> usize {
        match self.kind {
            Kind::Convolution => self.input.channels * TAPS,
            Kind::Depthwise => TAPS,
            Kind::Pixelwise => self.input.channels,
        }
    }

    pub fn filters(&self) -> Filters {
        let three = Window::new(3, 3).padding(1, 1);
        match self.kind {
            Kind::Convolution => Filters::new(self.input.channels, self.outputs, three),
            Kind::Depthwise => Filters::depthwise(self.outputs, three),
            Kind::Pixelwise => Filters::new(self.input.channels, self.outputs, Window::new(1, 1)),
        }
    }

    /// Values of an output image before the pool.
    pub fn values(&self) -> usize {
        self.input.height * self.input.width * self.outputs
    }
}

/// A layer with all that training changes.
#[derive(Clone)]
pub struct Layer {
    pub shape: Shape,
    /// In PyTorch's order.
    pub weights: Param,
    /// Of the last layer, and of one that a normalization is folded into.
    pub bias: Param,
    pub norm: Option<Norm>,
    pub learned: Option<Learned>,
}

/// What the backward pass needs of the forward pass.
pub struct Tape {
    /// The input of the product: pixels, or the patches of a convolution.
    x: Vec<f32>,
    /// As multiplied: fake-quantized, if they are to be.
    weights: Vec<f32>,
    norm: Option<norm::Tape>,
    /// Behind the ReLU.
    y: Vec<f32>,
    /// Where the pool found its values.
    found: Vec<usize>,
}

impl Layer {
    /// Uniformly random weights (K. He et al. 2015).
    pub fn new(shape: Shape, random: &mut StdRng) -> Self {
        let size = shape.size();
        let bound = (6.0 / size as f32).sqrt();
        let weights = (0..shape.outputs * size).map(|_| random.random_range(-bound..bound)).collect();
        Self {
            shape,
            weights: Param::new(weights).decaying(),
            bias: Param::new(vec![0.0; shape.outputs]),
            norm: shape.hidden.then(|| Norm::new(shape.outputs)),
            learned: None,
        }
    }

    fn images(&self, batch: usize) -> Nhwc {
        Nhwc { batch, ..self.shape.input }
    }

    /// A batch of images through the layer.
    pub fn forward(&self, x: &[f32], batch: usize) -> Result<(Vec<f32>, Tape)> {
        let Self { shape, weights, bias, .. } = self;
        let images = self.images(batch);
        let weights = match &self.learned {
            Some(learned) => learned.weights(shape, &weights.values)?,
            None => weights.values.clone(),
        };
        let x = if shape.kind == Kind::Convolution { ops::patches(x, images) } else { x.to_vec() };
        let mut y = match shape.kind {
            Kind::Depthwise => ops::depthwise(&x, images, &weights),
            _ => product(Matrix::new(&x, shape.size()), Matrix::new(&weights, shape.size()).transposed()),
        };
        let mut norm_tape = None;
        if let Some(norm) = &self.norm {
            let (normalized, tape) = norm.forward(&y);
            (y, norm_tape) = (normalized, Some(tape));
        } else {
            for y in y.chunks_exact_mut(shape.outputs) {
                y.iter_mut().zip(&bias.values).for_each(|(y, bias)| *y += bias);
            }
        }
        if shape.hidden {
            y.iter_mut().for_each(|y| *y = y.max(0.0));
        }
        let out = match &self.learned {
            Some(learned) => learned.outputs(&y)?,
            None => y.clone(),
        };
        let (out, found) = if shape.pool {
            ops::max_pool(&out, Nhwc { channels: shape.outputs, ..images })
        } else {
            (out, Vec::new())
        };
        Ok((out, Tape { x, weights, norm: norm_tape, y, found }))
    }

    /// The gradient of the input from that of the output; those of the parameters stay here.
    pub fn backward(&mut self, tape: &Tape, dout: &[f32]) -> Result<Vec<f32>> {
        let Self { shape, .. } = *self;
        let images = self.images(tape.y.len() / shape.values());
        let mut dy =
            if shape.pool { ops::max_pool_backward(dout, &tape.found, tape.y.len()) } else { dout.to_vec() };
        if let Some(learned) = &mut self.learned {
            dy = learned.outputs_backward(&tape.y, &dy)?;
        }
        if shape.hidden {
            dy.iter_mut().zip(&tape.y).filter(|(_, y)| **y <= 0.0).for_each(|(dy, _)| *dy = 0.0);
        }
        match (&mut self.norm, &tape.norm) {
            (Some(norm), Some(tape)) => dy = norm.backward(tape, &dy),
            _ => {
                let sums = ops::column_sums(&dy, shape.outputs);
                self.bias.gradient = sums.into_iter().map(|sum| sum as f32).collect();
            }
        }
        let (dx, dweights) = match shape.kind {
            Kind::Depthwise => ops::depthwise_backward(&tape.x, images, &tape.weights, &dy),
            _ => {
                let dy = Matrix::new(&dy, shape.outputs);
                let dweights = product(dy.transposed(), Matrix::new(&tape.x, shape.size()));
                (product(dy, Matrix::new(&tape.weights, shape.size())), dweights)
            }
        };
        self.weights.gradient = match &mut self.learned {
            Some(learned) => learned.weights_backward(&shape, &self.weights.values, &dweights)?,
            None => dweights,
        };
        Ok(if shape.kind == Kind::Convolution { ops::patches_backward(&dx, images) } else { dx })
    }

    /// With the normalization in weights and bias.
    pub fn folded(&self) -> Result<Self> {
        let (mut weights, mut bias) = (self.weights.values.clone(), self.bias.values.clone());
        if let Some(norm) = &self.norm {
            fold_batch_norm(&mut weights, &mut bias, &norm.trained())?;
        }
        let (weights, bias) = (Param::new(weights).decaying(), Param::new(bias));
        Ok(Self { shape: self.shape, weights, bias, norm: None, learned: self.learned.clone() })
    }

    /// All that training changes.
    pub fn params(&mut self) -> Vec<&mut Param> {
        let mut params = vec![&mut self.weights];
        match &mut self.norm {
            Some(norm) => params.extend([&mut norm.gamma, &mut norm.beta]),
            None => params.push(&mut self.bias),
        }
        if let Some(learned) = &mut self.learned {
            params.extend(learned.params());
        }
        params
    }
}
