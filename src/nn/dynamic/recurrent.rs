//! What LSTM and GRU share: layers, directions, and the products of a step.

use alloc::vec::Vec;

use super::{DynamicConfig, projection::projection};
use crate::{
    Error, Executor, Kernel, MatMut, MatRef, Product,
    check::{check_len, check_shape},
    memory,
    nn::scratch::{Activations, Carver, Size},
    quant::{DynamicQuantizer, Engine},
};

/// The f32 weights of one layer and direction, as PyTorch lays them out: G gates of H rows each, one after the other.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RecurrentWeights<'a> {
    /// `weight_ih`, G * H x inputs: inputs of the network in the first layer, above it H, or 2 * H with both directions.
    pub input: MatRef<'a, f32>,
    /// `weight_hh`, G * H x H.
    pub hidden: MatRef<'a, f32>,
    /// `bias_ih`, G * H values.
    pub input_bias: Option<&'a [f32]>,
    /// `bias_hh`, G * H values.
    pub hidden_bias: Option<&'a [f32]>,
}

impl<'a> RecurrentWeights<'a> {
    /// `weight_ih` and `weight_hh`, without biases.
    #[must_use]
    pub const fn new(input: MatRef<'a, f32>, hidden: MatRef<'a, f32>) -> Self {
        Self { input, hidden, input_bias: None, hidden_bias: None }
    }

    /// `bias_ih` and `bias_hh`, where there are any.
    #[must_use]
    pub const fn biases(self, input: Option<&'a [f32]>, hidden: Option<&'a [f32]>) -> Self {
        Self { input_bias: input, hidden_bias: hidden, ..self }
    }
}

/// Steps of a batch: row `t * batch + b` of the matrix is step t of row b of the batch.
///
/// ```
/// use i8gemm::{MatRef, nn::Sequence};
/// let x = MatRef::row_major(&[0.0f32; 6 * 3], 6, 3)?; // 3 features
/// assert_eq!(Sequence::new(x, 2)?.steps(), 3);
/// assert!(Sequence::new(x, 4).is_err());
/// # Ok::<(), i8gemm::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Sequence<'a> {
    x: MatRef<'a, f32>,
    steps: usize,
    batch: usize,
}

impl<'a> Sequence<'a> {
    /// Of steps * batch rows. There may be no steps.
    ///
    /// # Errors
    /// [`Error::Shape`] for rows that are no multiple of the batch.
    pub fn new(x: MatRef<'a, f32>, batch: usize) -> Result<Self, Error> {
        // No batch has no rows.
        let steps = x.rows().checked_div(batch).unwrap_or(0);
        check_shape("rows of x, a multiple of the batch", steps * batch, x.rows())?;
        Ok(Self { x, steps, batch })
    }

    /// Steps.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Rows of each step.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.batch
    }
}

/// Layers of recurrent units with `GATES` gates, in one or both directions: [`Lstm`](super::Lstm) has 4, [`Gru`](super::Gru) 3.
#[derive(Debug)]
pub struct Recurrent<const GATES: usize> {
    /// Layer after layer, forward before backward.
    cells: Vec<CellProducts>,
    directions: usize,
    inputs: usize,
    hidden: usize,
    quantizer: DynamicQuantizer,
    kernel: Kernel,
}

#[derive(Debug)]
struct CellProducts {
    input: Product,
    hidden: Product,
}

impl<const GATES: usize> Recurrent<GATES> {
    /// From the weights of each layer; when bidirectional, two for each: forward, then backward (`weight_ih_l0`,
    /// `weight_ih_l0_reverse`, `weight_ih_l1` ...).
    ///
    /// # Errors
    /// [`Error::Zero`] for no layer or no hidden unit; [`Error::Shape`], [`Error::Length`] for weights and biases that do not
    /// fit; otherwise as [`Linear::new`](super::Linear::new).
    pub fn new(weights: &[RecurrentWeights], bidirectional: bool) -> Result<Self, Error> {
        Self::with_config(weights, bidirectional, DynamicConfig::default())
    }

    /// As [`Recurrent::new`], quantized as the caller chooses.
    ///
    /// # Errors
    /// As [`Recurrent::new`]; [`Error::KernelUnavailable`] when this CPU cannot run the kernel.
    pub fn with_config(
        weights: &[RecurrentWeights],
        bidirectional: bool,
        config: DynamicConfig,
    ) -> Result<Self, Error> {
        const { assert!(GATES == 4 || GATES == 3, "LSTM or GRU") };
        let directions = if bidirectional { 2 } else { 1 };
        let Some(first) = weights.first() else { return Err(Error::Zero { what: "number of layers" }) };
        let (inputs, hidden) = (first.input.cols(), first.hidden.cols());
        if hidden == 0 {
            return Err(Error::Zero { what: "hidden size" });
        }
        let whole_layers = weights.len().next_multiple_of(directions);
        check_shape("weights of layers, two for each when bidirectional", whole_layers, weights.len())?;
        let overflow = Error::SizeOverflow { what: "gates", rows: hidden, cols: GATES };
        let gates = hidden.checked_mul(GATES).ok_or(overflow)?;
        // Fail before any weight is quantized, so that all of them need not be for a wrong shape in the last.
        for (i, w) in weights.iter().enumerate() {
            let inputs = if i < directions { inputs } else { directions * hidden };
            check_shape("rows of input weights (gates * hidden size)", gates, w.input.rows())?;
            check_shape("columns of input weights", inputs, w.input.cols())?;
            check_shape("rows of hidden weights (gates * hidden size)", gates, w.hidden.rows())?;
            check_shape("columns of hidden weights (hidden size)", hidden, w.hidden.cols())?;
        }
        let cells = weights.iter().map(|w| {
            Ok(CellProducts {
                input: projection(w.input, w.input_bias, &config)?,
                hidden: projection(w.hidden, w.hidden_bias, &config)?,
            })
        });
        let cells = memory::try_collected("weights of layers", cells)?;
        let kernel = config.chosen_kernel()?;
        Ok(Self { cells, directions, inputs, hidden, quantizer: config.quantizer(kernel), kernel })
    }

    /// Features of a row of `x`.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Units of a layer and direction.
    #[must_use]
    pub fn hidden_size(&self) -> usize {
        self.hidden
    }

    /// Features of a row of the output: directions * hidden size.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.directions * self.hidden
    }

    /// The kernel that the layer runs on.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Values of each part of the state: layers * directions * batch * hidden size.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`].
    pub fn state_len(&self, batch: usize) -> Result<usize, Error> {
        let rows = self.cells.len();
        let len = rows.checked_mul(batch).and_then(|n| n.checked_mul(self.hidden));
        len.ok_or(Error::SizeOverflow { what: "state", rows, cols: batch })
    }

    /// Bytes that the quantized weights take, with scales, biases, and what the kernel needs beside them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.cells.iter().map(|cell| cell.input.bytes() + cell.hidden.bytes()).sum()
    }

    /// Columns of the input of any layer, at most.
    fn widest(&self) -> usize {
        if self.cells.len() > self.directions { self.inputs.max(self.outputs()) } else { self.inputs }
    }

    /// Values of the outputs between layers.
    fn between(&self) -> usize {
        if self.cells.len() > self.directions { self.outputs() } else { 0 }
    }

    pub(super) fn scratch_size(
        &self,
        (steps, batch): (usize, usize),
        executor: &(impl Executor + ?Sized),
    ) -> Result<usize, Error> {
        let overflow = Error::SizeOverflow { what: "sequence", rows: steps, cols: batch };
        let rows = steps.checked_mul(batch).ok_or(overflow)?;
        let mut product = 0;
        for cell in &self.cells {
            product = product.max(cell.input.workspace_size_with(rows, executor)?);
            product = product.max(cell.hidden.workspace_size_with(batch, executor)?);
        }
        let gates = GATES * self.hidden;
        Size::default()
            .add_activations(&self.quantizer, rows, self.widest())?
            .add_activations(&self.quantizer, batch, self.hidden)?
            .add::<f32>(rows, gates)?
            .add::<f32>(batch, gates)?
            .add::<f32>(rows, self.between())?
            .total(product)
    }

    /// `c` is as long as `h`, or empty for a GRU.
    pub(super) fn run(
        &self,
        executor: &(impl Executor + ?Sized),
        Sequence { x, steps, batch }: Sequence,
        mut out: MatMut<f32>,
        h: &mut [f32],
        c: &mut [f32],
        scratch: &mut [u8],
    ) -> Result<(), Error> {
        let (rows, hidden) = (x.rows(), self.hidden);
        check_shape("columns of x (inputs)", self.inputs, x.cols())?;
        check_shape("rows of out", rows, out.rows())?;
        check_shape("columns of out (directions * hidden size)", self.outputs(), out.cols())?;
        let state_len = self.state_len(batch)?;
        check_len("state h", h.len(), state_len)?;
        check_len("state c", c.len(), if GATES == 4 { state_len } else { 0 })?;
        let engine = Engine::new(Some(self.kernel))?;
        engine.finite_extent("state h", h)?;
        engine.finite_extent("state c", c)?;
        let mut carver = Carver::new(scratch, self.scratch_size((steps, batch), executor)?)?;
        if rows == 0 {
            return Ok(());
        }

        let quantizer = &self.quantizer;
        let gates = GATES * hidden;
        let mut sequence = carver.take_activations(quantizer, rows, self.widest())?;
        let mut step = carver.take_activations(quantizer, batch, hidden)?;
        let input_sums = carver.take::<f32>(rows, gates)?;
        let hidden_sums = carver.take::<f32>(batch, gates)?;
        let between = carver.take::<f32>(rows, self.between())?;
        let scratch = carver.rest();

        let layers = self.cells.len() / self.directions;
        for (layer, cells) in self.cells.chunks_exact(self.directions).enumerate() {
            // The input of a layer has been quantized before its output takes the place.
            let input = if layer == 0 { x } else { MatRef::row_major(between, rows, self.outputs())? };
            let Activations { values, scales, zero_points, row_sums } = &mut sequence;
            let values = &mut values[..rows * input.cols()];
            // The only values that may be wrong are those of x, and nothing has been written yet.
            let lhs = quantizer.quantize_into::<f32, u8>(input, values, scales, zero_points, row_sums)?;
            for (direction, cell) in cells.iter().enumerate() {
                let sums = MatMut::row_major(input_sums, rows, gates)?;
                cell.input.run_with(executor, lhs, sums, scratch)?;

                let state = (layer * self.directions + direction) * batch * hidden;
                let h = &mut h[state..][..batch * hidden];
                let c = if GATES == 4 { &mut c[state..][..batch * hidden] } else { &mut [][..] };
                for at in 0..steps {
                    let row = batch * if direction == 0 { at } else { steps - 1 - at };
                    let Activations { values, scales, zero_points, row_sums } = &mut step;
                    let old = MatRef::row_major(h, batch, hidden)?;
                    let lhs =
                        quantizer.quantize_into::<f32, u8>(old, values, scales, zero_points, row_sums)?;
                    let sums = MatMut::row_major(hidden_sums, batch, gates)?;
                    cell.hidden.run_with(executor, lhs, sums, scratch)?;

                    for b in 0..batch {
                        let input = &input_sums[(row + b) * gates..][..gates];
                        let recurrent = &hidden_sums[b * gates..][..gates];
                        let h = &mut h[b * hidden..][..hidden];
                        if GATES == 4 {
                            engine.lstm(input, recurrent, h, &mut c[b * hidden..][..hidden]);
                        } else {
                            engine.gru(input, recurrent, h);
                        }
                        let first = direction * hidden;
                        if layer + 1 < layers {
                            between[(row + b) * self.outputs() + first..][..hidden].copy_from_slice(h);
                        } else if let Some(out) = out.row_slice_mut(row + b) {
                            out[first..][..hidden].copy_from_slice(h);
                        } else {
                            for (col, &value) in h.iter().enumerate() {
                                out.set(row + b, first + col, value);
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
