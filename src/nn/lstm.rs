//! Long short-term memory.

use super::{
    Config,
    recurrent::{RecurrentWeights, Stack},
};
use crate::{Error, Executor, Kernel, MatMut, MatRef, Sequential, Workspace};

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
/// use i8gemm::{MatMut, MatRef, nn::{Lstm, LstmState, RecurrentWeights}};
/// let (inputs, hidden, steps, batch) = (3, 2, 4, 1);
/// let (w_ih, w_hh, bias) = ([0.1f32; 8 * 3], [-0.2f32; 8 * 2], [0.05f32; 8]);
/// let lstm = Lstm::new(&[RecurrentWeights {
///     input: MatRef::row_major(&w_ih, 4 * hidden, inputs)?,
///     hidden: MatRef::row_major(&w_hh, 4 * hidden, hidden)?,
///     input_bias: Some(&bias),
///     hidden_bias: None,
/// }], false)?;
///
/// let x = [1.0f32; 4 * 3];
/// let mut y = [0.0; 4 * 2];
/// let (mut h, mut c) = ([0.0; 2], [0.0; 2]);
/// let mut scratch = lstm.workspace(steps, batch)?;
/// let (x, out) = (MatRef::row_major(&x, steps, inputs)?, MatMut::row_major(&mut y, steps, hidden)?);
/// lstm.forward(x, out, batch, LstmState { h: &mut h, c: &mut c }, &mut scratch)?;
/// assert_eq!(y[6..], h);
/// assert!((y[0] - 0.1143).abs() < 1e-3); // sigmoid(0.35) * tanh(sigmoid(0.35) * tanh(0.35))
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug)]
pub struct Lstm(Stack<4>);

impl Lstm {
    /// From the weights of each layer; when bidirectional, two for each: forward, then backward (`weight_ih_l0`,
    /// `weight_ih_l0_reverse`, `weight_ih_l1` ...).
    ///
    /// # Errors
    /// [`Error::Zero`] for no layer or no hidden unit; [`Error::Shape`], [`Error::Length`] for weights and biases that do not
    /// fit; otherwise as [`Linear::new`](super::Linear::new).
    pub fn new(weights: &[RecurrentWeights], bidirectional: bool) -> Result<Self, Error> {
        Self::with_config(weights, bidirectional, Config::default())
    }

    /// As [`Lstm::new`], quantized as the caller chooses.
    ///
    /// # Errors
    /// As [`Lstm::new`]; [`Error::KernelUnavailable`] when this CPU cannot run the kernel.
    pub fn with_config(
        weights: &[RecurrentWeights],
        bidirectional: bool,
        config: Config,
    ) -> Result<Self, Error> {
        Stack::new(weights, bidirectional, config).map(Self)
    }

    /// Features of a row of `x`.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.0.inputs()
    }

    /// Units of a layer and direction.
    #[must_use]
    pub fn hidden_size(&self) -> usize {
        self.0.hidden()
    }

    /// Features of a row of the output: directions * hidden size.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.0.outputs()
    }

    /// The kernel that the layer runs on.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.0.kernel()
    }

    /// Values of each part of the state: layers * directions * batch * hidden size.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn state_len(&self, batch: usize) -> Result<usize, Error> {
        self.0.state_len(batch)
    }

    /// Bytes that the quantized weights take, with scales, biases, and what the kernel needs beside them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Bytes of scratch that [`Lstm::forward`] needs for up to `steps` steps of a batch.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn workspace_size(&self, steps: usize, batch: usize) -> Result<usize, Error> {
        self.workspace_size_with(steps, batch, &Sequential)
    }

    /// Bytes of scratch that [`Lstm::forward_with`] needs for up to `steps` steps of a batch on that executor.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn workspace_size_with(
        &self,
        steps: usize,
        batch: usize,
        executor: &(impl Executor + ?Sized),
    ) -> Result<usize, Error> {
        self.0.workspace_size(steps, batch, executor)
    }

    /// Scratch for [`Lstm::forward`] with up to `steps` steps of a batch.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn workspace(&self, steps: usize, batch: usize) -> Result<Workspace, Error> {
        Workspace::with_size(self.workspace_size(steps, batch)?)
    }

    /// Runs over a sequence: `x` is steps * batch x inputs, `out` steps * batch x outputs, row `t * batch + b` being step t of
    /// row b of the batch; forward outputs come before backward ones. A sequence may have no steps. Allocates nothing.
    ///
    /// # Errors
    /// [`Error::Shape`], with rows of `x` that are no multiple of the batch among them; [`Error::Length`] for the state;
    /// [`Error::NonFinite`] for a value of `x` or of the state; [`Error::BufferTooSmall`] for the scratch. Nothing has been
    /// written to `out` or the state then.
    pub fn forward(
        &self,
        x: MatRef<f32>,
        out: MatMut<f32>,
        batch: usize,
        state: LstmState,
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        self.forward_with(&Sequential, x, out, batch, state, scratch)
    }

    /// As [`Lstm::forward`], each product in parts on the threads of an executor, if it is large enough for more than one: the
    /// same bits.
    ///
    /// # Errors
    /// As [`Lstm::forward`]; the scratch must have [`Lstm::workspace_size_with`] bytes.
    pub fn forward_with(
        &self,
        executor: &(impl Executor + ?Sized),
        x: MatRef<f32>,
        out: MatMut<f32>,
        batch: usize,
        state: LstmState,
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        self.0.forward(executor, x, out, batch, state.h, state.c, scratch)
    }
}
