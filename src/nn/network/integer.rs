//! A network of integers.

use alloc::vec::Vec;

use super::{
    Node, batch_of,
    slots::{NodeOutput, Slots},
};
use crate::{
    Error, Executor, Kernel, MatMut, MatRef, OutputElement,
    check::check_shape,
    memory,
    nn::{
        Add, AveragePool, Conv2d, DepthwiseConv2d, Images, Layer, MaxPool, Nhwc, StaticLinear,
        scratch::{Carver, Size},
    },
    quant::{QParams, Quantizer},
};

/// A quantized network: f32 in, u8 between layers, f32 out. Made by [`Calibration::convert`](super::Calibration::convert) or
/// [`Network::convert`](super::Network::convert); see [`Network`](super::Network) for an example.
///
/// Inputs are quantized with the scale and zero point that calibration found: what lies outside its range is clipped, and NaN
/// becomes 0. Every kernel gives the same bits.
#[derive(Debug)]
pub struct QuantizedNetwork {
    pub(super) steps: Vec<Step>,
    slots: Slots,
    kernel: Kernel,
}

/// A node.
#[derive(Debug)]
pub(super) struct Step {
    pub layer: IntegerLayer,
    pub inputs: [usize; 2],
    /// Of its output, for one example.
    pub shape: Nhwc,
    /// Of its output, if that is of integers.
    pub params: QParams,
    pub name: &'static str,
}

#[derive(Debug)]
pub(super) enum IntegerLayer {
    Input,
    Filters(Weighted<u8>),
    /// Gives f32.
    Last(Weighted<f32>),
    Add(Add<u8, u8>),
    Average(AveragePool<u8, u8>),
    Max(MaxPool<u8>),
    Flatten,
}

#[derive(Debug)]
pub(super) enum Weighted<T> {
    Conv(Conv2d<u8, T>),
    Depthwise(DepthwiseConv2d<u8, T>),
    Linear(StaticLinear<u8, T>),
}

impl<T: OutputElement> Weighted<T> {
    fn workspace_size(&self, shape: Nhwc, executor: &(impl Executor + ?Sized)) -> Result<usize, Error> {
        match self {
            Self::Conv(conv) => conv.workspace_size_with(shape, executor),
            Self::Depthwise(conv) => conv.workspace_size_with(shape, executor),
            Self::Linear(linear) => linear.workspace_size_with(shape.pixels()?, executor),
        }
    }

    fn forward(
        &self,
        executor: &(impl Executor + ?Sized),
        x: Images<u8>,
        y: &mut [T],
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        match self {
            Self::Conv(conv) => conv.forward_with(executor, x, y, scratch).map(drop),
            Self::Depthwise(conv) => conv.forward_with(executor, x, y, scratch).map(drop),
            Self::Linear(linear) => {
                let rows = x.shape().pixels()?;
                let out = MatMut::row_major(y, rows, linear.outputs())?;
                let x = MatRef::row_major(x.values(), rows, linear.inputs())?;
                linear.forward_with(executor, x, out, scratch)
            }
        }
    }
}

impl Step {
    /// NodeValues of the output of one example, checked when the network was built.
    pub fn values(&self) -> usize {
        self.shape.height * self.shape.width * self.shape.channels
    }

    /// Bytes of them; f32 goes to the caller.
    fn bytes(&self) -> usize {
        if let IntegerLayer::Last(_) = self.layer { 0 } else { self.values() }
    }

    /// Scratch for inputs of that shape.
    pub fn workspace_size(&self, shape: Nhwc, executor: &(impl Executor + ?Sized)) -> Result<usize, Error> {
        match &self.layer {
            IntegerLayer::Filters(layer) => layer.workspace_size(shape, executor),
            IntegerLayer::Last(layer) => layer.workspace_size(shape, executor),
            IntegerLayer::Average(pool) => pool.workspace_size(shape),
            IntegerLayer::Input | IntegerLayer::Add(_) | IntegerLayer::Max(_) | IntegerLayer::Flatten => {
                Ok(0)
            }
        }
    }

    /// Computes the output from inputs of that shape.
    pub fn run(
        &self,
        executor: &(impl Executor + ?Sized),
        inputs: [&[u8]; 2],
        shape: Nhwc,
        y: &mut [u8],
        real: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        let [x, other] = inputs;
        let images = Images::new(x, shape)?;
        match &self.layer {
            IntegerLayer::Input => {}
            IntegerLayer::Filters(layer) => layer.forward(executor, images, y, scratch)?,
            IntegerLayer::Last(layer) => layer.forward(executor, images, real, scratch)?,
            IntegerLayer::Add(add) => add.forward(x, other, y)?,
            IntegerLayer::Average(pool) => pool.forward(images, y, scratch).map(drop)?,
            IntegerLayer::Max(pool) => pool.forward(images, y, scratch).map(drop)?,
            IntegerLayer::Flatten => y.copy_from_slice(x),
        }
        Ok(())
    }

    pub fn quantizer(&self, kernel: Kernel) -> Quantizer<'static, u8> {
        Quantizer::per_tensor(self.params).kernel(kernel)
    }
}

/// The output of a node.
pub(super) enum NodeValues<'a> {
    Bytes(&'a [u8]),
    Real(&'a [f32]),
}

impl QuantizedNetwork {
    pub(super) fn new(steps: Vec<Step>, kernel: Kernel) -> Result<Self, Error> {
        let output = |step: &Step| NodeOutput {
            inputs: step.inputs,
            size: step.bytes(),
            alias: matches!(step.layer, IntegerLayer::Flatten),
        };
        let outputs = memory::collected("nodes", steps.iter().map(output))?;
        Ok(Self { slots: Slots::new(&outputs)?, steps, kernel })
    }

    /// NodeValues of an example.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.steps.first().map_or(0, Step::values)
    }

    /// NodeValues that an example gives.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.steps.last().map_or(0, Step::values)
    }

    /// The kernel that the network runs on.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Scale and zero point of a node's output; those of the last node mean nothing if it is a convolution or linear layer, which
    /// gives f32.
    ///
    /// # Errors
    /// [`Error::Index`] for a node that this network does not have.
    pub fn params(&self, node: Node) -> Result<QParams, Error> {
        let len = self.steps.len();
        let step = self.steps.get(node.index());
        step.map(|step| step.params).ok_or(Error::Index { what: "node", index: 0, value: node.index(), len })
    }

    /// Bytes of scratch that the outputs of nodes take for so many examples.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn activation_bytes(&self, batch: usize) -> Result<usize, Error> {
        let overflow = Error::SizeOverflow { what: "activations", rows: batch, cols: self.inputs() };
        self.slots.total(batch).ok_or(overflow)
    }

    /// Computes the outputs of a batch of examples, and shows those of every node.
    pub(super) fn run(
        &self,
        executor: &(impl Executor + ?Sized),
        x: &[f32],
        out: &mut [f32],
        scratch: &mut [u8],
        mut visit: impl FnMut(usize, NodeValues) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let batch = batch_of(x.len(), self.inputs())?;
        let overflow = Error::SizeOverflow { what: "out", rows: batch, cols: self.outputs() };
        check_shape("elements of out", batch.checked_mul(self.outputs()).ok_or(overflow)?, out.len())?;
        let mut carver = Carver::new(scratch, self.workspace_size_with(batch, executor)?)?;
        let arena: &mut [u8] = carver.take(self.activation_bytes(batch)?, 1)?;
        let scratch = carver.rest();
        for (index, step) in self.steps.iter().enumerate() {
            let range = |node: usize| self.slots.range(node, self.steps[node].bytes(), batch);
            let [a, b] = step.inputs;
            let shape = self.input_shape(step, batch);
            match &step.layer {
                IntegerLayer::Input => step.quantizer(self.kernel).quantize(x, &mut arena[range(index)])?,
                IntegerLayer::Flatten => {}
                IntegerLayer::Last(_) => {
                    step.run(executor, [&arena[range(a)]; 2], shape, &mut [], out, scratch)?
                }
                IntegerLayer::Add(_) if a != b && range(a) != range(b) => {
                    let [x, other, y] = disjoint(arena, [range(a), range(b), range(index)])?;
                    step.run(executor, [x, other], shape, y, &mut [], scratch)?;
                }
                _ => {
                    let [x, y] = disjoint(arena, [range(a), range(index)])?;
                    step.run(executor, [x; 2], shape, y, &mut [], scratch)?;
                }
            }
            let values = match &step.layer {
                IntegerLayer::Last(_) => NodeValues::Real(out),
                _ => NodeValues::Bytes(&arena[range(index)]),
            };
            visit(index, values)?;
        }
        match self.steps.last() {
            Some(last) if !matches!(last.layer, IntegerLayer::Last(_)) => {
                let range = self.slots.range(self.steps.len() - 1, last.bytes(), batch);
                last.quantizer(self.kernel).dequantize(&arena[range], out)
            }
            _ => Ok(()),
        }
    }

    /// The shape that a node reads.
    pub(super) fn input_shape(&self, step: &Step, batch: usize) -> Nhwc {
        Nhwc { batch, ..self.steps[step.inputs[0]].shape }
    }
}

impl Layer for QuantizedNetwork {
    /// Examples.
    type Shape = usize;
    type Input<'a> = &'a [f32];
    type Output<'a> = &'a mut [f32];
    type Done = ();

    fn shape_of(&self, x: &&[f32]) -> usize {
        x.len() / self.inputs()
    }

    /// The outputs of nodes that are still to be read, and the scratch of the most demanding layer.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    fn workspace_size_with(&self, batch: usize, executor: &(impl Executor + ?Sized)) -> Result<usize, Error> {
        let mut most = 0;
        for step in &self.steps {
            most = most.max(step.workspace_size(self.input_shape(step, batch), executor)?);
        }
        Size::default().add::<u8>(self.activation_bytes(batch)?, 1)?.total(most)
    }

    /// Computes the outputs of a batch of examples, each convolution and linear layer in parts on the threads of an executor.
    ///
    /// # Errors
    /// [`Error::Shape`] when `x` is not a whole number of examples or `y` does not hold as many outputs; [`Error::BufferTooSmall`].
    fn forward_with(
        &self,
        executor: &(impl Executor + ?Sized),
        x: &[f32],
        y: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        self.run(executor, x, y, scratch, |_, _| Ok(()))
    }
}

/// Parts of the arena that lie apart, as the plan of slots has it.
fn disjoint<const N: usize>(
    arena: &mut [u8],
    ranges: [core::ops::Range<usize>; N],
) -> Result<[&mut [u8]; N], Error> {
    arena.get_disjoint_mut(ranges).map_err(|_| Error::State { what: "activations that overlap" })
}
