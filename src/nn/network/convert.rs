//! From f32 to integers.

use alloc::vec::Vec;

use super::{
    Activation, FilterKind, Network, Op, QuantizedNetwork, RealLayer, Trained,
    integer::{IntegerLayer, Step, Weighted},
};
use crate::{
    Error, Kernel, MatRef, OutputElement,
    check::check_len,
    memory,
    nn::{Activated, Add, AveragePool, Conv2d, DepthwiseConv2d, MaxPool, StaticConfig, StaticLinear},
    quant::{Levels, QParams},
};

/// How a network is quantized: by default to 8-bit weights with a scale for each output channel, on the best kernel.
///
/// ```
/// use i8gemm::{nn::NetworkConfig, quant::Levels};
/// let config = NetworkConfig::default().levels(Levels::signed(4)?).per_tensor_weights();
/// # let _ = config;
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct NetworkConfig {
    levels: Option<Levels>,
    tensor_weights: bool,
    float_bias: bool,
    kernel: Option<Kernel>,
}

impl NetworkConfig {
    /// Quantizes weights to these integers, their smallest left out: 8, 4 or 2 bits, say, all stored as i8.
    #[must_use]
    pub fn levels(self, levels: Levels) -> Self {
        Self { levels: Some(levels), ..self }
    }

    /// One scale for all weights of a layer.
    #[must_use]
    pub fn per_tensor_weights(self) -> Self {
        Self { tensor_weights: true, ..self }
    }

    /// Keeps biases in f32 instead of rounding them to i32.
    #[must_use]
    pub fn float_bias(self) -> Self {
        Self { float_bias: true, ..self }
    }

    /// Packs for and runs on this kernel instead of [`Kernel::best`].
    #[must_use]
    pub fn kernel(self, kernel: Kernel) -> Self {
        Self { kernel: Some(kernel), ..self }
    }
}

/// How one node is quantized: what calibration found, or training learned.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct NodeParams {
    /// Scale and zero point of its output, as u8. Without effect for max pools and flattening, which keep those of what they read,
    /// and for convolutions and linear layers that come last, whose output is f32.
    pub output: QParams,
    /// Scales of its weights, one or one for each output channel, instead of those that fit the largest magnitudes.
    pub weight_scales: Option<Vec<f32>>,
    /// Integers to quantize its weights to, instead of the configuration's.
    pub weight_levels: Option<Levels>,
}

impl NodeParams {
    /// With weights as the configuration has them.
    #[must_use]
    pub fn new(output: QParams) -> Self {
        Self { output, weight_scales: None, weight_levels: None }
    }
}

impl Network {
    /// The integer network with these parameters, one for each node, input first: of [`Calibration::params`](super::Calibration),
    /// of training, or of both.
    ///
    /// # Errors
    /// [`Error::Length`] for parameters that are not one for each node, or scales that are not one for each output channel;
    /// [`Error::Scale`], [`Error::ZeroPoint`] for their values; [`Error::KTooLong`] for filters of more than
    /// [`MAX_SAFE_K`](crate::MAX_SAFE_K) values; [`Error::KernelUnavailable`]; [`Error::SizeOverflow`].
    ///
    /// ```
    /// use i8gemm::{nn::{Activation, Layer, Network, NetworkConfig, Node, NodeParams, Weights}, quant::QParams};
    /// let mut net = Network::new(1, 1, 3)?;
    /// let score = net.linear(Node::INPUT, 1, Weights::new(&[0.5, -0.25, 1.0]), Activation::None)?;
    /// let mut params = vec![NodeParams::new(QParams { scale: 0.01, zero_point: 128 }); 2];
    /// params[score.index()].weight_scales = Some(vec![1.0 / 64.0]);
    /// let quantized = net.convert(&params, NetworkConfig::default())?;
    ///
    /// let mut y = [0.0];
    /// let mut scratch = quantized.workspace(1)?;
    /// quantized.forward(&[1.0, 0.5, -0.25], &mut y, &mut scratch)?;
    /// assert!((y[0] - 0.125).abs() < 1e-6);
    /// # Ok::<(), i8gemm::Error>(())
    /// ```
    pub fn convert(&self, params: &[NodeParams], config: NetworkConfig) -> Result<QuantizedNetwork, Error> {
        check_len("parameters of nodes", params.len(), self.nodes.len())?;
        let kernel = Kernel::chosen(config.kernel)?;
        let mut steps: Vec<Step> = memory::room("nodes", self.nodes.len(), 1)?;
        for (index, (op, params)) in self.nodes.iter().zip(params).enumerate() {
            let of = |input: usize| steps.get(op.inputs[input]).map_or(params.output, |step| step.params);
            let convert = Convert { op, params, config, kernel };
            let output = if op.layer.keeps_params() { of(0) } else { params.output };
            let bytes = || convert.config(StaticConfig::<u8>::new(of(0), output));
            let layer = match &op.layer {
                RealLayer::Input => {
                    // The layers check what they read; here it may be that none does.
                    bytes().check::<u8>()?;
                    IntegerLayer::Input
                }
                RealLayer::Filters(trained) if index + 1 == self.nodes.len() => {
                    IntegerLayer::Last(filters(trained, convert.config(StaticConfig::<f32>::real(of(0))))?)
                }
                RealLayer::Filters(trained) => IntegerLayer::Filters(filters(trained, bytes())?),
                RealLayer::Add => IntegerLayer::Add(Add::new(of(1), bytes())?),
                RealLayer::AveragePool { window, count_padding } => {
                    let pool = match window {
                        Some(window) => AveragePool::new(*window, bytes())?,
                        None => AveragePool::global(bytes())?,
                    };
                    IntegerLayer::Average(if *count_padding { pool } else { pool.exclude_padding() })
                }
                RealLayer::MaxPool(window) => IntegerLayer::Max(MaxPool::new(*window)?),
                RealLayer::Flatten => IntegerLayer::Flatten,
            };
            let (inputs, shape) = (op.inputs, op.shape);
            steps.push(Step { layer, inputs, shape, params: output, name: op.layer.name() });
        }
        QuantizedNetwork::new(steps, kernel)
    }
}

/// One node on its way.
struct Convert<'a> {
    op: &'a Op,
    params: &'a NodeParams,
    config: NetworkConfig,
    kernel: Kernel,
}

impl<'a> Convert<'a> {
    /// What the node and the network's configuration say, added.
    fn config<T: Activated>(&self, config: StaticConfig<'a, T>) -> StaticConfig<'a, T> {
        let mut config = config.kernel(self.kernel);
        config = match self.op.activation {
            Activation::None => config,
            Activation::Relu => config.relu(),
            Activation::Relu6 => config.relu6(),
        };
        if let Some(levels) = self.params.weight_levels.or(self.config.levels) {
            config = config.levels(levels);
        }
        if self.config.tensor_weights {
            config = config.per_tensor_weights();
        }
        if self.config.float_bias {
            config = config.float_bias();
        }
        match self.params.weight_scales.as_deref() {
            Some(&[scale]) => config.weight_scales(scale),
            Some(scales) => config.weight_scales(scales),
            None => config,
        }
    }
}

fn filters<T: OutputElement>(trained: &Trained, config: StaticConfig<T>) -> Result<Weighted<T>, Error> {
    let Trained { kind, filters, weights, bias } = trained;
    // No bias costs nothing.
    let bias = bias.iter().any(|&b| b != 0.0).then_some(&bias[..]);
    Ok(match kind {
        FilterKind::Convolution => Weighted::Conv(Conv2d::new(*filters, weights, bias, config)?),
        FilterKind::Depthwise => Weighted::Depthwise(DepthwiseConv2d::new(*filters, weights, bias, config)?),
        FilterKind::Linear => {
            let weights = MatRef::row_major(weights, filters.outputs, filters.inputs)?;
            Weighted::Linear(StaticLinear::new(weights, bias, config)?)
        }
    })
}
