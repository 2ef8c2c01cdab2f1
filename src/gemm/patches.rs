//! The rows of a product that is a convolution: the patches of an image, one for each place of the window.
//!
//! No matrix of patches is ever made. A block of them, as large as a block of rows of any product, is copied from the image
//! when the product gets to it: a row of the window whose taps are neighbours is one run of bytes in an NHWC image.

use core::{marker::PhantomData, ops::Range};

use crate::{
    Broadcast, Error, Operand,
    check::{check_shape, check_zero_points},
    image::{Images, Nhwc, Slide, Window},
    kernels::{
        LhsRows,
        vectors::copies::{CopyRuns, Runs},
    },
};

/// The patches that a window cuts from some adjacent channels of a batch of images: row `(n * out_height + y) * out_width + x`
/// of M, and `(tap_row * window_width + tap_column) * depth + channel` of K. Taps in the padding have the zero point.
pub(crate) struct Patches<'a, A> {
    bytes: PatchBytes,
    zero_point: i32,
    life: PhantomData<&'a [A]>,
}

/// The same without the types: what the threads of a product read.
#[derive(Clone, Copy)]
pub(crate) struct PatchBytes {
    /// First channel of the first pixel.
    ptr: *const u8,
    shape: Nhwc,
    out: Nhwc,
    rows: Slide,
    cols: Slide,
    /// Channels of a patch.
    depth: usize,
    /// What the padding holds.
    fill: u8,
    /// The bytes are u8 values rather than i8.
    pub unsigned: bool,
}

impl<'a, A: Operand> Patches<'a, A> {
    /// Of the images `x`, whose shape gives `out` under the window.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    #[inline]
    pub fn new(x: Images<'a, A>, window: &Window, out: Nhwc, zero_point: i32) -> Result<Self, Error> {
        let shape = x.shape();
        debug_assert_eq!(window.output(shape, out.channels), Ok(out), "worked out by the caller");
        let (height, width) = window.size();
        let overflow = Error::SizeOverflow { what: "patch", rows: height, cols: width };
        height.checked_mul(width).and_then(|taps| taps.checked_mul(shape.channels)).ok_or(overflow)?;
        let bytes = PatchBytes {
            ptr: x.values().as_ptr().cast(),
            shape,
            out,
            rows: window.height,
            cols: window.width,
            depth: shape.channels,
            fill: zero_point as u8,
            unsigned: A::MIN == 0,
        };
        Ok(Self { bytes, zero_point, life: PhantomData })
    }

    /// Of some of the channels.
    ///
    /// # Errors
    /// [`Error::SubMatrix`] unless these are among them.
    #[inline]
    pub fn channels(&self, channels: Range<usize>) -> Result<Self, Error> {
        let (Range { start, end }, len) = (channels, self.bytes.depth);
        if start > end || end > len {
            return Err(Error::SubMatrix { what: "channels", start, end, len });
        }
        let bytes = PatchBytes { ptr: self.bytes.ptr.wrapping_add(start), depth: end - start, ..self.bytes };
        Ok(Self { bytes, ..*self })
    }

    /// Values of a patch.
    pub fn k(&self) -> usize {
        self.bytes.rows.size * self.bytes.cols.size * self.bytes.depth
    }

    pub fn zero_point(&self) -> i32 {
        self.zero_point
    }

    /// Bytes from one patch to the next, if each is contiguous in the image and they are evenly spaced: the product then reads
    /// the image as a matrix.
    #[inline]
    pub fn row_stride(&self) -> Option<usize> {
        let PatchBytes { shape, out, rows, cols, depth, .. } = &self.bytes;
        if [rows, cols].iter().any(|slide| slide.before > 0 || slide.after > 0) {
            return None;
        }
        let across = cols.size == 1 || (cols.dilation == 1 && *depth == shape.channels);
        let down = rows.size == 1
            || (across && rows.dilation == 1 && cols.size == shape.width && *depth == shape.channels);
        if !across || !down {
            return None;
        }
        // Elements from one place of the window to the next across, down, and from image to image; where there is only one
        // place in a direction its step, which may then be too large for a number, is whatever suits the others.
        let steps = [
            (out.width, cols.stride.wrapping_mul(shape.channels)),
            (out.height, rows.stride.wrapping_mul(shape.width * shape.channels)),
            (out.batch, shape.height * shape.width * shape.channels),
        ];
        let mut stride = None;
        let mut places = 1;
        for (count, step) in steps {
            if count > 1 {
                match stride {
                    None => stride = Some(step),
                    Some(stride) if step == stride * places => {}
                    Some(_) => return None,
                }
            }
            places *= count;
        }
        Some(stride.unwrap_or(*depth))
    }

    /// Checks the patches against the depth of the weights.
    pub(super) fn check(&self, k: usize) -> Result<(), Error> {
        check_shape("values of a patch (K)", k, self.k())?;
        check_zero_points::<A>("lhs zero point", &Broadcast::All(self.zero_point), 1)
    }

    pub(super) fn bytes(&self) -> PatchBytes {
        self.bytes
    }
}

impl PatchBytes {
    /// Patches.
    pub fn rows(&self) -> usize {
        self.out.batch * self.out.height * self.out.width
    }

    /// Copies patches, `dst[i * row_stride + k] = patch[i][k] ^ flip`.
    ///
    /// # Safety
    /// The image is readable, the patches lie among its [`PatchBytes::rows`], and `dst` has room for them; the CPU has the features
    /// of `copy_runs`.
    pub unsafe fn gather(
        &self,
        copy_runs: CopyRuns,
        patches: Range<usize>,
        flip: u8,
        dst: *mut u8,
        row_stride: usize,
    ) {
        let (width, height) = (self.out.width, self.out.height);
        let mut x = patches.start % width;
        let mut y = patches.start / width % height;
        let mut n = patches.start / width / height;
        let to = Copies { copy_runs, flip, row_stride };
        let mut done = 0;
        while done < patches.len() {
            let places = x..width.min(x + patches.len() - done);
            // SAFETY: the caller's; the patches at (n, y, places) are the next.
            unsafe { self.gather_row(n, y, places.clone(), &to, dst.add(done * row_stride)) };
            done += places.len();
            x = 0;
            y += 1;
            if y == height {
                (y, n) = (0, n + 1);
            }
        }
    }

    /// Patches next to each other.
    ///
    /// # Safety
    /// As [`PatchBytes::gather`].
    unsafe fn gather_row(&self, n: usize, y: usize, places: Range<usize>, to: &Copies, dst: *mut u8) {
        let Self { shape, rows, cols, depth, .. } = self;
        let row_bytes = cols.size * depth;
        let taps = rows.taps_inside(y, shape.height);
        // SAFETY: taps inside the image are readable for `depth` channels; `dst` has room for the patches.
        unsafe {
            to.fill(self.fill, taps.start * row_bytes, places.len(), dst);
            if let Some(row) = rows.pixels(y, shape.height).next() {
                let line = (n * shape.height + row) * shape.width * shape.channels;
                self.gather_lines(
                    self.ptr.add(line),
                    taps.len(),
                    places.clone(),
                    to,
                    dst.add(taps.start * row_bytes),
                );
            }
            let behind = rows.size - taps.end;
            to.fill(self.fill, behind * row_bytes, places.len(), dst.add(taps.end * row_bytes));
        }
    }

    /// Some rows of the window of some patches, from as many lines of the image. Where all taps of a row are inside and
    /// neighbours they are one run of bytes.
    ///
    /// # Safety
    /// As [`PatchBytes::gather`], of lines the first of which begins at `line`.
    unsafe fn gather_lines(
        &self,
        line: *const u8,
        lines: usize,
        places: Range<usize>,
        to: &Copies,
        dst: *mut u8,
    ) {
        let Self { shape, rows, cols, depth, unsigned, .. } = self;
        let row_bytes = cols.size * depth;
        // SAFETY: the caller's; each part lies inside its line and has its place in the patches.
        unsafe {
            let copy = |part: Range<usize>, tap: usize, k: usize| {
                if !part.is_empty() {
                    let pixel = part.start * cols.stride + tap * cols.dilation - cols.before;
                    // Steps that are not taken may be too large for a number.
                    let (ptr, row_stride) =
                        (line.add(pixel * shape.channels), cols.stride.wrapping_mul(shape.channels));
                    let runs = Runs {
                        first: LhsRows { ptr, row_stride, rows: part.len(), k, unsigned: *unsigned },
                        count: lines,
                        src_step: rows.dilation.wrapping_mul(shape.width * shape.channels),
                        dst_step: row_bytes,
                    };
                    let dst = dst.add((part.start - places.start) * to.row_stride + tap * depth);
                    (to.copy_runs)(&runs, to.flip, to.row_stride, dst);
                }
            };
            let fill = |part: Range<usize>, tap: usize| {
                for i in 0..lines {
                    let row = (part.start - places.start) * to.row_stride;
                    to.fill(self.fill, *depth, part.len(), dst.add(row + i * row_bytes + tap * depth));
                }
            };
            let within = |part: Range<usize>, bounds: &Range<usize>| {
                let start = part.start.clamp(bounds.start, bounds.end);
                start..part.end.clamp(start, bounds.end)
            };
            let mut whole = places.end..places.end;
            if cols.dilation == 1 && *depth == shape.channels {
                let [first, last] = [0, cols.size - 1].map(|tap| cols.inside(tap, shape.width));
                whole = within(first.start..last.end, &places);
                copy(whole.clone(), 0, row_bytes);
            }
            for edge in [places.start..whole.start, whole.end..places.end] {
                if edge.is_empty() {
                    continue;
                }
                for tap in 0..cols.size {
                    let inside = within(cols.inside(tap, shape.width), &edge);
                    fill(edge.start..inside.start, tap);
                    fill(inside.end..edge.end, tap);
                    copy(inside, tap, *depth);
                }
            }
        }
    }
}

/// How patches are copied.
struct Copies {
    copy_runs: CopyRuns,
    flip: u8,
    row_stride: usize,
}

impl Copies {
    /// Writes the padding's value to `bytes` of each of some patches.
    ///
    /// # Safety
    /// They may be written.
    unsafe fn fill(&self, value: u8, bytes: usize, patches: usize, dst: *mut u8) {
        if bytes == 0 {
            return;
        }
        for i in 0..patches {
            // SAFETY: `bytes` of each of the patches, `row_stride` apart, may be written.
            unsafe { dst.add(i * self.row_stride).write_bytes(value ^ self.flip, bytes) };
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::{Gemm, Kernel, Lhs, MatMut, MatRef, Output, PackedRhs, Rhs, Sequential};

    /// Patches as a matrix of their own give the same product, with zero points of both operands and in several blocks.
    #[test]
    fn patches_are_rows() -> Result<(), Error> {
        let shape = Nhwc::new(1, 30, 31, 7);
        let window = Window::new(3, 4).padding(1, 2).stride(1, 1).dilation(2, 1);
        let byte = |i: usize| (i.wrapping_mul(2_654_435_761) >> 7) as u8;
        let x: Vec<u8> = (0..shape.elements()?).map(byte).collect();
        let out = window.output(shape, 1)?;
        let patches = Patches::new(Images::new(&x, shape)?, &window, out, 9)?.channels(1..6)?;
        let (m, k, n) = (patches.bytes.rows(), patches.k(), 11);
        let mut matrix = vec![0u8; m * k];
        let portable = crate::kernels::vectors::copies::copy_runs(Kernel::by_name("portable")?.0.isa);
        // SAFETY: the matrix has room for every patch.
        unsafe { patches.bytes.gather(portable, 0..m, 0, matrix.as_mut_ptr(), k) };
        // One value by its definition: patch (10, 20), tap (2, 3), channel 4 of 1..6.
        let pixel = (10 + 2 * 2 - 1) * 31 + 20 + 3 - 2;
        assert_eq!(matrix[(10 * patches.bytes.out.width + 20) * k + (2 * 4 + 3) * 5 + 4], x[pixel * 7 + 5]);
        assert!(matrix[..5].iter().all(|&value| value == 9));

        let w: Vec<i8> = (0..k * n).map(|i| byte(i + 1000) as i8).collect();
        let rhs = Rhs::new(MatRef::row_major(&w, k, n)?).zero_point(5);
        for kernel in Kernel::available() {
            let weights = PackedRhs::pack_for(kernel, rhs)?;
            let gemm = Gemm::new(&weights, Output::i32())?;
            let mut scratch = gemm.workspace(m)?;
            let (mut y, mut expected) = (vec![0; m * n], vec![0; m * n]);
            let out = MatMut::row_major(&mut expected, m, n)?;
            gemm.run(Lhs::new(MatRef::row_major(&matrix, m, k)?).zero_point(9), out, &mut scratch)?;
            gemm.run_patches(&Sequential, &patches, MatMut::row_major(&mut y, m, n)?, &mut scratch)?;
            assert_eq!(y, expected, "{kernel}");
        }
        Ok(())
    }

    #[test]
    fn images_that_are_matrices() -> Result<(), Error> {
        let x = [0u8; 4 * 6 * 8 * 3];
        let stride = |shape: Nhwc, window: Window| -> Result<Option<usize>, Error> {
            let images = Images::new(&x[..shape.elements()?], shape)?;
            Ok(Patches::new(images, &window, window.output(shape, 1)?, 0)?.row_stride())
        };
        let image = Nhwc::new(4, 6, 8, 3);
        assert_eq!(stride(image, Window::new(1, 1))?, Some(3));
        assert_eq!(stride(image, Window::new(1, 1).padding(0, 1))?, None);
        assert_eq!(stride(image, Window::new(1, 1).stride(1, 2))?, Some(6));
        assert_eq!(stride(image, Window::new(1, 1).stride(2, 1))?, None);
        assert_eq!(stride(image, Window::new(6, 8))?, Some(6 * 8 * 3));
        assert_eq!(stride(image, Window::new(2, 8).stride(2, 1))?, Some(2 * 8 * 3));
        assert_eq!(stride(image, Window::new(3, 7))?, None);
        Ok(())
    }
}
