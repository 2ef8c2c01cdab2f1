//! Products whose `rhs` comes with the call, as the two operands of attention do: it is packed into a buffer that is kept.

use anyhow::{Result, ensure};
use i8gemm::{Gemm, Kernel, Lhs, MatMut, MatRef, Operand, Output, PackedRhs, Rhs};

use super::{LHS_ZERO, Op, Operands, Type, macs};
use crate::pairs::{Clock, Contender, checksum};

/// Calls `f` with the product of these operands, to i32 and on one thread.
pub fn with<W: Operand, R>(
    operands: &Operands,
    op: Op,
    kernel: Kernel,
    f: impl FnOnce(&mut dyn Contender) -> Result<R>,
) -> Result<R> {
    ensure!(op.out == Type::I32 && !op.rhs_zero, "{op} is not measured");
    let ((m, k, n), rhs) = (operands.shape, operands.rhs::<W>(op)?);
    let packed = vec![0; PackedRhs::size(kernel, &Rhs::new(rhs))?];
    let weights = PackedRhs::pack_for(kernel, rhs)?;
    let scratch = vec![0; Gemm::new(&weights, Output::i32())?.workspace_size(m)?];
    drop(weights);
    let out = vec![0; m * n];
    match op.lhs {
        Type::U8 => {
            let lhs = MatRef::<u8>::row_major(bytemuck::cast_slice(&operands.lhs), m, k)?;
            f(&mut InCall { kernel, lhs, rhs, packed, scratch, out })
        }
        _ => {
            let lhs = MatRef::row_major(&operands.lhs, m, k)?;
            f(&mut InCall { kernel, lhs, rhs, packed, scratch, out })
        }
    }
}

struct InCall<'a, A, W> {
    kernel: Kernel,
    lhs: MatRef<'a, A>,
    rhs: MatRef<'a, W>,
    packed: Vec<u8>,
    scratch: Vec<u8>,
    out: Vec<i32>,
}

impl<A: Operand, W: Operand> InCall<'_, A, W> {
    fn call(&mut self) -> Result<()> {
        let weights = PackedRhs::pack_into(self.kernel, &Rhs::new(self.rhs), &mut self.packed)?;
        let out = MatMut::row_major(&mut self.out, self.lhs.rows(), self.rhs.cols())?;
        let lhs = Lhs::new(self.lhs).zero_point(LHS_ZERO);
        Ok(Gemm::new(&weights, Output::i32())?.run(lhs, out, &mut self.scratch)?)
    }
}

impl<A: Operand, W: Operand> Contender for InCall<'_, A, W> {
    fn work(&self) -> f64 {
        macs((self.lhs.rows(), self.lhs.cols(), self.rhs.cols()))
    }

    fn seconds(&mut self, calls: usize, clock: Clock) -> Result<f64> {
        let mut result = Ok(());
        let seconds = clock.time(|| result = (0..calls).try_for_each(|_| self.call()));
        result.map(|()| seconds)
    }

    fn sums(&mut self) -> Result<Option<(i32, i64)>> {
        self.call()?;
        Ok(Some((LHS_ZERO, checksum(self.out.iter().copied()))))
    }
}
