//! Depthwise convolution: each channel by itself.

use alloc::vec::Vec;
use core::{ffi::c_void, marker::PhantomData, ops::Range};

use super::{
    Filters, StaticConfig,
    filters::convolution,
    taps::{PaddedImages, TapRow},
    weights::{StaticBias, StaticWeights},
};
use crate::{
    Broadcast, Error, Executor, Kernel, Operand, OutputElement,
    check::check_shape,
    gemm::{Finish, Line, OwnedFinish},
    image::{Images, Nhwc, Window},
    kernels::{
        Epilogue, Param,
        depthwise::{
            self,
            columns::ThreeJob,
            line::{self, LINE_BYTES},
            pixels::{DepthwiseJob, Run},
            taps::{MAX_BLOCK, Tap},
        },
    },
    memory,
    nn::{
        Layer,
        scratch::{Carver, Size},
    },
    parallel::{Team, cut, most_parts, run_parts},
    quant::QParams,
};

/// Multiply-adds of a cycle, about: loads and stores leave room for no more.
const MACS_PER_CYCLE: usize = 8;

/// A statically quantized depthwise convolution of NHWC images: as [`Conv2d`](super::Conv2d) with as many groups as input
/// channels, and faster than it by an order of magnitude. With `m` times as many output channels as input channels, output
/// channel `c * m + j` reads input channel `c`.
///
/// ```
/// use i8gemm::{nn::{DepthwiseConv2d, Filters, Images, Layer, Nhwc, StaticConfig, Window}, quant::QParams};
/// // Two channels: the pixel itself, and the difference of its neighbours.
/// let weights = [0.0f32, 1.0, 0.0, -1.0, 0.0, 1.0];
/// let filters = Filters::depthwise(2, Window::new(1, 3).padding(0, 1));
/// let unit = QParams { scale: 1.0, zero_point: 0 };
/// let conv = DepthwiseConv2d::<i8, i8>::new(filters, &weights, None, StaticConfig::new(unit, unit))?;
///
/// let image = Nhwc::new(1, 1, 3, 2);
/// let (x, mut y) = ([1i8, 10, 2, 20, 3, 50], [0i8; 6]);
/// let mut scratch = conv.workspace(image)?;
/// conv.forward(Images::new(&x, image)?, &mut y, &mut scratch)?;
/// assert_eq!(y, [1, 20, 2, 40, 3, -20]);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug)]
pub struct DepthwiseConv2d<A, T> {
    filters: Filters,
    /// Output channels of each input channel.
    multiplier: usize,
    /// For each of them, the weights of one output channel of every input channel; see [`depthwise`].
    weights: Vec<i16>,
    /// Weights of one of them.
    stride: usize,
    /// The same for two rows of output at a time, if the window and the kernel are of the kind; see [`ThreeJob`].
    three: Option<Vec<Line>>,
    /// Of those, channels go round; see [`line`].
    round: bool,
    /// Minus the sum of an output channel's weights: times the input's zero point, what padding and zero points come to.
    zero_factor: Vec<i32>,
    /// In the order of `weights`: the first output channel of every input channel, then the second.
    finish: OwnedFinish,
    input: QParams,
    kernel: Kernel,
    elements: PhantomData<(A, T)>,
}

convolution!(DepthwiseConv2d);

impl<A: Operand, T: OutputElement> DepthwiseConv2d<A, T> {
    fn from_parts(
        filters: Filters,
        weights: &StaticWeights,
        bias: StaticBias,
        config: &StaticConfig<T>,
    ) -> Result<Self, Error> {
        let (depth, taps) = filters.check()?;
        check_shape("groups of a depthwise convolution", filters.inputs, filters.groups)?;
        debug_assert_eq!(depth, 1);
        let kernel = config.chosen_kernel()?;
        let (channels, multiplier) = (filters.inputs, filters.outputs / filters.inputs);
        let channel = |at: usize| at % channels * multiplier + at / channels;
        let finish = weights.finish::<A, T>(config, bias, filters.outputs)?;
        let block = depthwise::block(kernel.0.isa);
        let plain =
            Window { height: filters.window.height.unpadded(), width: filters.window.width.unpadded() };
        let three = depthwise::three::<T::End>(kernel.0.isa)
            .filter(|_| multiplier == 1 && plain == Window::new(3, 3))
            .filter(|_| channels >= block || line::goes_round(block, channels));
        let round = three.is_some() && line::goes_round(block, channels);
        // Parameters of channels, which go round with them.
        let columns = if round { line::round_of(block, channels) } else { filters.outputs };
        let channel = |at: usize| channel(at % filters.outputs);
        let finish = finish.columns(columns, channel)?;
        let sum = |at: usize| {
            weights.values[channel(at) * taps..][..taps].iter().fold(0i32, |sum, &w| sum - i32::from(w))
        };
        let zero_factor = memory::collected("output channels", (0..columns).map(sum))?;
        let what = "packed filters";
        let overflow = Error::SizeOverflow { what, rows: filters.outputs, cols: taps };
        let stride = depthwise::weights_len(block, channels, taps).ok_or(overflow)?;
        let mut packed = memory::zeroed(what, multiplier, stride)?;
        for (j, packed) in packed.chunks_exact_mut(stride).enumerate() {
            let weight = |c: usize, t: usize| weights.values[(c * multiplier + j) * taps + t];
            depthwise::pack_weights(block, channels, taps, weight, packed);
        }
        let three = match three {
            Some(three) => {
                let len = three.weights_len(block, channels).ok_or(overflow)?;
                let mut packed = Line::zeroed(what, filters.outputs, taps, len)?;
                let dst = &mut bytemuck::cast_slice_mut(&mut packed)[..len];
                three.pack_weights(block, channels, |c, t| weights.values[c * taps + t], dst);
                Some(packed)
            }
            None => None,
        };
        let (input, elements) = (config.input, PhantomData);
        Ok(Self {
            filters,
            multiplier,
            weights: packed,
            stride,
            three,
            round,
            zero_factor,
            finish,
            input,
            kernel,
            elements,
        })
    }

    /// Threads that there is work for, and parts of it: rows of output.
    fn workers_and_parts(&self, out: Nhwc, executor: &(impl Executor + ?Sized)) -> (usize, usize) {
        let rows = out.batch.saturating_mul(out.height);
        let (height, width) = self.filters.window.size();
        let macs =
            [out.width, out.channels, height, width].iter().fold(rows, |p, &size| p.saturating_mul(size));
        let cycles = macs / MACS_PER_CYCLE;
        let workers = Team::of(executor).worthwhile(cycles).min(rows).max(1);
        (workers, most_parts(cycles, workers).min(rows).max(1))
    }

    /// Values of padding: of a pixel, and of a row where channels go round.
    fn padding(&self, width: usize) -> (usize, usize) {
        if self.round { (self.filters.inputs, width.max(MAX_BLOCK)) } else { (self.filters.inputs, 1) }
    }

    /// Bytes of a worker's line; see [`line`].
    fn line_bytes(&self) -> usize {
        if self.round { LINE_BYTES } else { 0 }
    }

    fn scratch(&self, row: &TapRow, width: usize, workers: usize) -> Result<Size, Error> {
        let (channels, pixels) = self.padding(width);
        Size::default()
            .add::<u8>(channels, pixels)?
            .add::<u8>(workers, self.line_bytes())?
            .add::<Words<Tap>>(workers, row.taps)?
            .add::<Words<Run>>(workers, row.runs)
    }
}

impl<A: Operand, T: OutputElement> Layer for DepthwiseConv2d<A, T> {
    type Shape = Nhwc;
    type Input<'a> = Images<'a, A>;
    type Output<'a> = &'a mut [T];
    type Done = Nhwc;

    fn shape_of(&self, x: &Images<A>) -> Nhwc {
        x.shape()
    }

    /// A row of zero points, and addresses for the taps of a row of output pixels.
    ///
    /// # Errors
    /// As [`DepthwiseConv2d::output_shape`].
    fn workspace_size_with(&self, shape: Nhwc, executor: &(impl Executor + ?Sized)) -> Result<usize, Error> {
        let out = self.output_shape(shape)?;
        let (workers, _) = self.workers_and_parts(out, executor);
        self.scratch(&TapRow::new(&self.filters.window, shape, out)?, shape.width, workers)?.total(0)
    }

    /// Computes `y` from the images `x` and gives its shape.
    ///
    /// # Errors
    /// As [`DepthwiseConv2d::output_shape`]; [`Error::Shape`] for a `y` that does not have that shape; [`Error::BufferTooSmall`].
    fn forward_with(
        &self,
        executor: &(impl Executor + ?Sized),
        x: Images<A>,
        y: &mut [T],
        scratch: &mut [u8],
    ) -> Result<Nhwc, Error> {
        let shape = x.shape();
        let out = self.output_shape(shape)?;
        check_shape("elements of y", out.elements()?, y.len())?;
        let rows = TapRow::new(&self.filters.window, shape, out)?;
        let (workers, parts) = self.workers_and_parts(out, executor);
        let mut carver = Carver::new(scratch, self.scratch(&rows, shape.width, workers)?.total(0)?)?;
        let (channels, pixels) = self.padding(shape.width);
        let zeros: &mut [u8] = carver.take(channels, pixels)?;
        zeros.fill(self.input.zero_point as u8);
        let lines: &mut [u8] = carver.take(workers, self.line_bytes())?;
        let taps: &mut [Words<Tap>] = carver.take(workers, rows.taps)?;
        let runs: &mut [Words<Run>] = carver.take(workers, rows.runs)?;
        let call = DepthwiseCall {
            layer: self,
            finish: self.finish.view(),
            rows: &rows,
            image: PaddedImages { x: bytemuck::cast_slice(x.values()), shape, zeros },
            out,
            y: y.as_mut_ptr().cast(),
            taps: taps.as_mut_ptr().cast(),
            runs: runs.as_mut_ptr().cast(),
            lines: lines.as_mut_ptr(),
        };
        let total = out.batch * out.height;
        if out.elements()? > 0 {
            let strip = |index| cut(total, parts, index).start;
            run_parts(executor, workers, parts, |worker, runs| {
                // SAFETY: parts are disjoint rows of the output, and each is given away once; a worker's scratch is its own.
                runs.for_each(|run| unsafe { call.part(worker, strip(run.start)..strip(run.end)) });
            });
        }
        Ok(out)
    }
}

/// Room for a value of addresses and sizes, as the plain words that scratch can be seen as.
type Words<T> = <T as InWords>::Words;

trait InWords {
    type Words: bytemuck::Pod;
}

impl InWords for Tap {
    type Words = [usize; size_of::<Self>() / size_of::<usize>()];
}

impl InWords for Run {
    type Words = [usize; size_of::<Self>() / size_of::<usize>()];
}

/// A checked call, as the threads that compute its parts see it.
struct DepthwiseCall<'a, A, T> {
    layer: &'a DepthwiseConv2d<A, T>,
    finish: Finish<'a>,
    rows: &'a TapRow,
    image: PaddedImages<'a>,
    out: Nhwc,
    y: *mut T,
    taps: *mut Tap,
    runs: *mut Run,
    lines: *mut u8,
}

// SAFETY: parts read shared inputs and write disjoint outputs and scratch, see `DepthwiseConv2d::forward_with`.
unsafe impl<A: Sync, T: Sync> Sync for DepthwiseCall<'_, A, T> {}

impl<A: Operand, T: OutputElement> DepthwiseCall<'_, A, T> {
    /// Computes some rows of output.
    ///
    /// # Safety
    /// The rows are the output's; no other thread has the same index or rows; there is scratch for the index.
    unsafe fn part(&self, index: usize, rows: Range<usize>) {
        let (layer, channels) = (self.layer, self.layer.filters.inputs);
        // SAFETY: the part's scratch is its own, and any words are addresses and sizes.
        let (taps, runs) = unsafe {
            (
                core::slice::from_raw_parts_mut(self.taps.add(index * self.rows.taps), self.rows.taps),
                core::slice::from_raw_parts_mut(self.runs.add(index * self.rows.runs), self.rows.runs),
            )
        };
        let (bias, store) = self.finish.for_kernel(Param::new(&[1.0]));
        let null = core::ptr::null();
        let epilogue = Epilogue {
            sum_offset: null,
            zero_factor: layer.zero_factor.as_ptr(),
            rhs_zero: null,
            lhs_zero: Param::new(core::slice::from_ref(&layer.input.zero_point)),
            lhs_shift: 0,
            bias,
            store,
            groups: core::ptr::null(),
        };
        let isa = layer.kernel.0.isa;
        let (run, three) = (depthwise::run::<T::End>(isa), depthwise::three::<T::End>(isa));
        // A row of the image and one of output have a block of values each.
        let wide =
            !layer.round || self.image.shape.width.min(self.out.width) * channels >= depthwise::block(isa);
        let mut row = rows.start;
        while row < rows.end {
            let (n, y) = (row / self.out.height, row % self.out.height);
            if let (Some(three), Some(weights)) = (three.filter(|_| wide), &layer.three) {
                // Two rows of an image; a last one is done with the row before it, again.
                let pair = if y + 1 < self.out.height && row + 1 < rows.end {
                    Some(0)
                } else {
                    (y > 0 && row > rows.start).then_some(1)
                };
                if let Some(back) = pair {
                    let (row_stride, first) = (self.out.width * self.out.channels, row - back);
                    let epilogue = Epilogue { lhs_shift: three.shift(A::MIN == 0), ..epilogue };
                    let run = if layer.round { three.round } else { three.run };
                    // SAFETY: rows lie inside the image or are padding; both rows of output and the line belong to this part.
                    unsafe {
                        run(&ThreeJob {
                            rows: self.image.rows(&layer.filters.window, n, y - back),
                            width: self.image.shape.width,
                            before: layer.filters.window.width.before,
                            zeros: self.image.zeros.as_ptr(),
                            pixels: self.out.width,
                            channels,
                            unsigned: A::MIN == 0,
                            weights: weights.as_ptr().cast(),
                            epilogue: &epilogue,
                            first_col: 0,
                            out: self.y.add(first * row_stride).cast::<c_void>(),
                            out_row_stride: row_stride,
                            out_pixel_stride: self.out.channels,
                            line: self.lines.wrapping_add(index * layer.line_bytes()),
                        });
                    }
                    row = first + 2;
                    continue;
                }
            }
            let count = self.rows.fill(&self.image, n, y, taps, runs);
            for j in 0..layer.multiplier {
                // SAFETY: taps lie inside the image or the row of zero points; the row of output belongs to this part.
                unsafe {
                    run(&DepthwiseJob {
                        runs: &runs[..count],
                        taps: self.rows.window_taps,
                        channels,
                        unsigned: A::MIN == 0,
                        weights: layer.weights.as_ptr().add(j * layer.stride),
                        epilogue: &epilogue,
                        first_col: j * channels,
                        out: self.y.add(row * self.out.width * self.out.channels + j).cast::<c_void>(),
                        out_row_stride: self.out.channels,
                        out_col_stride: layer.multiplier,
                    });
                }
            }
            row += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::trust::{self, UNIT};

    #[test]
    fn calls_trust_what_was_checked() -> Result<(), Error> {
        let (filters, config) = (Filters::depthwise(3, Window::new(1, 1)), StaticConfig::new(UNIT, UNIT));
        let mut conv = DepthwiseConv2d::<i8, i8>::new(filters, &[127.0; 3], None, config)?;
        conv.finish = conv.finish.spoiled(3)?;
        let image = Nhwc::new(1, 1, 1, 3);
        let mut scratch = conv.workspace(image)?;
        trust::check(|y| conv.forward(Images::new(&[1; 3], image)?, y, &mut scratch).map(drop))
    }
}
