//! How a layer quantizes.

use crate::{Error, Kernel, quant::DynamicQuantizer};

/// How a layer quantizes its weights and activations, and the kernel it runs on. The default is the most accurate: a scale for
/// each output channel of the weights and for each row of the activations.
///
/// Scales are as small as the weights and activations ask for, and 1 where no normal f32 is small enough, as for weights that are
/// all 0. PyTorch's scales end at 2^-23: weights that ask for less lose bits there, and keep them here.
///
/// A sum is multiplied by the product of two scales, that of its row of activations and that of its weights. That product is an
/// f32 too: where it is below the normal f32, about 1.2e-38, results lose bits, and where it is below 1.4e-45 they are 0. Magnitudes
/// of 1e-16 and above on both sides keep clear of it.
///
/// ```
/// use i8gemm::{Kernel, nn::DynamicConfig};
/// let config = DynamicConfig::default().per_tensor_weights().kernel(Kernel::by_name("portable")?);
/// # let _ = config;
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct DynamicConfig {
    pub(super) tensor_weights: bool,
    tensor_activations: bool,
    kernel: Option<Kernel>,
}

impl DynamicConfig {
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
        Kernel::chosen(self.kernel)
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
