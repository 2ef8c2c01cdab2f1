//! Convolutions: every kernel against the scalar definition, bit for bit, and every mistake.

mod common;

use common::{FILLS, Random, bytes, kernels};
use i8gemm::{
    Broadcast, Error, Executor, Kernel, Operand, Output, OutputElement,
    nn::{Conv2d, DepthwiseConv2d, Filters, Images, Layer, Nhwc, StaticConfig, Window},
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
            // The commonest window of all has loops of its own.
            let window = if depthwise && random.below(3) == 0 {
                Window::new(3, 3).padding_each([top, bottom], [left, right])
            } else {
                window
            };
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
trait Convolution<A: 'static, T: 'static>:
    for<'a> Layer<Shape = Nhwc, Input<'a> = Images<'a, A>, Output<'a> = &'a mut [T], Done = Nhwc> + Sized
{
    fn make(
        filters: Filters,
        w: &[i8],
        s: &[f32],
        b: Option<&[i32]>,
        c: StaticConfig<T>,
    ) -> Result<Self, Error>;
}

macro_rules! layer {
    ($layer:ident) => {
        impl<A: Operand, T: OutputElement> Convolution<A, T> for $layer<A, T> {
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

    /// Small products have several parts, too.
    fn min_cycles(&self) -> usize {
        1 << 9
    }
}

fn check<A: Operand, T: OutputElement + PartialEq + std::fmt::Debug, L: Convolution<A, T>>(
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
        let mut scratch = vec![0xA5; layer.workspace_size_with(shape, &executor).unwrap()];
        let mut actual = vec![T::from_i32(99); len];
        let out = layer
            .forward_with(&executor, Images::new(&x, shape).unwrap(), &mut actual, &mut scratch)
            .unwrap();
        assert_eq!(out, Nhwc::new(shape.batch, height, width, filters.outputs));
        let at = (0..len).find(|&i| common::bits(&expected[i]) != common::bits(&actual[i]));
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
            if case.seed.is_multiple_of(2) {
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
            if case.seed.is_multiple_of(2) {
                check_all::<u8>(kernel, &case, true);
            } else {
                check_all::<i8>(kernel, &case, true);
            }
        }
    }
}

/// An image larger than a block of patches, whose panels are packed a few rows at a time: blocks, chunks and their last rows.
#[test]
fn more_than_one_block() {
    let mut random = Random(9);
    for inputs in [3, 40] {
        let window = Window::new(3, 3).padding(1, 1);
        // An emulator does with a smaller image of a longer patch.
        let size = if cases() < 100 { 12 } else { 37 };
        let filters = Filters::new(inputs, 5, window);
        let case = Case { filters, shape: Nhwc::new(2, size, size + 1, inputs), seed: random.next() };
        for kernel in kernels() {
            let zero = |x| StaticConfig::<i32>::sums(x);
            check::<u8, i32, Conv2d<u8, i32>>(kernel, &case, zero, |_| Output::i32(), 1.0);
            check::<i8, i32, Conv2d<i8, i32>>(kernel, &case, zero, |_| Output::i32(), 1.0);
            // Parts of a depthwise layer, of an odd number of rows.
            let filters = Filters::depthwise(inputs, window);
            let case = Case { filters, ..case };
            check::<u8, i32, DepthwiseConv2d<u8, i32>>(kernel, &case, zero, |_| Output::i32(), 1.0);
        }
    }
}

/// Rows of few channels, or of channels that fill no block, longer than what is interleaved at a time, by one output and by many; padded
/// on either side, on both by more than a vector, or not at all.
#[test]
fn rows_of_more_than_one_part() {
    let mut random = Random(12);
    let three = Window::new(3, 3);
    for (channels, width) in
        [(1, 2049), (5, 411), (8, 129), (8, 400), (20, 104), (24, 86), (33, 63), (72, 33)]
    {
        for window in [
            three,
            three.padding(1, 1),
            three.padding_each([0, 1], [40, 0]),
            three.padding_each([1, 0], [1, 70]),
        ] {
            let filters = Filters::depthwise(channels, window);
            let case = Case { filters, shape: Nhwc::new(1, 4, width, channels), seed: random.next() };
            for kernel in kernels() {
                let sums = |x| StaticConfig::<i32>::sums(x);
                check::<u8, i32, DepthwiseConv2d<u8, i32>>(kernel, &case, sums, |_| Output::i32(), 1.0);
                check::<i8, i32, DepthwiseConv2d<i8, i32>>(kernel, &case, sums, |_| Output::i32(), 1.0);
            }
        }
    }
}

/// Images that are matrices already: read in place, whatever the window.
#[test]
fn images_that_are_matrices() {
    let mut random = Random(5);
    for (window, groups, shape) in [
        (Window::new(1, 1), 1, Nhwc::new(2, 3, 5, 12)),
        (Window::new(1, 1), 3, Nhwc::new(2, 3, 5, 12)),
        (Window::new(1, 1).stride(1, 2), 1, Nhwc::new(1, 1, 7, 12)),
        (Window::new(1, 1).stride(2, 2), 1, Nhwc::new(2, 4, 4, 12)),
        (Window::new(2, 1).stride(2, 1), 1, Nhwc::new(2, 4, 1, 12)),
        (Window::new(3, 4), 1, Nhwc::new(3, 3, 4, 12)),
        (Window::new(1, 3), 1, Nhwc::new(1, 1, 9, 12)),
        (Window::new(1, 4).stride(1, 2), 1, Nhwc::new(4, 1, 8, 12)),
    ] {
        let case = Case { filters: Filters::new(12, 9, window).groups(groups), shape, seed: random.next() };
        for kernel in kernels() {
            check_all::<u8>(kernel, &case, false);
        }
    }
}

/// Weights of 4 and 2 bits, scales of the caller's: what [`Conv2d::new`] makes of real weights is what it says.
#[test]
fn weights_of_fewer_bits() -> Result<(), Error> {
    let filters = Filters::new(1, 2, Window::new(1, 2));
    let unit = QParams { scale: 1.0, zero_point: 0 };
    let shape = Nhwc::new(1, 1, 3, 1);
    let run = |config: StaticConfig<i32>| -> Result<Vec<i32>, Error> {
        let conv = Conv2d::<i8, i32>::new(filters, &[0.75, -0.3, 0.1, 0.04], None, config)?;
        let mut y = vec![0; 4];
        conv.apply(Images::new(&[1, 0, 1], shape)?, &mut y)?;
        // y[0] = w[.., 0], y[1] = w[.., 1].
        Ok(y)
    };
    let config = StaticConfig::sums(unit);
    assert_eq!(run(config)?, [127, 127, -51, 51]);
    assert_eq!(run(config.per_tensor_weights())?, [127, 17, -51, 7]);
    assert_eq!(run(config.levels(Levels::signed(4)?))?, [7, 7, -3, 3]);
    assert_eq!(run(config.levels(Levels::signed(2)?))?, [1, 1, 0, 0]);
    assert_eq!(run(config.weight_scales(0.05))?, [15, 2, -6, 1]);
    assert_eq!(run(config.levels(Levels::signed(4)?).weight_scales(&[0.05, 0.01]))?, [7, 7, -6, 4]);
    Ok(())
}

#[test]
fn activations_and_biases() -> Result<(), Error> {
    let filters = Filters::new(1, 1, Window::new(1, 1));
    let (input, shape) = (QParams { scale: 0.5, zero_point: 0 }, Nhwc::new(1, 1, 3, 1));
    let x = [-20i8, 1, 20];
    let run = |config: StaticConfig<i8>, bias: f32| -> Result<[i8; 3], Error> {
        let conv = Conv2d::<i8, i8>::new(filters, &[1.0], Some(&[bias]), config)?;
        let depthwise = DepthwiseConv2d::<i8, i8>::new(filters, &[1.0], Some(&[bias]), config)?;
        let (mut y, mut z) = ([0; 3], [0; 3]);
        conv.apply(Images::new(&x, shape)?, &mut y)?;
        depthwise.apply(Images::new(&x, shape)?, &mut z)?;
        assert_eq!(y, z);
        Ok(y)
    };
    let config = StaticConfig::<i8>::new(input, QParams { scale: 0.25, zero_point: -10 });
    assert_eq!(run(config, 0.0)?, [-50, -8, 30]);
    assert_eq!(run(config, 0.25)?, [-49, -7, 31]);
    assert_eq!(run(config.float_bias(), 0.25)?, [-49, -7, 31]);
    assert_eq!(run(config.relu(), 0.0)?, [-10, -8, 30]);
    assert_eq!(run(config.relu6(), 0.0)?, [-10, -8, 14]);
    // 0.125 is half a step of the output: f32 keeps it, and ties go to even.
    assert_eq!(run(config.float_bias(), 0.125)?, [-50, -8, 30]);
    // Without room for 6 above the zero point, the type's own end is it.
    let high = StaticConfig::<i8>::new(input, QParams { scale: 0.01, zero_point: 0 });
    assert_eq!(run(high.relu6(), 0.0)?, [0, 50, 127]);
    let sums = StaticConfig::<i32>::sums(input).float_bias();
    assert_eq!(Conv2d::<i8, i32>::new(filters, &[1.0], Some(&[1.0]), sums).err(), Some(Error::BiasType));
    Ok(())
}

#[test]
fn mistakes_are_errors_before_anything_is_written() -> Result<(), Error> {
    let unit = QParams { scale: 1.0, zero_point: 0 };
    let config = StaticConfig::<i8>::new(unit, unit);
    let window = Window::new(2, 2);
    let good = Filters::new(4, 6, window);
    // Both layers refuse the same.
    let refused = |filters: Filters, weights: &[f32], bias: Option<&[f32]>, config: StaticConfig<i8>| {
        let error = Conv2d::<i8, i8>::new(filters, weights, bias, config).unwrap_err();
        let depthwise = Filters { inputs: filters.outputs, groups: filters.outputs, ..filters };
        if filters.inputs * filters.outputs > 0 && filters.groups == 1 && weights.len() == 96 {
            let same = DepthwiseConv2d::<i8, i8>::new(depthwise, &weights[..24], bias, config).unwrap_err();
            assert_eq!(std::mem::discriminant(&same), std::mem::discriminant(&error));
        }
        error
    };
    let w = [0.5; 96];
    let zero = |what| Error::Zero { what };
    assert_eq!(refused(Filters::new(0, 6, window), &w, None, config), zero("input channels"));
    assert_eq!(refused(Filters::new(4, 0, window), &w, None, config), zero("output channels"));
    assert_eq!(refused(good.groups(0), &w, None, config), zero("groups"));
    assert_eq!(
        refused(good.groups(4), &w, None, config),
        Error::Groups { what: "output channels", channels: 6, groups: 4 }
    );
    assert_eq!(refused(Filters { window: Window::new(0, 1), ..good }, &w, None, config), zero("window size"));
    assert_eq!(refused(Filters { window: window.stride(1, 0), ..good }, &w, None, config), zero("stride"));
    assert_eq!(
        refused(Filters { window: window.dilation(0, 1), ..good }, &w, None, config),
        zero("dilation")
    );
    assert!(matches!(refused(good, &w[1..], None, config), Error::Length { expected: 96, .. }));
    assert!(matches!(refused(good, &w, Some(&[0.0; 5]), config), Error::Length { expected: 6, .. }));
    assert!(matches!(refused(good, &w, Some(&[f32::NAN; 6]), config), Error::Bias { index: 0, .. }));
    assert!(matches!(refused(good, &[f32::INFINITY; 96], None, config), Error::NonFinite { index: 0, .. }));
    let bad =
        |input: QParams, output: QParams| refused(good, &w, None, StaticConfig::<i8>::new(input, output));
    assert!(matches!(bad(QParams { scale: 0.0, ..unit }, unit), Error::Scale { .. }));
    assert!(matches!(bad(QParams { zero_point: 128, ..unit }, unit), Error::ZeroPoint { value: 128, .. }));
    assert!(matches!(bad(unit, QParams { scale: f32::NAN, ..unit }), Error::Scale { .. }));
    assert!(matches!(bad(unit, QParams { zero_point: -129, ..unit }), Error::ZeroPoint { value: -129, .. }));
    assert!(matches!(
        bad(QParams { scale: 1e-30, ..unit }, QParams { scale: 1e30, ..unit }),
        Error::Scale { .. }
    ));
    assert!(matches!(refused(good, &w, None, config.weight_scales(&[1.0; 5])), Error::Length { .. }));
    assert!(matches!(refused(good, &w, None, config.weight_scales(-1.0)), Error::Scale { .. }));
    assert!(matches!(refused(good, &w, None, config.levels(Levels::U8)), Error::Levels { .. }));
    let error = DepthwiseConv2d::<i8, i8>::new(good, &w, None, config).unwrap_err();
    assert!(matches!(error, Error::Shape { expected: 4, actual: 1, .. }));
    let long = Filters::new(33_026, 1, Window::new(1, 1));
    let error = Conv2d::<i8, i8>::new(long, &[0.0; 33_026], None, config).unwrap_err();
    assert!(matches!(error, Error::KTooLong { k: 33_026, .. }));
    let wide = Filters::depthwise(1, Window::new(1, 33_026));
    let error = DepthwiseConv2d::<i8, i8>::new(wide, &[0.0; 33_026], None, config).unwrap_err();
    assert!(matches!(error, Error::KTooLong { k: 33_026, .. }));

    fn calls<L: Convolution<i8, i8>>(layer: &L) -> Result<(), Error> {
        let shape = Nhwc::new(1, 3, 3, 4);
        let (x, mut scratch) = ([1; 45], vec![0; layer.workspace_size(shape)?]);
        let mut y = [99; 16];
        let mut refused = |x: &[i8], shape: Nhwc, len: usize, scratch: &mut [u8]| {
            let images = Images::new(x, shape);
            let error = images.and_then(|x| layer.forward(x, &mut y[..len], scratch)).unwrap_err();
            assert_eq!(y, [99; 16]);
            error
        };
        let other = Nhwc { channels: 5, ..shape };
        assert!(matches!(refused(&x, other, 16, &mut scratch), Error::Shape { expected: 4, actual: 5, .. }));
        assert!(matches!(refused(&x[..35], shape, 16, &mut scratch), Error::Shape { expected: 36, .. }));
        assert!(matches!(refused(&x[..36], shape, 15, &mut scratch), Error::Shape { expected: 16, .. }));
        let flat = Nhwc { height: 1, ..shape };
        assert!(matches!(
            refused(&x[..12], flat, 16, &mut scratch),
            Error::Window { extent: 2, padded: 1, .. }
        ));
        let huge = Nhwc { batch: usize::MAX, ..shape };
        assert!(matches!(refused(&x, huge, 16, &mut scratch), Error::SizeOverflow { .. }));
        if scratch.len() > 64 {
            assert!(matches!(refused(&x[..36], shape, 16, &mut scratch[..1]), Error::BufferTooSmall { .. }));
        }
        // No images at all are none.
        let none = Nhwc { batch: 0, ..shape };
        assert_eq!(layer.forward(Images::new(&[], none)?, &mut [], &mut scratch)?, Nhwc::new(0, 2, 2, 4));
        layer.forward(Images::new(&x[..36], shape)?, &mut y, &mut scratch).map(drop)
    }
    for kernel in kernels() {
        let config = config.kernel(kernel);
        calls(&Conv2d::<i8, i8>::new(Filters::new(4, 4, window), &[0.1; 64], None, config)?)?;
        calls(&DepthwiseConv2d::<i8, i8>::new(Filters::depthwise(4, window), &[0.1; 16], None, config)?)?;
    }
    Ok(())
}

/// A window that fits once may be told any stride.
#[test]
fn strides_that_are_not_taken() -> Result<(), Error> {
    let unit = QParams { scale: 1.0, zero_point: 0 };
    let window = Window::new(1, 1).stride(usize::MAX, usize::MAX);
    let conv =
        Conv2d::<i8, i8>::new(Filters::new(3, 1, window), &[1.0; 3], None, StaticConfig::new(unit, unit))?;
    let image = Nhwc::new(1, 1, 1, 3);
    let (mut y, mut scratch) = ([0], conv.workspace(image)?);
    conv.forward(Images::new(&[1, 2, 4], image)?, &mut y, &mut scratch)?;
    assert_eq!(y, [7]);

    // Nor by patches that are copied.
    let left = Window::new(1, 2).padding_each([0, 0], [1, 0]);
    let rows = Window::new(1, 1).padding(2, 0);
    for (window, expected) in [
        (left.stride(1, usize::MAX), vec![7]),
        (left.dilation(usize::MAX, 1), vec![7]),
        (rows, vec![0, 0, 7, 0, 0]),
        (rows.dilation(usize::MAX, 1), vec![0, 0, 7, 0, 0]),
    ] {
        let taps = window.size().0 * window.size().1;
        let filters = Filters::new(3, 1, window);
        let conv =
            Conv2d::<i8, i8>::new(filters, &[1.0; 6][..3 * taps], None, StaticConfig::new(unit, unit))?;
        let (mut y, mut scratch) = (vec![9; expected.len()], conv.workspace(image)?);
        conv.forward(Images::new(&[1, 2, 4], image)?, &mut y, &mut scratch)?;
        assert_eq!(y, expected);
    }
    Ok(())
}
