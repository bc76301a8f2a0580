//! Compares the plan of a run with the run itself.

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use mmgem_core::config::{EfficientNetLiteConfig, MmGemConfig, VisionConfig, VitConfig};
use mmgem_core::model::MmGem;
use mmgem_train::{Plan, TrainConfig, plan, plan_run};

use crate::lab::{Lab, finish, metrics};
use crate::tiny;

fn sizes(change: impl Fn(&mut MmGemConfig)) -> MmGemConfig {
    let mut sizes = MmGemConfig::from_json(tiny::CONFIG).expect("the tiny config is right");
    change(&mut sizes);
    sizes
}

fn tiny_vit(sizes: &mut MmGemConfig) -> &mut VitConfig {
    sizes.vision.as_vit_mut().expect("the tiny tower is a ViT")
}

#[test]
fn parameters_are_counted_as_the_model_has_them() {
    let lab = Lab::new();
    for sizes in [
        sizes(|_| {}),
        sizes(|sizes| sizes.llm.tie_word_embeddings = true),
        sizes(|sizes| {
            let vit = tiny_vit(sizes);
            (vit.class_token, vit.ln_pre, vit.proj_dim) = (false, false, None);
            let llm = &mut sizes.llm;
            (llm.head_dim, llm.attention_bias, llm.mlp_bias) = (Some(6), true, true);
        }),
        sizes(|sizes| tiny_vit(sizes).ln_post = false),
        sizes(|sizes| {
            let vit = tiny_vit(sizes);
            (vit.num_hidden_layers, vit.mlp_ratio) = (3, 2.5);
            (sizes.llm.num_hidden_layers, sizes.llm.num_key_value_heads) = (2, 1);
        }),
        sizes(|sizes| {
            sizes.vision = VisionConfig::EfficientNetLite(EfficientNetLiteConfig {
                image_size: 64,
                width_coefficient: 0.3,
                depth_coefficient: 1.2,
                hidden_size: 40,
            });
        }),
    ] {
        let model = MmGem::new(&sizes, &Device::flex());
        let planned = plan(&lab.config("run", &[]), &sizes, 1, None);
        assert_eq!(planned.parameters, model.num_params());
        let stage_2 = plan(&lab.config("run", &["recipe=stage2_retrieval"]), &sizes, 1, None);
        assert_eq!(stage_2.trained_parameters, model.h4.num_params());
        let not_in_stage_1 = model.h4.num_params()
            + sizes.num_caption_prompts * sizes.llm.hidden_size
            + sizes.vision.as_vit().map_or(0, |vit| vit.hidden_size * vit.proj_dim.unwrap_or(0));
        assert_eq!(planned.trained_parameters, model.num_params() - not_in_stage_1);
    }
}

#[test]
fn operations_are_six_a_parameter_and_token_where_the_matrices_are_large() {
    let lab = Lab::new();
    let sizes = sizes(|sizes| {
        let vit = tiny_vit(sizes);
        (vit.hidden_size, vit.num_hidden_layers) = (512, 4);
        (sizes.llm.hidden_size, sizes.llm.intermediate_size) = (1024, 2048);
        sizes.llm.num_hidden_layers = 4;
    });
    let planned = plan(&lab.config("run", &["objective=clip_only"]), &sizes, 1, None);
    let visual = (4 * 12 * 512 * 512) as f64;
    let llm = (4 * (2 * 1024 * 1024 + 2 * 1024 * 512 + 3 * 1024 * 2048)) as f64;
    // 17 tokens for an image; 16 and [EMB] for a text.
    let wanted = 6.0 * 17.0 * (visual + llm);
    assert!(
        (planned.flops_per_sample / wanted - 1.0).abs() < 0.03,
        "{} and {wanted}",
        planned.flops_per_sample
    );
}

/// The plan of one of the paper's runs with one of our presets, on 64 ranks.
fn paper_plan(recipe: &str, preset: &str, set: &[&str]) -> Plan {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets");
    let toml =
        fs::read_to_string(assets.join(format!("recipes/paper/{recipe}.toml"))).expect("a recipe");
    let set: Vec<String> = set.iter().map(|change| change.to_string()).collect();
    let config = TrainConfig::from_toml(&toml, &set).expect("it is right");
    let sizes = assets.join(format!("presets/{preset}_tinyllama.json"));
    plan_run(&config, 64, Some(&sizes)).expect("the sizes are there")
}

#[test]
fn the_presets_are_as_large_as_their_towers_are_known_to_be() {
    // The sizes are those of open_clip's visual towers with their projection, and of
    // TinyLlama-1.1B.
    const LLAMA: usize = 1_100_048_384;
    for (preset, visual, width, d) in [
        ("vit_b_16", 86_192_640, 768, 512),
        ("vit_l_14", 303_966_208, 1024, 768),
        ("vit_l_14_336", 304_293_888, 1024, 768),
    ] {
        // h1, h2, h3, h4; 64 prompts, two tokens and the temperature.
        let heads = (width + 1) * d + (2048 + 1) * d + (d + 1) * 2048 + (d + 1) * d + 66 * 2048 + 1;
        assert_eq!(
            paper_plan("stage1", preset, &[]).parameters,
            visual + LLAMA + heads,
            "{preset}"
        );
    }
}

/// Calculated by hand, for ViT-L/14 and TinyLlama.
///
/// The encoder has 24 blocks of 12 · 1024² weights over 257 tokens. The language model has 22
/// blocks over a text, with `2 · 2048² + 2 · 2048 · 256 + 3 · 2048 · 5632` weights each. Each
/// weight and token takes two operations, plus attention.
#[test]
fn the_operations_of_the_papers_runs_match_a_hand_calculation() {
    let vision = 24.0 * (2.0 * 257.0 * 12.0 * 1024f64.powi(2) + 4.0 * 257f64.powi(2) * 1024.0)
        + 2.0 * 256.0 * 3.0 * 196.0 * 1024.0;
    let llama = |seq: f64| 22.0 * (2.0 * seq * 44_040_192.0 + 4.0 * seq * seq * 2048.0);
    let head = 2.0 * 17.0 * 2048.0 * 32_000.0;
    let near = |found: f64, wanted: f64| {
        assert!((found / wanted - 1.0).abs() < 1e-6, "{found} and {wanted}")
    };
    let stage_1 = |set: &[&str]| paper_plan("stage1", "vit_l_14", set);

    let cut = stage_1(&[]);
    let (embed, caption) = (llama(17.0), llama(18.0) + head);
    let useful = 3.0 * (vision + embed + caption);
    near(cut.flops_per_sample, useful);
    // With several micro-batches, GradCache embeds the batch a second time.
    near(cut.computed_flops_per_sample, useful + vision + embed);
    near(
        cut.step_secs.expect("a peak is given"),
        1280.0 * (useful + vision + embed) / (0.4 * 989e12),
    );
    let whole = stage_1(&["optim.micro_batch=1280", "optim.recompute=true"]);
    near(whole.flops_per_sample, useful);
    near(whole.computed_flops_per_sample, useful + vision + embed + caption);
    // In a ring, each rank sends 63/64 of each summed gradient twice, and of the gathered
    // embeddings once. The embeddings of images and texts have gradients too.
    let trained = cut.trained_parameters as f64;
    near(cut.sent_bytes, 4.0 * 63.0 / 64.0 * (2.0 * trained + 6.0 * 81_920.0 * 768.0));

    let retrieval = paper_plan("stage2-retrieval", "vit_l_14", &[]);
    near(retrieval.flops_per_sample, vision + llama(13.0));
    near(retrieval.computed_flops_per_sample, vision + llama(13.0));
    assert!(retrieval.total_bytes < 80e9, "a rank's share fits in one pass");
    // Only the regions' embeddings learn.
    let trained = retrieval.trained_parameters as f64;
    near(retrieval.sent_bytes, 4.0 * 63.0 / 64.0 * (2.0 * trained + 4.0 * 49_152.0 * 768.0));
}

/// Calculated by hand, for links of 50 GB/s and 10 µs.
#[test]
fn transfers_of_a_ring_and_a_tree_match_a_hand_calculation() {
    let near = |found: f64, wanted: f64| {
        assert!((found / wanted - 1.0).abs() < 1e-6, "{found} and {wanted}")
    };
    let planned = paper_plan("stage1", "vit_l_14", &["hardware.network_gb_per_sec=50"]);
    let trained = planned.trained_parameters as f64;
    // Sums of the gradients and of the embeddings' gradients, images and texts; two gathers.
    let side = 4.0 * 81_920.0 * 768.0;
    let (summed, gathered) = (4.0 * trained + 2.0 * side, 2.0 * side);
    let cluster = &planned.cluster;
    let ring = (2.0 * summed + gathered) * 63.0 / 64.0 / 50e9 + (3.0 * 2.0 + 2.0) * 63.0 * 1e-5;
    near(cluster.ring_secs.expect("a bandwidth is given"), ring);
    let tree = (2.0 * summed + gathered * 63.0 / 64.0) / 50e9 + (3.0 * 2.0 + 2.0) * 6.0 * 1e-5;
    near(cluster.tree_secs.expect("a bandwidth is given"), tree);
    near(
        cluster.photos_per_sec.expect("a peak is given"),
        1280.0 / planned.step_secs.expect("a peak is given"),
    );
    near(cluster.checkpoint_bytes, 4.0 * planned.parameters as f64 + 8.0 * trained);
    // Eight ranks with four batches of 1,280 photos each, as f32.
    let batches = 8.0 * 4.0 * 1280.0 * 4.0 * 3.0 * 224.0 * 224.0;
    near(cluster.host_bytes, batches + cluster.checkpoint_bytes);
    assert_eq!(cluster.checkpoint_secs, None, "the disk is not known");
}

#[test]
fn moments_that_are_shared_out_take_a_share_of_the_memory() {
    let [all, shared] =
        [&[][..], &["optim.shard_moments=true"]].map(|set| paper_plan("stage1", "vit_l_14", set));
    let moments = 2.0 * 4.0 * all.trained_parameters as f64;
    let saved = all.static_bytes - shared.static_bytes;
    assert!((saved / (moments * 63.0 / 64.0) - 1.0).abs() < 1e-9, "{saved} of {moments}");
    let weights = 4.0 * all.trained_parameters as f64 * 63.0 / 64.0;
    let sent = shared.sent_bytes - all.sent_bytes;
    assert!((sent / weights - 1.0).abs() < 1e-9, "{sent} for {weights}");
}

/// Calculated by hand, for TinyLlama.
#[test]
fn adapters_are_trained_instead_of_the_language_model() {
    let of = |set: &[&str]| paper_plan("stage1", "vit_l_14", set);
    let lora = "lora={ rank = 8, alpha = 16, projections = ['q_proj', 'v_proj', 'down_proj'] }";
    let (frozen, adapted) = (of(&["freeze_llm=true"]), of(&[lora]));
    let block = 8 * ((2048 + 2048) + (2048 + 256) + (5632 + 2048));
    assert_eq!(adapted.trained_parameters - frozen.trained_parameters, 22 * block);
    assert_eq!(adapted.parameters - frozen.parameters, 22 * block);
    assert_eq!(adapted.flops_per_sample, frozen.flops_per_sample);
    assert!(adapted.static_bytes > frozen.static_bytes + 16.0 * 22.0 * block as f64);
    assert!(adapted.static_bytes < of(&[]).static_bytes);
}

#[test]
fn averaged_weights_take_memory_and_disk() {
    let of = |set: &[&str]| paper_plan("stage1", "vit_l_14", set);
    let (plain, averaged) = (of(&[]), of(&["optim.ema=0.999"]));
    let shared = ["optim.shard_moments=true", "optim.ema=0.999"];
    let weights = 4.0 * plain.trained_parameters as f64;
    let near = |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 1e-9, "{found}");
    near(averaged.static_bytes - plain.static_bytes, weights);
    near(of(&shared).static_bytes - of(&shared[..1]).static_bytes, weights / 64.0);
    near(averaged.cluster.checkpoint_bytes - plain.cluster.checkpoint_bytes, weights);
}

/// Calculated by hand, for ViT-L/14 and TinyLlama.
#[test]
fn frozen_blocks_cost_only_their_forward_pass() {
    let set = ["freeze_vision_blocks=12", "freeze_text_blocks=11"];
    let [all, half] = [&[][..], &set].map(|set| paper_plan("stage1", "vit_l_14", set));
    let vit_block = 12 * 1024 * 1024 + 13 * 1024;
    let patches = 3 * 14 * 14 * 1024 + 1024 + 257 * 1024 + 2 * 1024;
    let llama_block = 44_040_192 + 2 * 2048;
    let frozen = patches + 12 * vit_block + 32_000 * 2048 + 11 * llama_block;
    assert_eq!(all.trained_parameters - half.trained_parameters, frozen);
    assert_eq!(all.parameters, half.parameters);
    // Their gradients and moments, of four bytes each.
    let saved = all.static_bytes - half.static_bytes;
    assert!((saved / (16.0 * frozen as f64) - 1.0).abs() < 1e-9, "{saved}");
    let vit = 2.0 * 257.0 * 12.0 * 1024f64.powi(2) + 4.0 * 257f64.powi(2) * 1024.0;
    let conv = 2.0 * 256.0 * 3.0 * 196.0 * 1024.0;
    let llama = |seq: f64| 2.0 * seq * 44_040_192.0 + 4.0 * seq * seq * 2048.0;
    // The encoder is not passed through in the backward pass; the language model is.
    let saved = 2.0 * (conv + 12.0 * vit) + 11.0 * (llama(17.0) + llama(18.0));
    let found = all.flops_per_sample - half.flops_per_sample;
    assert!((found / saved - 1.0).abs() < 1e-9, "{found} and {saved}");
    assert!(half.activation_bytes_per_sample < all.activation_bytes_per_sample);
}

#[test]
fn doubling_the_ranks_finds_the_first_limit() {
    let limit = |set: &[&str]| paper_plan("stage1", "vit_l_14", set).first_limit.expect("one");
    // A micro-batch of 256 out of 81,920 samples: 512 ranks have 160 each.
    let (ranks, text) = limit(&["optim.micro_batch=256"]);
    assert!(ranks == 512 && text.contains("160 samples"), "{ranks}: {text}");
    let (ranks, text) = limit(&["hardware.network_gb_per_sec=1", "optim.micro_batch=1"]);
    assert!(text.contains("transfers take"), "{ranks}: {text}");
    let (ranks, text) = limit(&["optim.micro_batch=1"]);
    assert!(ranks == 131_072 && text.contains("81920 samples"), "{ranks}: {text}");
}

#[test]
fn patches_that_are_dropped_are_not_paid_for() {
    let lab = Lab::new();
    let sizes = sizes(|_| {});
    let of = |sizes: &MmGemConfig, set: &[&str]| plan(&lab.config("run", set), sizes, 1, None);
    // A quarter of 4 × 4 patches is as many as a photo of half the side has.
    let mut smaller = sizes.clone();
    tiny_vit(&mut smaller).image_size = 16;
    let (quarter, small) = (of(&sizes, &["data.patch_dropout=0.75"]), of(&smaller, &[]));
    assert_eq!(quarter.flops_per_sample, small.flops_per_sample);
    // The pixels of the whole photo still count.
    let pixels = 4.0 * 3.0 * (32.0 * 32.0 - 16.0 * 16.0);
    let difference = quarter.activation_bytes_per_sample - small.activation_bytes_per_sample;
    assert!((difference - pixels).abs() < 1.0, "{difference} and {pixels}");
    assert_eq!(quarter.parameters, of(&sizes, &[]).parameters);
}

#[test]
fn a_run_that_has_begun_is_planned_by_its_own_rate() {
    let lab = Lab::new();
    let config = lab.config("run", &["optim.steps=3"]);
    finish(&config, false);
    let mut rates: Vec<f64> = metrics(&config)
        .iter()
        .map(|line| line["flops_per_sec"].as_f64().expect("a rate"))
        .collect();
    rates.sort_by(f64::total_cmp);
    let planned = plan_run(&config, 2, None).expect("the sizes are there");
    let (rate, source) = planned.flops_per_sec.expect("it was measured");
    assert_eq!(rate, rates[1]);
    assert!(source.contains("measured"), "{source}");
    let step = planned.step_secs.expect("a time");
    assert!((step - 2.0 * planned.flops_per_sample / rate).abs() < 1e-9 * step);
    let hours = planned.device_hours.expect("a time");
    assert!((hours - 2.0 * 3.0 * step / 3600.0).abs() < 1e-9 * hours);
}

#[test]
fn unknown_hardware_gives_no_times() {
    let lab = Lab::new();
    let sizes = sizes(|_| {});
    let blind = plan(&lab.config("run", &[]), &sizes, 4, None);
    assert_eq!((blind.flops_per_sec, blind.hours, blind.largest_micro_batch), (None, None, None));
    let set = ["hardware={ peak_tflops = 100, memory_gb = 0.00001 }"];
    let small = plan(&lab.config("run", &set), &sizes, 4, None);
    assert_eq!(small.largest_micro_batch, None);
    assert!(small.flops_per_sec.expect("a peak was given").1.starts_with("assumed"));
}
