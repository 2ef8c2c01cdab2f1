//! Gated recurrent units.

use super::{
    Config,
    recurrent::{RecurrentWeights, Stack},
};
use crate::{Error, Executor, Kernel, MatMut, MatRef, Sequential, Workspace};

/// Layers of gated recurrent units with i8 weights and dynamically quantized activations: PyTorch's `nn.GRU`, gates in the
/// order r, z, n.
///
/// `r = sigmoid(x W_ir^T + b_ir + h W_hr^T + b_hr)`, `z` likewise, `n = tanh(x W_in^T + b_in + r (h W_hn^T + b_hn))`,
/// `h = (1 - z) n + z h`, with [`sigmoid`](crate::reference::sigmoid) and [`tanh`](crate::reference::tanh) within 5e-7. The
/// product with `W_ih` is one for all steps of a layer and direction.
///
/// ```
/// use i8gemm::{MatMut, MatRef, nn::{Gru, RecurrentWeights}};
/// let (inputs, hidden, steps, batch) = (3, 2, 4, 1);
/// let (w_ih, w_hh) = ([0.1f32; 6 * 3], [-0.2f32; 6 * 2]);
/// let gru = Gru::new(&[RecurrentWeights {
///     input: MatRef::row_major(&w_ih, 3 * hidden, inputs)?,
///     hidden: MatRef::row_major(&w_hh, 3 * hidden, hidden)?,
///     input_bias: None,
///     hidden_bias: None,
/// }], false)?;
///
/// let x = [1.0f32; 4 * 3];
/// let (mut y, mut h) = ([0.0; 4 * 2], [0.0; 2]);
/// let mut scratch = gru.workspace(steps, batch)?;
/// let (x, out) = (MatRef::row_major(&x, steps, inputs)?, MatMut::row_major(&mut y, steps, hidden)?);
/// gru.forward(x, out, batch, &mut h, &mut scratch)?;
/// assert_eq!(y[6..], h);
/// assert!((y[0] - 0.1240).abs() < 1e-3); // (1 - sigmoid(0.3)) * tanh(0.3)
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug)]
pub struct Gru(Stack<3>);

impl Gru {
    /// From the weights of each layer; when bidirectional, two for each: forward, then backward.
    ///
    /// # Errors
    /// As [`Lstm::new`](super::Lstm::new).
    pub fn new(weights: &[RecurrentWeights], bidirectional: bool) -> Result<Self, Error> {
        Self::with_config(weights, bidirectional, Config::default())
    }

    /// As [`Gru::new`], quantized as the caller chooses.
    ///
    /// # Errors
    /// As [`Gru::new`]; [`Error::KernelUnavailable`] when this CPU cannot run the kernel.
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

    /// Values of the state: layers * directions * batch * hidden size.
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

    /// Bytes of scratch that [`Gru::forward`] needs for up to `steps` steps of a batch.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn workspace_size(&self, steps: usize, batch: usize) -> Result<usize, Error> {
        self.workspace_size_with(steps, batch, &Sequential)
    }

    /// Bytes of scratch that [`Gru::forward_with`] needs for up to `steps` steps of a batch on that executor.
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

    /// Scratch for [`Gru::forward`] with up to `steps` steps of a batch.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn workspace(&self, steps: usize, batch: usize) -> Result<Workspace, Error> {
        Workspace::with_size(self.workspace_size(steps, batch)?)
    }

    /// Runs over a sequence, shapes as in [`Lstm::forward`](super::Lstm::forward). `h` holds the initial state on entry, the
    /// last one on return: layers * directions x batch x hidden size. Allocates nothing.
    ///
    /// # Errors
    /// As [`Lstm::forward`](super::Lstm::forward).
    pub fn forward(
        &self,
        x: MatRef<f32>,
        out: MatMut<f32>,
        batch: usize,
        h: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        self.forward_with(&Sequential, x, out, batch, h, scratch)
    }

    /// As [`Gru::forward`], each product in parts on the threads of an executor, if it is large enough for more than one: the
    /// same bits.
    ///
    /// # Errors
    /// As [`Gru::forward`]; the scratch must have [`Gru::workspace_size_with`] bytes.
    pub fn forward_with(
        &self,
        executor: &(impl Executor + ?Sized),
        x: MatRef<f32>,
        out: MatMut<f32>,
        batch: usize,
        h: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        self.0.forward(executor, x, out, batch, h, &mut [], scratch)
    }
}
