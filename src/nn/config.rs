//! How a layer quantizes.

use crate::{Error, Kernel, quant::DynamicQuantizer};

/// How a layer quantizes its weights and activations, and the kernel it runs on. The default is the most accurate: a scale for
/// each output channel of the weights and for each row of the activations.
///
/// Scales are as small as the weights ask for; PyTorch has a floor of 2^-23, below which weights lose their bits.
///
/// ```
/// use i8gemm::{Kernel, nn::Config};
/// let config = Config::default().per_tensor_weights().kernel(Kernel::by_name("portable")?);
/// # let _ = config;
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Config {
    pub(super) tensor_weights: bool,
    tensor_activations: bool,
    kernel: Option<Kernel>,
}

impl Config {
    /// One scale for all of a weight matrix.
    #[must_use]
    pub fn per_tensor_weights(self) -> Self {
        Self { tensor_weights: true, ..self }
    }

    /// One scale and zero point for all rows that are multiplied together: the matrix of a [`Linear`](super::Linear); of a
    /// recurrent layer all steps of its input, and the batch of each step's state. The result of a row then depends on the
    /// others.
    #[must_use]
    pub fn per_tensor_activations(self) -> Self {
        Self { tensor_activations: true, ..self }
    }

    /// Packs for and runs on this kernel instead of [`Kernel::best`].
    #[must_use]
    pub fn kernel(self, kernel: Kernel) -> Self {
        Self { kernel: Some(kernel), ..self }
    }

    pub(super) fn chosen_kernel(&self) -> Result<Kernel, Error> {
        self.kernel.map_or_else(Kernel::best, Ok)
    }

    pub(super) fn quantizer(&self, kernel: Kernel) -> DynamicQuantizer {
        let granularity = if self.tensor_activations {
            DynamicQuantizer::per_tensor()
        } else {
            DynamicQuantizer::per_row()
        };
        granularity.kernel(kernel)
    }
}
