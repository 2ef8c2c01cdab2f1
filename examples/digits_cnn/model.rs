//! The network: a chain of layers, trained here and handed over to `i8gemm` when it is to be quantized.

use anyhow::Result;
use i8gemm::nn::{Activation, Network, Nhwc, Node, Weights, Window};
use rand::rngs::StdRng;

use crate::{
    layer::{Kind, Layer, Shape, Tape},
    ops::cross_entropy,
};

/// A convolutional network.
#[derive(Clone)]
pub struct Model {
    pub layers: Vec<Layer>,
}

impl Model {
    /// For square images of one channel: a convolution, a depthwise and a pixelwise one, pool, another convolution, pool, and a
    /// linear layer that gives the scores of `classes`.
    pub fn new(side: usize, widths: [usize; 3], classes: usize, random: &mut StdRng) -> Self {
        let [a, b, c] = widths;
        let shape = |kind, side, inputs, outputs, pool| Shape {
            kind,
            input: Nhwc::new(1, side, side, inputs),
            outputs,
            hidden: true,
            pool,
        };
        let last = Nhwc::new(1, 1, 1, side / 4 * (side / 4) * c);
        let shapes = [
            shape(Kind::Convolution, side, 1, a, false),
            shape(Kind::Depthwise, side, a, a, false),
            shape(Kind::Pixelwise, side, a, b, true),
            shape(Kind::Convolution, side / 2, b, c, true),
            Shape { kind: Kind::Pixelwise, input: last, outputs: classes, hidden: false, pool: false },
        ];
        Self { layers: shapes.map(|shape| Layer::new(shape, random)).into() }
    }

    /// The scores of a batch of images, and what the backward pass needs.
    fn forward(&self, x: &[f32], batch: usize) -> Result<(Vec<f32>, Vec<Tape>)> {
        let (mut x, mut tapes) = (x.to_vec(), Vec::new());
        for layer in &self.layers {
            let (y, tape) = layer.forward(&x, batch)?;
            tapes.push(tape);
            x = y;
        }
        Ok((x, tapes))
    }

    /// The scores of many images. A batch normalization that is not folded would take its mean and variance from these.
    pub fn scores(&self, x: &[f32]) -> Result<Vec<f32>> {
        let Nhwc { height, width, .. } = self.layers[0].shape.input;
        let mut scores = Vec::new();
        for x in x.chunks(128 * height * width) {
            scores.extend(self.forward(x, x.len() / (height * width))?.0);
        }
        Ok(scores)
    }

    /// The loss of a batch; the gradients of all parameters are left with them.
    pub fn gradients(&mut self, x: &[f32], labels: &[u8]) -> Result<f64> {
        let (scores, tapes) = self.forward(x, labels.len())?;
        let (loss, mut gradient) = cross_entropy(&scores, labels);
        for (layer, tape) in self.layers.iter_mut().zip(&tapes).rev() {
            gradient = layer.backward(tape, &gradient)?;
        }
        Ok(loss)
    }

    /// With batch normalizations folded into the layers before them.
    pub fn folded(&self) -> Result<Self> {
        let layers: Result<_> = self.layers.iter().map(Layer::folded).collect();
        Ok(Self { layers: layers? })
    }

    /// The same network, in f32, to be quantized; and the nodes of the layers.
    pub fn network(&self) -> Result<(Network, Vec<Node>)> {
        let Nhwc { height, width, channels, .. } = self.layers[0].shape.input;
        let mut network = Network::new(height, width, channels)?;
        let (mut node, mut nodes) = (Node::INPUT, Vec::new());
        for Layer { shape, weights, bias, norm, .. } in &self.layers {
            let mut weights = Weights::new(&weights.values).bias(&bias.values);
            if let Some(norm) = norm {
                weights = weights.batch_norm(norm.trained());
            }
            let activation = if shape.hidden { Activation::Relu } else { Activation::None };
            node = if shape.input.height == 1 {
                let flat = network.flatten(node)?;
                network.linear(flat, shape.outputs, weights, activation)?
            } else {
                network.conv2d(node, shape.filters(), weights, activation)?
            };
            nodes.push(node);
            if shape.pool {
                node = network.max_pool(node, Window::new(2, 2).stride(2, 2))?;
            }
        }
        Ok((network, nodes))
    }
}
