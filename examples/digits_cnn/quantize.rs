//! From f32 to integers, after training and with training.

use anyhow::Result;
use i8gemm::{
    nn::{Layer, Network, NetworkConfig, Node, NodeParams, QuantizedNetwork},
    quant::{Calibrator, Histogram, Levels, MinMax, MovingAverage, Observer, PerChannel, QParams, Scheme},
};

use crate::{learned::Learned, model::Model};

/// Of the input, which has integers in it already: pixels of 0 to 16, sixteenths as reals.
const PIXELS: QParams = QParams { scale: 1.0 / 16.0, zero_point: 0 };
/// Values that are observed at a time: 32 images.
const BATCH: usize = 32 * 64;

/// Biases stay in f32, as they are trained.
pub fn config() -> NetworkConfig {
    NetworkConfig::default().float_bias()
}

/// What every method makes of the activations, for each node.
pub fn calibrations(network: &Network, x: &[f32]) -> Result<[(String, Vec<NodeParams>); 5]> {
    let histogram = |calibrator: Calibrator| -> Result<_> {
        Ok((calibrator.to_string(), calibrate(network, x, &Histogram::new(calibrator))?))
    };
    Ok([
        ("MinMax".into(), calibrate(network, x, &MinMax::new())?),
        ("moving average".into(), calibrate(network, x, &MovingAverage::default())?),
        histogram(Calibrator::Percentile(99.99))?,
        histogram(Calibrator::KlTensorRt)?,
        histogram(Calibrator::Mse)?,
    ])
}

/// Observes batches, and chooses scales and zero points of activations.
pub fn calibrate(
    network: &Network,
    x: &[f32],
    observer: &(impl Observer + Clone),
) -> Result<Vec<NodeParams>> {
    let mut calibration = network.calibrate(observer)?;
    x.chunks(BATCH).try_for_each(|batch| calibration.observe(batch))?;
    let mut params = calibration.params()?;
    params[Node::INPUT.index()].output = PIXELS;
    Ok(params)
}

/// A folded model, fake-quantized: its weights with the scales of least squared error, its activations as calibration has it.
/// The integer network made of it is the model quantized after training; training begins here.
pub fn prepared(model: &Model, params: &[NodeParams], nodes: &[Node], levels: Levels) -> Result<Model> {
    let mut model = model.clone();
    for (layer, node) in model.layers.iter_mut().zip(nodes) {
        let shape = layer.shape;
        let mut observer = PerChannel::new(Histogram::new(Calibrator::Mse), shape.outputs, shape.size())?;
        observer.observe(&layer.weights.values)?;
        let scales = observer.params(levels.narrow(), Scheme::Symmetric)?.scales;
        layer.learned =
            Some(Learned::new(levels, &scales, shape.hidden.then(|| params[node.index()].output)));
    }
    Ok(model)
}

/// The integer network with the scales and zero points that the model has learned.
pub fn converted(model: &Model) -> Result<QuantizedNetwork> {
    let (network, nodes) = model.network()?;
    let mut params = vec![NodeParams::new(PIXELS); network.nodes().len()];
    for (layer, node) in model.layers.iter().zip(nodes) {
        if let Some(learned) = &layer.learned {
            params[node.index()] = learned.node_params();
        }
    }
    Ok(network.convert(&params, config())?)
}

/// The scores of many images.
pub fn scores(network: &QuantizedNetwork, x: &[f32]) -> Result<Vec<f32>> {
    let count = x.len() / network.inputs();
    let mut scores = vec![0.0; count * network.outputs()];
    network.apply(x, &mut scores)?;
    Ok(scores)
}
