//! What is measured: products against peers, kernels against their instruction, and the crate against itself.

use i8gemm::Kernel;

use crate::ours::{
    Op, Shape,
    Type::{F32, I8, I32, U8},
};

/// A square product, a transformer's, mobile convolutions', and matrix-vector products.
const PRODUCTS: [Shape; 12] = [
    (1, 64, 64),
    (1, 1024, 1024),
    (1, 4096, 4096),
    (8, 1024, 1024),
    (49, 960, 160),
    (196, 512, 512),
    (128, 768, 768),
    (128, 768, 3072),
    (512, 512, 512),
    (1024, 1024, 1024),
    (3136, 64, 64),
    (784, 1152, 128),
];

/// Few rows, and sizes that are multiples of nothing.
const OTHERS: [Shape; 11] = [
    (2, 1024, 1024),
    (3, 1024, 1024),
    (4, 1024, 1024),
    (6, 1024, 1024),
    (12, 1024, 1024),
    (16, 1024, 1024),
    (24, 1024, 1024),
    (32, 1024, 1024),
    (1, 213, 1001),
    (37, 213, 1001),
    (511, 509, 503),
];

pub const SIGNED: Op = Op::new(I8, I8, I32);
const UNSIGNED: Op = Op::new(U8, I8, I32);
/// As quantized networks have it from layer to layer.
pub const REQUANTIZED: Op = Op::new(U8, I8, U8);
const DYNAMIC: Op = Op::new(F32, I8, F32);

/// What ours is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opponent {
    /// The kernel's multiply instruction in registers.
    Ceiling,
    /// A plain sum of the bytes of the weights.
    VectorSum,
    Rten,
    Gemmkit,
    Tract,
    GemmF32,
    /// One of `peers.py`, by its name there.
    Python(&'static str),
    /// Another product of this crate.
    Ourselves {
        shape: Shape,
        op: Op,
        threads: usize,
    },
}

/// One product of ours and those it is measured against.
#[derive(Debug, Clone)]
pub struct Row {
    pub shape: Shape,
    pub op: Op,
    pub kernel: Kernel,
    pub threads: usize,
    pub opponents: Vec<Opponent>,
}

/// Every row: with the best kernel, and with each of them for the ceilings; `quick` leaves out what takes seconds. Shapes that are
/// asked for and are not among them, nor `known` otherwise, meet every peer.
pub fn rows(best: Kernel, threads: &[usize], quick: bool, asked: &[Shape], known: &[Shape]) -> Vec<Row> {
    let mut rows = usual(best, threads, quick);
    for &shape in asked.iter().filter(|shape| !known.contains(shape)) {
        for &threads in threads {
            let meets_peers = |row: &Row| {
                let itself = |opponent: &Opponent| matches!(opponent, Opponent::Ourselves { .. });
                row.shape == shape && row.threads == threads && !row.opponents.iter().all(itself)
            };
            if !rows.iter().any(meets_peers) {
                rows.extend(product(best, threads, shape));
            }
        }
    }
    rows
}

/// A product against every peer.
fn product(kernel: Kernel, threads: usize, shape: Shape) -> impl Iterator<Item = Row> {
    peers(shape).map(move |(op, opponents)| Row { shape, op, kernel, threads, opponents })
}

fn usual(best: Kernel, threads: &[usize], quick: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for &threads in threads {
        // A quick run shows every product on one thread, and what more of them bring where they bring most.
        let others: &[Shape] = if quick { &[] } else { &OTHERS };
        let products = if quick && threads > 1 { &PRODUCTS[7..10] } else { &PRODUCTS };
        for &shape in products.iter().chain(others) {
            rows.extend(product(best, threads, shape));
        }
    }
    if threads.contains(&1) {
        rows.extend(kernels(best));
        rows.extend(itself(best, quick));
    }
    for &threads in threads.iter().filter(|&&threads| threads > 1) {
        for shape in [(1024, 1024, 1024), (128, 768, 768), (1, 4096, 4096)] {
            let opponents = vec![Opponent::Ourselves { shape, op: SIGNED, threads: 1 }];
            rows.push(Row { shape, op: SIGNED, kernel: best, threads, opponents });
        }
    }
    rows
}

/// Each operation of a shape with the peers that can do it.
fn peers((m, ..): Shape) -> impl Iterator<Item = (Op, Vec<Opponent>)> {
    use Opponent::{Ceiling, GemmF32, Gemmkit, Python, Rten, Tract};
    let mut signed = vec![Ceiling, Gemmkit, Tract, GemmF32, Python("oneDNN (torch._int_mm)")];
    signed.push(Python("ONNX Runtime MatMulInteger i8"));
    // Memory is the limit of a product of one row.
    if m == 1 {
        signed[0] = Opponent::VectorSum;
    }
    [
        (SIGNED, signed),
        (UNSIGNED, vec![Rten, Python("ONNX Runtime MatMulInteger u8")]),
        (REQUANTIZED, vec![Python("ONNX Runtime QLinearMatMul")]),
        (DYNAMIC, vec![Python("FBGEMM (linear_dynamic, 7 bits)")]),
    ]
    .into_iter()
}

/// Every kernel of this CPU that is not the best one, against its own instruction.
fn kernels(best: Kernel) -> impl Iterator<Item = Row> {
    let others = Kernel::available().filter(move |kernel| *kernel != best && kernel.name() != "portable");
    others.flat_map(|kernel| {
        [(512, 512, 512), (1024, 1024, 1024)].map(|shape| {
            let opponents = vec![Opponent::Ceiling];
            Row { shape, op: SIGNED, kernel, threads: 1, opponents }
        })
    })
}

/// What signs, epilogues, zero points, ragged sizes and size itself cost.
fn itself(kernel: Kernel, quick: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut row = |shape, op, other, other_op| {
        let opponents = vec![Opponent::Ourselves { shape: other, op: other_op, threads: 1 }];
        rows.push(Row { shape, op, kernel, threads: 1, opponents });
    };
    let square = (512, 512, 512);
    for shape in [square, (3136, 64, 64), (128, 768, 768), (1, 1024, 1024)] {
        for op in
            [UNSIGNED, Op::new(I8, U8, I32), Op::new(U8, U8, I32), Op::new(I8, I8, I8), Op::new(I8, I8, F32)]
        {
            row(shape, op, shape, SIGNED);
        }
    }
    row(square, Op { rhs_zero: true, ..SIGNED }, square, SIGNED);
    row((511, 509, 503), SIGNED, square, SIGNED);
    let cube = (1024, 1024, 1024);
    row((256, 256, 256), SIGNED, cube, SIGNED);
    row((128, 4096, 1024), SIGNED, cube, SIGNED);
    if !quick {
        row((2048, 2048, 2048), SIGNED, cube, SIGNED);
        row((4096, 4096, 4096), SIGNED, cube, SIGNED);
    }
    rows
}
