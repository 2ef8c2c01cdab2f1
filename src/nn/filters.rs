//! What the filters of a convolution read and write.

use crate::{Error, image::Window};

/// The filters of a convolution: a window, and how many channels it reads and writes.
///
/// ```
/// use i8gemm::nn::{Filters, Window};
/// let three = Window::new(3, 3).padding(1, 1);
/// let dense = Filters::new(64, 128, three);
/// let grouped = Filters::new(64, 128, three).groups(4); // each output reads 16 channels
/// let depthwise = Filters::depthwise(64, three); // each output reads the channel of its own number
/// assert_eq!(depthwise, Filters::new(64, 64, three).groups(64));
/// # let _ = (dense, grouped);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filters {
    /// Channels of the input image.
    pub inputs: usize,
    /// Channels of the output image.
    pub outputs: usize,
    /// Groups of channels: output channels of a group read the input channels of that group only.
    pub groups: usize,
    /// Where the filters' taps are.
    pub window: Window,
}

impl Filters {
    /// In one group: every output channel reads every input channel.
    #[must_use]
    pub const fn new(inputs: usize, outputs: usize, window: Window) -> Self {
        Self { inputs, outputs, groups: 1, window }
    }

    /// One filter for each channel.
    #[must_use]
    pub const fn depthwise(channels: usize, window: Window) -> Self {
        Self { inputs: channels, outputs: channels, groups: channels, window }
    }

    /// In so many groups.
    #[must_use]
    pub const fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// Checks everything, and gives the channels that a filter reads and the weights that it has.
    pub(crate) fn check(&self) -> Result<(usize, usize), Error> {
        self.window.check()?;
        if self.groups == 0 {
            return Err(Error::Zero { what: "groups" });
        }
        for (what, channels) in [("input channels", self.inputs), ("output channels", self.outputs)] {
            if channels == 0 {
                return Err(Error::Zero { what });
            }
            if !channels.is_multiple_of(self.groups) {
                return Err(Error::Groups { what, channels, groups: self.groups });
            }
        }
        let depth = self.inputs / self.groups;
        let (height, width) = self.window.size();
        let weights = height.checked_mul(width).and_then(|taps| taps.checked_mul(depth));
        let overflow = Error::SizeOverflow { what: "filters", rows: height, cols: width };
        let weights = weights.ok_or(overflow)?;
        weights.checked_mul(self.outputs).ok_or(overflow)?;
        Ok((depth, weights))
    }
}
