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

/// What convolutions have in common that make themselves of quantized weights by `from_parts`, and keep their filters and a kernel.
macro_rules! convolution {
    ($layer:ident) => {
        impl<A: Operand, T: OutputElement> $layer<A, T> {
            /// From real weights, outputs x (inputs / groups) x height x width (PyTorch's layout), and a bias, one value for each
            /// output channel, in units of the real output.
            ///
            /// # Errors
            /// [`Error::Zero`], [`Error::Groups`] for the filters, [`Error::Shape`] for depthwise ones of more inputs than groups;
            /// [`Error::Length`], [`Error::NonFinite`], [`Error::Bias`] for weights and bias; [`Error::Scale`], [`Error::ZeroPoint`]
            /// for the parameters of input, output and weights, and for scales whose quotient is 0 or infinite;
            /// [`Error::BiasType`] for an f32 bias of i32 output; [`Error::KTooLong`] for filters of more than
            /// [`MAX_SAFE_K`](crate::MAX_SAFE_K) values; [`Error::SizeOverflow`]; the errors of [`Kernel::best`].
            pub fn new(
                filters: Filters,
                weights: &[f32],
                bias: Option<&[f32]>,
                config: StaticConfig<T>,
            ) -> Result<Self, Error> {
                let (_, size) = filters.check()?;
                let weights = StaticWeights::quantize(weights, filters.outputs, size, &config)?;
                Self::from_parts(filters, &weights, bias.into(), &config)
            }

            /// From weights that are quantized already, in the same layout, their scales (one, or one for each output channel), and a
            /// bias in units of input scale * weight scale. What the configuration says of weights is not used.
            ///
            /// # Errors
            /// As [`Self::new`]; [`Error::Bias`] for a bias with which some input would make a sum leave i32.
            pub fn from_quantized<'s>(
                filters: Filters,
                weights: &[i8],
                scales: impl Into<Broadcast<'s, f32>>,
                bias: Option<&[i32]>,
                config: StaticConfig<T>,
            ) -> Result<Self, Error> {
                let (_, size) = filters.check()?;
                let weights = StaticWeights::new(weights, scales.into(), filters.outputs, size)?;
                Self::from_parts(filters, &weights, bias.into(), &config)
            }

            /// What the filters read and write.
            #[must_use]
            pub fn filters(&self) -> &Filters {
                &self.filters
            }

            /// The kernel that the layer runs on.
            #[must_use]
            pub fn kernel(&self) -> Kernel {
                self.kernel
            }

            /// The shape of the output for images of that shape.
            ///
            /// # Errors
            /// [`Error::Shape`] for other channels than the filters read; [`Error::Window`]; [`Error::SizeOverflow`].
            #[inline]
            pub fn output_shape(&self, shape: Nhwc) -> Result<Nhwc, Error> {
                check_shape("channels of x", self.filters.inputs, shape.channels)?;
                shape.elements()?;
                let out = self.filters.window.output(shape, self.filters.outputs)?;
                out.elements()?;
                Ok(out)
            }
        }
    };
}
pub(super) use convolution;
