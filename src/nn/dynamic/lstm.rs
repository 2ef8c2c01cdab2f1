//! Long short-term memory.

use super::recurrent::{Recurrent, Sequence};
use crate::{Error, Executor, MatMut, nn::Layer};

/// What an LSTM carries from step to step: on entry the initial state, on return the last one. Each holds layers *
/// directions x batch x hidden size values, PyTorch's order: layer after layer, forward before backward.
#[derive(Debug)]
pub struct LstmState<'a> {
    /// Hidden state, the output of the last step.
    pub h: &'a mut [f32],
    /// Cell state.
    pub c: &'a mut [f32],
}

/// Layers of long short-term memory with i8 weights and dynamically quantized activations: PyTorch's `nn.LSTM`, gates in the
/// order i, f, g, o.
///
/// `[i f g o] = x W_ih^T + b_ih + h W_hh^T + b_hh`; `c = sigmoid(f) c + sigmoid(i) tanh(g)`; `h = sigmoid(o) tanh(c)`, with
/// [`sigmoid`](crate::reference::sigmoid) and [`tanh`](crate::reference::tanh) within 5e-7. The product with `W_ih` is one for
/// all steps of a layer and direction.
///
/// ```
/// use i8gemm::{MatMut, MatRef, nn::{Layer, Lstm, LstmState, RecurrentWeights, Sequence}};
/// let (inputs, hidden, steps, batch) = (3, 2, 4, 1);
/// let (w_ih, w_hh, bias) = ([0.1f32; 8 * 3], [-0.2f32; 8 * 2], [0.05f32; 8]);
/// let w_ih = MatRef::row_major(&w_ih, 4 * hidden, inputs)?;
/// let w_hh = MatRef::row_major(&w_hh, 4 * hidden, hidden)?;
/// let lstm = Lstm::new(&[RecurrentWeights::new(w_ih, w_hh).biases(Some(&bias), None)], false)?;
///
/// let x = [1.0f32; 4 * 3];
/// let mut y = [0.0; 4 * 2];
/// let (mut h, mut c) = ([0.0; 2], [0.0; 2]);
/// let mut scratch = lstm.workspace((steps, batch))?;
/// let (x, out) = (MatRef::row_major(&x, steps * batch, inputs)?, MatMut::row_major(&mut y, steps, hidden)?);
/// lstm.forward(Sequence::new(x, batch)?, (out, LstmState { h: &mut h, c: &mut c }), &mut scratch)?;
/// assert_eq!(y[6..], h);
/// assert!((y[0] - 0.1143).abs() < 1e-3); // sigmoid(0.35) * tanh(sigmoid(0.35) * tanh(0.35))
/// # Ok::<(), i8gemm::Error>(())
/// ```
pub type Lstm = Recurrent<4>;

impl Layer for Lstm {
    /// Steps and batch.
    type Shape = (usize, usize);
    type Input<'a> = Sequence<'a>;
    /// Of all steps, and the state.
    type Output<'a> = (MatMut<'a, f32>, LstmState<'a>);
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

    /// Runs over a sequence: `x` has as many columns as there are inputs; the output is steps * batch x outputs, row for row,
    /// forward outputs before backward ones; the state is the initial one on entry and the last one on return.
    ///
    /// # Errors
    /// [`Error::Shape`]; [`Error::Length`] for the state; [`Error::NonFinite`] for a value of `x` or of the state;
    /// [`Error::BufferTooSmall`].
    fn forward_with(
        &self,
        executor: &(impl Executor + ?Sized),
        x: Sequence,
        (out, state): (MatMut<f32>, LstmState),
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        self.run(executor, x, out, state.h, state.c, scratch)
    }
}
