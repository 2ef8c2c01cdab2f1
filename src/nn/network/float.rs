//! Layers in f32: what calibration observes and quantization is compared with. Plain loops, channels innermost, which compilers
//! turn into vector code.

use alloc::vec::Vec;

use super::{Network, Op, RealLayer, Trained};
use crate::{
    Error, memory,
    nn::{Filters, Nhwc, Window, quantized},
};

impl Network {
    /// The output of a node from those of the nodes before it.
    pub(super) fn compute(&self, op: &Op, batch: usize, before: &[Vec<f32>]) -> Result<Vec<f32>, Error> {
        let [a, b] = op.inputs;
        let (x, shape) = (&before[a][..], Nhwc { batch, ..self.nodes[a].shape });
        let out = Nhwc { batch, ..op.shape };
        let len = out.elements()?;
        let mut y = memory::zeroed("output of a node", batch, len / batch.max(1))?;
        match &op.layer {
            RealLayer::Input | RealLayer::Flatten => y.copy_from_slice(x),
            RealLayer::Filters(trained) => convolve(x, shape, trained, out, &mut y)?,
            RealLayer::Add => {
                y.iter_mut().zip(x.iter().zip(&before[b])).for_each(|(y, (a, b))| *y = a + b);
            }
            RealLayer::AveragePool { window, count_padding } => {
                let window = window.unwrap_or(Window::new(shape.height, shape.width));
                average(x, shape, &window, *count_padding, out, &mut y);
            }
            RealLayer::MaxPool(window) => quantized::largest(x, shape, window, out, &mut y),
        }
        let (min, max) = op.activation.range();
        // NaN stays NaN, for whoever observes it.
        y.iter_mut().for_each(|y| {
            *y = if *y < min {
                min
            } else if *y > max {
                max
            } else {
                *y
            }
        });
        Ok(y)
    }
}

/// A convolution. Weights are put in the order taps, input channels, output channels first.
fn convolve(x: &[f32], shape: Nhwc, trained: &Trained, out: Nhwc, y: &mut [f32]) -> Result<(), Error> {
    let Trained { filters: Filters { inputs, outputs, groups, window }, ref weights, ref bias, .. } =
        *trained;
    let (depth, wide) = (inputs / groups, outputs / groups);
    let (rows, cols) = (window.height, window.width);
    let taps = rows.size * cols.size;
    let mut ordered = memory::zeroed("weights", weights.len(), 1)?;
    for (o, filter) in weights.chunks_exact(depth * taps).enumerate() {
        for (c, filter) in filter.chunks_exact(taps).enumerate() {
            filter.iter().enumerate().for_each(|(t, &w)| ordered[(t * depth + c) * outputs + o] = w);
        }
    }
    for (place, y) in y.chunks_exact_mut(outputs).enumerate() {
        y.copy_from_slice(bias);
        let (j, i, n) = (place % out.width, place / out.width % out.height, place / out.width / out.height);
        let columns = cols.taps_inside(j, shape.width).zip(cols.pixels(j, shape.width));
        let lines = rows.taps_inside(i, shape.height).zip(rows.pixels(i, shape.height));
        for ((u, row), (v, column)) in lines.flat_map(|line| columns.clone().map(move |at| (line, at))) {
            let tap = u * cols.size + v;
            let x = &x[((n * shape.height + row) * shape.width + column) * inputs..][..inputs];
            let weights = &ordered[tap * depth * outputs..][..depth * outputs];
            if depth == 1 && wide == 1 {
                y.iter_mut().zip(x.iter().zip(weights)).for_each(|(y, (x, w))| *y += x * w);
                continue;
            }
            for (c, weights) in weights.chunks_exact(outputs).enumerate() {
                let groups = y.chunks_exact_mut(wide).zip(weights.chunks_exact(wide));
                for (group, (y, weights)) in groups.enumerate() {
                    let x = x[group * depth + c];
                    y.iter_mut().zip(weights).for_each(|(y, w)| *y += x * w);
                }
            }
        }
    }
    Ok(())
}

fn average(x: &[f32], shape: Nhwc, window: &Window, count_padding: bool, out: Nhwc, y: &mut [f32]) {
    let (rows, cols) = window.size();
    for (place, y) in y.chunks_exact_mut(shape.channels).enumerate() {
        let mut inside = 0;
        for pixel in window.pixels(shape, out, place) {
            let x = &x[pixel * shape.channels..][..shape.channels];
            y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
            inside += 1;
        }
        let count = if count_padding { rows * cols } else { inside };
        y.iter_mut().for_each(|y| *y /= count as f32);
    }
}
