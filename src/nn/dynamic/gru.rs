//! Gated recurrent units.

use super::recurrent::{Recurrent, Sequence};
use crate::{Error, Executor, MatMut, nn::Layer};

/// Layers of gated recurrent units with i8 weights and dynamically quantized activations: PyTorch's `nn.GRU`, gates in the
/// order r, z, n.
///
/// `r = sigmoid(x W_ir^T + b_ir + h W_hr^T + b_hr)`, `z` likewise, `n = tanh(x W_in^T + b_in + r (h W_hn^T + b_hn))`,
/// `h = (1 - z) n + z h`, with [`sigmoid`](crate::reference::sigmoid) and [`tanh`](crate::reference::tanh) within 5e-7. The
/// product with `W_ih` is one for all steps of a layer and direction.
///
/// ```
/// use i8gemm::{MatMut, MatRef, nn::{Gru, Layer, RecurrentWeights, Sequence}};
/// let (inputs, hidden, steps, batch) = (3, 2, 4, 1);
/// let (w_ih, w_hh) = ([0.1f32; 6 * 3], [-0.2f32; 6 * 2]);
/// let w_ih = MatRef::row_major(&w_ih, 3 * hidden, inputs)?;
/// let w_hh = MatRef::row_major(&w_hh, 3 * hidden, hidden)?;
/// let gru = Gru::new(&[RecurrentWeights::new(w_ih, w_hh)], false)?;
///
/// let x = [1.0f32; 4 * 3];
/// let (mut y, mut h) = ([0.0; 4 * 2], [0.0; 2]);
/// let mut scratch = gru.workspace((steps, batch))?;
/// let (x, out) = (MatRef::row_major(&x, steps * batch, inputs)?, MatMut::row_major(&mut y, steps, hidden)?);
/// gru.forward(Sequence::new(x, batch)?, (out, &mut h), &mut scratch)?;
/// assert_eq!(y[6..], h);
/// assert!((y[0] - 0.1240).abs() < 1e-3); // (1 - sigmoid(0.3)) * tanh(0.3)
/// # Ok::<(), i8gemm::Error>(())
/// ```
pub type Gru = Recurrent<3>;

impl Layer for Gru {
    /// Steps and batch.
    type Shape = (usize, usize);
    type Input<'a> = Sequence<'a>;
    /// Of all steps, and the state.
    type Output<'a> = (MatMut<'a, f32>, &'a mut [f32]);
    type Done = ();

    fn shape_of(&self, x: &Sequence) -> (usize, usize) {
        (x.steps(), x.batch())
    }

    fn workspace_size_with(
        &self,
        shape: (usize, usize),
        executor: &(impl Executor + ?Sized),
    ) -> Result<usize, Error> {
        self.scratch_size(shape, executor)
    }

    /// Runs over a sequence, shapes and errors as those of an [`Lstm`](super::Lstm); the state is layers * directions x batch x hidden
    /// size values.
    fn forward_with(
        &self,
        executor: &(impl Executor + ?Sized),
        x: Sequence,
        (out, h): (MatMut<f32>, &mut [f32]),
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        self.run(executor, x, out, h, &mut [], scratch)
    }
}
