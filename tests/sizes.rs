//! Shapes, strides and paddings drawn from the sizes at which arithmetic goes wrong.
// Where an address has 32 bits, there may be memory for what is refused here.
#![cfg(target_pointer_width = "64")]

mod common;

use common::{Random, Threads, soon};
use i8gemm::{
    Error, Gemm, Kernel, MatMut, MatRef, Output, PackedRhs, Rhs,
    nn::{
        Activation, AveragePool, Conv2d, DepthwiseConv2d, DynamicConfig, Embedding, Filters, Images, Layer,
        Linear, MaxPool, Network, Nhwc, Node, StaticConfig, StaticLinear, Weights, Window,
    },
    quant::{
        DynamicBuffers, DynamicQuantizer, Grouping, Levels, MinMax, ParamList, PerChannel, QParams,
        Quantizer, Scheme,
    },
    reference,
};

const UNIT: QParams = QParams { scale: 1.0, zero_point: 0 };

const EXTREMES: [usize; 16] = [
    0,
    1,
    255,
    1 << 16,
    1 << 31,
    1 << 32,
    1 << 33,
    1 << 60,
    3 << 60,
    (1 << 62) - 1,
    1 << 62,
    (1 << 62) + 1,
    isize::MAX as usize,
    isize::MAX as usize + 1,
    usize::MAX - 1,
    usize::MAX,
];

/// Whether so many of anything are few, or far more than memory. What lies between may well be had, and takes long to fill.
fn fits(count: usize) -> bool {
    !(1 << 12..1 << 50).contains(&count)
}

/// Every function that takes a shape, in every combination that chance finds: nothing overflows, and all end soon.
#[test]
fn any_sizes() {
    soon(|| {
        let mut random = Random(5);
        let mut results = [0, 0];
        for _ in 0..20_000 {
            // Most are small, so that some calls come to their arithmetic and not all end with the first check.
            let mut size = || {
                if random.below(3) == 0 { EXTREMES[random.below(EXTREMES.len())] } else { random.below(6) }
            };
            let shape = Nhwc::new(size(), size(), size(), size());
            let window = Window::new(size(), size())
                .stride(size(), size())
                .dilation(size(), size())
                .padding_each([size(), size()], [size(), size()]);
            let filters = Filters { inputs: size(), outputs: size(), groups: size(), window };
            let (rows, cols, row_stride, col_stride) = (size(), size(), size(), size());
            let axis = size() % 3;

            let mut count = |ok: bool| results[usize::from(ok)] += 1;
            count(shape.pixels().is_ok());
            count(shape.elements().is_ok());
            count(window.output_size(shape.height, shape.width).is_ok());
            count(window.same(shape.height, shape.width).is_ok());
            images(shape, window, filters, &mut count);
            matrices(rows, cols, row_stride, col_stride, &mut count);
            for grouping in [
                Grouping::per_channel(&[rows, cols, row_stride], axis),
                Grouping::per_group(&[rows, cols, row_stride], axis, col_stride),
            ] {
                count(grouping.is_ok());
                let Ok(grouping) = grouping else { continue };
                let _ = (grouping.count(), grouping.elements());
                let x = vec![0.5; grouping.elements().filter(|&len| len < 1 << 12).unwrap_or(1)];
                let mut q = vec![0i8; x.len()];
                count(Quantizer::<i8>::new(grouping, 0.5, 0).quantize(&x, &mut q).is_ok());
                if fits(grouping.count()) {
                    count(ParamList::fit(grouping, Levels::I8, Scheme::Affine, &x).is_ok());
                }
            }
            let observer = if fits(rows) { PerChannel::new(MinMax::new(), rows, cols).ok() } else { None };
            if let Some(mut observer) = observer {
                count(observer.observe(&[0.5; 6]).is_ok());
            }
        }
        assert!(results.iter().all(|&cases| cases > 20_000), "{results:?}");
    });
}

/// Layers for filters and images of any sizes, on slices of what they say they need, unless that is much.
fn images(shape: Nhwc, window: Window, filters: Filters, count: &mut impl FnMut(bool)) {
    const MUCH: usize = 1 << 12;
    let config = StaticConfig::<u8>::new(UNIT, UNIT);
    let little =
        |shape: Result<Nhwc, Error>| shape.and_then(|shape| shape.elements()).ok().filter(|&len| len < MUCH);
    let x = vec![1u8; little(Ok(shape)).unwrap_or(1)];
    let images = Images::new(&x, shape);
    let y = |out: Result<Nhwc, Error>| vec![0u8; little(out).unwrap_or(1)];

    if let Ok(pool) = MaxPool::<u8>::new(window) {
        let out = pool.output_shape(shape);
        count(out.is_ok());
        count(images.and_then(|x| pool.forward(x, &mut y(out), &mut [])).is_ok());
        count(reference::max_pool(&x, shape, &window, &mut y(out)).is_ok());
    }
    for pool in [AveragePool::<u8, u8>::new(window, config), AveragePool::global(config)] {
        let Ok(pool) = pool else { continue };
        let out = pool.output_shape(shape);
        count(out.is_ok());
        let needed = pool.workspace_size(shape).ok().filter(|&needed| needed < MUCH);
        let mut scratch = vec![0; needed.unwrap_or(0)];
        count(images.and_then(|x| pool.forward(x, &mut y(out), &mut scratch)).is_ok());
    }
    let taps = window.size().0.checked_mul(window.size().1);
    let weights = taps.and_then(|taps| taps.checked_mul(filters.inputs)?.checked_mul(filters.outputs));
    let weights = vec![0.5; weights.filter(|&len| len < MUCH).unwrap_or(1) / filters.groups.max(1)];
    let conv = Conv2d::<u8, u8>::new(filters, &weights, None, config);
    count(conv.is_ok());
    if let Ok(conv) = conv {
        let out = conv.output_shape(shape);
        let needed = conv.workspace_size(shape).ok().filter(|&needed| needed < 1 << 20);
        let mut scratch = vec![0; needed.unwrap_or(0)];
        count(images.and_then(|x| conv.forward(x, &mut y(out), &mut scratch)).is_ok());
    }
    if let Ok(conv) = DepthwiseConv2d::<u8, u8>::new(filters, &weights, None, config) {
        let out = conv.output_shape(shape);
        let needed = conv.workspace_size(shape).ok().filter(|&needed| needed < 1 << 20);
        let mut scratch = vec![0; needed.unwrap_or(0)];
        count(images.and_then(|x| conv.forward(x, &mut y(out), &mut scratch)).is_ok());
    }
    if let Ok(mut network) = Network::new(shape.height, shape.width, shape.channels) {
        count(network.max_pool(Node::INPUT, window).is_ok());
        count(network.average_pool(Node::INPUT, window, false).is_ok());
        count(network.conv2d(Node::INPUT, filters, Weights::new(&weights), Activation::None).is_ok());
        count(network.global_average_pool(Node::INPUT).is_ok());
        count(network.flatten(Node::INPUT).is_ok());
    }
}

/// Products and quantizers of views of any sizes and strides.
fn matrices(rows: usize, cols: usize, row_stride: usize, col_stride: usize, count: &mut impl FnMut(bool)) {
    let (bytes, real, mut sums) = ([3u8; 40], [0.5f32; 40], [0i32; 40]);
    let out = MatMut::new(&mut sums, rows, cols, row_stride, col_stride);
    count(out.is_ok());
    let fits = |a: usize, b: usize| fits(a) && fits(b) && fits(a.saturating_mul(b));
    if let (Ok(out), true) = (out, fits(rows, cols)) {
        let lhs = MatRef::new(&bytes, rows, 3, 0, 1).unwrap();
        let rhs = MatRef::new(&bytes, 3, cols, 1, 0).unwrap();
        let gemm = PackedRhs::pack(rhs);
        count(gemm.is_ok());
        if let Ok(weights) = &gemm {
            count(Gemm::new(weights, Output::i32()).unwrap().apply(lhs, out).is_ok());
        }
    }
    let Ok(view) = MatRef::new(&bytes, rows, cols, row_stride, col_stride) else { return };
    let real = MatRef::new(&real, rows, cols, row_stride, col_stride).unwrap();
    let _ = (view.get(rows / 2, cols / 2), view.row_slice(rows / 2), view.transpose().row_slice(cols / 2));
    count(view.submatrix(rows / 2..rows, cols / 3..cols).is_ok());
    if !fits(rows, cols) {
        return;
    }
    for kernel in Kernel::available() {
        let rhs = Rhs::new(view).allow_wrapping();
        let weights = PackedRhs::pack_for(kernel, rhs);
        count(weights.is_ok());
        if let Ok(weights) = weights {
            let gemm = Gemm::new(&weights, Output::i32()).unwrap();
            count(gemm.workspace_size(cols).is_ok());
            count(gemm.workspace_size_with(rows, &Threads(row_stride)).is_ok());
        }
    }
    let mut buffers = DynamicBuffers::<u8>::default();
    for quantizer in [DynamicQuantizer::per_row(), DynamicQuantizer::per_tensor()] {
        count(quantizer.quantize(real, &mut buffers).is_ok());
    }
    for config in [DynamicConfig::default(), DynamicConfig::default().per_tensor_weights()] {
        let linear = Linear::with_config(real, None, config);
        count(linear.is_ok());
        if let Ok(linear) = linear {
            count(linear.workspace_size(row_stride).is_ok());
        }
        count(Embedding::with_config(real, 4, config).is_ok());
    }
    count(StaticLinear::<u8, u8>::new(real, None, StaticConfig::new(UNIT, UNIT)).is_ok());
}

/// A workspace serves every smaller image, on as many threads or fewer.
#[test]
fn a_workspace_serves_every_smaller_image() -> Result<(), Error> {
    let mut random = Random(23);
    let mut compared = 0;
    while compared < 3000 {
        let mut below = |end: usize| random.below(end);
        let window = Window::new(1 + below(3), 1 + below(4))
            .stride(1 + below(3), 1 + below(4))
            .dilation(1 + below(2), 1 + below(2))
            .padding(below(3), below(4));
        let (channels, threads) = (1 + below(9), 1 + below(4));
        let large = [1 + below(3), 1 + below(12), 1 + below(20)];
        let small = large.map(|size| 1 + below(size));
        let [large, small] = [large, small].map(|[n, height, width]| Nhwc::new(n, height, width, channels));
        let (rows, cols) = window.size();
        let weights = vec![1.0; channels * rows * cols];
        let filters = Filters::new(channels, channels, window).groups(channels);
        let depthwise =
            DepthwiseConv2d::<u8, i8>::new(filters, &weights, None, StaticConfig::new(UNIT, UNIT))?;
        let full = vec![1.0; weights.len() * channels];
        let conv = Conv2d::<u8, i8>::new(
            Filters::new(channels, channels, window),
            &full,
            None,
            StaticConfig::new(UNIT, UNIT),
        )?;
        let fewer = 1 + below(threads);
        // The smaller image may be too small for the window.
        if let (Ok(enough), Ok(needed)) = (
            depthwise.workspace_size_with(large, &Threads(threads)),
            depthwise.workspace_size_with(small, &Threads(fewer)),
        ) {
            assert!(
                needed <= enough,
                "depthwise: {window:?}, {small:?} on {fewer} of {large:?} on {threads}"
            );
            let needed = conv.workspace_size_with(small, &Threads(fewer))?;
            assert!(
                needed <= conv.workspace_size_with(large, &Threads(threads))?,
                "{window:?}, {small:?} of {large:?}"
            );
            compared += 1;
        }
    }
    Ok(())
}
