//! The plan of a run against what it is when it runs.

use burn::module::Module;
use burn::tensor::Device;
use mmgem_core::config::MmGemConfig;
use mmgem_core::model::MmGem;
use mmgem_core::train::plan;

use crate::lab::{Lab, finish, metrics};
use crate::tiny;

fn sizes(change: impl Fn(&mut MmGemConfig)) -> MmGemConfig {
    let mut sizes = MmGemConfig::from_json(tiny::CONFIG).expect("the tiny config is right");
    change(&mut sizes);
    sizes
}

#[test]
fn parameters_are_counted_as_the_model_has_them() {
    let lab = Lab::new();
    for sizes in [
        sizes(|_| {}),
        sizes(|sizes| sizes.llm.tie_word_embeddings = true),
        sizes(|sizes| {
            (sizes.vision.num_hidden_layers, sizes.vision.mlp_ratio) = (3, 2.5);
            (sizes.llm.num_hidden_layers, sizes.llm.num_key_value_heads) = (2, 1);
        }),
    ] {
        let model = MmGem::new(&sizes, &Device::flex());
        let planned = plan(&lab.config("run", &[]), &sizes, 1, None);
        assert_eq!(planned.parameters, model.num_params());
        let stage_2 = plan(&lab.config("run", &["recipe=stage2_retrieval"]), &sizes, 1, None);
        assert_eq!(stage_2.trained_parameters, model.h4.num_params());
        let not_in_stage_1 = model.h4.num_params()
            + sizes.num_caption_prompts * sizes.llm.hidden_size
            + sizes.vision.hidden_size * sizes.vision.proj_dim;
        assert_eq!(planned.trained_parameters, model.num_params() - not_in_stage_1);
    }
}

#[test]
fn operations_are_six_a_parameter_and_token_where_the_matrices_are_large() {
    let lab = Lab::new();
    let sizes = sizes(|sizes| {
        (sizes.vision.hidden_size, sizes.llm.hidden_size, sizes.llm.intermediate_size) = (512, 1024, 2048);
        sizes.vision.num_hidden_layers = 4;
        sizes.llm.num_hidden_layers = 4;
    });
    let planned = plan(&lab.config("run", &["objective=clip_only"]), &sizes, 1, None);
    let visual = (4 * 12 * 512 * 512) as f64;
    let llm = (4 * (2 * 1024 * 1024 + 2 * 1024 * 512 + 3 * 1024 * 2048)) as f64;
    // 17 tokens of an image, 16 and [EMB] of a text.
    let wanted = 6.0 * 17.0 * (visual + llm);
    assert!(
        (planned.flops_per_sample / wanted - 1.0).abs() < 0.03,
        "{} and {wanted}",
        planned.flops_per_sample
    );
}

#[test]
fn a_run_that_has_begun_is_planned_by_its_own_rate() {
    let lab = Lab::new();
    let config = lab.config("run", &["optim.steps=3"]);
    finish(&config, false);
    let mut rates: Vec<f64> =
        metrics(&config).iter().map(|line| line["flops_per_sec"].as_f64().expect("a rate")).collect();
    rates.sort_by(f64::total_cmp);
    let planned = mmgem_core::train::plan_run(&config, 2).expect("the sizes are there");
    let (rate, source) = planned.flops_per_sec.expect("it was measured");
    assert_eq!(rate, rates[1]);
    assert!(source.contains("measured"), "{source}");
    let step = planned.step_secs.expect("a time");
    assert!((step - 2.0 * planned.flops_per_sample / rate).abs() < 1e-9 * step);
    let hours = planned.device_hours.expect("a time");
    assert!((hours - 2.0 * 3.0 * step / 3600.0).abs() < 1e-9 * hours);
}

#[test]
fn what_is_not_known_is_not_planned() {
    let lab = Lab::new();
    let sizes = sizes(|_| {});
    let blind = plan(&lab.config("run", &[]), &sizes, 4, None);
    assert_eq!((blind.flops_per_sec, blind.hours, blind.largest_micro_batch), (None, None, None));
    let set = ["hardware={ peak_tflops = 100, memory_gb = 0.00001 }"];
    let small = plan(&lab.config("run", &set), &sizes, 4, None);
    assert_eq!(small.largest_micro_batch, None);
    assert!(small.flops_per_sec.expect("a peak was told").1.starts_with("assumed"));
}
