//! What quantization costs, layer by layer.

use alloc::vec::Vec;
use core::fmt;

use super::{
    Network, Node, QuantizedNetwork,
    integer::{IntegerLayer, NodeValues, Step},
};
use crate::{
    Error, Sequential, Workspace,
    check::{check_len, check_shape},
    memory,
    nn::{Layer, Nhwc},
};

/// How far a quantized network is from the f32 network that it was made of: a line for each node, input first, which
/// [`Display`](fmt::Display) makes a table of.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// One for each node.
    pub layers: Vec<LayerReport>,
}

/// Of one node.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct LayerReport {
    /// The node.
    pub node: Node,
    /// Its kind: `conv2d`, `add` and the like.
    pub name: &'static str,
    /// Of its output, for one example.
    pub shape: Nhwc,
    /// Signal to quantization noise of its output, `10 log10(sum x^2 / sum (x - x')^2)`, in dB, with `x` the output of the f32
    /// network and `x'` that of the quantized network: with everything up to here quantized. Infinite without noise.
    pub sqnr_db: f64,
    /// The same with this layer alone quantized: its weights, its output and its inputs, which are those of the f32 network. The
    /// layer where it is lowest is the one that hurts.
    pub alone_db: f64,
}

impl Report {
    /// The layer that hurts most: the one with the least signal to noise when it alone is quantized. `None` for a network of no
    /// layers.
    #[must_use]
    pub fn worst(&self) -> Option<&LayerReport> {
        let layers = self.layers.iter().skip(1);
        layers.min_by(|a, b| a.alone_db.total_cmp(&b.alone_db))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>4}  {:<14}  {:>14}  {:>9}  {:>9}",
            "node", "layer", "shape", "SQNR, dB", "alone, dB"
        )?;
        for LayerReport { node, name, shape, sqnr_db, alone_db } in &self.layers {
            let shape = alloc::format!("{}x{}x{}", shape.height, shape.width, shape.channels);
            writeln!(f, "{:>4}  {name:<14}  {shape:>14}  {sqnr_db:>9.2}  {alone_db:>9.2}", node.index())?;
        }
        Ok(())
    }
}

impl QuantizedNetwork {
    /// Compares every node with the f32 network that this one was made of, for a batch of examples.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Shape`] for a network of other nodes, and for an `x` that is not a whole number of examples;
    /// [`Error::NonFinite`] for NaN or infinity in `x`; [`Error::SizeOverflow`].
    pub fn report(&self, network: &Network, x: &[f32]) -> Result<Report, Error> {
        check_len("nodes of the network", network.nodes.len(), self.steps.len())?;
        for (op, step) in network.nodes.iter().zip(&self.steps) {
            if op.shape != step.shape {
                check_shape("elements of a node", step.values(), op.shape.elements()?)?;
                return Err(Error::State { what: "a network whose nodes have other shapes" });
            }
        }
        crate::quant::Engine::new(Some(self.kernel()))?.finite_extent("x", x)?;
        let expected = network.activations(x)?;
        let batch = super::batch_of(x.len(), self.inputs())?;
        let mut layers = memory::room("nodes", self.steps.len(), 1)?;
        let mut out = memory::zeroed("out", batch, self.outputs())?;
        let mut scratch = self.workspace(batch)?;
        self.run(&Sequential, x, &mut out, &mut scratch, |index, values| {
            let (step, expected) = (&self.steps[index], &expected[index]);
            let sqnr_db = match values {
                NodeValues::Real(real) => sqnr(expected, real),
                NodeValues::Bytes(bytes) => sqnr(expected, &self.real(step, bytes)?),
            };
            let (node, name, shape) = (Node(index), step.name, step.shape);
            layers.push(LayerReport { node, name, shape, sqnr_db, alone_db: sqnr_db });
            Ok(())
        })?;
        for ((layer, step), expected_here) in layers.iter_mut().zip(&self.steps).zip(&expected).skip(1) {
            layer.alone_db = sqnr(expected_here, &self.alone(step, &expected, batch)?);
        }
        Ok(Report { layers })
    }

    /// The output of one node for what the f32 network has.
    fn alone(&self, step: &Step, expected: &[Vec<f32>], batch: usize) -> Result<Vec<f32>, Error> {
        let shape = self.input_shape(step, batch);
        let quantized = step.inputs.map(|input| {
            let real = &expected[input];
            let mut bytes = memory::zeroed("input of a node", real.len(), 1)?;
            self.steps[input].quantizer(self.kernel()).quantize(real, &mut bytes).map(|()| bytes)
        });
        let [a, b] = quantized;
        let (a, b) = (a?, b?);
        let mut scratch = Workspace::with_size(step.workspace_size(shape, &Sequential)?)?;
        if let IntegerLayer::Last(_) = step.layer {
            let mut real = memory::zeroed("output of a node", batch, step.values())?;
            step.run(&Sequential, [&a, &b], shape, &mut [], &mut real, &mut scratch)?;
            return Ok(real);
        }
        let mut bytes = memory::zeroed("output of a node", batch, step.values())?;
        step.run(&Sequential, [&a, &b], shape, &mut bytes, &mut [], &mut scratch)?;
        self.real(step, &bytes)
    }

    fn real(&self, step: &Step, bytes: &[u8]) -> Result<Vec<f32>, Error> {
        let mut real = memory::zeroed("output of a node", bytes.len(), 1)?;
        step.quantizer(self.kernel()).dequantize(bytes, &mut real)?;
        Ok(real)
    }
}

/// Signal to noise in dB.
fn sqnr(expected: &[f32], actual: &[f32]) -> f64 {
    let (mut signal, mut noise) = (0.0, 0.0);
    for (&x, &y) in expected.iter().zip(actual) {
        let (x, y) = (f64::from(x), f64::from(y));
        signal += x * x;
        noise += (x - y) * (x - y);
    }
    if noise == 0.0 { f64::INFINITY } else { 10.0 * libm::log10(signal / noise) }
}
