//! Putting a network together.

use alloc::vec::Vec;

use super::{Activation, FilterKind, Network, Node, Op, RealLayer, Trained};
use crate::{
    Error,
    check::{check_len, check_shape},
    memory,
    nn::{BatchNorm, Filters, Nhwc, Window, fold_batch_norm},
};

/// The trained parameters of a convolution or linear layer.
///
/// ```
/// use i8gemm::nn::{BatchNorm, Weights};
/// let norm = BatchNorm { mean: &[0.5], variance: &[4.0], gamma: &[2.0], beta: &[0.0], epsilon: 1e-5 };
/// let weights = Weights::new(&[1.0, 2.0, 3.0]).bias(&[0.1]).batch_norm(norm); // one output channel
/// # let _ = weights;
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    values: &'a [f32],
    bias: Option<&'a [f32]>,
    norm: Option<BatchNorm<'a>>,
    nchw: bool,
}

impl<'a> Weights<'a> {
    /// In PyTorch's order, output channels first.
    #[must_use]
    pub fn new(values: &'a [f32]) -> Self {
        Self { values, bias: None, norm: None, nchw: false }
    }

    /// One value for each output channel.
    #[must_use]
    pub fn bias(self, bias: &'a [f32]) -> Self {
        Self { bias: Some(bias), ..self }
    }

    /// A batch normalization behind the layer and before its activation, which is [folded](fold_batch_norm) into it.
    #[must_use]
    pub fn batch_norm(self, norm: BatchNorm<'a>) -> Self {
        Self { norm: Some(norm), ..self }
    }

    /// Of a linear layer that PyTorch trained behind its own flattening of NCHW images: columns are put in the order of NHWC. Without
    /// effect on other layers.
    #[must_use]
    pub fn flattened_nchw(self) -> Self {
        Self { nchw: true, ..self }
    }

    /// Weights and bias, checked, with the normalization folded in.
    fn folded(&self, outputs: usize, size: usize) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let overflow = Error::SizeOverflow { what: "weights", rows: outputs, cols: size };
        check_len("weights", self.values.len(), outputs.checked_mul(size).ok_or(overflow)?)?;
        if let Some(index) = self.values.iter().position(|w| !w.is_finite()) {
            return Err(Error::NonFinite { what: "weight", index, value: self.values[index] });
        }
        let mut bias = match self.bias {
            Some(bias) => {
                check_len("bias", bias.len(), outputs)?;
                memory::copied("bias", bias)?
            }
            None => memory::zeroed("bias", outputs, 1)?,
        };
        if let Some(index) = bias.iter().position(|b| !b.is_finite()) {
            return Err(Error::Bias { index, value: bias[index].into() });
        }
        let mut values = memory::copied("weights", self.values)?;
        if let Some(norm) = &self.norm {
            fold_batch_norm(&mut values, &mut bias, norm)?;
        }
        Ok((values, bias))
    }
}

/// Layers, each added behind the nodes that it reads. A node is as good as its errors: none is added by a call that fails.
impl Network {
    /// A network of nothing but its input: images of that size, or, 1 x 1, vectors of features.
    ///
    /// # Errors
    /// [`Error::Zero`], [`Error::SizeOverflow`].
    pub fn new(height: usize, width: usize, channels: usize) -> Result<Self, Error> {
        for (what, size) in [("height", height), ("width", width), ("channels", channels)] {
            if size == 0 {
                return Err(Error::Zero { what });
            }
        }
        let mut network = Self { nodes: Vec::new() };
        network.push(RealLayer::Input, [0, 0], Nhwc::new(1, height, width, channels), Activation::None)?;
        Ok(network)
    }

    /// A convolution; a depthwise one where there are as many groups as input channels.
    ///
    /// # Errors
    /// [`Error::Index`] for a node that this network does not have; [`Error::Shape`] for other channels than the filters read;
    /// [`Error::Zero`], [`Error::Groups`], [`Error::Window`] for the filters; [`Error::Length`], [`Error::NonFinite`],
    /// [`Error::Bias`] for the weights; the errors of [`fold_batch_norm`]; [`Error::SizeOverflow`].
    pub fn conv2d(
        &mut self,
        input: Node,
        filters: Filters,
        weights: Weights,
        activation: Activation,
    ) -> Result<Node, Error> {
        let depthwise = filters.groups > 1 && filters.groups == filters.inputs;
        let kind = if depthwise { FilterKind::Depthwise } else { FilterKind::Convolution };
        self.push_filters(input, kind, filters, weights, activation)
    }

    /// A fully connected layer over 1 x 1 pixels: what [`Network::flatten`] or a global pool leaves.
    ///
    /// # Errors
    /// [`Error::Shape`] for an input of more than one pixel; otherwise as [`Network::conv2d`].
    pub fn linear(
        &mut self,
        input: Node,
        outputs: usize,
        weights: Weights,
        activation: Activation,
    ) -> Result<Node, Error> {
        let shape = self.op(input)?.shape;
        let pixels = shape.pixels()?;
        check_shape("pixels of the input of a linear layer: flatten it first", 1, pixels)?;
        let filters = Filters::new(shape.channels, outputs, Window::new(1, 1));
        self.push_filters(input, FilterKind::Linear, filters, weights, activation)
    }

    fn push_filters(
        &mut self,
        input: Node,
        kind: FilterKind,
        filters: Filters,
        weights: Weights,
        activation: Activation,
    ) -> Result<Node, Error> {
        let shape = self.op(input)?.shape;
        check_shape("channels of the input", filters.inputs, shape.channels)?;
        let (_, size) = filters.check()?;
        let out = filters.window.output(shape, filters.outputs)?;
        let nchw = weights.nchw;
        let (mut weights, bias) = weights.folded(filters.outputs, size)?;
        let mut op = self.op(input)?;
        if let (true, FilterKind::Linear, RealLayer::Flatten) = (nchw, kind, &op.layer) {
            // The image that was flattened, be it more than once.
            while matches!(op.layer, RealLayer::Flatten) {
                op = &self.nodes[op.inputs[0]];
            }
            let Nhwc { height, width, channels, .. } = op.shape;
            let pixels = height * width;
            let mut trained = memory::zeroed("weights", 1, size)?;
            for row in weights.chunks_exact_mut(size) {
                trained.copy_from_slice(row);
                for (i, w) in row.iter_mut().enumerate() {
                    *w = trained[i % channels * pixels + i / channels];
                }
            }
        }
        self.push(RealLayer::Filters(Trained { kind, filters, weights, bias }), [input.0; 2], out, activation)
    }

    /// The sum of two nodes: where the branches of a residual network meet.
    ///
    /// # Errors
    /// [`Error::Index`]; [`Error::Shape`] for outputs of different shapes; [`Error::SizeOverflow`].
    pub fn add(&mut self, a: Node, b: Node, activation: Activation) -> Result<Node, Error> {
        let (left, right) = (self.op(a)?.shape, self.op(b)?.shape);
        check_shape("rows of the second term", left.height, right.height)?;
        check_shape("columns of the second term", left.width, right.width)?;
        check_shape("channels of the second term", left.channels, right.channels)?;
        self.push(RealLayer::Add, [a.0, b.0], left, activation)
    }

    /// The average under a window; padding counts as pixels of 0 unless `count_padding` is false.
    ///
    /// # Errors
    /// [`Error::Index`]; [`Error::Zero`], [`Error::Window`], [`Error::EmptyWindow`], [`Error::WindowTooLarge`] for the window;
    /// [`Error::SizeOverflow`].
    pub fn average_pool(&mut self, input: Node, window: Window, count_padding: bool) -> Result<Node, Error> {
        let window = Some(window);
        self.push_pool(input, window, RealLayer::AveragePool { window, count_padding })
    }

    /// The average of all pixels of an image.
    ///
    /// # Errors
    /// As [`Network::average_pool`].
    pub fn global_average_pool(&mut self, input: Node) -> Result<Node, Error> {
        self.push_pool(input, None, RealLayer::AveragePool { window: None, count_padding: true })
    }

    /// The largest value under a window.
    ///
    /// # Errors
    /// As [`Network::average_pool`], but for [`Error::WindowTooLarge`].
    pub fn max_pool(&mut self, input: Node, window: Window) -> Result<Node, Error> {
        self.push_pool(input, Some(window), RealLayer::MaxPool(window))
    }

    fn push_pool(&mut self, input: Node, window: Option<Window>, layer: RealLayer) -> Result<Node, Error> {
        let shape = self.op(input)?.shape;
        let window = window.unwrap_or(Window::new(shape.height, shape.width));
        window.check()?;
        if let RealLayer::AveragePool { .. } = layer {
            window.summed_taps()?;
        }
        self.push(layer, [input.0; 2], window.pooled(shape)?, Activation::None)
    }

    /// An image as one pixel of height * width * channels features, in the order of NHWC; see [`Weights::flattened_nchw`].
    ///
    /// # Errors
    /// [`Error::Index`]; [`Error::SizeOverflow`].
    pub fn flatten(&mut self, input: Node) -> Result<Node, Error> {
        let shape = self.op(input)?.shape;
        let flat = Nhwc::new(1, 1, 1, shape.elements()?);
        self.push(RealLayer::Flatten, [input.0; 2], flat, Activation::None)
    }

    fn push(
        &mut self,
        layer: RealLayer,
        inputs: [usize; 2],
        shape: Nhwc,
        activation: Activation,
    ) -> Result<Node, Error> {
        shape.elements()?;
        memory::push("nodes", &mut self.nodes, Op { layer, inputs, shape, activation })?;
        Ok(Node(self.nodes.len() - 1))
    }
}
