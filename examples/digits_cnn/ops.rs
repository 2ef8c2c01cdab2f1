//! What layers are made of, forward and backward, in f32: images NHWC, windows of 3 x 3 pixels with one pixel of padding.

use i8gemm::nn::Nhwc;

/// Pixels under a window.
pub const TAPS: usize = 9;

/// A dense matrix, or a view of one with its axes exchanged.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// Row-major, of as many rows as there are.
    pub fn new(values: &'a [f32], cols: usize) -> Self {
        assert!(values.len().is_multiple_of(cols), "{} values, {cols} columns", values.len());
        Self { values, rows: values.len() / cols, cols, transposed: false }
    }

    pub fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    fn strides(&self) -> (isize, isize) {
        if self.transposed { (1, self.rows as isize) } else { (self.cols as isize, 1) }
    }
}

/// `a b`, row-major.
pub fn product(a: Matrix, b: Matrix) -> Vec<f32> {
    assert_eq!(a.cols, b.rows);
    let (m, k, n) = (a.rows, a.cols, b.cols);
    let mut out = vec![0.0; m * n];
    let ((a_row, a_col), (b_row, b_col)) = (a.strides(), b.strides());
    // SAFETY: a holds m x k values, b k x n and out m x n, as the strides say.
    unsafe {
        let (a, b, out) = (a.values.as_ptr(), b.values.as_ptr(), out.as_mut_ptr());
        matrixmultiply::sgemm(m, k, n, 1.0, a, a_row, a_col, b, b_row, b_col, 0.0, out, n as isize, 1);
    }
    out
}

/// Every tap of every window that lies inside the image: the window's place, the tap, the pixel under it.
fn each_tap(shape: Nhwc, mut visit: impl FnMut(usize, usize, usize)) {
    let Nhwc { batch, height, width, .. } = shape;
    for place in 0..batch * height * width {
        let (image, y, x) = (place / width / height, place / width % height, place % width);
        for tap in 0..TAPS {
            // One more than the pixel's row and column, because of the padding.
            let (row, col) = (y + tap / 3, x + tap % 3);
            if (1..=height).contains(&row) && (1..=width).contains(&col) {
                visit(place, tap, (image * height + row - 1) * width + col - 1);
            }
        }
    }
}

/// The pixels under every window, a row for each window: channels x taps, the order of PyTorch's weights.
pub fn patches(x: &[f32], shape: Nhwc) -> Vec<f32> {
    let channels = shape.channels;
    let mut rows = vec![0.0; x.len() * TAPS];
    each_tap(shape, |place, tap, pixel| {
        let row = &mut rows[place * channels * TAPS..][..channels * TAPS];
        let x = &x[pixel * channels..][..channels];
        row.iter_mut().skip(tap).step_by(TAPS).zip(x).for_each(|(to, x)| *to = *x);
    });
    rows
}

/// The gradient of the pixels from that of [`patches`].
pub fn patches_backward(drows: &[f32], shape: Nhwc) -> Vec<f32> {
    let channels = shape.channels;
    let mut dx = vec![0.0; drows.len() / TAPS];
    each_tap(shape, |place, tap, pixel| {
        let row = &drows[place * channels * TAPS..][..channels * TAPS];
        let dx = &mut dx[pixel * channels..][..channels];
        dx.iter_mut().zip(row.iter().skip(tap).step_by(TAPS)).for_each(|(dx, from)| *dx += from);
    });
    dx
}

/// A depthwise convolution; weights are channels x taps.
pub fn depthwise(x: &[f32], shape: Nhwc, weights: &[f32]) -> Vec<f32> {
    let channels = shape.channels;
    let weights = exchanged(weights, TAPS);
    let mut y = vec![0.0; x.len()];
    each_tap(shape, |place, tap, pixel| {
        let terms = x[pixel * channels..][..channels].iter().zip(&weights[tap * channels..]);
        y[place * channels..][..channels].iter_mut().zip(terms).for_each(|(y, (x, w))| *y += x * w);
    });
    y
}

/// The gradients of input and weights.
pub fn depthwise_backward(x: &[f32], shape: Nhwc, weights: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let channels = shape.channels;
    let weights = exchanged(weights, TAPS);
    let (mut dx, mut dweights) = (vec![0.0; x.len()], vec![0.0; weights.len()]);
    each_tap(shape, |place, tap, pixel| {
        let dy = &dy[place * channels..][..channels];
        let terms = dy.iter().zip(&weights[tap * channels..]);
        dx[pixel * channels..][..channels].iter_mut().zip(terms).for_each(|(dx, (dy, w))| *dx += dy * w);
        let terms = dy.iter().zip(&x[pixel * channels..]);
        dweights[tap * channels..][..channels].iter_mut().zip(terms).for_each(|(dw, (dy, x))| *dw += dy * x);
    });
    (dx, exchanged(&dweights, channels))
}

/// Rows become columns.
fn exchanged(values: &[f32], cols: usize) -> Vec<f32> {
    let rows = values.len() / cols;
    (0..values.len()).map(|i| values[i % rows * cols + i / rows]).collect()
}

/// The largest of 2 x 2 pixels, and where each was found.
pub fn max_pool(x: &[f32], shape: Nhwc) -> (Vec<f32>, Vec<usize>) {
    let Nhwc { batch, height, width, channels } = shape;
    let (mut y, mut found) = (Vec::new(), Vec::new());
    for (row, col) in (0..batch * height / 2).flat_map(|row| (0..width / 2).map(move |col| (row, col))) {
        for c in 0..channels {
            let at = |tap: usize| ((2 * row + tap / 2) * width + 2 * col + tap % 2) * channels + c;
            let best = (1..4).map(at).fold(at(0), |best, i| if x[i] > x[best] { i } else { best });
            y.push(x[best]);
            found.push(best);
        }
    }
    (y, found)
}

/// The gradient of `count` pixels goes to where the largest were found.
pub fn max_pool_backward(dy: &[f32], found: &[usize], count: usize) -> Vec<f32> {
    let mut dx = vec![0.0; count];
    found.iter().zip(dy).for_each(|(&i, dy)| dx[i] += dy);
    dx
}

/// The sum of each column, in f64.
pub fn column_sums(values: &[f32], cols: usize) -> Vec<f64> {
    let mut sums = vec![0.0; cols];
    for row in values.chunks_exact(cols) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    sums
}

/// Cross entropy of the labels after a softmax of the scores, mean over the batch, and the gradient of the scores.
pub fn cross_entropy(scores: &[f32], labels: &[u8]) -> (f64, Vec<f32>) {
    let (classes, count) = (scores.len() / labels.len(), labels.len() as f64);
    let (mut loss, mut dscores) = (0.0, Vec::with_capacity(scores.len()));
    for (scores, &label) in scores.chunks_exact(classes).zip(labels) {
        let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let powers: Vec<f64> = scores.iter().map(|&s| f64::from(s - most).exp()).collect();
        let sum: f64 = powers.iter().sum();
        loss -= (powers[usize::from(label)] / sum).ln();
        let gradient =
            |(class, power): (usize, &f64)| (power / sum - f64::from(class == usize::from(label))) / count;
        dscores.extend(powers.iter().enumerate().map(gradient).map(|g| g as f32));
    }
    (loss / count, dscores)
}
