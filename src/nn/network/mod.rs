//! Post-training static quantization of a network: build it in f32, show it data, convert it.
//!
//! ```text
//! Network --calibrate--> Calibration --observe a few batches--> convert --> QuantizedNetwork
//!    |                                                             ^
//!    +-- convert, with parameters that training has learned -------+
//! ```
//!
//! A network is a list of nodes; each reads the outputs of nodes before it, and the last one's output is the network's. Node 0 is
//! the input. Images are NHWC; an example is one image, and every call takes any number of them, one after the other.

mod batch_norm;
mod build;
mod convert;
mod float;
mod integer;
mod observe;
mod report;
mod slots;

use alloc::vec::Vec;

pub use {
    batch_norm::{BatchNorm, fold_batch_norm},
    build::Weights,
    convert::{NetworkConfig, NodeParams},
    integer::QuantizedNetwork,
    observe::Calibration,
    report::{LayerReport, Report},
};

use super::{Filters, Nhwc, Window};
use crate::{Error, check::check_shape, memory};

/// A network of f32 layers, to be quantized as a whole (post-training static quantization).
///
/// ```
/// use i8gemm::nn::{Activation, Filters, Layer, Network, NetworkConfig, Node, Weights, Window};
/// use i8gemm::quant::{Calibrator, Histogram};
/// // 4 x 4 pixels; a convolution with a shortcut around another one, an average, and two scores.
/// let filters = Filters::new(1, 2, Window::new(3, 3).padding(1, 1));
/// let more = Filters::new(2, 2, Window::new(1, 1));
/// let wave = |n: usize| (0..n).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>();
/// let mut net = Network::new(4, 4, 1)?;
/// let stem = net.conv2d(Node::INPUT, filters, Weights::new(&wave(18)).bias(&[0.1, -0.1]), Activation::Relu)?;
/// let body = net.conv2d(stem, more, Weights::new(&wave(4)), Activation::None)?;
/// let sum = net.add(stem, body, Activation::Relu)?;
/// let mean = net.global_average_pool(sum)?;
/// net.linear(mean, 2, Weights::new(&[1.0, -0.5, 0.25, 2.0]), Activation::None)?;
///
/// // Observe, calibrate, convert.
/// let data = wave(16 * 8); // 8 examples
/// let mut calibration = net.calibrate(&Histogram::new(Calibrator::Mse))?;
/// calibration.observe(&data)?;
/// let quantized = calibration.convert(NetworkConfig::default())?;
///
/// // Integers throughout; forward allocates nothing.
/// let mut scratch = quantized.workspace(8)?;
/// let mut scores = [0.0; 16];
/// quantized.forward(&data, &mut scores, &mut scratch)?;
///
/// // Which layer hurts?
/// let report = quantized.report(&net, &data)?;
/// assert!(report.worst().is_some_and(|layer| layer.alone_db > 30.0), "{report}");
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Network {
    nodes: Vec<Op>,
}

/// A node of a [`Network`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(usize);

impl Node {
    /// The input of the network.
    pub const INPUT: Self = Self(0);

    /// Its place among the nodes, from 0: the index of its parameters and of its activations.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }
}

/// What becomes of the output of a layer, fused into it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
}

impl Activation {
    fn range(self) -> (f32, f32) {
        match self {
            Self::None => (f32::NEG_INFINITY, f32::INFINITY),
            Self::Relu => (0.0, f32::INFINITY),
            Self::Relu6 => (0.0, 6.0),
        }
    }
}

/// A node.
#[derive(Debug, Clone)]
struct Op {
    layer: RealLayer,
    /// Nodes that it reads; the first one twice where one is enough.
    inputs: [usize; 2],
    /// Of its output, for one example.
    shape: Nhwc,
    activation: Activation,
}

#[derive(Debug, Clone)]
enum RealLayer {
    Input,
    /// Convolutions, and linear layers as convolutions of one pixel.
    Filters(Trained),
    Add,
    AveragePool {
        /// None: the whole image.
        window: Option<Window>,
        count_padding: bool,
    },
    MaxPool(Window),
    Flatten,
}

/// Filters with their weights, any normalization folded in.
#[derive(Debug, Clone)]
struct Trained {
    kind: FilterKind,
    filters: Filters,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FilterKind {
    Convolution,
    Depthwise,
    Linear,
}

impl RealLayer {
    /// Values stay what they are, and so do scale and zero point.
    fn keeps_params(&self) -> bool {
        matches!(self, Self::MaxPool(_) | Self::Flatten)
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Filters(Trained { kind: FilterKind::Convolution, .. }) => "conv2d",
            Self::Filters(Trained { kind: FilterKind::Depthwise, .. }) => "depthwise",
            Self::Filters(Trained { kind: FilterKind::Linear, .. }) => "linear",
            Self::Add => "add",
            Self::AveragePool { window: Some(_), .. } => "average pool",
            Self::AveragePool { window: None, .. } => "global average",
            Self::MaxPool(_) => "max pool",
            Self::Flatten => "flatten",
        }
    }
}

impl Network {
    /// The nodes, input first.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = Node> + use<> {
        (0..self.nodes.len()).map(Node)
    }

    /// The shape of a node's output for one example.
    ///
    /// # Errors
    /// [`Error::Index`] for a node that this network does not have.
    pub fn shape(&self, node: Node) -> Result<Nhwc, Error> {
        self.op(node).map(|op| op.shape)
    }

    /// Values of an example.
    #[must_use]
    pub fn inputs(&self) -> usize {
        values(self.nodes.first())
    }

    /// Values that an example gives.
    #[must_use]
    pub fn outputs(&self) -> usize {
        values(self.nodes.last())
    }

    /// The output of the last node for a batch of examples, computed in f32.
    ///
    /// # Errors
    /// [`Error::Shape`] when `x` is not a whole number of examples; [`Error::SizeOverflow`].
    pub fn forward(&self, x: &[f32]) -> Result<Vec<f32>, Error> {
        Ok(self.activations(x)?.pop().unwrap_or_default())
    }

    /// The outputs of every node for a batch of examples, computed in f32: `activations[node.index()]`.
    ///
    /// # Errors
    /// As [`Network::forward`].
    pub fn activations(&self, x: &[f32]) -> Result<Vec<Vec<f32>>, Error> {
        let batch = batch_of(x.len(), self.inputs())?;
        let mut all: Vec<Vec<f32>> = memory::room("nodes", self.nodes.len(), 1)?;
        for op in &self.nodes {
            let y = match op.layer {
                RealLayer::Input => memory::copied("x", x)?,
                _ => self.compute(op, batch, &all)?,
            };
            all.push(y);
        }
        Ok(all)
    }

    fn op(&self, node: Node) -> Result<&Op, Error> {
        let len = self.nodes.len();
        self.nodes.get(node.0).ok_or(Error::Index { what: "node", index: 0, value: node.0, len })
    }
}

/// Values of an example, checked when the node was made.
fn values(op: Option<&Op>) -> usize {
    op.map_or(0, |op| op.shape.height * op.shape.width * op.shape.channels)
}

/// The number of examples.
fn batch_of(len: usize, each: usize) -> Result<usize, Error> {
    let batch = len / each;
    check_shape("elements of x, a whole number of examples", len.next_multiple_of(each), len)?;
    Ok(batch)
}
