//! Our graph held against the reference program: the same weights and inputs must give the same
//! numbers at every stage, forwards and backwards.
//!
//! Each folder here is a case; `case.json` says what it is and which lines made it, and `make.py`
//! makes them again. The table of differences is printed with `-- --nocapture`.

mod fixture;
mod import;
mod on_wgpu;
mod properties;
mod refused;

use burn::tensor::Device;
use fixture::Case;

/// Both sides sum the same f32 products in different orders. A sum of a few hundred terms is off by
/// some 1e-6 of its largest term, and norms, softmax and a temperature of 14 to 100 widen that by
/// about ten; a wrong epsilon, activation or rotary order is off by 1e-3 and more.
const TOLERANCE: f64 = 1e-4;

fn check(name: &str) {
    let case = Case::read(name);
    let folder = case.open(&Device::flex().autodiff());
    let mut trace = case.forward(&folder);
    if case.n_images() == case.n_texts() {
        trace.extend(case.backward(&folder));
    }
    case.compare(&trace, TOLERANCE, "flex");
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
fn no_case_is_left_out() {
    let source = include_str!("main.rs");
    for name in fixture::case_names() {
        assert!(source.contains(&format!("check({name:?})")), "{name} has golden values but no test");
    }
}
