//! Training in bf16 with f32 weights follows training in f32, and recomputation changes nothing.

use burn::tensor::DType;
use mmgem_collective::Single;
use mmgem_train::{Signals, TrainConfig, train};

use crate::lab::{COMMIT, Lab, check_same, finish, metrics, weights};

/// Fifty steps of one recipe, in two variants.
fn fifty(lab: &Lab, set: &[&str], names: [&str; 2], ways: [&[&str]; 2]) -> [TrainConfig; 2] {
    let common = [
        "optim.batch_size=8",
        "optim.steps=50",
        "optim.warmup_steps=5",
        "optim.lr_heads=1e-3",
        "optim.lr_towers=1e-3",
        "checkpoint.every=50",
    ];
    let config = |at: usize| lab.config(names[at], &[&common, set, ways[at]].concat());
    let configs = [config(0), config(1)];
    configs.iter().for_each(|config| drop(finish(config, false)));
    configs
}

/// Checks that each bf16 loss is within a hundredth of the f32 loss, and that the total decrease
/// agrees within a tenth.
///
/// The runs do not agree more closely: with eight scenes, LAMB turns rounding errors into steps,
/// because it divides gradients by their own size.
fn check_bf16(set: &[&str]) {
    let lab = Lab::new();
    let ways: [&[&str]; 2] = [&[], &["optim.compute_dtype=bf16"]];
    let [exact, coarse] = fifty(&lab, set, ["f32", "bf16"], ways);
    let losses = |config: &TrainConfig| -> Vec<f64> {
        metrics(config).iter().filter_map(|line| line["loss"].as_f64()).collect()
    };
    let (exact, coarse_losses) = (losses(&exact), losses(&coarse));
    assert_eq!((exact.len(), coarse_losses.len()), (50, 50));
    let mut worst = (0.0, 0);
    for (step, (a, b)) in exact.iter().zip(&coarse_losses).enumerate() {
        let off = (a - b).abs() / a.abs();
        worst = if off > worst.0 { (off, step) } else { worst };
    }
    println!(
        "{set:?}: {:.3} to {:.3}, at most {:.4} apart (step {})",
        exact[0], exact[49], worst.0, worst.1
    );
    assert!(
        worst.0 <= 0.01,
        "{:.4} apart in step {}: {exact:?} and {coarse_losses:?}",
        worst.0,
        worst.1
    );
    let falls = |losses: &[f64]| losses[0] - losses[49];
    let (a, b) = (falls(&exact), falls(&coarse_losses));
    assert!(a > 0.0 && (a - b).abs() <= 0.1 * a, "falls by {a} in f32, by {b} in bf16");
    assert_ne!(exact, coarse_losses);

    // The master weights are f32: they keep updates far below bf16's resolution.
    let is_fine = |values: &Vec<f32>| values.iter().any(|x| x.to_bits() & 0xffff != 0);
    let after = weights(&coarse.out.join("model"));
    assert!(is_fine(&after["h3.weight"]) || is_fine(&after["h4.weight"]));
}

#[test]
fn stage_1_in_bf16_follows_f32() {
    check_bf16(&["optim.micro_batch=3"]);
}

#[test]
fn stage_2_for_captions_in_bf16_follows_f32() {
    check_bf16(&["recipe=stage2_caption", "model={ from = 'LAB/start' }"]);
}

#[test]
fn stage_2_for_retrieval_in_bf16_follows_f32() {
    check_bf16(&["recipe=stage2_retrieval", "model={ from = 'LAB/start' }"]);
}

#[test]
fn recomputed_blocks_train_the_same_model() {
    let lab = Lab::new();
    let ways: [&[&str]; 2] = [&[], &["optim.recompute=true", "optim.micro_batch=3"]];
    let [kept, again] = fifty(&lab, &["optim.steps=20"], ["kept", "again"], ways);
    check_same(&kept.out, &again.out);
}

#[test]
fn a_device_without_bf16_is_refused_before_anything_is_written() {
    let device = match mmgem_backend_wgpu::device(None) {
        Ok(device) if !device.supports_dtype(DType::BF16) => device,
        Ok(_) => return eprintln!("SKIPPED: this GPU computes in bf16"),
        Err(reason) => return eprintln!("SKIPPED: no wgpu adapter ({reason})"),
    };
    let lab = Lab::new();
    let config = lab.config("run", &["optim.compute_dtype=bf16"]);
    let error = train(&config, &device, COMMIT, false, &Signals::default(), &Single, |_| {})
        .expect_err("it cannot compute")
        .to_string();
    for part in ["does not compute in bf16", "optim.compute_dtype=f32"] {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
    assert!(!config.out.exists());
}
