//! What shares a scale and a zero point.

use core::ops::Range;

use crate::Error;

/// Which elements of a tensor share a scale and a zero point: all of them, those of a channel, or those of a group.
///
/// Elements are in row-major order of the shape (the last axis is contiguous).
///
/// ```
/// use i8gemm::quant::Grouping;
/// // Convolution weights, output channels x input channels x 3 x 3: a scale for each output channel.
/// let channels = Grouping::per_channel(&[64, 32, 3, 3], 0)?;
/// assert_eq!(channels.count(), 64);
/// // Weights N x K in groups of 32 along K; the last group of each row has 4.
/// let groups = Grouping::per_group(&[16, 100], 1, 32)?;
/// assert_eq!((groups.count(), groups.index(99), groups.index(100)), (64, 3, 4));
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grouping(Sharing);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Any number of elements.
    Tensor,
    Channel(Axis),
    Group(Axis, usize),
}

/// A shape as seen from one of its axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Axis {
    /// Product of the sizes before it.
    outer: usize,
    len: usize,
    /// Product of the sizes behind it.
    inner: usize,
}

impl Axis {
    fn new(shape: &[usize], axis: usize) -> Result<Self, Error> {
        let (Some(&len), Some(before)) = (shape.get(axis), shape.get(..axis)) else {
            return Err(Error::Axis { axis, dimensions: shape.len() });
        };
        let product = |sizes: &[usize]| sizes.iter().try_fold(1usize, |p, &size| p.checked_mul(size));
        let overflow = Error::SizeOverflow { what: "shape", rows: shape[0], cols: len };
        // An empty axis must not hide an overflow of the others.
        let (outer, inner) = (product(before).ok_or(overflow)?, product(&shape[axis + 1..]).ok_or(overflow)?);
        product(&[outer, len.max(1), inner]).ok_or(overflow)?;
        Ok(Self { outer, len, inner })
    }

    fn elements(self) -> usize {
        self.outer * self.len * self.inner
    }
}

impl Grouping {
    /// One scale for all elements, however many.
    #[must_use]
    pub fn per_tensor() -> Self {
        Self(Sharing::Tensor)
    }

    /// One scale for each index along an axis of the shape.
    ///
    /// # Errors
    /// [`Error::Axis`] when the shape has no such axis, [`Error::SizeOverflow`] when it does not fit the address space.
    pub fn per_channel(shape: &[usize], axis: usize) -> Result<Self, Error> {
        Ok(Self(Sharing::Channel(Axis::new(shape, axis)?)))
    }

    /// One scale for every `size` consecutive indices along an axis, for each index of the other axes. The last group of the
    /// axis holds what is left. Scales are in row-major order of the shape with the axis shortened to its number of groups, as
    /// ONNX has it.
    ///
    /// # Errors
    /// As [`Grouping::per_channel`]; [`Error::Zero`] for a size of 0.
    pub fn per_group(shape: &[usize], axis: usize, size: usize) -> Result<Self, Error> {
        if size == 0 {
            return Err(Error::Zero { what: "group size" });
        }
        Ok(Self(Sharing::Group(Axis::new(shape, axis)?, size)))
    }

    /// Scales and zero points: the number of channels or groups.
    #[must_use]
    pub fn count(&self) -> usize {
        match self.0 {
            Sharing::Tensor => 1,
            Sharing::Channel(axis) => axis.len,
            Sharing::Group(axis, size) => axis.outer * axis.len.div_ceil(size) * axis.inner,
        }
    }

    /// Elements of the shape; `None` when any number will do.
    #[must_use]
    pub fn elements(&self) -> Option<usize> {
        match self.0 {
            Sharing::Tensor => None,
            Sharing::Channel(axis) | Sharing::Group(axis, _) => Some(axis.elements()),
        }
    }

    /// Which scale an element has; for an element that the shape does not have, any number, 0 if the shape has none at all.
    #[must_use]
    pub fn index(&self, element: usize) -> usize {
        match self.0 {
            Sharing::Tensor => 0,
            Sharing::Channel(axis) | Sharing::Group(axis, _)
                if axis.outer == 0 || axis.len == 0 || axis.inner == 0 =>
            {
                0
            }
            Sharing::Channel(axis) => element / axis.inner % axis.len,
            Sharing::Group(axis, size) => {
                let (outer, rest) = (element / (axis.len * axis.inner), element % (axis.len * axis.inner));
                let group = rest / axis.inner / size;
                (outer * axis.len.div_ceil(size) + group) * axis.inner + rest % axis.inner
            }
        }
    }

    pub(crate) fn check_len(&self, what: &'static str, actual: usize) -> Result<(), Error> {
        match self.elements() {
            Some(expected) if expected != actual => Err(Error::Length { what, expected, actual }),
            _ => Ok(()),
        }
    }

    /// Elements of the runs that [`Grouping::runs`] visits, short last ones aside.
    pub(crate) fn run_len(&self) -> usize {
        match self.0 {
            Sharing::Tensor => usize::MAX,
            Sharing::Channel(Axis { inner: 1, len, .. }) => len,
            Sharing::Group(Axis { inner: 1, len, .. }, size) => size.min(len),
            Sharing::Channel(axis) | Sharing::Group(axis, _) => axis.inner,
        }
    }

    /// Visits the elements in runs: contiguous elements that have either one scale or consecutive scales, one each.
    pub(crate) fn runs(
        &self,
        elements: usize,
        mut visit: impl FnMut(Range<usize>, Range<usize>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if elements == 0 {
            return Ok(());
        }
        match self.0 {
            Sharing::Tensor => visit(0..elements, 0..1),
            Sharing::Channel(Axis { inner: 1, len, .. }) => {
                (0..elements).step_by(len).try_for_each(|start| visit(start..start + len, 0..len))
            }
            Sharing::Channel(Axis { inner, len, .. }) => (0..elements).step_by(inner).try_for_each(|start| {
                let channel = start / inner % len;
                visit(start..start + inner, channel..channel + 1)
            }),
            Sharing::Group(Axis { inner: 1, len, .. }, size) => {
                let mut group = 0;
                (0..elements).step_by(len).try_for_each(|row| {
                    (0..len).step_by(size).try_for_each(|start| {
                        group += 1;
                        visit(row + start..row + (start + size).min(len), group - 1..group)
                    })
                })
            }
            Sharing::Group(Axis { inner, .. }, _) => (0..elements).step_by(inner).try_for_each(|start| {
                let first = self.index(start);
                visit(start..start + inner, first..first + inner)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    quickcheck! {
        fn runs_cover_every_element_once_with_its_own_scale(shape: Vec<u8>, axis: u8, size: u8) -> bool {
            let shape: Vec<usize> = shape.iter().take(4).map(|&s| usize::from(s) % 6).collect();
            if shape.is_empty() {
                return Grouping::per_channel(&shape, 0).is_err();
            }
            let (axis, size) = (usize::from(axis) % shape.len(), usize::from(size) % 5);
            let mut groupings = vec![Grouping::per_channel(&shape, axis).unwrap()];
            groupings.extend(Grouping::per_group(&shape, axis, size));
            groupings.into_iter().all(|grouping| {
                let elements = grouping.elements().unwrap();
                let mut next = 0;
                let visited = grouping.runs(elements, |run, params| {
                    assert_eq!(run.start, next);
                    assert!(params.len() == 1 || params.len() == run.len());
                    for (i, element) in run.clone().enumerate() {
                        let expected = if params.len() == 1 { params.start } else { params.start + i };
                        assert_eq!(grouping.index(element), expected);
                        assert!(expected < grouping.count());
                    }
                    next = run.end;
                    Ok(())
                });
                visited.is_ok() && next == elements
            })
        }
    }

    #[test]
    fn groups_follow_onnx() -> Result<(), Error> {
        // Axis 0 of 5 x 2 in groups of 2: scales are 3 x 2.
        let groups = Grouping::per_group(&[5, 2], 0, 2)?;
        let index: Vec<usize> = (0..10).map(|i| groups.index(i)).collect();
        assert_eq!((groups.count(), index), (6, vec![0, 1, 0, 1, 2, 3, 2, 3, 4, 5]));
        Ok(())
    }

    #[test]
    fn shapes_without_elements_have_an_index_for_any() -> Result<(), Error> {
        for shape in [[0, 3], [3, 0], [0, 0]] {
            for axis in 0..2 {
                for grouping in [Grouping::per_channel(&shape, axis)?, Grouping::per_group(&shape, axis, 2)?]
                {
                    assert_eq!(
                        [0, 1, usize::MAX].map(|element| grouping.index(element)),
                        [0; 3],
                        "{grouping:?}"
                    );
                }
            }
        }
        // Elements behind the last have a number too.
        for grouping in [Grouping::per_channel(&[2, 3], 0)?, Grouping::per_group(&[2, 3], 0, 5)?] {
            let _ = (grouping.index(6), grouping.index(usize::MAX));
        }
        Ok(())
    }

    #[test]
    fn mistakes_are_errors() {
        assert_eq!(Grouping::per_channel(&[2, 3], 2), Err(Error::Axis { axis: 2, dimensions: 2 }));
        assert_eq!(Grouping::per_group(&[2, 3], 1, 0), Err(Error::Zero { what: "group size" }));
        assert!(matches!(
            Grouping::per_channel(&[usize::MAX, 3], 0),
            Err(Error::SizeOverflow { what: "shape", .. })
        ));
    }
}
