//! Peak memory of a training step, against the prediction of `mmgem plan`, and of an
//! import.
//!
//! These tests have a program of their own, because they count every allocation.

#![allow(clippy::print_stdout, reason = "a test prints what it measures")]

#[path = "train/lab.rs"]
#[allow(dead_code, reason = "the training tests use the rest")]
mod lab;
#[path = "tiny.rs"]
#[allow(dead_code, reason = "the training tests use the rest")]
mod tiny;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Device;
use lab::Lab;
use mmgem_collective::Single;
use mmgem_core::checkpoint::Dtype;
use mmgem_core::checkpoint::import::{ImportOptions, import};
use mmgem_core::checkpoint::towers::{TowerConfigs, TowerOptions};
use mmgem_core::config::{CaptionOrder, MmGemConfig, VisionTokens};
use mmgem_core::image::ResizeMode;
use mmgem_core::init::fresh;
use mmgem_core::model::MmGem;
use mmgem_data::files::{Published, VISION_WEIGHTS, write_import};
use mmgem_train::{
    Batches, ComputeDtype, StepContext, Totals, Trainee, freeze, gradient, plan,
    use_burn_ops_on_cpu,
};
use safetensors::Dtype as SafeDtype;
use safetensors::tensor::TensorView;
use serde_json::json;

/// Bytes in use.
static NOW: AtomicUsize = AtomicUsize::new(0);
/// Peak of `NOW` since the test last reset it.
static MOST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call goes to the system allocator with its arguments unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(place, layout) }
    }
}

/// A test holds this lock while it measures, so that the other does not allocate meanwhile.
static ALONE: Mutex<()> = Mutex::new(());

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sizes of the towers. Image encoder: patch size, hidden size, layers. Language model: hidden
/// size, feed-forward size, layers.
struct Shape(usize, usize, usize, usize, usize, usize);

/// Measured and planned bytes of the activations of eight samples. The first step warms up; the
/// second is measured. Gradients and cast weights are subtracted.
fn measure(lab: &Lab, shape: &Shape, set: &[&str]) -> (f64, f64) {
    let mut sizes = MmGemConfig::from_json(tiny::CONFIG).expect("the tiny config is right");
    let Shape(patch, width, n_layers, hidden_size, ffn, n_llm_layers) = *shape;
    let vit = sizes.vision.as_vit_mut().expect("the tiny tower");
    (vit.image_size, vit.patch_size) = (64, patch);
    (vit.hidden_size, vit.num_hidden_layers) = (width, n_layers);
    (sizes.llm.hidden_size, sizes.llm.intermediate_size, sizes.llm.num_hidden_layers) =
        (hidden_size, ffn, n_llm_layers);
    let device = Device::flex().autodiff();
    let mut config = lab.config("run", &[&["optim.batch_size=8"], set].concat());
    let tokenizer = tiny::model().tokenizer;
    let batch = Batches::open(&config, &sizes, &tokenizer, 0, 1).expect("a shard").batch(0);
    // The batch pads its texts to the longest.
    config.hardware.text_tokens =
        batch.samples.iter().map(|s| s.text.len()).max().expect("some") as f64;
    let model = fresh(MmGem::new(&sizes, &device), &sizes, 1);
    let trainee = freeze(Trainee::new(model, &sizes, &config, &device), &config);
    let totals = Totals::new(&batch, &config, &Single).expect("one rank");
    let context = StepContext { sizes: &sizes, config: &config, device: &device, totals: &totals };
    let step = || gradient(&trainee, &batch, &context, &Single).expect("one rank");
    drop(step());
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    drop(step());
    let planned = plan(&config, &sizes, 1, None);
    let cast =
        if config.optim.compute_dtype == ComputeDtype::Bf16 { 2 * planned.parameters } else { 0 };
    let gradients = 4 * planned.trained_parameters;
    let measured = (MOST.load(Ordering::Relaxed) - before - cast - gradients) as f64;
    (measured, 8.0 * planned.activation_bytes_per_sample)
}

/// Allowance for the buffers into which CPU matrix products pack their operands. The plan leaves
/// them out. Their size depends on the CPU's vector width and caches, so it differs by machine.
const PACKED: f64 = 5e5;

#[test]
fn a_step_takes_the_memory_that_was_planned() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    // The plan is for GPUs, which use Burn's graph.
    use_burn_ops_on_cpu();
    let lab = Lab::new();
    let mut wrong = Vec::new();
    // The memory of Burn's operations in bf16 was measured on the CPU only, so every second shape
    // is enough.
    let (recompute, bf16) = ("optim.recompute=true", "optim.compute_dtype=bf16");
    let sets: [(&[&str], usize, f64); 4] =
        [(&[], 1, 0.15), (&[recompute], 1, 0.2), (&[bf16], 2, 0.2), (&[bf16, recompute], 2, 0.2)];
    let cases = sets.into_iter().flat_map(|(set, nth, tolerance)| {
        shapes().into_iter().step_by(nth).map(move |shape| (set, shape, tolerance))
    });
    for (set, shape, tolerance) in cases {
        let (measured, planned) = measure(&lab, &shape, set);
        let Shape(patch, width, n_layers, hidden_size, ffn, n_llm_layers) = shape;
        let what = format!("{patch} {width} {n_layers} {hidden_size} {ffn} {n_llm_layers} {set:?}");
        println!("{what}: {measured} measured, {planned} planned, ratio {:.2}", planned / measured);
        if (planned - measured).abs() > tolerance * measured + PACKED {
            wrong.push(what);
        }
    }
    assert!(wrong.is_empty(), "too far off: {wrong:?}");
}

#[test]
fn a_step_leaves_nothing_behind() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let lab = Lab::new();
    let device = Device::flex().autodiff();
    let sizes = MmGemConfig::from_json(tiny::CONFIG).expect("the tiny config is right");
    let tokenizer = tiny::model().tokenizer;
    for set in
        [["optim.workers=2", "optim.micro_batch=2"], ["optim.workers=1", "optim.recompute=true"]]
    {
        let config = lab.config("run", &set);
        let batch = Batches::open(&config, &sizes, &tokenizer, 0, 1).expect("a shard").batch(0);
        let model = fresh(MmGem::new(&sizes, &device), &sizes, 1);
        let trainee = freeze(Trainee::new(model, &sizes, &config, &device), &config);
        let totals = Totals::new(&batch, &config, &Single).expect("one rank");
        let (sizes, config, device) = (&sizes, &config, &device);
        let context = StepContext { sizes, config, device, totals: &totals };
        let after_steps = |n: usize| {
            for _ in 0..n {
                drop(gradient(&trainee, &batch, &context, &Single).expect("one rank"));
            }
            NOW.load(Ordering::Relaxed)
        };
        let (early, late) = (after_steps(10), after_steps(40));
        println!("{set:?}: {early} bytes after 10 steps, {late} after 50");
        // A node of Burn's graph takes a few hundred bytes, and a step has thousands of them.
        assert!(late <= early + 100_000, "{set:?}: {early} and {late} bytes");
    }
}

fn shapes() -> [Shape; 8] {
    [
        Shape(8, 96, 4, 64, 128, 2),
        Shape(8, 96, 8, 64, 128, 2),
        Shape(4, 96, 4, 64, 128, 2),
        Shape(8, 192, 4, 64, 128, 2),
        Shape(8, 48, 1, 128, 256, 6),
        Shape(8, 48, 1, 128, 768, 6),
        Shape(8, 48, 1, 256, 512, 6),
        Shape(16, 48, 2, 64, 128, 8),
    ]
}

/// Writes a safetensors file with zeros in bf16.
fn write_zeros(path: &Path, shapes: &[(String, Vec<usize>)]) {
    let bytes =
        vec![0; 2 * shapes.iter().map(|(_, shape)| shape.iter().product()).max().unwrap_or(0)];
    let views = shapes.iter().map(|(name, shape)| {
        let n_bytes = 2 * shape.iter().product::<usize>();
        (name, TensorView::new(SafeDtype::BF16, shape.clone(), &bytes[..n_bytes]).expect("it fits"))
    });
    safetensors::serialize_to_file(views, None, path).expect("a temporary folder can be written");
}

/// Tensor names and shapes of an OpenCLIP image encoder and of a Llama.
fn checkpoints() -> [Vec<(String, Vec<usize>)>; 2] {
    let (h, ffn, vocab) = (256, 688, 2000);
    let mut llama = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, h]),
        ("model.norm.weight".to_owned(), vec![h]),
        ("lm_head.weight".to_owned(), vec![vocab, h]),
    ];
    for layer in 0..8 {
        let place = format!("model.layers.{layer}");
        for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            llama.push((format!("{place}.self_attn.{part}.weight"), vec![h, h]));
        }
        for (part, shape) in [("gate", [ffn, h]), ("up", [ffn, h]), ("down", [h, ffn])] {
            llama.push((format!("{place}.mlp.{part}_proj.weight"), shape.to_vec()));
        }
        for part in ["input", "post_attention"] {
            llama.push((format!("{place}.{part}_layernorm.weight"), vec![h]));
        }
    }
    let c = 128;
    let mut clip = vec![
        ("visual.conv1.weight".to_owned(), vec![c, 3, 8, 8]),
        ("visual.class_embedding".to_owned(), vec![c]),
        ("visual.positional_embedding".to_owned(), vec![17, c]),
    ];
    for layer in 0..2 {
        let place = format!("visual.transformer.resblocks.{layer}");
        clip.push((format!("{place}.attn.in_proj_weight"), vec![3 * c, c]));
        clip.push((format!("{place}.attn.in_proj_bias"), vec![3 * c]));
        for (part, rows, columns) in
            [("attn.out_proj", c, c), ("mlp.c_fc", 4 * c, c), ("mlp.c_proj", c, 4 * c)]
        {
            clip.push((format!("{place}.{part}.weight"), vec![rows, columns]));
            clip.push((format!("{place}.{part}.bias"), vec![rows]));
        }
        clip.extend(
            norm(&format!("{place}.ln_1"), c).into_iter().chain(norm(&format!("{place}.ln_2"), c)),
        );
    }
    clip.extend(norm("visual.ln_pre", c).into_iter().chain(norm("visual.ln_post", c)));
    [clip, llama]
}

fn norm(name: &str, width: usize) -> [(String, Vec<usize>); 2] {
    ["weight", "bias"].map(|part| (format!("{name}.{part}"), vec![width]))
}

// The checkpoints stay on disk; the import holds one tensor of the model in memory at a time.
#[test]
fn an_import_takes_a_part_of_the_memory_of_its_model() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [vision, language] =
        ["vision.safetensors", "model.safetensors"].map(|name| folder.path().join(name));
    let [clip, llama] = checkpoints();
    write_zeros(&vision, &clip);
    write_zeros(&language, &llama);
    let config = json!({
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 8,
        "num_attention_heads": 4, "vocab_size": 2000, "max_position_embeddings": 256, "eos_token_id": 2
    });
    let options = ImportOptions {
        tower: TowerOptions::default(),
        resize_mode: ResizeMode::Squash,
        embed_dim: Some(64),
        vision_tokens: VisionTokens::Mean,
        caption_order: CaptionOrder::ImageFirst,
        seed: 0,
    };
    let out = folder.path().join("model");
    let before = NOW.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    {
        let [vision, language] = [&vision, &language]
            .map(|path| Published::open(path, VISION_WEIGHTS).expect("the file is there"));
        let (clip, llama) = (vision.shards().expect("whole"), language.shards().expect("whole"));
        let import = import(clip, &TowerConfigs::default(), llama, &config.to_string(), &options);
        let import = import.expect("it can be imported");
        write_import(&import, &[&vision, &language], b"{}", &out, Dtype::F32).expect("writable");
    }
    let measured = (MOST.load(Ordering::Relaxed) - before) as f64;
    let model =
        std::fs::metadata(out.join("model.safetensors")).expect("it was written").len() as f64;
    println!("{measured} bytes for a model of {model}, ratio {:.2}", measured / model);
    // The mapped pages of the tensor being read come on top; the allocator does not see them.
    assert!(measured < 0.3 * model, "{:.2} of the model", measured / model);
}
