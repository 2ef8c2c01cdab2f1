//! What is measured: products against peers, kernels against their instruction, and the crate against itself.

use i8gemm::Kernel;

use crate::ours::{
    Op, Packing, Shape,
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

/// Where peers have been faster between the shapes of everybody's benchmarks: one row of weights that each level of the caches
/// holds, few rows, a network's first layers, few columns, small cubes.
const BETWEEN: [Shape; 20] = [
    (1, 384, 384),
    (1, 512, 512),
    (1, 768, 768),
    (1, 1024, 4096),
    (1, 1536, 1536),
    (1, 4096, 1024),
    (1, 4096, 11008),
    (5, 1024, 1024),
    (4, 512, 512),
    (4, 4096, 4096),
    (6, 4096, 4096),
    (3136, 64, 256),
    (12544, 27, 32),
    (12544, 32, 64),
    (512, 512, 1),
    (4096, 1024, 1),
    (512, 512, 8),
    (512, 512, 16),
    (32, 32, 32),
    (64, 64, 64),
];

/// Those of [`BETWEEN`] that a quick run keeps.
const QUICK: [Shape; 4] = [(1, 768, 768), (12544, 27, 32), (512, 512, 1), (64, 64, 64)];

/// Products whose `rhs` is packed in the call.
const IN_CALL: [Shape; 5] =
    [(1, 384, 1536), (16, 384, 384), (128, 64, 128), (128, 384, 1536), (512, 512, 512)];

/// What kernels other than the best are held against: squares, few rows, many rows of little depth.
const OTHER_KERNELS: [Shape; 6] =
    [(512, 512, 512), (1024, 1024, 1024), (128, 768, 3072), (3136, 64, 64), (8, 1024, 1024), (1, 1024, 1024)];

/// Where quantizing the rows takes a good part of a call.
const QUANTIZED_IN_CALL: [Shape; 4] = [(3136, 64, 64), (784, 1152, 128), (49, 960, 160), (512, 512, 512)];

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
    OneDnn,
    /// One of `peers.py`, by its name there.
    Python(&'static str),
    /// This crate's depthwise layer of so many channels.
    Depthwise(usize),
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
        let (products, others): (&[Shape], &[Shape]) = match (quick, threads) {
            (true, 1) => (&PRODUCTS, &[]),
            (true, _) => (&PRODUCTS[7..10], &[]),
            (false, _) => (&PRODUCTS, &OTHERS),
        };
        let between: &[Shape] = match (quick, threads) {
            (true, 1) => &QUICK,
            (false, 1) => &BETWEEN,
            _ => &[],
        };
        for &shape in products.iter().chain(others).chain(between) {
            rows.extend(product(best, threads, shape));
        }
    }
    if threads.contains(&1) {
        rows.extend(in_call(best, quick));
        rows.extend(kernels(best));
        rows.extend(itself(best, quick));
    }
    for &threads in threads.iter().filter(|&&threads| threads > 1) {
        let signed = [(1024, 1024, 1024), (128, 768, 768), (1, 4096, 4096)].map(|shape| (shape, SIGNED));
        for (shape, op) in signed.into_iter().chain(QUANTIZED_IN_CALL.map(|shape| (shape, DYNAMIC))) {
            let opponents = vec![Opponent::Ourselves { shape, op, threads: 1 }];
            rows.push(Row { shape, op, kernel: best, threads, opponents });
        }
    }
    rows
}

/// Each operation of a shape with the peers that can do it.
fn peers((m, ..): Shape) -> impl Iterator<Item = (Op, Vec<Opponent>)> {
    use Opponent::{Ceiling, GemmF32, Gemmkit, OneDnn, Python, Rten, Tract, VectorSum};
    // Memory is the limit of a product of one row.
    let limit = if m == 1 { VectorSum } else { Ceiling };
    let ort_i8 = Python("ONNX Runtime MatMulInteger i8");
    [
        (SIGNED, vec![limit, Gemmkit, Tract, GemmF32, OneDnn, ort_i8]),
        (UNSIGNED, vec![Rten, OneDnn, Python("ONNX Runtime MatMulInteger u8")]),
        (REQUANTIZED, vec![OneDnn, Python("ONNX Runtime QLinearMatMul")]),
        (Op::new(I8, I8, I8), vec![OneDnn]),
        (Op::new(U8, I8, F32), vec![OneDnn]),
        (DYNAMIC, vec![Python("FBGEMM (linear_dynamic, 7 bits)")]),
    ]
    .into_iter()
}

/// Both orders of an `rhs` that is packed in the call. ONNX's product has one order.
fn in_call(kernel: Kernel, quick: bool) -> impl Iterator<Item = Row> {
    let shapes = if quick { &IN_CALL[1..3] } else { &IN_CALL[..] };
    shapes.iter().flat_map(move |&shape| {
        let row = |packing, opponents| {
            let op = UNSIGNED.packed_in_call(packing);
            Row { shape, op, kernel, threads: 1, opponents }
        };
        let ort = Opponent::Python("ONNX Runtime MatMulInteger u8, packing");
        [row(Packing::Rows, vec![Opponent::OneDnn, ort]), row(Packing::Columns, vec![Opponent::OneDnn])]
    })
}

/// Every kernel of this CPU that is not the best one, against its own instruction, and one row against reading the weights.
fn kernels(best: Kernel) -> impl Iterator<Item = Row> {
    let others = Kernel::available().filter(move |kernel| *kernel != best && kernel.name() != "portable");
    others.flat_map(|kernel| {
        OTHER_KERNELS.map(|shape| {
            let opponents = vec![if shape.0 == 1 { Opponent::VectorSum } else { Opponent::Ceiling }];
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
