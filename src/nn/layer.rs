//! What running a layer is, whichever it is.

use crate::{Error, Executor, Sequential, Workspace};

/// A layer that is run: it reads an input, writes an output, and needs scratch for it.
///
/// Calls allocate nothing: scratch is the caller's, of any alignment and at least the size that the layer says. What is enough for a
/// shape is enough for every smaller one, and for other layers that need no more. All errors are found before anything is written.
/// A layer can run on several threads at once, each with a scratch of its own.
///
/// ```
/// use i8gemm::{Error, Executor, MatMut, MatRef, Workspace, nn::{Layer, Linear}};
/// /// Whatever the layer: scratch that grows where there is too little of it, and the call.
/// fn run<L: Layer>(
///     layer: &L, pool: &dyn Executor, x: L::Input<'_>, y: L::Output<'_>, scratch: &mut Workspace,
/// ) -> Result<L::Done, Error> {
///     scratch.grow(layer.workspace_size_with(layer.shape_of(&x), pool)?)?;
///     layer.forward_with(pool, x, y, scratch)
/// }
///
/// let linear = Linear::new(MatRef::row_major(&[0.5, -1.0, 0.25], 1, 3)?, None)?;
/// let (x, mut y) = (MatRef::row_major(&[1.0, 2.0, -1.0], 1, 3)?, [0.0]);
/// run(&linear, &i8gemm::Sequential, x, MatMut::row_major(&mut y, 1, 1)?, &mut Workspace::default())?;
/// assert!((y[0] - -1.75).abs() < 0.03);
/// # Ok::<(), i8gemm::Error>(())
/// ```
pub trait Layer {
    /// What decides how much scratch a call needs: rows, examples, steps and batch, or the shape of images.
    type Shape: Copy;
    /// What it reads.
    type Input<'a>;
    /// What it writes.
    type Output<'a>;
    /// What a call gives back: the shape of the images that it wrote, or nothing.
    type Done;

    /// The shape of an input.
    fn shape_of(&self, x: &Self::Input<'_>) -> Self::Shape;

    /// Bytes of scratch that [`Layer::forward_with`] needs for inputs up to that shape on that executor, or one of fewer threads.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`]; for images that the layer cannot read, what is wrong with their shape.
    fn workspace_size_with(
        &self,
        shape: Self::Shape,
        executor: &(impl Executor + ?Sized),
    ) -> Result<usize, Error>;

    /// Computes `y` from `x`, in parts on the threads of an executor where there is enough work for them: the same bits, however many.
    ///
    /// # Errors
    /// [`Error::Shape`] for inputs and outputs that do not fit the layer or each other; [`Error::BufferTooSmall`] for a scratch of
    /// less than [`Layer::workspace_size_with`] bytes; and those that the layer itself names.
    fn forward_with(
        &self,
        executor: &(impl Executor + ?Sized),
        x: Self::Input<'_>,
        y: Self::Output<'_>,
        scratch: &mut [u8],
    ) -> Result<Self::Done, Error>;

    /// Bytes of scratch that [`Layer::forward`] needs for inputs up to that shape.
    ///
    /// # Errors
    /// As [`Layer::workspace_size_with`].
    fn workspace_size(&self, shape: Self::Shape) -> Result<usize, Error> {
        self.workspace_size_with(shape, &Sequential)
    }

    /// Scratch for [`Layer::forward`] with inputs up to that shape.
    ///
    /// # Errors
    /// As [`Layer::workspace_size_with`]; [`Error::SizeOverflow`] when there is no memory for it.
    fn workspace(&self, shape: Self::Shape) -> Result<Workspace, Error> {
        Workspace::with_size(self.workspace_size(shape)?)
    }

    /// As [`Layer::forward_with`], on the caller's thread.
    ///
    /// # Errors
    /// As [`Layer::forward_with`]; the scratch must have [`Layer::workspace_size`] bytes.
    #[inline]
    fn forward(
        &self,
        x: Self::Input<'_>,
        y: Self::Output<'_>,
        scratch: &mut [u8],
    ) -> Result<Self::Done, Error> {
        self.forward_with(&Sequential, x, y, scratch)
    }

    /// As [`Layer::forward`], with scratch of its own: the convenient form.
    ///
    /// # Errors
    /// As [`Layer::forward`] and [`Layer::workspace`].
    fn apply(&self, x: Self::Input<'_>, y: Self::Output<'_>) -> Result<Self::Done, Error> {
        let mut scratch = self.workspace(self.shape_of(&x))?;
        self.forward(x, y, &mut scratch)
    }
}
