//! The digits and the network of the quickstart, whose README.md describes both formats and where they come from.

pub mod linear;

/// Images that the network was trained on; the rest is held out.
pub const TRAIN: usize = 1297;

/// Handwritten digits of 8 x 8 pixels.
pub struct Digits {
    /// 64 for each image, row by row, in 0.0..=1.0.
    pub pixels: Vec<f32>,
    /// 0..=9, one for each image.
    pub labels: Vec<u8>,
}

/// A linear layer: `y[o] = sum over i of weights[o][i] * x[i] + bias[o]`, negative ones made 0 if `relu`.
pub struct Layer {
    pub inputs: usize,
    pub outputs: usize,
    /// `outputs` x `inputs`, row-major.
    pub weights: Vec<f32>,
    pub bias: Vec<f32>,
    pub relu: bool,
}

/// All 1,797 digits, in the order of the data set.
pub fn digits() -> Digits {
    let mut file = Reader::new(include_bytes!("../../quickstart/digits.bin"), b"DIG1");
    let count = file.u32();
    let (mut pixels, mut labels) = (Vec::with_capacity(64 * count), Vec::with_capacity(count));
    for _ in 0..count {
        pixels.extend(file.take(64).iter().map(|&p| f32::from(p) / 16.0));
        labels.push(file.take(1)[0]);
    }
    Digits { pixels, labels }
}

/// The layers of the network, first to last; ReLU between them, not after the last.
pub fn network() -> Vec<Layer> {
    let mut file = Reader::new(include_bytes!("../../quickstart/mlp.bin"), b"MLP1");
    let count = file.u32();
    (1..=count)
        .map(|number| {
            let (inputs, outputs) = (file.u32(), file.u32());
            let (weights, bias) = (file.f32s(inputs * outputs), file.f32s(outputs));
            Layer { inputs, outputs, weights, bias, relu: number < count }
        })
        .collect()
}

/// Little-endian numbers from the front of a file. The files are compiled in, so a short one is a mistake in the build.
struct Reader(&'static [u8]);

impl Reader {
    fn new(bytes: &'static [u8], magic: &[u8; 4]) -> Self {
        let mut reader = Self(bytes);
        assert_eq!(reader.take(4), magic);
        reader
    }

    fn take(&mut self, count: usize) -> &'static [u8] {
        let (head, rest) = self.0.split_at(count);
        self.0 = rest;
        head
    }

    fn word(&mut self) -> [u8; 4] {
        *self.take(4).first_chunk().expect("four bytes were taken")
    }

    fn u32(&mut self) -> usize {
        u32::from_le_bytes(self.word()) as usize
    }

    fn f32s(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| f32::from_le_bytes(self.word())).collect()
    }
}
