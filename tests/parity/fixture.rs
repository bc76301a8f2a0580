//! Reads a case's folder and runs our model on its inputs.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use mmgem_core::image::Preprocessed;
use mmgem_data::files::ModelFolder;
use mmgem_train::trace::{self, TraceInput, TraceTensor, compare, trace_backward, trace_forward};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// Stages that must equal the reference bit for bit.
const EXACT: [&str; 6] =
    ["pixels", "boxes", "text_ids", "text_lens", "caption_ids", "region_caption_ids"];

/// A case of `tests/parity`. Its methods panic if a file cannot be read.
pub struct Case(trace::Case);

impl Deref for Case {
    type Target = trace::Case;

    fn deref(&self) -> &trace::Case {
        &self.0
    }
}

pub fn parity_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parity")
}

/// Names of the folders that have a `case.json`.
pub fn case_names() -> Vec<String> {
    let cases = trace::Case::read_all(&parity_folder()).expect("the cases are readable");
    cases.into_iter().map(|case| case.name).collect()
}

impl Case {
    pub fn read(name: &str) -> Self {
        Self(trace::Case::read(&parity_folder().join(name)).unwrap_or_else(|e| panic!("{e}")))
    }

    pub fn open(&self, device: &Device) -> ModelFolder {
        ModelFolder::read(&self.folder, device).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    pub fn images(&self, model: &ModelFolder) -> Vec<Preprocessed> {
        self.0.images(&model.config).expect("our own PNG can be decoded")
    }

    pub fn token_ids(&self, model: &ModelFolder) -> Vec<Vec<u32>> {
        self.0.token_ids(&model.tokenizer).expect("any text can be encoded")
    }

    pub fn input(&self, model: &ModelFolder) -> TraceInput {
        self.0.input(&model.config, &model.tokenizer).expect("the inputs are usable")
    }

    pub fn forward(&self, model: &ModelFolder) -> Vec<TraceTensor> {
        let input = self.input(model);
        pollster::block_on(trace_forward(&model.model, &model.config, &input))
            .expect("the device works")
    }

    /// Losses and gradients. The model must be on an autodiff device.
    pub fn backward(&self, model: &ModelFolder) -> Vec<TraceTensor> {
        let input = self.input(model);
        pollster::block_on(trace_backward(&model.model, &model.config, &input))
            .expect("the device works")
    }

    /// The stages that the reference computed.
    pub fn golden(&self) -> Vec<TraceTensor> {
        self.0.golden().unwrap_or_else(|e| panic!("{e}"))
    }

    /// Compares every traced stage with the reference and prints the differences. Panics if a stage
    /// is unknown to the reference, if a gradient is missing, or if one differs by more than
    /// `tolerance`.
    pub fn compare(&self, trace: &[TraceTensor], tolerance: f64, device: &str) {
        let golden = self.golden();
        let of_golden = |name: &str| golden.iter().find(|wanted| wanted.name == name).cloned();
        let wanted: Vec<TraceTensor> =
            trace.iter().filter_map(|found| of_golden(&found.name)).collect();
        let names =
            |tensors: &[TraceTensor]| tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
        assert_eq!(
            names(trace),
            names(&wanted),
            "{}: a stage that the reference does not have",
            self.name
        );
        let is_of = |gradients: bool, name: &str| name.starts_with("grad.") == gradients;
        let backward = trace.iter().any(|found| is_of(true, &found.name));
        for wanted in golden.iter().filter(|wanted| backward && is_of(true, &wanted.name)) {
            assert!(
                names(trace).contains(&wanted.name),
                "{}: {} was not traced",
                self.name,
                wanted.name
            );
        }

        let mut failed = Vec::new();
        for found in compare(trace, &wanted) {
            println!("{device} {:<16} {:<44} {:.1e}", self.name, found.name, found.relative);
            let allowed = if EXACT.contains(&found.name.as_str()) { 0.0 } else { tolerance };
            if found.relative > allowed {
                failed.push(format!("{} {:.2e} {:?}", found.name, found.relative, found.problem));
            }
        }
        assert!(failed.is_empty(), "{} on {device}: {}", self.name, failed.join("\n"));
    }

    /// Copies the model folder, without the goldens, to a temporary folder that a test may damage.
    pub fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a temporary folder");
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            fs::copy(self.folder.join(file), copy.path().join(file))
                .expect("a fixture can be copied");
        }
        copy
    }
}

pub fn change_config(folder: &Path, change: impl Fn(&mut Value)) {
    let path = folder.join("config.json");
    let mut config = serde_json::from_slice(&read(&path)).expect("config.json is JSON");
    change(&mut config);
    fs::write(path, config.to_string()).expect("a temporary folder can be written");
}

pub fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Tensors of a safetensors file. Tests change them and write the file again.
#[derive(Clone, Debug, PartialEq)]
pub struct RawFile(pub BTreeMap<String, RawTensor>);

#[derive(Clone, Debug, PartialEq)]
pub struct RawTensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl RawTensor {
    pub fn f32(shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    pub fn floats(&self) -> Vec<f32> {
        assert_eq!(self.dtype, Dtype::F32);
        floats(&self.bytes)
    }
}

impl RawFile {
    pub fn read(path: &Path) -> Self {
        let bytes = read(path);
        let file = SafeTensors::deserialize(&bytes).expect("a fixture is whole");
        let raw = |view: TensorView| RawTensor {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        Self(file.tensors().into_iter().map(|(name, view)| (name, raw(view))).collect())
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_bytes_with(None)
    }

    pub fn to_bytes_with(&self, metadata: Option<HashMap<String, String>>) -> Vec<u8> {
        let views = self.0.iter().map(|(name, t)| {
            let view = TensorView::new(t.dtype, t.shape.clone(), &t.bytes);
            (name, view.expect("the bytes fit the shape"))
        });
        safetensors::serialize(views, metadata).expect("whole tensors serialise")
    }

    /// Rounds every f32 tensor to f16 or bf16.
    pub fn in_16_bits(&self, dtype: Dtype) -> Self {
        let encode = |value: f32| match dtype {
            Dtype::BF16 => half::bf16::from_f32(value).to_le_bytes(),
            _ => half::f16::from_f32(value).to_le_bytes(),
        };
        let convert = |t: &RawTensor| RawTensor {
            dtype,
            shape: t.shape.clone(),
            bytes: t.floats().into_iter().flat_map(encode).collect(),
        };
        Self(self.0.iter().map(|(name, t)| (name.clone(), convert(t))).collect())
    }

    /// Writes two shards, `NAME-0000N-of-00002.safetensors`, and their index.
    pub fn write_sharded(&self, folder: &Path, name: &str) {
        let stem = name.trim_end_matches(".safetensors");
        let mut shards = [Self(BTreeMap::new()), Self(BTreeMap::new())];
        let mut weight_map = serde_json::Map::new();
        let file = |shard: usize| format!("{stem}-0000{}-of-00002.safetensors", shard + 1);
        for (i, (tensor_name, tensor)) in self.0.iter().enumerate() {
            shards[i % 2].0.insert(tensor_name.clone(), tensor.clone());
            weight_map.insert(tensor_name.clone(), file(i % 2).into());
        }
        for (i, shard) in shards.iter().enumerate() {
            fs::write(folder.join(file(i)), shard.to_bytes())
                .expect("a temporary folder can be written");
        }
        let index = serde_json::json!({ "metadata": {}, "weight_map": weight_map });
        fs::write(folder.join(format!("{name}.index.json")), index.to_string()).expect("the same");
    }
}

/// Largest absolute difference over the largest absolute value of `wanted`.
pub fn relative(found: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let scale = wanted.iter().fold(1e-12, |max: f64, w| max.max(f64::from(w.abs())));
    let off = found.iter().zip(wanted).map(|(f, w)| f64::from((f - w).abs()));
    off.fold(0.0, |max, d| if d.is_nan() { f64::INFINITY } else { max.max(d) }) / scale
}
