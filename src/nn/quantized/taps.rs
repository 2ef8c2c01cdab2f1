//! Where the taps of a row of output pixels read.

use crate::{
    Error,
    image::{Nhwc, Slide, Window},
    kernels::depthwise::{pixels::Run, taps::Tap},
};

/// What every row of output has in common: pixels in the middle, whose taps all lie inside the image across, are one run; every
/// other pixel is a run of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct TapRow {
    window: Window,
    width: usize,
    middle: (usize, usize),
    pub window_taps: usize,
    /// Runs of a row, at most.
    pub runs: usize,
    /// Taps of all runs.
    pub taps: usize,
}

/// The image that taps read.
pub(super) struct PaddedImages<'a> {
    pub x: &'a [u8],
    pub shape: Nhwc,
    /// A pixel of zero points: the padding.
    pub zeros: &'a [u8],
}

impl PaddedImages<'_> {
    /// Four rows of image `n`, from the first that a window of stride and dilation 1 reads for row `y` of output.
    pub fn rows(&self, window: &Window, n: usize, y: usize) -> [Tap; 4] {
        let Self { x, shape, zeros } = self;
        [0, 1, 2, 3].map(|tap| match window.height.pixel(y, tap, shape.height) {
            // An image without columns has rows without pixels.
            Some(row) => {
                let at = (n * shape.height + row) * shape.width * shape.channels;
                Tap { ptr: x[at..].as_ptr(), step: shape.channels }
            }
            None => Tap { ptr: zeros.as_ptr(), step: 0 },
        })
    }
}

impl TapRow {
    pub fn new(window: &Window, shape: Nhwc, out: Nhwc) -> Result<Self, Error> {
        let Slide { size, stride, dilation, before, after } = window.width;
        // Column of the last tap, from the place's first.
        let reach = (size - 1) * dilation;
        let first = before.div_ceil(stride).min(out.width);
        let end = match (shape.width + before).checked_sub(reach + 1) {
            Some(last) => (last / stride + 1).min(out.width),
            None => 0,
        };
        let middle = (first, end.max(first));
        // Room for the most that images as wide or narrower have, so that a workspace serves all of them: how many pixels reach over the
        // right edge depends on where the last stride ends.
        let right = if after > 0 { after / stride + 1 } else { 0 };
        let runs = out.width.min(before.div_ceil(stride).saturating_add(right).saturating_add(1));
        let overflow = Error::SizeOverflow { what: "window", rows: window.height.size, cols: size };
        let window_taps = window.height.size.checked_mul(size).ok_or(overflow)?;
        let taps = window_taps.checked_mul(runs).ok_or(overflow)?;
        Ok(Self { window: *window, width: out.width, middle, window_taps, runs, taps })
    }

    /// Fills in the taps and runs of row `y` of output of image `n`, and gives how many runs there are.
    pub fn fill(
        &self,
        image: &PaddedImages,
        n: usize,
        y: usize,
        taps: &mut [Tap],
        runs: &mut [Run],
    ) -> usize {
        let (start, end) = self.middle;
        let (mut pixel, mut index) = (0, 0);
        while pixel < self.width {
            let count = if pixel == start && end > start { end - start } else { 1 };
            let taps = &mut taps[index * self.window_taps..][..self.window_taps];
            self.fill_run(image, n, y, pixel, count, taps);
            runs[index] = Run { pixel, count, taps: taps.as_ptr() };
            pixel += count;
            index += 1;
        }
        index
    }

    fn fill_run(
        &self,
        image: &PaddedImages,
        n: usize,
        y: usize,
        pixel: usize,
        count: usize,
        taps: &mut [Tap],
    ) {
        let PaddedImages { x, shape, zeros } = image;
        let (rows, cols) = (&self.window.height, &self.window.width);
        let padding = Tap { ptr: zeros.as_ptr(), step: 0 };
        // An image without rows may be as wide as numbers go: its step is not taken.
        let step = if count > 1 { cols.stride.wrapping_mul(shape.channels) } else { 0 };
        for (u, taps) in taps.chunks_exact_mut(cols.size).enumerate() {
            let Some(row) = rows.pixel(y, u, shape.height) else {
                taps.fill(padding);
                continue;
            };
            let row = (n * shape.height + row) * shape.width;
            for (v, tap) in taps.iter_mut().enumerate() {
                *tap = match cols.pixel(pixel, v, shape.width) {
                    Some(column) => Tap { ptr: x[(row + column) * shape.channels..].as_ptr(), step },
                    None => padding,
                };
            }
        }
    }
}
