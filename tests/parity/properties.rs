//! Properties that hold for any weights, tested on the random weights of the cases.

use burn::tensor::{Device, Int, Tensor, TensorData, s};
use mmgem_core::checkpoint::{Dtype, named_tensors};
use mmgem_core::generate::{Decoding, Generated, generate, greedy};
use mmgem_core::image::Rgb;
use mmgem_core::model::mmgem::TokenBatch;
use mmgem_core::model::pool_aggregator::Region;
use mmgem_core::model::{PoolAggregator, Stage};
use mmgem_core::readback::read_floats;
use mmgem_core::session::{Part, Session};
use mmgem_data::files::ModelFolder;
use mmgem_train::trace::Values;
use pollster::block_on;

use crate::fixture::{Case, RawFile, case_names, relative};

/// Largest difference allowed between two orders of the same f32 sums, over the largest value.
const SAME: f64 = 1e-5;

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    block_on(read_floats(tensor)).expect("the CPU works")
}

fn patches(case: &Case, folder: &ModelFolder) -> Tensor<3> {
    let images = case.images(folder);
    let side = folder.config.vision.image_size();
    let pixels: Vec<f32> = images.iter().flat_map(|image| image.pixels.clone()).collect();
    let pixels = TensorData::new(pixels, [images.len(), 3, side, side]);
    folder.model.visual.forward(Tensor::from_data(pixels, &Device::flex()))
}

/// The caption prefix of each image of the case: `[images, prefix, hidden_size]`.
fn prefix(case: &Case, folder: &ModelFolder) -> Tensor<3> {
    let tokens = folder.model.whole_tokens(patches(case, folder));
    folder.model.caption_prefix(tokens, Stage::One)
}

fn cached_decoding_equals_full_decoding(name: &str) {
    let case = Case::read(name);
    let folder = case.open(&Device::flex());
    let llm = &folder.model.llm;
    let prefix = prefix(&case, &folder);
    let [batch, n_prefix, width] = prefix.dims();
    let ids = Tensor::<2, Int>::from_data(
        TensorData::new(vec![7i32; batch * 9], [batch, 9]),
        &Device::flex(),
    );
    let sequence = Tensor::cat(vec![prefix.clone(), llm.embed(ids)], 1);

    let full = llm.forward_embeds(sequence.clone());
    let mut cache = llm.new_cache(batch, n_prefix + 9, &Device::flex());
    let last = llm.last_cached(prefix.clone(), &mut cache.clone());
    let wanted = full.clone().slice(s![.., n_prefix - 1..n_prefix]);
    let difference = relative(&values(last), &values(wanted));
    assert!(difference < SAME, "{name}, the prefix alone: {difference:e}");
    let mut parts = vec![llm.forward_cached(prefix, &mut cache)];
    for at in n_prefix..n_prefix + 9 {
        let token = sequence.clone().slice(s![.., at..at + 1]).reshape([batch, 1, width]);
        parts.push(llm.forward_cached(token, &mut cache));
    }
    let difference = relative(&values(Tensor::cat(parts, 1)), &values(full));
    assert!(difference < SAME, "{name}: {difference:e}");
}

#[test]
fn a_cached_sequence_is_the_whole_one() {
    for name in [
        "tiny",
        "grouped_heads",
        "multi_query",
        "grid_tokens",
        "roi_tokens",
        "rope_theta",
        "llama3",
        "linear_rope",
    ] {
        cached_decoding_equals_full_decoding(name);
    }
}

#[test]
fn padding_and_batch_mates_change_no_text() {
    let case = Case::read("uneven_texts");
    let folder = case.open(&Device::flex());
    let embed = |texts: &[Vec<u32>]| {
        values(folder.model.text_embed(&TokenBatch::new(texts, &Device::flex())))
    };
    let texts = case.token_ids(&folder);
    let together = embed(&texts);
    for (text, row) in texts.iter().zip(together.chunks(folder.config.embed_dim)) {
        let difference = relative(&embed(std::slice::from_ref(text)), row);
        assert!(difference < SAME, "{text:?}: {difference:e}");
    }
}

#[test]
fn batch_mates_change_no_image() {
    let case = Case::read("crop_16_9");
    let folder = case.open(&Device::flex());
    let images = case.images(&folder);
    let session = session(folder);
    let embed = |photos: &[_]| {
        let one =
            |image: &_| block_on(session.embed_image(image, &Part::Whole)).expect("the CPU works");
        session.encode_batch(photos).iter().map(one).collect::<Vec<_>>()
    };
    for (image, together) in images.iter().zip(embed(&images)) {
        assert!(relative(&embed(std::slice::from_ref(image))[0], &together) < SAME);
    }
}

fn session(folder: ModelFolder) -> Session {
    Session::new(folder.config, folder.model, folder.tokenizer, &Device::flex())
}

/// RoIAlign of the whole input, with the given number of bins per side and samples per bin.
fn whole_region(
    case: &Case,
    folder: &ModelFolder,
    roi_output_size: usize,
    roi_sampling_ratio: usize,
) -> Tensor<3> {
    let side = folder.config.vision.image_size() as f32;
    let pool = PoolAggregator { roi_output_size, roi_sampling_ratio, ..folder.model.pool.clone() };
    let whole = |image| (image, Region { box_input: [0.0, 0.0, side, side], mask: None });
    pool.roi_align(patches(case, folder), &(0..case.n_images()).map(whole).collect::<Vec<_>>())
}

// The input has 32 pixels in patches of 8: one sample falls on the centre of each of 4×4 patches.
#[test]
fn the_whole_image_with_a_sample_per_patch_is_its_patches() {
    let case = Case::read("tiny");
    let folder = case.open(&Device::flex());
    let found = values(whole_region(&case, &folder, 4, 1));
    assert!(relative(&found, &values(patches(&case, &folder))) < SAME);
}

#[test]
fn the_mean_of_a_region_is_that_of_its_bins() {
    let case = Case::read("tiny");
    let folder = case.open(&Device::flex());
    let pool = &folder.model.pool;
    let boxes = [[0.0, 0.0, 32.0, 32.0], [3.0, 5.0, 29.0, 20.0], [-4.0, 9.0, 11.0, 40.0]];
    let regions = boxes.map(|box_input| Region { box_input, mask: None });
    let image = patches(&case, &folder).slice(burn::tensor::s![0..1]);
    let bins = pool.roi_align(image.clone(), &regions.clone().map(|region| (0, region)));
    let wanted = bins.mean_dim(1).squeeze_dim::<2>(1);
    let found = pool.roi_mean(image, &regions);
    assert!(relative(&values(found), &values(wanted)) < SAME);
}

// This holds while h4 is the identity, as it is before stage 2.
#[test]
fn the_whole_image_with_a_sample_per_patch_embeds_as_the_image() {
    let case = Case::read("tiny");
    let mut folder = case.open(&Device::flex());
    let d = folder.config.embed_dim;
    let identity: Vec<f32> = (0..d * d).map(|i| f32::from(i / d == i % d)).collect();
    let constant = |data| Tensor::from_data(data, &Device::flex());
    folder.model.h4.weight =
        Some(burn::module::Param::from_tensor(constant(TensorData::new(identity, [d, d]))));
    folder.model.h4.bias =
        Some(burn::module::Param::from_tensor(Tensor::zeros([d], &Device::flex())));

    let image = values(folder.model.image_embed(patches(&case, &folder)));
    for (bins, samples) in [(4, 1), (2, 2), (1, 4)] {
        let region = values(folder.model.region_embed(whole_region(&case, &folder, bins, samples)));
        assert!(relative(&region, &image) < SAME, "{bins} bins of {samples} samples");
    }
}

// The box's corners fall on whole pixels of the input, where the mask is sampled.
#[test]
fn a_mask_of_a_whole_box_is_the_box() {
    let session = session(Case::read("tiny").open(&Device::flex()));
    let photo = Rgb::from_fn(64, 64, |x, y| [(4 * x) as u8, (4 * y) as u8, (x * y) as u8].into());
    let image = session.encode_rgb(&photo);
    let embed = |part: &Part| {
        block_on(session.embed_image(&image, part)).expect("the part is in the photo")
    };
    let inside = |i: usize| (8..40).contains(&(i % 64)) && (16..48).contains(&(i / 64));
    let mask = (0..64 * 64).map(|i| if inside(i) { 255 } else { 0 }).collect();
    let by_mask = embed(&Part::Mask { width: 64, height: 64, values: mask });
    let by_box = embed(&Part::Box([8.0, 16.0, 40.0, 48.0]));
    assert!(relative(&by_mask, &by_box) < SAME);
    assert!(relative(&by_box, &embed(&Part::Whole)) > 0.01, "the box is not the whole photo");
    let short = Part::Mask { width: 64, height: 64, values: vec![255; 64 * 63] };
    let error = block_on(session.embed_image(&image, &short)).expect_err("too few values");
    assert!(error.to_string().contains("4032 values, but 64×64 pixels need 4096"), "{error}");
}

fn captions(name: &str, beam: usize) -> Vec<Generated> {
    let case = Case::read(name);
    let folder = case.open(&Device::flex());
    let decoding = Decoding { max_tokens: 12, beam, ..Decoding::default() };
    let eos = folder.config.eos_token_id;
    block_on(generate(&folder.model.llm, prefix(&case, &folder), eos, decoding))
        .expect("the CPU works")
}

#[test]
fn a_beam_of_one_is_greedy() {
    for name in case_names() {
        let case = Case::read(&name);
        let folder = case.open(&Device::flex());
        let eos = Some(folder.config.eos_token_id);
        let wanted = block_on(greedy(&folder.model.llm, prefix(&case, &folder), eos, 12))
            .expect("the CPU works");
        assert_eq!(captions(&name, 1), wanted, "{name}");
    }
}

// Decoding drops the rows of finished captions while it continues the others.
#[test]
fn a_caption_that_ends_early_changes_no_other() {
    let mut n_uneven = 0;
    for name in case_names() {
        let case = Case::read(&name);
        let folder = case.open(&Device::flex());
        let prefix = prefix(&case, &folder);
        let [batch, _, _] = prefix.dims();
        let decode = |prefix: Tensor<3>, eos| {
            block_on(greedy(&folder.model.llm, prefix, eos, 12)).expect("the CPU works")
        };
        let endless = decode(prefix.clone(), None);
        // A token from the middle of the first caption serves as the end token.
        let eos = Some(endless[0].ids[6]);
        let together = decode(prefix.clone(), eos);
        n_uneven +=
            usize::from(together.iter().any(|caption| caption.ids.len() != together[0].ids.len()));
        for (row, caption) in together.iter().enumerate() {
            let alone = decode(prefix.clone().slice(s![row..row + 1]), eos).remove(0);
            assert_eq!(caption.ids, alone.ids, "{name}, row {row} of {batch}");
            assert!(
                (caption.log_prob - alone.log_prob).abs() < 1e-4,
                "{name}: {caption:?} {alone:?}"
            );
        }
    }
    assert!(n_uneven > 0, "no case has captions of different length");
}

// For two tokens this always holds: the greedy path is still in the beam when its second token is
// scored. The beam may drop a longer path before it turns out best. With these random weights that
// happens 9 times in 38.
#[test]
fn over_two_tokens_a_beam_is_at_least_as_probable_as_greedy() {
    const NEVER_ENDS: u32 = u32::MAX;
    for name in case_names() {
        let case = Case::read(&name);
        let folder = case.open(&Device::flex());
        let decode = |beam| {
            let decoding = Decoding { max_tokens: 2, beam, ..Decoding::default() };
            block_on(generate(&folder.model.llm, prefix(&case, &folder), NEVER_ENDS, decoding))
                .expect("the CPU works")
        };
        for (beam, greedy) in decode(3).iter().zip(&decode(1)) {
            assert!(beam.log_prob >= greedy.log_prob - 1e-5, "{name}: {beam:?} after {greedy:?}");
        }
    }
}

// A beam's log-probability must equal the model's for the same tokens, computed without a cache.
#[test]
fn the_log_probability_of_a_beam_is_the_models() {
    for name in ["tiny", "multi_query", "grouped_heads"] {
        let case = Case::read(name);
        let folder = case.open(&Device::flex());
        let (llm, eos) = (&folder.model.llm, folder.config.eos_token_id);
        for (row, caption) in captions(name, 3).into_iter().enumerate() {
            let prefix = prefix(&case, &folder).slice(s![row..row + 1]);
            let texts = TokenBatch::new(std::slice::from_ref(&caption.ids), &Device::flex());
            let hidden = folder.model.caption_hidden(prefix, &texts);
            let [_, positions, width] = hidden.dims();
            let log_probs = burn::tensor::activation::log_softmax(
                llm.logits(hidden.reshape([positions, width])),
                1,
            );
            let log_probs = values(log_probs);
            let at = |(position, id): (usize, &u32)| {
                log_probs[position * folder.config.llm.vocab_size + *id as usize]
            };
            // A caption cut at its limit has no end token.
            let ended = (caption.ids.len() < 12).then_some(eos);
            let wanted: f32 = caption.ids.iter().chain(ended.iter()).enumerate().map(at).sum();
            assert!(
                (caption.log_prob - wanted).abs() < 1e-3,
                "{name}: {caption:?}, wanted {wanted}"
            );
        }
    }
}

#[test]
fn a_folder_that_was_written_holds_the_same_bits() {
    for name in ["tiny", "tied"] {
        let case = Case::read(name);
        let written = tempfile::tempdir().expect("a temporary folder");
        case.open(&Device::flex()).write(written.path(), Dtype::F32).expect("it can be written");
        let [wanted, found] = [&case.folder, &written.path().to_path_buf()]
            .map(|folder| RawFile::read(&folder.join("model.safetensors")));
        assert_eq!(wanted.0.keys().collect::<Vec<_>>(), found.0.keys().collect::<Vec<_>>());
        assert!(wanted == found, "{name}: names are the same, bits are not");
        let [wanted, found] = [case.folder.as_path(), written.path()].map(|folder| {
            ModelFolder::read(folder, &Device::flex()).expect("a model folder").config
        });
        assert_eq!(wanted, found);
    }
}

#[test]
fn a_folder_in_f16_embeds_in_the_same_directions() {
    for name in ["tiny", "crop_16_9", "uneven_texts"] {
        let case = Case::read(name);
        let written = tempfile::tempdir().expect("a temporary folder");
        case.open(&Device::flex()).write(written.path(), Dtype::F16).expect("it can be written");
        let f16 = ModelFolder::read(written.path(), &Device::flex()).expect("it can be read");
        let bytes = |folder: &std::path::Path| {
            crate::fixture::read(&folder.join("model.safetensors")).len()
        };
        assert!(bytes(written.path()) * 2 < bytes(&case.folder) * 11 / 10);

        let golden = case.golden();
        for found in case.forward(&f16).iter().filter(|stage| stage.name.ends_with("_embed")) {
            let wanted = golden
                .iter()
                .find(|stage| stage.name == found.name)
                .expect("a stage of the reference");
            let (Values::Floats(a), Values::Floats(b)) = (&found.values, &wanted.values) else {
                panic!("embeddings are floats")
            };
            for (a, b) in a.chunks(f16.config.embed_dim).zip(b.chunks(f16.config.embed_dim)) {
                let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                assert!(cosine > 0.999, "{name} {}: {cosine}", found.name);
            }
        }
    }
}

#[test]
fn every_parameter_has_its_name_in_the_file() {
    for name in case_names() {
        let case = Case::read(&name);
        let mut found: Vec<String> = named_tensors(&case.open(&Device::flex()).model)
            .into_iter()
            .map(|(name, ..)| name)
            .collect();
        found.sort();
        let wanted: Vec<String> =
            RawFile::read(&case.folder.join("model.safetensors")).0.into_keys().collect();
        assert_eq!(found, wanted, "{name}");
    }
}
