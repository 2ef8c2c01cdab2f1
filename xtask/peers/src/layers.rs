//! Convolutional layers of networks, against the same in f32 on the `gemm` crate.

use anyhow::Result;
use bench_support::layers::{Block, Conv3x3};
use i8gemm::{
    Kernel,
    nn::{Conv2d, DepthwiseConv2d, Filters, Images, Layer as _, Nhwc, StaticConfig, Window},
    quant::QParams,
};

use crate::{
    ours::Shape,
    pairs::{Contender, Timed},
    plan::{Opponent, REQUANTIZED},
};

/// A layer or a block on a square image.
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    pub op: &'static str,
    size: usize,
    inputs: usize,
    outputs: usize,
}

/// A ResNet's commonest convolution, two blocks of MobileNet (the widest image and the commonest), and depthwise layers of few
/// channels.
pub const LAYERS: [Layer; 7] = [
    Layer { op: "conv3x3", size: 56, inputs: 64, outputs: 64 },
    Layer { op: "mobilenet-block", size: 112, inputs: 32, outputs: 64 },
    Layer { op: "mobilenet-block", size: 14, inputs: 512, outputs: 512 },
    Layer::depthwise(8),
    Layer::depthwise(16),
    Layer::depthwise(24),
    Layer::depthwise(32),
];

impl Layer {
    /// 3 x 3 taps on 160 x 160 pixels.
    pub const fn depthwise(channels: usize) -> Self {
        Self { op: "depthwise3x3", size: 160, inputs: channels, outputs: 0 }
    }

    fn is_block(&self) -> bool {
        self.op == "mobilenet-block"
    }

    fn is_depthwise(&self) -> bool {
        self.outputs == 0
    }

    /// Of the product in it; of a depthwise layer pixels, taps and channels.
    pub fn shape(self) -> Shape {
        let pixels = self.size * self.size;
        if self.is_depthwise() {
            return (pixels, 9, self.inputs);
        }
        let taps = if self.is_block() { 1 } else { 9 };
        (pixels, taps * self.inputs, self.outputs)
    }

    /// Whom it meets: its f32 form; its product alone, if there is one; a depthwise layer one whose channels fill vectors.
    pub fn opponents(&self) -> Vec<Opponent> {
        if self.is_depthwise() {
            let f32_form = self.inputs.is_multiple_of(16).then_some(Opponent::GemmF32);
            let wide = (self.inputs != WIDE).then_some(Opponent::Depthwise(WIDE));
            return f32_form.into_iter().chain(wide).collect();
        }
        let product = Opponent::Ourselves { shape: self.shape(), op: REQUANTIZED, threads: 1 };
        if self.is_block() { vec![Opponent::GemmF32] } else { vec![Opponent::GemmF32, product] }
    }

    fn macs(&self) -> f64 {
        let (m, k, n) = self.shape();
        let depthwise = if self.is_block() { 9 * m * self.inputs } else { 0 };
        (m * k * n + depthwise) as f64
    }
}

/// Channels of a depthwise layer that fill the vectors of every instruction set.
const WIDE: usize = 32;

/// Calls `meet` with ours and the f32 form, on one thread.
pub fn with<R>(
    layer: Layer,
    kernel: Kernel,
    meet: impl FnOnce(&mut dyn Contender, &mut dyn Contender) -> Result<R>,
) -> Result<R> {
    let Layer { size, inputs, outputs, .. } = layer;
    let (input, output) = (QParams { scale: 0.02, zero_point: 117 }, QParams { scale: 0.05, zero_point: 3 });
    let config = StaticConfig::<u8>::new(input, output).relu6().kernel(kernel);
    let weights =
        |len: usize| -> Vec<f32> { (0..len).map(|i| (i * 37 % 255) as f32 / 127.0 - 1.0).collect() };
    let shape = Nhwc::new(1, size, size, inputs);
    let x: Vec<u8> = (0..shape.elements()?).map(|i| (i * 41 % 256) as u8).collect();
    let mut y = vec![0; size * size * outputs];
    let three = Window::new(3, 3).padding(1, 1);
    let work = layer.macs();
    if layer.is_depthwise() {
        let depthwise = Filters::depthwise(inputs, three);
        let depthwise = DepthwiseConv2d::<u8, u8>::new(depthwise, &weights(9 * inputs), None, config)?;
        let mut y = vec![0; x.len()];
        let mut scratch = depthwise.workspace(shape)?;
        let ours = || {
            depthwise.forward(Images::new(&x, shape)?, &mut y, &mut scratch)?;
            Ok(())
        };
        // The f32 form takes whole vectors of channels, and is not run for others.
        let mut theirs = Block::new(gemm_f32, size, inputs.next_multiple_of(16), 0);
        let mut theirs = Timed { work, call: || (theirs.run(), Ok(())).1 };
        return meet(&mut Timed { work, call: ours }, &mut theirs);
    }
    if layer.is_block() {
        let depthwise = Filters::depthwise(inputs, three);
        let depthwise = DepthwiseConv2d::<u8, u8>::new(depthwise, &weights(9 * inputs), None, config)?;
        let pointwise = Filters::new(inputs, outputs, Window::new(1, 1));
        let pointwise = Conv2d::<u8, u8>::new(pointwise, &weights(inputs * outputs), None, config)?;
        let mut between = vec![0; x.len()];
        let mut scratch = pointwise.workspace(shape)?;
        scratch.grow(depthwise.workspace_size(shape)?)?;
        let mut theirs = Block::new(gemm_f32, size, inputs, outputs);
        let ours = || {
            let shape = depthwise.forward(Images::new(&x, shape)?, &mut between, &mut scratch)?;
            pointwise.forward(Images::new(&between, shape)?, &mut y, &mut scratch)?;
            Ok(())
        };
        let mut theirs = Timed { work, call: || (theirs.run(), Ok(())).1 };
        return meet(&mut Timed { work, call: ours }, &mut theirs);
    }
    let filters = Filters::new(inputs, outputs, three);
    let conv = Conv2d::<u8, u8>::new(filters, &weights(9 * inputs * outputs), None, config)?;
    let mut scratch = conv.workspace(shape)?;
    let mut theirs = Conv3x3::new(gemm_f32, size, inputs, outputs);
    let ours = || {
        conv.forward(Images::new(&x, shape)?, &mut y, &mut scratch)?;
        Ok(())
    };
    let mut theirs = Timed { work, call: || (theirs.run(), Ok(())).1 };
    meet(&mut Timed { work, call: ours }, &mut theirs)
}

/// A product on one thread.
fn gemm_f32((m, k, n): Shape, a: &[f32], b: &[f32], c: &mut [f32]) {
    assert!(a.len() >= m * k && b.len() >= k * n && c.len() >= m * n);
    let row = |cols: usize| cols as isize;
    // SAFETY: all three are row-major, of M x N, M x K and K x N elements.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            row(n),
            false,
            a.as_ptr(),
            1,
            row(k),
            b.as_ptr(),
            1,
            row(n),
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
