//! Compares our graph with the reference program. The same weights and inputs must give the same
//! numbers at every stage, in the forward and the backward pass.
//!
//! Each folder with a `case.json` is a case. `case.json` describes the case and has the command
//! lines that made it; `make.py` makes it again. `-- --nocapture` prints the table of differences.

mod fixture;
mod foreign;
mod import;
mod layouts;
mod packed;
mod properties;
mod refused;

use burn::tensor::Device;
use fixture::Case;
use mmgem_data::files::ModelFolder;
use mmgem_train::trace::compare;

/// Largest difference allowed in the forward pass, over the largest value of the stage.
///
/// Both programs sum the same f32 products in different orders, which differs by about 1e-6. Ten
/// times that leaves room for other processors. Real mistakes differ by more: the test
/// `the_tolerance_is_far_below_what_a_mistake_does` tries a wrong activation, rotary base, epsilon
/// and others.
const FORWARD_TOLERANCE: f64 = 1e-5;
/// The same for gradients. Terms cancel in them: the gradient of the temperature is a small
/// difference of large terms.
const BACKWARD_TOLERANCE: f64 = 1e-4;

fn check(name: &str) {
    let case = Case::read(name);
    let folder = case.open(&Device::flex().autodiff());
    case.compare(&case.forward(&folder), FORWARD_TOLERANCE, "flex");
    if case.has_losses() {
        case.compare(&case.backward(&folder), BACKWARD_TOLERANCE, "flex");
    }
}

#[test]
fn the_preset_tiny_is_the_reference() {
    check("tiny");
}

#[test]
fn quick_gelu_is_open_ais() {
    check("quick_gelu");
}

#[test]
fn cap_can_stand_before_the_image() {
    check("cap_first");
}

#[test]
fn the_language_model_can_see_every_patch() {
    check("grid_tokens");
}

#[test]
fn four_query_heads_share_a_key_head() {
    check("grouped_heads");
}

#[test]
fn all_query_heads_share_one_key_head() {
    check("multi_query");
}

#[test]
fn patches_can_be_16_pixels_wide() {
    check("patches_of_16");
}

#[test]
fn a_grid_can_be_odd_and_a_bin_have_one_sample() {
    check("odd_grid");
}

#[test]
fn boxes_smaller_than_a_patch_are_sampled_as_torchvision_does() {
    check("roi_4_samples_3");
}

#[test]
fn a_cropped_photo_takes_its_boxes_along() {
    check("crop_16_9");
}

#[test]
fn an_image_one_pixel_high_can_be_cropped() {
    check("crop_line");
}

#[test]
fn an_image_one_pixel_high_can_be_squashed() {
    check("squash_line");
}

#[test]
fn texts_may_be_empty_or_too_long() {
    check("uneven_texts");
}

#[test]
fn the_joint_space_may_be_wider_than_the_models() {
    check("embed_dim_56");
}

#[test]
fn the_rotary_base_and_the_norm_epsilon_are_the_configs() {
    check("rope_theta");
}

#[test]
fn the_head_can_be_the_token_embedding() {
    check("tied");
}

#[test]
fn the_mlp_can_be_any_multiple_of_the_width() {
    check("mlp_ratio");
}

#[test]
fn a_temperature_at_its_bound_gets_no_gradient() {
    check("clamped_scale");
}

#[test]
fn a_model_with_files_of_both_ecosystems_is_the_reference() {
    check("imported");
}

#[test]
fn the_language_model_can_see_roi_align_of_the_whole_image() {
    check("roi_tokens");
}

#[test]
fn a_vision_transformer_can_go_without_class_token_and_first_norm() {
    check("siglip");
}

#[test]
fn layer_scale_and_the_bias_of_the_patches_fold() {
    check("dinov2");
}

#[test]
fn a_convolutional_encoder_is_timms() {
    check("lite_45");
}

#[test]
fn a_deeper_convolutional_encoder_is_timms() {
    check("lite_33");
}

#[test]
fn rotary_positions_stretch_as_llama_3_1s() {
    check("llama3");
}

#[test]
fn rotary_positions_stretch_linearly() {
    check("linear_rope");
}

/// Runs a case with one wrong value in its config. Fails unless `stage` differs from the golden
/// values by more than 100 times the tolerance.
fn check_mistake(name: &str, key: &str, wrong: serde_json::Value, stage: &str) {
    check_mistake_above(100.0, name, key, wrong, stage);
}

/// The same with another multiple of the tolerance.
fn check_mistake_above(
    multiple: f64,
    name: &str,
    key: &str,
    wrong: serde_json::Value,
    stage: &str,
) {
    let case = Case::read(name);
    let copy = case.copy();
    fixture::change_config(copy.path(), |config| {
        *config.pointer_mut(key).expect("the config has this key") = wrong.clone();
    });
    let folder = ModelFolder::read(copy.path(), &Device::flex()).expect("wrong, but a model");
    let found = compare(&case.forward(&folder), &case.golden());
    let at_stage = found.iter().find(|difference| difference.name == stage).expect("a stage");
    println!("{name} with {key} = {wrong}: {stage} is off by {:.1e}", at_stage.relative);
    assert!(at_stage.relative > multiple * FORWARD_TOLERANCE, "{name} with {key} = {wrong} passes");
}

#[test]
fn the_tolerance_is_far_below_what_a_mistake_does() {
    check_mistake("quick_gelu", "/vision/hidden_act", "gelu".into(), "image_embed");
    check_mistake("tiny", "/vision/hidden_act", "quick_gelu".into(), "image_embed");
    // The two GELUs agree to three digits. So do layer norms with either epsilon on vectors of
    // usual length.
    check_mistake_above(10.0, "siglip", "/vision/hidden_act", "gelu".into(), "image_embed");
    check_mistake_above(10.0, "siglip", "/vision/layer_norm_eps", 1e-6.into(), "image_embed");
    check_mistake("llama3", "/llm/rope_scaling", serde_json::Value::Null, "text_embed");
    check_mistake("llama3", "/llm/rope_scaling/factor", 8.0.into(), "text_embed");
    check_mistake("linear_rope", "/llm/rope_scaling/factor", 2.0.into(), "text_embed");
    check_mistake("roi_tokens", "/vision_tokens", "grid".into(), "caption_first_logits");
    check_mistake("rope_theta", "/llm/rope_theta", 10_000.0.into(), "text_embed");
    check_mistake("rope_theta", "/llm/rms_norm_eps", 1e-5.into(), "text_embed");
    check_mistake("tiny", "/llm/rms_norm_eps", 1e-6.into(), "text_embed");
    check_mistake("grouped_heads", "/vision/num_attention_heads", 4.into(), "image_embed");
    check_mistake("odd_grid", "/roi_sampling_ratio", 2.into(), "roi");
    check_mistake("crop_16_9", "/resize_mode", "squash".into(), "pixels");
}

#[test]
fn no_case_is_left_out() {
    let source = include_str!("main.rs");
    for name in fixture::case_names() {
        assert!(
            source.contains(&format!("check({name:?})")),
            "{name} has golden values but no test"
        );
    }
}
