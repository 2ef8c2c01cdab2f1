//! Weights out of safetensors files, by the names that PyTorch gives them.

use alloc::{
    boxed::Box,
    format,
    string::{String, ToString},
    vec::Vec,
};

use safetensors::{Dtype, SafeTensors};

use super::{DynamicConfig, Embedding, Gru, Linear, Lstm, RecurrentWeights};
use crate::{Error, MatRef, memory};

/// A [safetensors] file: named tensors, as `safetensors.torch.save_file(model.state_dict(), path)` writes them.
///
/// Layers are found by the name of their module, `"encoder.lstm"` for `encoder.lstm.weight_ih_l0`; the empty name is the model
/// itself. What other layers want, [`Conv2d`](super::Conv2d) or [`Network`](super::Network), [`Tensors::get`] gives in PyTorch's
/// order, which is theirs.
///
/// ```
/// use i8gemm::nn::{DynamicConfig, Tensors};
/// # let values: Vec<u8> = [0.5f32, -1.0, 0.25, 2.0, 1.0, -0.5].iter().flat_map(|x| x.to_le_bytes()).collect();
/// # let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 3], &values).unwrap();
/// # let file = safetensors::serialize([("decoder.weight", view)], None).unwrap();
/// // let file = std::fs::read("model.safetensors")?;
/// let tensors = Tensors::new(&file)?;
/// let decoder = tensors.linear("decoder", DynamicConfig::default())?; // decoder.weight, and decoder.bias if there is one
/// assert_eq!((decoder.outputs(), decoder.inputs()), (2, 3));
///
/// let error = tensors.lstm("lstm", DynamicConfig::default()).unwrap_err();
/// assert_eq!(error.to_string(), "there is no tensor `lstm.weight_ih_l0`");
/// # Ok::<(), i8gemm::nn::LoadError>(())
/// ```
///
/// [safetensors]: https://huggingface.co/docs/safetensors
#[derive(Debug)]
pub struct Tensors<'a> {
    tensors: SafeTensors<'a>,
    /// Bytes of the file.
    size: usize,
}

/// A tensor as f32.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Tensor {
    /// Its values, the last axis fastest.
    pub values: Vec<f32>,
    /// Its axes.
    pub shape: Vec<usize>,
}

/// What can be wrong with weights in a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Not a safetensors file, or one cut off.
    #[error("not a safetensors file: {0}")]
    Format(#[source] Box<dyn core::error::Error + Send + Sync>),
    /// A tensor that the layer needs.
    #[error("there is no tensor `{name}`")]
    Missing {
        /// Its name.
        name: String,
    },
    /// Values that are not floating point of 16, 32 or 64 bits.
    #[error("tensor `{name}`: its values are {found}; f32, f16, bf16 or f64 are needed")]
    Values {
        /// Its name.
        name: String,
        /// What they are.
        found: String,
    },
    /// A tensor with too many axes, or too few.
    #[error("tensor `{name}`: its shape is {found:?}; {axes} axes are needed")]
    Axes {
        /// Its name.
        name: String,
        /// Axes needed.
        axes: usize,
        /// Its shape.
        found: Vec<usize>,
    },
    /// A tensor of something that the layer does not have: the projections of an LSTM with `proj_size`.
    #[error("tensor `{name}`: such layers are not supported")]
    Unsupported {
        /// Its name.
        name: String,
    },
    /// A tensor without values, for a layer that would have the size of its shape, which is larger than the file.
    #[error(
        "tensor `{name}`: it has no values, and an axis of its shape {found:?} is longer than the file, {size} bytes: no layer is made of it"
    )]
    Empty {
        /// Its name.
        name: String,
        /// Its shape.
        found: Vec<usize>,
        /// Bytes of the file.
        size: usize,
    },
    /// A tensor that there is no memory for.
    #[error("tensor `{name}`: {error}")]
    Memory {
        /// Its name.
        name: String,
        /// [`Error::SizeOverflow`].
        #[source]
        error: Error,
    },
    /// Weights that do not make a layer.
    #[error("layer `{name}`: {error}")]
    Layer {
        /// The name of the module.
        name: String,
        /// Why not.
        #[source]
        error: Error,
    },
}

impl<'a> Tensors<'a> {
    /// Reads the names and places of a file's tensors.
    ///
    /// # Errors
    /// [`LoadError::Format`].
    pub fn new(file: &'a [u8]) -> Result<Self, LoadError> {
        let tensors = SafeTensors::deserialize(file).map_err(|error| LoadError::Format(error.into()))?;
        Ok(Self { tensors, size: file.len() })
    }

    /// The names of all tensors, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.names().into_iter()
    }

    /// A tensor by its name; f16 and bf16 become f32 exactly, f64 rounded. One without values may have axes of any length: its shape
    /// alone says nothing of the memory there is for what is made of it.
    ///
    /// # Errors
    /// [`LoadError::Missing`], [`LoadError::Values`], [`LoadError::Memory`].
    pub fn get(&self, name: &str) -> Result<Tensor, LoadError> {
        let view = self.tensors.tensor(name).map_err(|_| LoadError::Missing { name: name.into() })?;
        let (data, shape) = (view.data(), view.shape());
        let values = match view.dtype() {
            Dtype::F16 => values(data, |bytes| half::f16::from_le_bytes(bytes).to_f32()),
            Dtype::BF16 => values(data, |bytes| half::bf16::from_le_bytes(bytes).to_f32()),
            Dtype::F32 => values(data, f32::from_le_bytes),
            Dtype::F64 => values(data, |bytes| f64::from_le_bytes(bytes) as f32),
            other => {
                return Err(LoadError::Values {
                    name: name.into(),
                    found: format!("{other:?}").to_lowercase(),
                });
            }
        };
        let shape = memory::copied("shape", shape);
        let tensor = values.and_then(|values| Ok(Tensor { values, shape: shape? }));
        tensor.map_err(|error| LoadError::Memory { name: name.into(), error })
    }

    /// `nn.Linear`: `weight`, outputs x inputs, and `bias`, if there is one.
    ///
    /// # Errors
    /// The tensors' and, as [`LoadError::Layer`], those of [`Linear::with_config`].
    pub fn linear(&self, module: &str, config: DynamicConfig) -> Result<Linear, LoadError> {
        let (weights, bias) = (self.matrix(module, "weight")?, self.bias(module, "bias")?);
        made(module, weights.matrix().and_then(|w| Linear::with_config(w, bias.as_deref(), config)))
    }

    /// `nn.Embedding`: `weight`, rows x features, in 8 or 4 bits.
    ///
    /// # Errors
    /// The tensor's and, as [`LoadError::Layer`], those of [`Embedding::with_config`].
    pub fn embedding(&self, module: &str, bits: u32, config: DynamicConfig) -> Result<Embedding, LoadError> {
        let table = self.matrix(module, "weight")?;
        made(module, table.matrix().and_then(|table| Embedding::with_config(table, bits, config)))
    }

    /// `nn.LSTM`: `weight_ih_l0`, `weight_hh_l0`, `bias_ih_l0`, `bias_hh_l0`, `weight_ih_l0_reverse` ... for as many layers and
    /// directions as there are.
    ///
    /// # Errors
    /// The tensors'; [`LoadError::Unsupported`] for `proj_size`; as [`LoadError::Layer`], those of [`Lstm::with_config`].
    pub fn lstm(&self, module: &str, config: DynamicConfig) -> Result<Lstm, LoadError> {
        self.recurrent(module, |weights, both| Lstm::with_config(weights, both, config))
    }

    /// `nn.GRU`: tensors named as those of [`Tensors::lstm`].
    ///
    /// # Errors
    /// The tensors' and, as [`LoadError::Layer`], those of [`Gru::with_config`].
    pub fn gru(&self, module: &str, config: DynamicConfig) -> Result<Gru, LoadError> {
        self.recurrent(module, |weights, both| Gru::with_config(weights, both, config))
    }

    fn recurrent<T>(
        &self,
        module: &str,
        make: impl FnOnce(&[RecurrentWeights], bool) -> Result<T, Error>,
    ) -> Result<T, LoadError> {
        // Any part says that there is a layer, a direction, or biases: all of their tensors must be there.
        let (mut last, mut bidirectional, mut biased) = (0, false, false);
        for name in self.names() {
            if let Some((part, layer, reverse)) = recurrent_part(module, name) {
                last = layer.max(last);
                bidirectional |= reverse;
                biased |= part.starts_with("bias");
            }
        }
        let directions: &[&str] = if bidirectional { &["", "_reverse"] } else { &[""] };
        let mut cells = Vec::new();
        for layer in 0..=last {
            for direction in directions {
                let name = |what: &str| format!("{what}_l{layer}{direction}");
                let projection = path(module, &name("weight_hr"));
                if self.has(&projection) {
                    return Err(LoadError::Unsupported { name: projection });
                }
                let input = self.matrix(module, &name("weight_ih"))?;
                let hidden = self.matrix(module, &name("weight_hh"))?;
                let bias = |what| match biased {
                    true => self.with_axes(path(module, &name(what)), 1).map(|bias| Some(bias.values)),
                    false => Ok(None),
                };
                let biases = (bias("bias_ih")?, bias("bias_hh")?);
                let made = memory::push("layers", &mut cells, (input, hidden, biases));
                made.map_err(|error| LoadError::Layer { name: module.into(), error })?;
            }
        }
        let weights = cells.iter().map(|(input, hidden, (input_bias, hidden_bias))| {
            Ok(RecurrentWeights::new(input.matrix()?, hidden.matrix()?)
                .biases(input_bias.as_deref(), hidden_bias.as_deref()))
        });
        let weights = memory::try_collected("layers", weights);
        made(module, weights.and_then(|weights| make(&weights, bidirectional)))
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    fn matrix(&self, module: &str, name: &str) -> Result<Tensor, LoadError> {
        self.with_axes(path(module, name), 2)
    }

    /// One that may be left out.
    fn bias(&self, module: &str, name: &str) -> Result<Option<Vec<f32>>, LoadError> {
        let name = path(module, name);
        if self.has(&name) { Ok(Some(self.with_axes(name, 1)?.values)) } else { Ok(None) }
    }

    fn with_axes(&self, name: String, axes: usize) -> Result<Tensor, LoadError> {
        let Tensor { values, shape: found } = self.get(&name)?;
        if found.len() != axes {
            return Err(LoadError::Axes { name, axes, found });
        }
        // What is made of it would have the size of its shape. With values, no axis is longer than the file by itself.
        if values.is_empty() && found.iter().any(|&axis| axis > self.size) {
            return Err(LoadError::Empty { name, found, size: self.size });
        }
        Ok(Tensor { values, shape: found })
    }
}

impl Tensor {
    /// The values as a matrix: the first axis is rows, all others are columns.
    ///
    /// # Errors
    /// [`Error::Length`] when values and shape do not agree, which those of a file do; [`Error::SizeOverflow`].
    pub fn matrix(&self) -> Result<MatRef<'_, f32>, Error> {
        let (rows, rest) = self.shape.split_first().unwrap_or((&1, &[]));
        let overflow = Error::SizeOverflow { what: "tensor", rows: *rows, cols: usize::MAX };
        let cols = rest.iter().try_fold(1usize, |cols, axis| cols.checked_mul(*axis)).ok_or(overflow)?;
        MatRef::row_major(&self.values, *rows, cols)
    }
}

fn values<const N: usize>(data: &[u8], value: impl Fn([u8; N]) -> f32) -> Result<Vec<f32>, Error> {
    memory::collected("values", data.as_chunks().0.iter().map(|&bytes| value(bytes)))
}

fn path(module: &str, name: &str) -> String {
    if module.is_empty() { name.to_string() } else { format!("{module}.{name}") }
}

/// A tensor of a recurrent layer: what it is, of which layer, and whether of the backward direction.
fn recurrent_part<'n>(module: &str, name: &'n str) -> Option<(&'n str, usize, bool)> {
    let name = name.strip_prefix(&path(module, ""))?;
    let forward = name.strip_suffix("_reverse");
    let (part, layer) = forward.unwrap_or(name).rsplit_once("_l")?;
    let known = ["weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh"].contains(&part);
    Some((part, layer.parse().ok()?, forward.is_some())).filter(|_| known)
}

fn made<T>(module: &str, layer: Result<T, Error>) -> Result<T, LoadError> {
    layer.map_err(|error| LoadError::Layer { name: module.into(), error })
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn file(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Vec<u8> {
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            (*name, safetensors::tensor::TensorView::new(*dtype, shape.to_vec(), bytes).unwrap())
        });
        safetensors::serialize(views, None).unwrap()
    }

    fn f32s<const N: usize>(values: [f32; N]) -> Vec<u8> {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    }

    #[test]
    fn every_floating_point_type() {
        let exact = [0.5f32, -1.25, 3.0];
        let types = [
            (Dtype::F32, f32s(exact)),
            (Dtype::F64, exact.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect()),
            (Dtype::F16, exact.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect()),
            (Dtype::BF16, exact.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect()),
        ];
        for (dtype, bytes) in types {
            let file = file(&[("x", dtype, &[3], bytes)]);
            let tensor = Tensors::new(&file).unwrap().get("x").unwrap();
            assert_eq!(tensor, Tensor { values: exact.to_vec(), shape: vec![3] }, "{dtype:?}");
        }
    }

    #[test]
    fn tensors_without_values_have_any_shape() {
        let file = file(&[
            ("x", Dtype::F32, &[0, 1 << 20], vec![]),
            ("x.weight", Dtype::F32, &[0, 1 << 20], vec![]),
            ("narrow.weight", Dtype::F4, &[1 << 12, 2], vec![0; 1 << 12]),
            ("none.weight", Dtype::I8, &[0, 1 << 20], vec![]),
        ]);
        let tensors = Tensors::new(&file).unwrap();
        assert_eq!(tensors.get("x").unwrap(), Tensor { values: vec![], shape: vec![0, 1 << 20] });
        let size = file.len();
        let refused = |name: &str| tensors.linear(name, DynamicConfig::default()).unwrap_err().to_string();
        assert_eq!(
            refused("x"),
            format!(
                "tensor `x.weight`: it has no values, and an axis of its shape [0, 1048576] is longer than the file, \
                 {size} bytes: no layer is made of it"
            )
        );
        // What the values are comes first, and counts however long an axis is.
        for (name, found) in [("narrow", "f4"), ("none", "i8")] {
            let error = refused(name);
            assert!(
                error.starts_with(&format!("tensor `{name}.weight`: its values are {found};")),
                "{error}"
            );
        }
    }

    #[test]
    fn mistakes_name_the_tensor() {
        assert!(matches!(Tensors::new(b"not a file"), Err(LoadError::Format(_))));
        let gates = |hidden: usize| vec![0; 4 * 4 * hidden];
        let file = file(&[
            ("bytes.weight", Dtype::I8, &[2, 2], vec![0; 4]),
            ("flat.weight", Dtype::F32, &[2], f32s([1.0, 2.0])),
            ("nan.weight", Dtype::F32, &[1, 2], f32s([1.0, f32::NAN])),
            ("bias.weight", Dtype::F32, &[1, 2], f32s([1.0, 2.0])),
            ("bias.bias", Dtype::F32, &[3], f32s([1.0; 3])),
            ("half.weight_ih_l0", Dtype::F32, &[4, 1], gates(1)),
            ("projected.weight_ih_l0", Dtype::F32, &[4, 1], gates(1)),
            ("projected.weight_hr_l0", Dtype::F32, &[1, 1], f32s([1.0])),
            ("deep.weight_ih_l0", Dtype::F32, &[4, 1], gates(1)),
            ("deep.weight_hh_l0", Dtype::F32, &[4, 1], gates(1)),
            ("deep.bias_ih_l1", Dtype::F32, &[4], gates(1)),
            ("deep.bias_hh_l0", Dtype::F32, &[4], gates(1)),
            ("deep.bias_ih_l0", Dtype::F32, &[4], gates(1)),
            ("both.weight_ih_l0", Dtype::F32, &[4, 1], gates(1)),
            ("both.weight_hh_l0", Dtype::F32, &[4, 1], gates(1)),
            ("both.weight_hh_l0_reverse", Dtype::F32, &[4, 1], gates(1)),
            ("biased.weight_ih_l0", Dtype::F32, &[4, 1], gates(1)),
            ("biased.weight_hh_l0", Dtype::F32, &[4, 1], gates(1)),
            ("biased.bias_ih_l0", Dtype::F32, &[4], gates(1)),
            ("empty.weight", Dtype::F32, &[0, 3], vec![]),
        ]);
        let tensors = Tensors::new(&file).unwrap();
        let config = DynamicConfig::default();
        let linear = |name: &str| tensors.linear(name, config).unwrap_err().to_string();
        let lstm = |name: &str| tensors.lstm(name, config).unwrap_err().to_string();
        assert_eq!(linear("no"), "there is no tensor `no.weight`");
        assert_eq!(linear(""), "there is no tensor `weight`");
        assert!(
            linear("bytes").starts_with("tensor `bytes.weight`: its values are i8"),
            "{}",
            linear("bytes")
        );
        assert!(linear("flat").starts_with("tensor `flat.weight`: its shape is [2]"), "{}", linear("flat"));
        assert!(linear("nan").starts_with("layer `nan`: "), "{}", linear("nan"));
        assert!(linear("bias").starts_with("layer `bias`: "), "{}", linear("bias"));
        assert_eq!(lstm("half"), "there is no tensor `half.weight_hh_l0`");
        assert_eq!(lstm("projected"), "tensor `projected.weight_hr_l0`: such layers are not supported");
        let other = Tensor { values: vec![0.0; 4], shape: vec![2, 3] };
        assert!(matches!(other.matrix(), Err(Error::Length { .. })));
        let none = tensors.linear("empty", config).unwrap();
        assert_eq!((none.outputs(), none.inputs()), (0, 3));
        // Parts of a deeper network, or of one in both directions, are not a shallower one.
        assert_eq!(lstm("deep"), "there is no tensor `deep.weight_ih_l1`");
        assert_eq!(lstm("both"), "there is no tensor `both.weight_ih_l0_reverse`");
        assert_eq!(lstm("biased"), "there is no tensor `biased.bias_hh_l0`");
        // One of four features, in 8 and in 4 bits.
        for bits in [8, 4] {
            let embedding = tensors.embedding("bias", bits, config).unwrap();
            assert_eq!((embedding.rows(), embedding.features()), (1, 2));
        }
    }
}
