//! The best and worst cases of an evaluation, with their pictures.

use anyhow::{Context as _, Result};
use mmgem_core::image::{Decoded, preprocess};
use mmgem_core::model::Stage;
use mmgem_core::session::Session;
use mmgem_data::benchmark::classes::ClassSet;
use mmgem_data::benchmark::{Benchmark, BenchmarkPhoto};
use mmgem_eval::gallery::Gallery;
use mmgem_eval::metrics::ranking::dot;
use mmgem_eval::run::{CaptionRun, ClassRun, RegionRun, RetrievalRun};
use pollster::block_on;

use crate::report::evaluation::{Case, Curve, Page, Shown};
use crate::report::picture::{heat_map, picture_uri, thumbnail};

/// Cases of each kind.
const N_CASES: usize = 6;
/// Number of right answers to select the surest from.
const MOST_COMPARED: usize = 200;
/// Photos compared with a text at once.
const BLOCK: usize = 1024;

/// Recall curves both ways, the surest hits, and the texts with the worst ranks. Those also show
/// the photo that ranks first.
pub(super) fn of_retrieval(
    run: &RetrievalRun,
    benchmark: &Benchmark,
    session: &Session,
) -> Result<Page> {
    let rank = |text: &usize| run.ranks.text_to_image[*text].unwrap_or(usize::MAX);
    let mut texts: Vec<usize> = (0..run.text_image_idx.len()).collect();
    texts.sort_by_key(rank);
    let worst: Vec<usize> =
        texts.iter().rev().filter(|text| rank(text) > 1).take(N_CASES).copied().collect();
    let mut best: Vec<(usize, f32)> = Vec::new();
    for &text in texts.iter().take_while(|text| rank(text) == 1).take(MOST_COMPARED) {
        let (own, other) = own_and_best_other(run, text)?;
        best.push((text, own - other.map_or(0.0, |(_, score)| score)));
    }
    best.sort_by(|a, b| b.1.total_cmp(&a.1));
    let best: Vec<usize> = best.into_iter().take(N_CASES).map(|(text, _)| text).collect();

    let to_case = |text: &usize| retrieval_case(run, *text, benchmark, session);
    let (n_texts, n_images) = (run.text_image_idx.len(), run.photos.len());
    let (images, texts) = (run.ranks.image_to_text.clone(), run.ranks.text_to_image.clone());
    Ok(Page {
        curves: vec![
            Curve { name: "text to image", ranks: texts, n_targets: n_images },
            Curve { name: "image to text", ranks: images, n_targets: n_texts },
        ],
        cases: vec![
            ("Texts that find their photo by the largest lead".into(), collect(&best, to_case)?),
            ("Texts whose photo ranks last".into(), collect(&worst, to_case)?),
        ],
    })
}

fn collect<T>(items: &[T], case: impl Fn(&T) -> Result<Case>) -> Result<Vec<Case>> {
    items.iter().map(case).collect()
}

/// Score of a text with its own photo, and the most similar other photo with its score.
fn own_and_best_other(run: &RetrievalRun, text: usize) -> Result<(f32, Option<(usize, f32)>)> {
    let own_idx = run.text_image_idx[text];
    let row = |gallery: &Gallery, idx: usize| -> Result<Vec<f32>> {
        Ok(gallery.read(idx..idx + 1)?.into_owned())
    };
    let embed = row(&run.texts, text)?;
    let own = dot(&row(&run.images, own_idx)?, &embed);
    let mut best: Option<(usize, f32)> = None;
    for start in (0..run.images.len()).step_by(BLOCK) {
        let block = run.images.read(start..(start + BLOCK).min(run.images.len()))?;
        for (idx, image) in (start..).zip(block.chunks_exact(embed.len())) {
            let score = dot(image, &embed);
            if idx != own_idx && best.is_none_or(|(_, found)| score > found) {
                best = Some((idx, score));
            }
        }
    }
    Ok((own, best))
}

fn retrieval_case(
    run: &RetrievalRun,
    text: usize,
    benchmark: &Benchmark,
    session: &Session,
) -> Result<Case> {
    let own = run.text_image_idx[text];
    let first_of_photo = run.text_image_idx.partition_point(|photo| *photo < own);
    let caption = run.photos[own].captions[text - first_of_photo].clone();
    let rank = run.ranks.text_to_image[text];
    let photo = pixels(benchmark, &run.photos[own])?;
    let mut pictures =
        vec![shown("its photo", &photo)?, heat(&photo, &caption, Stage::Two, session)?];
    if let (Some(other), true) = (own_and_best_other(run, text)?.1, rank != Some(1)) {
        pictures.push(shown("found first", &pixels(benchmark, &run.photos[other.0])?)?);
    }
    let of =
        format!("{} of {}", rank.map_or("none".into(), |rank| rank.to_string()), run.photos.len());
    Ok(Case {
        pictures,
        lines: vec![("text", caption), ("rank", of), ("photo", run.photos[own].id.clone())],
    })
}

/// Captions with the highest and the lowest CIDEr.
pub(super) fn of_captions(run: &CaptionRun, benchmark: &Benchmark) -> Result<Page> {
    let case = |idx: &usize| {
        let photo = &run.photos[*idx];
        Ok(Case {
            pictures: vec![shown(&photo.id, &pixels(benchmark, photo)?)?],
            lines: vec![
                ("wrote", run.candidates[*idx].clone()),
                ("people wrote", run.references[*idx].join(" / ")),
                ("CIDEr", format!("{:.2}", run.report.cider[*idx])),
            ],
        })
    };
    let (best, worst) = extremes(&run.report.cider);
    Ok(Page {
        cases: vec![
            ("Captions with the highest CIDEr".into(), collect(&best, case)?),
            ("Captions with the lowest CIDEr".into(), collect(&worst, case)?),
        ],
        ..Page::default()
    })
}

/// Regions whose captions have the highest and the lowest CIDEr, with the heat map of their first
/// phrase. For two stages also the regions whose CIDEr differs most.
///
/// The runs have the same regions. The CIDEr of the first run selects them.
pub(super) fn of_regions(
    runs: &[(Stage, RegionRun)],
    benchmark: &Benchmark,
    session: &Session,
) -> Result<Page> {
    let Some((first, lead)) = runs.first() else { return Ok(Page::default()) };
    let case = |idx: &usize| region_case(runs, *idx, benchmark, session);
    let cider_of =
        |run: &RegionRun| -> Vec<f64> { run.cases.iter().map(|case| case.cider).collect() };
    let cider = cider_of(lead);
    let by = if runs.len() > 1 { format!(" in {}", words(*first)) } else { String::new() };
    let (best, worst) = extremes(&cider);
    let mut cases = vec![
        (format!("Regions with the highest CIDEr{by}"), collect(&best, case)?),
        (format!("Regions with the lowest CIDEr{by}"), collect(&worst, case)?),
    ];
    for (stage, other) in &runs[1..] {
        let gain: Vec<f64> = cider.iter().zip(cider_of(other)).map(|(a, b)| a - b).collect();
        let (better, worse) = extremes(&gain);
        let heading = |what: &str| {
            format!("Regions that {} describes {what} than {}", words(*first), words(*stage))
        };
        let differing = |idx: Vec<usize>, sign: f64| -> Vec<usize> {
            idx.into_iter().filter(|idx| gain[*idx] * sign > 0.0).collect()
        };
        cases.push((heading("better"), collect(&differing(better, 1.0), case)?));
        cases.push((heading("worse"), collect(&differing(worse, -1.0), case)?));
    }
    Ok(Page { cases, ..Page::default() })
}

/// A region with the heat map and the caption of each stage.
fn region_case(
    runs: &[(Stage, RegionRun)],
    idx: usize,
    benchmark: &Benchmark,
    session: &Session,
) -> Result<Case> {
    let (_, lead) = &runs[0];
    let region = &lead.cases[idx];
    let photo = pixels(benchmark, &lead.photos[region.photo_idx])?;
    let boxes = vec![("true", region.box_px)];
    let mut pictures = vec![Shown { boxes: boxes.clone(), ..shown("the region", &photo)? }];
    let mut lines = vec![("people wrote", region.phrases.join(" / "))];
    for (stage, run) in runs {
        let region = &run.cases[idx];
        let heat = heat(&photo, &region.phrases[0], *stage, session)?;
        let (name, by) = match runs.len() {
            1 => ("wrote", "the model"),
            _ => (words(*stage), words(*stage)),
        };
        let label = format!("where {by} sees the first phrase (red: best patch)");
        pictures.push(Shown { label, boxes: boxes.clone(), point: Some(region.point), ..heat });
        let points = if region.is_hit { "points into the box" } else { "points beside the box" };
        lines.push((name, format!("{} (CIDEr {:.2}; {points})", region.caption, region.cider)));
    }
    Ok(Case { pictures, lines })
}

fn words(stage: Stage) -> &'static str {
    match stage {
        Stage::One => "stage 1",
        Stage::Two => "stage 2",
    }
}

/// Photos whose true class leads or trails by most.
pub(super) fn of_classes(runs: &[ClassRun], sets: &[ClassSet]) -> Result<Page> {
    let mut page = Page::default();
    for (run, set) in runs.iter().zip(sets) {
        let name = |class: usize| set.classes[class].all()[0].clone();
        let case = |idx: &usize| {
            let prediction = &run.predictions[*idx];
            let photo = set.read(prediction.photo_idx).map_err(anyhow::Error::msg)?;
            Ok(Case {
                pictures: vec![shown(&set.name_of(prediction.photo_idx), &photo.decoded)?],
                lines: vec![
                    ("is", name(prediction.label)),
                    ("taken for", name(prediction.found)),
                    ("lead of its class", format!("{:+.3}", prediction.lead)),
                ],
            })
        };
        let lead: Vec<f64> = run.predictions.iter().map(|p| f64::from(p.lead)).collect();
        let (best, worst) = extremes(&lead);
        page.cases.push((format!("{}: surest", run.set), collect(&best, case)?));
        page.cases.push((format!("{}: most wrong", run.set), collect(&worst, case)?));
    }
    Ok(page)
}

/// Indices of the largest and of the smallest values, without overlap.
fn extremes(values: &[f64]) -> (Vec<usize>, Vec<usize>) {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    let n = N_CASES.min(order.len().div_ceil(2));
    let best = order[..n].to_vec();
    let worst = order[n..].iter().rev().take(N_CASES).copied().collect();
    (best, worst)
}

fn pixels(benchmark: &Benchmark, photo: &BenchmarkPhoto) -> Result<Decoded> {
    let read = benchmark.read(photo.idx).map_err(anyhow::Error::msg);
    Ok(read
        .with_context(|| format!("the photo {} has changed since it was scored", photo.id))?
        .decoded)
}

fn shown(label: &str, photo: &Decoded) -> Result<Shown> {
    let uri = picture_uri(&thumbnail(&photo.pixels))?;
    Ok(Shown {
        label: label.into(),
        uri,
        size: (photo.width, photo.height),
        boxes: Vec::new(),
        point: None,
    })
}

/// The photo with the heat map of a text, and its best box and point.
fn heat(photo: &Decoded, text: &str, stage: Stage, session: &Session) -> Result<Shown> {
    let image = session.encode_decoded(photo);
    let found = block_on(async {
        session.localize(stage, &image, &session.embed_text(text).await?).await
    })?;
    let map = preprocess(&photo.pixels, &session.config().preprocess()).map;
    let picture = heat_map(&photo.pixels, &found, &map, session.config().vision.image_size());
    Ok(Shown {
        label: "where the model sees it (yellow: best box; red: best patch)".into(),
        uri: picture_uri(&picture)?,
        size: (photo.width, photo.height),
        boxes: vec![("found", found.box_px)],
        point: Some(found.point_px),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_case_is_both_best_and_worst() {
        assert_eq!(extremes(&[0.1, 0.9, 0.5]), (vec![1, 2], vec![0]));
        let (best, worst) = extremes(&(0..100).map(f64::from).collect::<Vec<_>>());
        assert_eq!((best[0], best.len(), worst[0], worst.len()), (99, N_CASES, 0, N_CASES));
    }
}
