//! Convolutions: every kernel against the scalar definition, bit for bit, and every mistake.

mod common;

use common::{FILLS, Random, bytes, kernels};
use i8gemm::{
    Broadcast, Error, Executor, Kernel, Operand, Output, OutputElement,
    nn::{Conv2d, DepthwiseConv2d, Filters, Nhwc, StaticConfig, Window},
    quant::{Levels, QParams},
    reference,
};

/// One convolution, all of it drawn from a seed.
#[derive(Debug, Clone, Copy)]
struct Case {
    filters: Filters,
    shape: Nhwc,
    seed: u64,
}

impl Case {
    /// Small images, every stride, padding and dilation, windows that reach beyond the image among them.
    fn random(random: &mut Random, depthwise: bool) -> Self {
        loop {
            let mut pair = |n: usize, min: usize| [random.below(n) + min, random.below(n) + min];
            let ([kh, kw], [sh, sw], [dh, dw]) = (pair(4, 1), pair(3, 1), pair(2, 1));
            let ([top, bottom], [left, right]) = (pair(3, 0), pair(3, 0));
            let [height, width] = pair(9, 1);
            let window = Window::new(kh, kw)
                .stride(sh, sw)
                .dilation(dh, dw)
                .padding_each([top, bottom], [left, right]);
            let groups = if depthwise { 1 + random.below(75) } else { 1 + random.below(3) };
            let (inputs, outputs) = if depthwise {
                (groups, groups * (1 + random.below(8) / 6))
            } else {
                (groups * (1 + random.below(9)), groups * (1 + random.below(20)))
            };
            let filters = Filters::new(inputs, outputs, window).groups(groups);
            let shape = Nhwc::new(1 + random.below(2), height, width, inputs);
            if window.output_size(height, width).is_ok() {
                return Self { filters, shape, seed: random.next() };
            }
        }
    }
}

/// The two kinds of layer behind one face.
trait Layer<A, T>: Sized {
    fn make(
        filters: Filters,
        w: &[i8],
        s: &[f32],
        b: Option<&[i32]>,
        c: StaticConfig<T>,
    ) -> Result<Self, Error>;
    fn scratch(&self, shape: Nhwc, executor: &impl Executor) -> Result<usize, Error>;
    fn run(&self, e: &impl Executor, x: &[A], shape: Nhwc, y: &mut [T], s: &mut [u8]) -> Result<Nhwc, Error>;
}

macro_rules! layer {
    ($layer:ident) => {
        impl<A: Operand, T: OutputElement> Layer<A, T> for $layer<A, T> {
            fn make(
                filters: Filters,
                w: &[i8],
                s: &[f32],
                b: Option<&[i32]>,
                c: StaticConfig<T>,
            ) -> Result<Self, Error> {
                let s = if let [scale] = *s { Broadcast::All(scale) } else { Broadcast::Each(s) };
                Self::from_quantized(filters, w, s, b, c)
            }
            fn scratch(&self, shape: Nhwc, executor: &impl Executor) -> Result<usize, Error> {
                self.workspace_size_with(shape, executor)
            }
            fn run(
                &self,
                e: &impl Executor,
                x: &[A],
                shape: Nhwc,
                y: &mut [T],
                s: &mut [u8],
            ) -> Result<Nhwc, Error> {
                self.forward_with(e, x, shape, y, s)
            }
        }
    };
}
layer!(Conv2d);
layer!(DepthwiseConv2d);

/// Calls the task twice from this thread: parts without threads.
struct Parts(usize);

impl Executor for Parts {
    fn threads(&self) -> usize {
        self.0
    }
    fn run(&self, count: usize, task: &(dyn Fn() + Sync)) {
        (0..count).for_each(|_| task());
    }
}

fn check<A: Operand, T: OutputElement + PartialEq + std::fmt::Debug, L: Layer<A, T>>(
    kernel: Kernel,
    case: &Case,
    config: impl Fn(QParams) -> StaticConfig<'static, T>,
    output: impl for<'a> Fn(&'a [f32]) -> Output<'a, T>,
    sy: f32,
) {
    let &Case { filters, shape, seed } = case;
    let mut random = Random(seed);
    let fill = FILLS[random.below(FILLS.len())];
    let (kh, kw) = filters.window.size();
    let x: Vec<A> = bytes(&mut random, fill, shape.elements().unwrap());
    let w: Vec<i8> = bytes(&mut random, fill, filters.outputs * filters.inputs / filters.groups * kh * kw);
    let sx = QParams { scale: random.scale(), zero_point: random.range(A::MIN, A::MAX) };
    let count = if random.below(2) == 0 { 1 } else { filters.outputs };
    let scales: Vec<f32> = (0..count).map(|_| random.scale()).collect();
    let bias: Vec<i32> = (0..filters.outputs).map(|_| random.range(-99_999, 99_999)).collect();
    let bias = (random.below(2) == 0).then_some(&bias[..]);

    let layer = L::make(filters, &w, &scales, bias, config(sx).kernel(kernel)).unwrap();
    let combined: Vec<f32> = scales.iter().map(|sw| sx.scale * sw / sy).collect();
    // A single scale serves all.
    let each: Vec<f32> = (0..filters.outputs).map(|o| combined[if count == 1 { 0 } else { o }]).collect();
    let mut output = output(&each);
    if let Some(bias) = bias {
        output = output.bias(bias);
    }
    let (height, width) = filters.window.output_size(shape.height, shape.width).unwrap();
    let len = shape.batch * height * width * filters.outputs;
    let mut expected = vec![T::from_i32(77); len];
    reference::conv2d(&x, shape, sx.zero_point, &w, &filters, &output, &mut expected).unwrap();
    for threads in [1, 3] {
        let executor = Parts(threads);
        let mut scratch = vec![0xA5; layer.scratch(shape, &executor).unwrap()];
        let mut actual = vec![T::from_i32(99); len];
        let out = layer.run(&executor, &x, shape, &mut actual, &mut scratch).unwrap();
        assert_eq!(out, Nhwc::new(shape.batch, height, width, filters.outputs));
        let at = (0..len).find(|&i| expected[i] != actual[i]);
        if let Some(at) = at {
            panic!(
                "{kernel}: {case:?}, {threads} parts: element {at}: {:?}, not {:?}",
                actual[at], expected[at]
            );
        }
    }
}

fn check_all<A: Operand>(kernel: Kernel, case: &Case, depthwise: bool) {
    let mut random = Random(case.seed ^ 1);
    let sy = random.scale() * 16.0;
    macro_rules! both {
        ($t:ty, $config:expr, $output:expr, $sy:expr) => {
            if depthwise {
                check::<A, $t, DepthwiseConv2d<A, $t>>(kernel, case, $config, $output, $sy);
            }
            check::<A, $t, Conv2d<A, $t>>(kernel, case, $config, $output, $sy);
        };
    }
    both!(i32, StaticConfig::sums, |_| Output::i32(), 1.0);
    let zero = random.range(-128, 127);
    let y = QParams { scale: sy, zero_point: zero };
    both!(i8, |x| StaticConfig::new(x, y).relu(), |s| Output::<i8>::requantize(s, zero).clamp(zero, 127), sy);
    let zero = random.range(0, 255);
    let y = QParams { scale: sy, zero_point: zero };
    both!(u8, |x| StaticConfig::new(x, y), |s| Output::<u8>::requantize(s, zero), sy);
    both!(f32, |x| StaticConfig::real(x).relu6(), |s| Output::f32(s).clamp(0.0, 6.0), 1.0);
}

/// Fewer cases where an emulator runs them.
fn cases() -> usize {
    if std::env::var_os("I8GEMM_KERNEL").is_some() || cfg!(not(target_arch = "x86_64")) { 25 } else { 150 }
}

#[test]
fn every_window_on_every_kernel() {
    let mut random = Random(2024);
    for _ in 0..cases() {
        let case = Case::random(&mut random, false);
        for kernel in kernels() {
            if case.seed % 2 == 0 {
                check_all::<u8>(kernel, &case, false);
            } else {
                check_all::<i8>(kernel, &case, false);
            }
        }
    }
}

#[test]
fn every_depthwise_window_on_every_kernel() {
    let mut random = Random(77);
    for _ in 0..cases() {
        let case = Case::random(&mut random, true);
        for kernel in kernels() {
            if case.seed % 2 == 0 {
                check_all::<u8>(kernel, &case, true);
            } else {
                check_all::<i8>(kernel, &case, true);
            }
        }
    }
}

#[allow(unused)]
fn later(_: Levels) {}
