//! A case's folder: what is in it, and how ours is run on the same inputs.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use mmgem_core::files::ModelFolder;
use mmgem_core::image::{DecodeLimits, Preprocessed, decode, preprocess};
use mmgem_core::trace::{TraceInput, TraceTensor, Values, compare, trace_backward, trace_forward};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// What the reference and ours read and do alike to the last bit.
const EXACT: [&str; 6] = ["pixels", "boxes", "text_ids", "text_lens", "caption_ids", "region_caption_ids"];

/// One folder of `tests/parity`.
pub struct Case {
    pub name: String,
    pub folder: PathBuf,
    doc: Value,
}

pub fn parity_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("parity")
}

/// Every folder with a `case.json`.
pub fn case_names() -> Vec<String> {
    let entries = fs::read_dir(parity_folder()).expect("the folder of this file is there");
    let folders = entries.map(|entry| entry.expect("a folder can be listed"));
    let cases = folders.filter(|entry| entry.path().join("case.json").is_file());
    cases.map(|entry| entry.file_name().into_string().expect("names of cases are ASCII")).collect()
}

impl Case {
    pub fn read(name: &str) -> Self {
        let folder = parity_folder().join(name);
        let doc = serde_json::from_slice(&read(&folder.join("case.json"))).expect("case.json is JSON");
        Self { name: name.to_owned(), folder, doc }
    }

    pub fn open(&self, device: &Device) -> ModelFolder {
        ModelFolder::read(&self.folder, device).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    pub fn texts(&self) -> Vec<&str> {
        self.list("texts").iter().map(|text| text.as_str().expect("a text is a string")).collect()
    }

    pub fn n_texts(&self) -> usize {
        self.list("texts").len()
    }

    pub fn n_images(&self) -> usize {
        self.list("images").len()
    }

    /// The pictures as the model sees them.
    pub fn images(&self, model: &ModelFolder) -> Vec<Preprocessed> {
        let picture = |name: &Value| {
            let file = format!("{}.png", name.as_str().expect("an image is named by a string"));
            let bytes = read(&parity_folder().join("images").join(file));
            let photo = decode(&bytes, DecodeLimits::default()).expect("our own PNG can be decoded");
            preprocess(&photo, &model.config.preprocess())
        };
        self.list("images").iter().map(picture).collect()
    }

    pub fn token_ids(&self, model: &ModelFolder) -> Vec<Vec<u32>> {
        let encode = |text: &&str| model.tokenizer.encode(text).expect("any text can be encoded");
        self.texts().iter().map(encode).collect()
    }

    /// The inputs from pictures, strings and boxes of the original image; all boxes are on image 0.
    pub fn input(&self, model: &ModelFolder) -> TraceInput {
        let images = self.images(model);
        let corner = |v: &Value| v.as_f64().expect("a corner is a number") as f32;
        let box_input = |box_px: &Value| {
            let corners = box_px.as_array().expect("a box is a list");
            // As the reference: mapped, not clipped.
            images[0].map.input_from_image([0, 1, 2, 3].map(|i| corner(&corners[i])))
        };
        TraceInput {
            boxes_input: self.list("boxes").iter().map(box_input).collect(),
            texts: self.token_ids(model),
            steps: self.doc["steps"].as_u64().expect("steps is a number") as usize,
            pixels: images.into_iter().map(|image| image.pixels).collect(),
        }
    }

    pub fn forward(&self, model: &ModelFolder) -> Vec<TraceTensor> {
        let input = self.input(model);
        pollster::block_on(trace_forward(&model.model, &model.config, &input)).expect("the device works")
    }

    /// Losses and gradients; the model must be on an autodiff device.
    pub fn backward(&self, model: &ModelFolder) -> Vec<TraceTensor> {
        let input = self.input(model);
        pollster::block_on(trace_backward(&model.model, &model.config, &input)).expect("the device works")
    }

    /// What the reference computed.
    pub fn golden(&self) -> Vec<TraceTensor> {
        read_traced(&self.folder.join("golden.safetensors"))
    }

    /// Fails unless every stage that was traced is the reference's; prints the differences.
    pub fn compare(&self, trace: &[TraceTensor], tolerance: f64, device: &str) {
        let golden = self.golden();
        let of_golden = |name: &str| golden.iter().find(|wanted| wanted.name == name).cloned();
        let wanted: Vec<TraceTensor> = trace.iter().filter_map(|found| of_golden(&found.name)).collect();
        let names = |tensors: &[TraceTensor]| tensors.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(trace), names(&wanted), "{}: a stage that the reference does not have", self.name);

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

    /// The model folder alone, to be spoilt.
    pub fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a temporary folder");
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            fs::copy(self.folder.join(file), copy.path().join(file)).expect("a fixture can be copied");
        }
        copy
    }

    fn list(&self, key: &str) -> &[Value] {
        self.doc[key].as_array().unwrap_or_else(|| panic!("{}: {key} is a list", self.name))
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

fn read_traced(path: &Path) -> Vec<TraceTensor> {
    let bytes = read(path);
    let file = SafeTensors::deserialize(&bytes).expect("a golden file is whole");
    let tensor = |(name, view): (String, TensorView)| {
        let long = |b: &[u8]| i64::from_le_bytes(b.try_into().expect("chunks of 8"));
        let values = match view.dtype() {
            Dtype::F32 => Values::Floats(floats(view.data())),
            Dtype::I64 => Values::Ints(view.data().chunks_exact(8).map(long).collect()),
            other => panic!("{name} is {other:?}, which the reference does not write"),
        };
        TraceTensor { name, shape: view.shape().to_vec(), values }
    };
    file.tensors().into_iter().map(tensor).collect()
}

/// Tensors of a safetensors file that can be changed and written again.
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

    /// Every f32 tensor in 16 bits.
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

    /// Writes `NAME-00001-of-00002.safetensors`, the second, and the index that names them.
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
            fs::write(folder.join(file(i)), shard.to_bytes()).expect("a temporary folder can be written");
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
