//! Scores clicks on objects: how well the box proposed for a click fits the object.

use mmgem_core::image::iou;
use mmgem_core::image::{BoxPx, Preprocessed, check_box};
use mmgem_core::session::{EncodedImage, Session};
use mmgem_data::benchmark::{Batches, Benchmark, BenchmarkPhoto, BenchmarkRegion, ReadSummary};
use serde::Serialize;

use super::{EvalError, Tick, nothing_to_score};
use crate::metrics::bootstrap::Measures;

/// Smallest share of the photo that a clicked object covers.
pub const MIN_AREA_SHARE: f32 = 0.04;
/// Objects whose phrase has this word are not clicked.
pub const NOT_CLICKED: &str = "person";
/// A box fits if its IoU with the object is at least this.
pub const MIN_IOU: f32 = 0.5;
/// The baseline: a box of these shares of the photo's sides around the click; the best one for
/// `coco-train`.
const FIXED_BOX: [f32; 2] = [0.75, 0.7];
/// Off-center clicks, in shares of the object's sides.
const OFF_CENTER: [[f32; 2]; 4] = [[0.3, 0.3], [0.7, 0.3], [0.3, 0.7], [0.7, 0.7]];
/// Number of boxes that count for `click_accuracy_in_first_3`.
const FIRST: usize = 3;

/// The results of a click run.
#[derive(Debug)]
pub struct ClickRun {
    /// The scores.
    pub scores: ClickEval,
    /// The parts of the scores, for bootstrap.
    pub measures: Measures,
    /// Each clicked object.
    pub cases: Vec<ClickCase>,
    /// The data that was read.
    pub summary: ReadSummary,
}

/// Scores of the proposed boxes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClickEval {
    /// Share of objects whose first box, for a click at the center, has IoU 0.5 or more.
    pub click_accuracy: f64,
    /// Mean IoU of these boxes.
    pub click_mean_iou: f64,
    /// Share of objects that one of the first three boxes fits.
    pub click_accuracy_in_first_3: f64,
    /// Share of off-center clicks, at 30 % and 70 % of both sides, whose box fits.
    pub click_accuracy_off_center: f64,
    /// `click_accuracy` of a box of fixed size around the click.
    pub click_accuracy_of_fixed_box: f64,
    /// Number of clicked objects.
    pub n_clicks: usize,
}

/// A clicked object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClickCase {
    /// The photo's name in result files.
    pub image_id: String,
    /// The true box.
    #[serde(rename = "box")]
    pub box_px: BoxPx,
    /// The object's phrases.
    pub phrases: Vec<String>,
    /// The boxes proposed for a click on the center, in order.
    pub proposed: Vec<BoxPx>,
    /// IoU of the first proposed box.
    pub iou: f32,
    #[serde(skip)]
    photo_idx: usize,
    /// Share of the off-center clicks whose box fits.
    #[serde(skip)]
    fits_off_center: f64,
    #[serde(skip)]
    fixed_box_fits: bool,
}

/// Clicks on each object of each photo that is large enough and not a person.
///
/// # Errors
/// If no such object is found, or the model fails.
pub async fn clicks(
    session: &Session,
    benchmark: &Benchmark,
    tick: Tick<'_>,
) -> Result<ClickRun, EvalError> {
    let (mut cases, mut ids) = (Vec::new(), Vec::new());
    let mut batches = Batches::new(benchmark, session.config().preprocess());
    while let Some(batch) = batches.next_batch() {
        let with_things = |(photo, input): &(BenchmarkPhoto, Preprocessed)| {
            photo.regions.iter().any(|region| is_clicked(region, [input.width, input.height]))
        };
        let (photos, inputs): (Vec<_>, Vec<_>) = batch.into_iter().filter(with_things).unzip();
        let images = if inputs.is_empty() { Vec::new() } else { session.encode_batch(&inputs) };
        for (photo, image) in photos.iter().zip(images) {
            let size = [image.width, image.height];
            for region in photo.regions.iter().filter(|region| is_clicked(region, size)) {
                cases.push(click(session, photo, ids.len(), region, &image).await?);
            }
            ids.push(photo.id.clone());
        }
        tick("photos", batches.position(), benchmark.len());
    }
    let summary = batches.into_summary();
    if cases.is_empty() {
        return Err(nothing_to_score(
            "object to click on: one box that covers 4 % of its photo, and not a person",
            &summary,
        ));
    }
    let (scores, measures) = scored(&cases, ids);
    Ok(ClickRun { scores, measures, cases, summary })
}

/// Whether the region is a single box that is large enough and not a person.
fn is_clicked(region: &BenchmarkRegion, size: [u32; 2]) -> bool {
    let [width, height] = size;
    let is_person = |phrase: &String| phrase.split_whitespace().any(|word| word == NOT_CLICKED);
    let Ok([x0, y0, x1, y1]) = check_box(region.box_px, width, height) else { return false };
    let share = (x1 - x0) * (y1 - y0) / (width as f32 * height as f32);
    region.boxes.len() == 1 && share >= MIN_AREA_SHARE && !region.phrases.iter().any(is_person)
}

async fn click(
    session: &Session,
    photo: &BenchmarkPhoto,
    photo_idx: usize,
    region: &BenchmarkRegion,
    image: &EncodedImage,
) -> Result<ClickCase, EvalError> {
    let box_px = region.box_px;
    let [x0, y0, x1, y1] = box_px;
    let at = |[x, y]: [f32; 2]| [x0 + x * (x1 - x0), y0 + y * (y1 - y0)];
    let proposed = session.boxes_at(image, at([0.5, 0.5])).await?;
    let mut n_fit = 0;
    for share in OFF_CENTER {
        n_fit += usize::from(iou(session.boxes_at(image, at(share)).await?[0], box_px) >= MIN_IOU);
    }
    Ok(ClickCase {
        image_id: photo.id.clone(),
        box_px,
        phrases: region.phrases.clone(),
        iou: iou(proposed[0], box_px),
        proposed,
        photo_idx,
        fits_off_center: n_fit as f64 / OFF_CENTER.len() as f64,
        fixed_box_fits: iou(fixed_box(at([0.5, 0.5]), [image.width, image.height]), box_px)
            >= MIN_IOU,
    })
}

/// The baseline's box around a point.
fn fixed_box(point: [f32; 2], size: [u32; 2]) -> BoxPx {
    let edge = |axis: usize, sign: f32| {
        let side = size[axis] as f32;
        (point[axis] + sign * FIXED_BOX[axis] * side / 2.0).clamp(0.0, side)
    };
    [edge(0, -1.0), edge(1, -1.0), edge(0, 1.0), edge(1, 1.0)]
}

fn scored(cases: &[ClickCase], ids: Vec<String>) -> (ClickEval, Measures) {
    let of = |value: fn(&ClickCase) -> f64| cases.iter().map(value).collect::<Vec<f64>>();
    let fits =
        |boxes: &[BoxPx], truth| f64::from(boxes.iter().any(|found| iou(*found, truth) >= MIN_IOU));
    let in_first =
        |case: &ClickCase| fits(&case.proposed[..case.proposed.len().min(FIRST)], case.box_px);
    let values = [
        ("click_accuracy", of(|case| f64::from(case.iou >= MIN_IOU))),
        ("click_mean_iou", of(|case| f64::from(case.iou))),
        ("click_accuracy_in_first_3", cases.iter().map(in_first).collect()),
        ("click_accuracy_off_center", of(|case| case.fits_off_center)),
        ("click_accuracy_of_fixed_box", of(|case| f64::from(case.fixed_box_fits))),
    ];
    let photo_of: Vec<usize> = cases.iter().map(|case| case.photo_idx).collect();
    let mut measures = Measures { ids, ..Default::default() };
    for (name, values) in &values {
        measures.add_mean_of_parts(name, &photo_of, values.iter().copied());
    }
    let [accuracy, mean_iou, in_first_3, off_center, fixed_box] =
        values.map(|(_, values)| values.iter().sum::<f64>() / cases.len() as f64);
    let scores = ClickEval {
        click_accuracy: accuracy,
        click_mean_iou: mean_iou,
        click_accuracy_in_first_3: in_first_3,
        click_accuracy_off_center: off_center,
        click_accuracy_of_fixed_box: fixed_box,
        n_clicks: cases.len(),
    };
    (scores, measures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(boxes: Vec<BoxPx>, phrase: &str) -> BenchmarkRegion {
        BenchmarkRegion::new(boxes, vec![phrase.into()]).expect("it has a box")
    }

    #[test]
    fn things_are_clicked_but_no_persons_crowds_or_small_ones() {
        let check = |boxes: &[BoxPx], phrase: &str, wanted: bool| {
            assert_eq!(
                is_clicked(&region(boxes.to_vec(), phrase), [100, 50]),
                wanted,
                "{boxes:?} {phrase}"
            );
        };
        check(&[[0.0, 0.0, 20.0, 10.0]], "a cat", true);
        check(&[[0.0, 0.0, 19.0, 10.0]], "a cat", false);
        check(&[[0.0, 0.0, 20.0, 10.0]], "a person", false);
        check(&[[0.0, 0.0, 20.0, 10.0], [50.0, 0.0, 90.0, 10.0]], "two cats", false);
        check(&[[300.0, 0.0, 400.0, 50.0]], "a cat", false);
    }

    #[test]
    fn the_baseline_is_a_box_around_the_click_inside_the_photo() {
        assert_eq!(fixed_box([50.0, 100.0], [100, 200]), [12.5, 30.0, 87.5, 170.0]);
        assert_eq!(fixed_box([10.0, 190.0], [100, 200]), [0.0, 120.0, 47.5, 200.0]);
    }

    #[test]
    fn scores_count_things_and_intervals_draw_photos() {
        let truth = [0.0, 0.0, 10.0, 10.0];
        let case =
            |photo_idx: usize, proposed: &[BoxPx], fits_off_center, fixed_box_fits| ClickCase {
                image_id: photo_idx.to_string(),
                box_px: truth,
                phrases: vec!["a cat".into()],
                proposed: proposed.to_vec(),
                iou: iou(proposed[0], truth),
                photo_idx,
                fits_off_center,
                fixed_box_fits,
            };
        let far = [50.0, 50.0, 60.0, 60.0];
        let cases = [
            case(0, &[[0.0, 0.0, 10.0, 5.0]], 0.5, true),
            case(0, &[[0.0, 0.0, 10.0, 4.9], truth], 0.25, false),
            case(1, &[far, far, far, truth], 0.0, true),
        ];
        let (scores, measures) = scored(&cases, vec!["a".into(), "b".into()]);
        let third = 1.0 / 3.0;
        assert_eq!((scores.click_accuracy, scores.click_accuracy_in_first_3), (third, 2.0 * third));
        assert_eq!(
            (scores.click_accuracy_off_center, scores.click_accuracy_of_fixed_box),
            (0.25, 2.0 * third)
        );
        assert!((scores.click_mean_iou - 0.99 / 3.0).abs() < 1e-6, "{scores:?}");
        assert_eq!((scores.n_clicks, measures.ids.len(), measures.measures.len()), (3, 2, 5));
    }
}
