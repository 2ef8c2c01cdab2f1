//! Layers against the answers of PyTorch.

use crate::*;

#[derive(Deserialize)]
struct Golden {
    op: String,
    #[serde(default)]
    shape: Vec<usize>,
    inputs: Vec<Vec<u8>>,
    params: Vec<Params>,
    #[serde(default)]
    relu: bool,
    #[serde(default)]
    kernel: [usize; 2],
    #[serde(default)]
    stride: [usize; 2],
    #[serde(default)]
    padding: [usize; 2],
    #[serde(default)]
    dilation: usize,
    #[serde(default)]
    include: bool,
    #[serde(default)]
    weights: Vec<i8>,
    #[serde(default)]
    weight_scales: Vec<f32>,
    #[serde(default)]
    bias: Vec<f32>,
    y: Vec<u8>,
    exact: bool,
}

#[derive(Deserialize, Clone, Copy)]
struct Params {
    scale: f32,
    zero_point: i32,
}

impl From<Params> for QParams {
    fn from(Params { scale, zero_point }: Params) -> Self {
        Self { scale, zero_point }
    }
}

/// PyTorch adds dequantized values and divides by the output's scale last: where scales are no powers of two, sums close to a tie
/// may fall on the other side of it.
#[test]
fn answers_of_pytorch() {
    for (i, case) in cases::<Golden>("layers_torch.json").iter().enumerate() {
        let p: Vec<QParams> = case.params.iter().map(|&p| p.into()).collect();
        let relu = |config: StaticConfig<'static, u8>| if case.relu { config.relu() } else { config };
        let window = || {
            let Golden { kernel: [kh, kw], stride: [sh, sw], padding: [ph, pw], dilation, .. } = *case;
            Window::new(kh, kw).stride(sh, sw).padding(ph, pw).dilation(dilation, dilation)
        };
        let image = || Nhwc::new(case.shape[0], case.shape[1], case.shape[2], case.shape[3]);
        let x = &case.inputs[0];
        let mut y = vec![0u8; case.y.len()];
        let average = |pool: AveragePool<u8, u8>, y: &mut [u8]| {
            pool.apply(Images::new(x, image()).unwrap(), y).unwrap();
        };
        match &case.op[..] {
            "add" => {
                let add = Add::<u8, u8>::new(p[1], relu(StaticConfig::new(p[0], p[2]))).unwrap();
                add.forward(x, &case.inputs[1], &mut y).unwrap();
            }
            "average_pool" => {
                let pool = AveragePool::new(window(), StaticConfig::new(p[0], p[0])).unwrap();
                average(if case.include { pool } else { pool.exclude_padding() }, &mut y);
            }
            "global_average_pool" => {
                average(AveragePool::global(StaticConfig::new(p[0], p[0])).unwrap(), &mut y);
            }
            "max_pool" => {
                MaxPool::new(window())
                    .unwrap()
                    .forward(Images::new(x, image()).unwrap(), &mut y, &mut [])
                    .unwrap();
            }
            "linear" => {
                let &[m, k, n] = &case.shape[..] else { panic!("{:?}", case.shape) };
                let real: Vec<f32> =
                    (0..n * k).map(|i| f32::from(case.weights[i]) * case.weight_scales[i / k]).collect();
                let config = StaticConfig::new(p[0], p[1]).weight_scales(&case.weight_scales);
                let config = if case.relu { config.relu() } else { config };
                let weights = MatRef::row_major(&real, n, k).unwrap();
                let linear = StaticLinear::<u8, u8>::new(weights, Some(&case.bias), config).unwrap();
                let out = MatMut::row_major(&mut y, m, n).unwrap();
                let mut scratch = linear.workspace(m).unwrap();
                linear.forward(MatRef::row_major(x, m, k).unwrap(), out, &mut scratch).unwrap();
            }
            other => panic!("unknown layer {other}"),
        }
        let wrong = y.iter().zip(&case.y).filter(|(a, b)| a != b).count();
        let far = y.iter().zip(&case.y).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        println!("case {i}, {}: {wrong} of {} differ, by {far} at most", case.op, y.len());
        let allowed = if case.exact { (0, 0) } else { (y.len() / 50, 1) };
        assert!(wrong <= allowed.0 && far <= allowed.1, "case {i}, {}: {y:?}, not {:?}", case.op, case.y);
    }
}
