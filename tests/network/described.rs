//! A network as the tests see it.

use i8gemm::{
    Error,
    nn::{Activation, BatchNorm, Filters, Network, Nhwc, Node, Weights, Window},
};

use crate::common::Random;

/// Size, stride and padding of a square window.
#[derive(Clone, Copy)]
pub struct Square(pub usize, pub usize, pub usize);

impl Square {
    pub fn window(self) -> Window {
        Window::new(self.0, self.0).stride(self.1, self.1).padding(self.2, self.2)
    }

    pub fn places(self, len: usize) -> usize {
        (len + 2 * self.2 - self.0) / self.1 + 1
    }
}

/// A layer as the tests see it, for three interpreters: the crate's builder, plain f64, and the reference in integers.
pub enum Kind {
    Conv { outputs: usize, groups: usize, square: Square },
    Linear { outputs: usize },
    Add,
    Average { square: Square, include: bool },
    Global,
    Max { square: Square },
    Flatten,
}

pub struct Layer {
    pub kind: Kind,
    pub inputs: [usize; 2],
    pub activation: Activation,
    pub weights: Vec<f32>,
    pub bias: Vec<f32>,
    /// Mean, variance, gamma, beta.
    pub norm: Option<[Vec<f32>; 4]>,
}

pub fn reals(random: &mut Random, len: usize, magnitude: f32) -> Vec<f32> {
    (0..len).map(|_| random.range(-1_000_000, 1_000_000) as f32 * 1e-6 * magnitude).collect()
}

/// Every kind of layer: a stem with batch normalization, a depthwise and a grouped branch that meet, both kinds of pool, and
/// two ends, flattened and averaged, that meet again.
pub fn layers(random: &mut Random) -> Vec<Layer> {
    use Activation::{None as Plain, Relu, Relu6};
    let conv = |outputs, groups, square| Kind::Conv { outputs, groups, square };
    let all: [(Kind, [usize; 2], Activation, usize); 11] = [
        (conv(4, 1, Square(3, 1, 1)), [0; 2], Relu, 3 * 9), // 1: 6 x 5 x 4
        (conv(4, 4, Square(3, 2, 1)), [1; 2], Relu6, 9),    // 2: 3 x 3 x 4
        (conv(4, 2, Square(1, 2, 0)), [1; 2], Plain, 2),    // 3: 3 x 3 x 4
        (Kind::Add, [2, 3], Relu, 0),                       // 4
        (Kind::Max { square: Square(2, 1, 1) }, [4; 2], Plain, 0), // 5: 4 x 4 x 4
        (Kind::Average { square: Square(3, 2, 1), include: false }, [5; 2], Plain, 0), // 6: 2 x 2 x 4
        (Kind::Flatten, [6; 2], Plain, 0),                  // 7: 16
        (Kind::Linear { outputs: 5 }, [7; 2], Relu6, 16),   // 8
        (Kind::Global, [5; 2], Plain, 0),                   // 9: 4, of a node that is used before
        (Kind::Linear { outputs: 5 }, [9; 2], Plain, 4),    // 10
        (Kind::Add, [10, 8], Plain, 0),                     // 11
    ];
    let mut layers: Vec<Layer> = all
        .into_iter()
        .enumerate()
        .map(|(i, (kind, inputs, activation, size))| {
            let outputs = match kind {
                Kind::Conv { outputs, .. } | Kind::Linear { outputs } => outputs,
                _ => 0,
            };
            let weights = reals(random, outputs * size, 2.0 / (size as f32).sqrt().max(1.0));
            // Layers without a bias among them.
            let bias = reals(random, if i % 3 == 2 { 0 } else { outputs }, 0.5);
            Layer { kind, inputs, activation, weights, bias, norm: None }
        })
        .collect();
    let positive = |values: Vec<f32>| values.into_iter().map(|v| v.abs() + 0.1).collect();
    layers[0].norm = Some([
        reals(random, 4, 0.5),
        positive(reals(random, 4, 1.0)),
        positive(reals(random, 4, 1.0)),
        reals(random, 4, 0.5),
    ]);
    layers.push(Layer {
        kind: Kind::Linear { outputs: 3 },
        inputs: [11; 2],
        activation: Plain,
        weights: reals(random, 15, 1.0),
        bias: reals(random, 3, 1.0),
        norm: None,
    });
    layers
}

pub const INPUT: Nhwc = Nhwc::new(1, 6, 5, 3);

pub fn build(layers: &[Layer]) -> Result<(Network, Vec<Node>), Error> {
    let mut network = Network::new(INPUT.height, INPUT.width, INPUT.channels)?;
    let mut nodes = vec![Node::INPUT];
    for layer in layers {
        let Layer { kind, inputs: [a, b], activation, weights, bias, norm } = layer;
        let (a, b, activation) = (nodes[*a], nodes[*b], *activation);
        let mut weights = Weights::new(weights);
        if !bias.is_empty() {
            weights = weights.bias(bias);
        }
        if let Some([mean, variance, gamma, beta]) = norm {
            weights = weights.batch_norm(BatchNorm { mean, variance, gamma, beta, epsilon: 1e-5 });
        }
        nodes.push(match *kind {
            Kind::Conv { outputs, groups, square } => {
                let filters =
                    Filters::new(network.shape(a)?.channels, outputs, square.window()).groups(groups);
                network.conv2d(a, filters, weights, activation)?
            }
            Kind::Linear { outputs } => network.linear(a, outputs, weights, activation)?,
            Kind::Add => network.add(a, b, activation)?,
            Kind::Average { square, include } => network.average_pool(a, square.window(), include)?,
            Kind::Global => network.global_average_pool(a)?,
            Kind::Max { square } => network.max_pool(a, square.window())?,
            Kind::Flatten => network.flatten(a)?,
        });
    }
    Ok((network, nodes))
}
