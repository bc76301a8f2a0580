//! Agreement with pycocoevalcap 1.2 on COCO's validation captions (`caption-scores` of the shared
//! data).

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

use serde::Deserialize;

use crate::metrics::caption::{self, CaptionReport};
use crate::metrics::{coco, ptb};

#[derive(Deserialize)]
struct Tokenized {
    gts: BTreeMap<u64, Vec<String>>,
    res: BTreeMap<u64, Vec<String>>,
}

/// Every number is a sum of at most 25,000 terms in double precision; only the order differs.
const TOLERANCE: f64 = 1e-9;

fn shared_file(name: &str) -> Option<Vec<u8>> {
    let shared = std::env::var_os("MMGEM_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let path = shared.join("data/caption-scores").join(name);
    match fs::read(&path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            eprintln!(
                "SKIPPED: {}: {error}; set MMGEM_SHARED to the shared folder",
                path.display()
            );
            None
        }
    }
}

/// Candidates and references of each image, sorted by image id: caption 0, and captions 1..=4.
fn captions() -> Option<(Vec<String>, Vec<Vec<String>>)> {
    let packed = shared_file("coco-captions_val2017.json.gz")?;
    let mut json = Vec::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut json).unwrap();
    let mut images = coco::parse_references(&json).unwrap();
    images.sort_by_key(|image| image.image_id.0.parse::<u64>().unwrap());
    let split =
        |image: coco::ImageReferences| (image.captions[0].clone(), image.captions[1..5].to_vec());
    Some(images.into_iter().map(split).unzip())
}

fn close(name: &str, found: f64, wanted: f64) {
    eprintln!("{name}: {found} differs by {:e}", found - wanted);
    assert!((found - wanted).abs() < TOLERANCE, "{name} is {found}, want {wanted}");
}

#[test]
fn coco_captions_have_the_reference_tokens() {
    let (Some((candidates, references)), Some(gold)) =
        (captions(), shared_file("coco_val2017_loo_tokenized.json"))
    else {
        return;
    };
    let gold: Tokenized = serde_json::from_slice(&gold).unwrap();
    let references: Vec<String> = references.into_iter().flatten().collect();
    for (raw, gold) in [(candidates, gold.res), (references, gold.gts)] {
        let gold: Vec<String> = gold.into_values().flatten().collect();
        let found = ptb::tokenize_lines(&raw);
        assert_eq!(found.len(), gold.len());
        let wrong: Vec<_> = found.iter().zip(&gold).filter(|(found, gold)| found != gold).collect();
        assert!(wrong.is_empty(), "{} of {} differ: {wrong:?}", wrong.len(), gold.len());
    }
}

#[test]
fn coco_captions_have_the_reference_scores() {
    let (Some((candidates, references)), Some(gold)) =
        (captions(), shared_file("coco_val2017_loo_gold.json"))
    else {
        return;
    };
    let gold: serde_json::Value = serde_json::from_slice(&gold).unwrap();
    let wanted = |key: &str| gold[key].as_f64().unwrap();
    let start = std::time::Instant::now();
    let CaptionReport { scores, rouge_l, cider, .. } =
        caption::score(&candidates, &references).unwrap();
    eprintln!("scored {} images in {:?}", candidates.len(), start.elapsed());
    close("bleu_1", scores.bleu_1, wanted("Bleu_1"));
    close("bleu_2", scores.bleu_2, wanted("Bleu_2"));
    close("bleu_3", scores.bleu_3, wanted("Bleu_3"));
    close("bleu_4", scores.bleu_4, wanted("Bleu_4"));
    close("rouge_l", scores.rouge_l, wanted("ROUGE_L"));
    close("cider", scores.cider, wanted("CIDEr"));
    for image_idx in 0..20 {
        let of_image = |key: &str| gold[key][image_idx].as_f64().unwrap();
        close("rouge_l of an image", rouge_l[image_idx], of_image("ROUGE_L_first20"));
        close("cider of an image", cider[image_idx], of_image("CIDEr_first20"));
    }
}
