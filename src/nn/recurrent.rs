//! What LSTM and GRU share: layers, directions, and the products of a step.

use alloc::vec::Vec;

use super::{
    Config,
    projection::projection,
    scratch::{Activations, Carver, Size},
};
use crate::{
    Error, Executor, Kernel, MatMut, MatRef, Product,
    gemm::{check_len, check_shape},
    memory,
    quant::{DynamicQuantizer, Engine},
};

/// The f32 weights of one layer and direction, as PyTorch lays them out: G gates of H rows each, one after the other.
#[derive(Debug, Clone, Copy)]
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

/// The layers of a recurrent network with `GATES` gates: 4 for an LSTM, 3 for a GRU.
#[derive(Debug)]
pub(super) struct Stack<const GATES: usize> {
    /// Layer after layer, forward before backward.
    cells: Vec<Cell>,
    directions: usize,
    inputs: usize,
    hidden: usize,
    quantizer: DynamicQuantizer,
    kernel: Kernel,
}

#[derive(Debug)]
struct Cell {
    input: Product,
    hidden: Product,
}

impl<const GATES: usize> Stack<GATES> {
    pub fn new(weights: &[RecurrentWeights], bidirectional: bool, config: Config) -> Result<Self, Error> {
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
            Ok(Cell {
                input: projection(w.input, w.input_bias, &config)?,
                hidden: projection(w.hidden, w.hidden_bias, &config)?,
            })
        });
        let cells = memory::try_collected("weights of layers", cells)?;
        let kernel = config.chosen_kernel()?;
        Ok(Self { cells, directions, inputs, hidden, quantizer: config.quantizer(kernel), kernel })
    }

    pub fn inputs(&self) -> usize {
        self.inputs
    }

    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Features of a row of the output.
    pub fn outputs(&self) -> usize {
        self.directions * self.hidden
    }

    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Values of a state.
    pub fn state_len(&self, batch: usize) -> Result<usize, Error> {
        let rows = self.cells.len();
        let len = rows.checked_mul(batch).and_then(|n| n.checked_mul(self.hidden));
        len.ok_or(Error::SizeOverflow { what: "state", rows, cols: batch })
    }

    /// Columns of the input of any layer, at most.
    fn widest(&self) -> usize {
        if self.cells.len() > self.directions { self.inputs.max(self.outputs()) } else { self.inputs }
    }

    /// Values of the outputs between layers.
    fn between(&self) -> usize {
        if self.cells.len() > self.directions { self.outputs() } else { 0 }
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> usize {
        self.cells.iter().map(|cell| cell.input.bytes() + cell.hidden.bytes()).sum()
    }

    pub fn workspace_size(
        &self,
        steps: usize,
        batch: usize,
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
    #[allow(clippy::too_many_arguments, reason = "LSTM and GRU name theirs")]
    pub fn forward(
        &self,
        executor: &(impl Executor + ?Sized),
        x: MatRef<f32>,
        mut out: MatMut<f32>,
        batch: usize,
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
        // No batch has no rows.
        let steps = rows.checked_div(batch).unwrap_or(0);
        check_shape("rows of x, a multiple of the batch", steps * batch, rows)?;
        let engine = Engine::new(Some(self.kernel))?;
        engine.finite_extent("state h", h)?;
        engine.finite_extent("state c", c)?;
        let mut carver = Carver::new(scratch, self.workspace_size(steps, batch, executor)?)?;
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
