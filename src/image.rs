//! Images, and windows that slide over them.

use core::ops::Range;

use crate::{Error, check::check_shape};

/// The shape of a batch of images, stored with the channels of a pixel together (NHWC): the element of image `n`, row `y`,
/// column `x` and channel `c` at `((n * height + y) * width + x) * channels + c`.
///
/// ```
/// use i8gemm::nn::Nhwc;
/// assert_eq!(Nhwc::new(2, 56, 56, 64).elements()?, 2 * 56 * 56 * 64);
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nhwc {
    /// Images.
    pub batch: usize,
    /// Rows of pixels of an image.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// Elements of a pixel.
    pub channels: usize,
}

impl Nhwc {
    /// Of so many images, rows, columns and channels.
    #[must_use]
    pub const fn new(batch: usize, height: usize, width: usize, channels: usize) -> Self {
        Self { batch, height, width, channels }
    }

    /// Pixels of all images.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    #[inline]
    pub fn pixels(&self) -> Result<usize, Error> {
        let pixels = self.batch.checked_mul(self.height).and_then(|rows| rows.checked_mul(self.width));
        pixels.ok_or(Error::SizeOverflow { what: "image", rows: self.height, cols: self.width })
    }

    /// Elements of all images.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    #[inline]
    pub fn elements(&self) -> Result<usize, Error> {
        let overflow = Error::SizeOverflow { what: "image", rows: self.height, cols: self.width };
        let elements = self.pixels()?.checked_mul(self.channels).ok_or(overflow)?;
        // Offsets inside a slice are at most isize::MAX.
        if elements > isize::MAX as usize { Err(overflow) } else { Ok(elements) }
    }
}

/// A batch of images: values, channels fastest, and the shape that they have.
///
/// ```
/// use i8gemm::nn::{Images, Nhwc};
/// let gray = Images::new(&[1u8, 2, 3, 4, 5, 6], Nhwc::new(1, 2, 3, 1))?;
/// assert_eq!((gray.shape().width, gray.values()[3]), (3, 4));
/// assert!(Images::new(gray.values(), Nhwc::new(1, 2, 3, 3)).is_err());
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Images<'a, A> {
    values: &'a [A],
    shape: Nhwc,
}

impl<'a, A> Images<'a, A> {
    /// Of as many values as the shape has elements.
    ///
    /// # Errors
    /// [`Error::Shape`] for any other number; [`Error::SizeOverflow`].
    #[inline]
    pub fn new(values: &'a [A], shape: Nhwc) -> Result<Self, Error> {
        check_shape("elements of x", shape.elements()?, values.len())?;
        Ok(Self { values, shape })
    }

    /// The values.
    #[inline]
    #[must_use]
    pub fn values(&self) -> &'a [A] {
        self.values
    }

    /// Their shape.
    #[inline]
    #[must_use]
    pub fn shape(&self) -> Nhwc {
        self.shape
    }
}

/// A window that slides over an image: its size, the steps it takes, the padding around the image, and the distance between
/// its taps. Padding stands for the real 0: taps there read the zero point.
///
/// ```
/// use i8gemm::nn::Window;
/// let halving = Window::new(3, 3).stride(2, 2).padding(1, 1);
/// assert_eq!(halving.output_size(112, 111)?, (56, 56));
/// // TensorFlow's SAME pads an even image by 0 before and 1 behind.
/// assert_eq!(Window::new(3, 3).stride(2, 2).same(112, 112)?.output_size(112, 112)?, (56, 56));
/// assert!(Window::new(5, 5).output_size(4, 4).is_err());
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub(crate) height: Slide,
    pub(crate) width: Slide,
}

/// How a window slides in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slide {
    /// Taps.
    pub size: usize,
    /// Pixels from one place of the window to the next.
    pub stride: usize,
    /// Pixels from one tap to the next.
    pub dilation: usize,
    /// Padding above or to the left.
    pub before: usize,
    /// Padding below or to the right.
    pub after: usize,
}

impl Slide {
    const fn new(size: usize) -> Self {
        Self { size, stride: 1, dilation: 1, before: 0, after: 0 }
    }

    /// The same without padding.
    pub const fn unpadded(self) -> Self {
        Self { before: 0, after: 0, ..self }
    }

    #[inline]
    fn check(&self) -> Result<(), Error> {
        for (what, value) in
            [("window size", self.size), ("stride", self.stride), ("dilation", self.dilation)]
        {
            if value == 0 {
                return Err(Error::Zero { what });
            }
        }
        Ok(())
    }

    /// Pixels from the first tap to one past the last.
    #[inline]
    fn extent(&self) -> Option<usize> {
        (self.size - 1).checked_mul(self.dilation)?.checked_add(1)
    }

    /// Places of the window along `len` pixels.
    #[inline]
    fn places(&self, what: &'static str, len: usize) -> Result<usize, Error> {
        self.check()?;
        let overflow = Error::SizeOverflow { what: "window", rows: self.size, cols: len };
        let padded = len.checked_add(self.before).and_then(|len| len.checked_add(self.after));
        let padded = padded.filter(|&len| isize::try_from(len).is_ok()).ok_or(overflow)?;
        let extent = self.extent().ok_or(overflow)?;
        if extent > padded {
            return Err(Error::Window { what, extent, padded });
        }
        Ok((padded - extent) / self.stride + 1)
    }

    /// The padding that leaves `ceil(len / stride)` places, more of it behind if it is odd.
    fn same(self, len: usize) -> Result<Self, Error> {
        self.check()?;
        let overflow = Error::SizeOverflow { what: "window", rows: self.size, cols: len };
        let extent = self.extent().ok_or(overflow)?;
        let last = len.div_ceil(self.stride).saturating_sub(1) * self.stride;
        let padding = last.checked_add(extent).ok_or(overflow)?.saturating_sub(len);
        Ok(Self { before: padding / 2, after: padding - padding / 2, ..self })
    }

    /// The places of the window at which a tap reads one of `len` pixels rather than the padding.
    #[inline]
    pub fn inside(&self, tap: usize, len: usize) -> Range<usize> {
        let before = self.before.saturating_sub(tap * self.dilation);
        let end = (len + self.before).saturating_sub(tap * self.dilation);
        let (start, end) = (before.div_ceil(self.stride), end.div_ceil(self.stride));
        start..end.max(start)
    }

    /// Whether some of the first `places` of the window hold none of `len` pixels: all their taps lie in the padding, or on either
    /// side of the image. Takes as long for many as for few.
    pub fn has_empty_place(&self, places: usize, len: usize) -> bool {
        let Self { size, stride, dilation, before, .. } = *self;
        // Places whose first tap lies above the image. Those that begin inside it hold that pixel at least.
        let above = places.min(before.div_ceil(stride));
        if places > above && (places - 1) * stride - before >= len {
            return true;
        }
        if above == 0 {
            return false;
        }
        // Of those above, the first reaches least far.
        if (size - 1).saturating_mul(dilation) < before {
            return true;
        }
        if dilation <= len {
            return false;
        }
        // The first tap of a place that is not above the image would read pixel `(place * stride - before) mod dilation`: are there
        // places where that lies behind it? A number is, modulo d, at least l if adding d - l to it makes it wrap once more.
        let [places, stride, dilation, before, len] =
            [above, stride, dilation, before, len].map(|n| n as u128);
        let first = (dilation - before % dilation) % dilation;
        let wraps = |first: u128| floor_sum(places, dilation, stride, first);
        wraps(first + dilation - len) > wraps(first)
    }

    /// The taps that read one of `len` pixels rather than the padding at a place of the window.
    #[inline]
    pub fn taps_inside(&self, place: usize, len: usize) -> Range<usize> {
        let first = place * self.stride;
        let (start, end) = (self.before.saturating_sub(first), (len + self.before).saturating_sub(first));
        // Most windows need no division, which takes longer than the taps of a small one.
        let (start, end) = match self.dilation {
            1 => (start, end),
            dilation => (start.div_ceil(dilation), end.div_ceil(dilation)),
        };
        let start = start.min(self.size);
        start..end.clamp(start, self.size)
    }

    /// The pixels that the taps inside an image of `len` pixels read at a place of the window.
    #[inline]
    pub fn pixels(self, place: usize, len: usize) -> impl Iterator<Item = usize> + Clone {
        self.taps_inside(place, len).map(move |tap| place * self.stride + tap * self.dilation - self.before)
    }

    /// The pixel, or `None` in the padding, that a tap reads at a place of the window.
    #[inline]
    pub fn pixel(&self, place: usize, tap: usize, len: usize) -> Option<usize> {
        (place * self.stride + tap * self.dilation).checked_sub(self.before).filter(|&at| at < len)
    }
}

/// The sum of `(i * step + first) / modulus`, rounded down, over `i` in `0..count`, by Euclid's algorithm; `count` is not 0.
fn floor_sum(mut count: u128, mut modulus: u128, mut step: u128, mut first: u128) -> u128 {
    let mut sum = 0;
    loop {
        sum += count * (count - 1) / 2 * (step / modulus) + count * (first / modulus);
        (step, first) = (step % modulus, first % modulus);
        // What is left counts the points of a grid below a line: rows take the place of columns.
        let end = count * step + first;
        if end < modulus {
            return sum;
        }
        (count, first) = (end / modulus, end % modulus);
        (modulus, step) = (step, modulus);
    }
}

impl Window {
    /// `height` x `width` taps, next to each other, that move by one pixel, without padding.
    #[must_use]
    pub const fn new(height: usize, width: usize) -> Self {
        Self { height: Slide::new(height), width: Slide::new(width) }
    }

    /// Pixels between places of the window, down and across.
    #[must_use]
    pub const fn stride(mut self, down: usize, across: usize) -> Self {
        (self.height.stride, self.width.stride) = (down, across);
        self
    }

    /// Rows of padding above and as many below, columns to the left and as many to the right: PyTorch's padding.
    #[must_use]
    pub const fn padding(self, rows: usize, columns: usize) -> Self {
        self.padding_each([rows, rows], [columns, columns])
    }

    /// Rows of padding above and below, columns to the left and to the right.
    #[must_use]
    pub const fn padding_each(mut self, rows: [usize; 2], columns: [usize; 2]) -> Self {
        [self.height.before, self.height.after] = rows;
        [self.width.before, self.width.after] = columns;
        self
    }

    /// Pixels between taps, down and across.
    #[must_use]
    pub const fn dilation(mut self, down: usize, across: usize) -> Self {
        (self.height.dilation, self.width.dilation) = (down, across);
        self
    }

    /// TensorFlow's SAME padding for images of that size: `ceil(size / stride)` places in each direction.
    ///
    /// # Errors
    /// [`Error::Zero`] for a size, stride or dilation of 0; [`Error::SizeOverflow`].
    pub fn same(self, height: usize, width: usize) -> Result<Self, Error> {
        Ok(Self { height: self.height.same(height)?, width: self.width.same(width)? })
    }

    /// Taps, down and across.
    #[must_use]
    pub const fn size(&self) -> (usize, usize) {
        (self.height.size, self.width.size)
    }

    /// Places of the window on an image, down and across: `(size + padding - extent) / stride + 1`, rounded down, with an
    /// extent of `(taps - 1) * dilation + 1`.
    ///
    /// # Errors
    /// [`Error::Zero`] for a size, stride or dilation of 0; [`Error::Window`] when the window does not fit the padded image;
    /// [`Error::SizeOverflow`].
    #[inline]
    pub fn output_size(&self, height: usize, width: usize) -> Result<(usize, usize), Error> {
        Ok((self.height.places("rows", height)?, self.width.places("columns", width)?))
    }

    /// The images of one output channel each window place gives, from images of that shape.
    #[inline]
    pub(crate) fn output(&self, input: Nhwc, channels: usize) -> Result<Nhwc, Error> {
        let (height, width) = self.output_size(input.height, input.width)?;
        Ok(Nhwc { batch: input.batch, height, width, channels })
    }

    /// The images that pooling gives of images of that shape: every place of the window holds a pixel.
    pub(crate) fn pooled(&self, shape: Nhwc) -> Result<Nhwc, Error> {
        shape.elements()?;
        let out = self.output(shape, shape.channels)?;
        out.elements()?;
        for (what, slide, places, pixels) in [
            ("rows", &self.height, out.height, shape.height),
            ("columns", &self.width, out.width, shape.width),
        ] {
            if slide.has_empty_place(places, pixels) {
                return Err(Error::EmptyWindow { what, pixels });
            }
        }
        Ok(out)
    }

    /// The pixels under a place of the window, by their number in the batch: as many steps as there are pixels, however large the
    /// window.
    #[inline]
    pub(crate) fn pixels(&self, shape: Nhwc, out: Nhwc, place: usize) -> impl Iterator<Item = usize> {
        let (j, i, n) = (place % out.width, place / out.width % out.height, place / out.width / out.height);
        let columns = self.width.pixels(j, shape.width);
        let rows = self.height.pixels(i, shape.height);
        rows.flat_map(move |y| columns.clone().map(move |x| (n * shape.height + y) * shape.width + x))
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        self.height.check()?;
        self.width.check()
    }

    /// Taps, not too many for an i32 to hold the sum of as many bytes, each less a zero point.
    pub(crate) fn summed_taps(&self) -> Result<usize, Error> {
        const MAX_TAPS: usize = i32::MAX as usize / 255;
        let (rows, cols) = self.size();
        let taps = rows.checked_mul(cols).filter(|&taps| taps <= MAX_TAPS);
        taps.ok_or(Error::WindowTooLarge { rows, cols, max: MAX_TAPS })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_the_frameworks() -> Result<(), Error> {
        // PyTorch: floor((n + 2 p - d (k - 1) - 1) / s + 1).
        assert_eq!(Window::new(3, 5).padding(1, 2).stride(2, 3).output_size(7, 9)?, (4, 3));
        assert_eq!(Window::new(3, 3).dilation(2, 4).output_size(7, 9)?, (3, 1));
        // TensorFlow's SAME.
        let same = Window::new(3, 3).stride(2, 2).same(5, 6)?;
        assert_eq!(same, Window::new(3, 3).stride(2, 2).padding_each([1, 1], [0, 1]));
        assert_eq!(Window::new(1, 1).stride(3, 3).same(5, 6)?.output_size(5, 6)?, (2, 2));
        assert_eq!(
            Window::new(4, 1).output_size(3, 3),
            Err(Error::Window { what: "rows", extent: 4, padded: 3 })
        );
        assert_eq!(Window::new(1, 0).output_size(3, 3), Err(Error::Zero { what: "window size" }));
        assert!(Window::new(1, 3).dilation(1, usize::MAX).output_size(3, 3).is_err());
        assert!(Window::new(1, 3).padding(0, usize::MAX / 2).output_size(3, 3).is_err());
        assert!(Nhwc::new(usize::MAX, 2, 2, 0).elements().is_err());
        Ok(())
    }

    /// Windows of every small size, with their places along as many pixels.
    fn small_slides() -> impl Iterator<Item = (Slide, usize, usize)> {
        let below = |n: usize| move |i: usize| (i % n, i / n);
        (0..4 * 5 * 9 * 8 * 4 * 7).filter_map(move |case| {
            let (size, rest) = below(4)(case);
            let (stride, rest) = below(5)(rest);
            let (dilation, rest) = below(9)(rest);
            let (before, rest) = below(8)(rest);
            let (after, len) = below(4)(rest);
            let slide = Slide {
                size: size + 1,
                stride: stride + 1,
                dilation: dilation + 1,
                before,
                after: 2 * after,
            };
            Some((slide, slide.places("rows", len).ok()?, len))
        })
    }

    #[test]
    fn taps_inside_are_those_that_read_a_pixel() {
        for (slide, places, len) in small_slides() {
            for place in 0..places {
                let reads = |tap: &usize| slide.pixel(place, *tap, len).is_some();
                let expected: Vec<_> = (0..slide.size).filter(reads).collect();
                let inside = slide.taps_inside(place, len);
                assert!(inside.start <= inside.end && inside.end <= slide.size, "{slide:?}: {inside:?}");
                assert_eq!(inside.collect::<Vec<_>>(), expected, "{slide:?}, place {place}, {len} pixels");
                let pixels: Vec<_> = (0..slide.size).filter_map(|tap| slide.pixel(place, tap, len)).collect();
                assert_eq!(slide.pixels(place, len).collect::<Vec<_>>(), pixels, "{slide:?}, place {place}");
            }
        }
    }

    #[test]
    fn empty_places_are_those_without_a_pixel() {
        let mut empty = [0, 0];
        for (slide, places, len) in small_slides() {
            let holds_none = |place| (0..slide.size).all(|tap| slide.pixel(place, tap, len).is_none());
            let expected = (0..places).any(holds_none);
            assert_eq!(
                slide.has_empty_place(places, len),
                expected,
                "{slide:?}, {places} places, {len} pixels"
            );
            empty[usize::from(expected)] += 1;
        }
        assert!(empty.iter().all(|&cases| cases > 1000), "{empty:?}");
        // As many places as numbers go: found without a visit to each.
        let len = usize::MAX / 16;
        let wide = Slide { dilation: len + 1, before: 2 * len, after: len, ..Slide::new(3) };
        assert!(wide.has_empty_place(wide.places("rows", len).unwrap(), len));
        let narrow = Slide { stride: 3, dilation: 3, before: 3 * len, ..Slide::new(len + 1) };
        assert!(!narrow.has_empty_place(narrow.places("rows", 1).unwrap(), 1));
        assert!(Slide { before: 3 * len - 1, ..narrow }.has_empty_place(len, 1));
    }
}
