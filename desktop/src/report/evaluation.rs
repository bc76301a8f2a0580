//! The results of an evaluation.

use maud::{Markup, html};
use mmgem_core::image::BoxPx;
use mmgem_eval::metrics::retrieval::recall_at;

use super::markup::{document, plain, px, rect};

/// Prefix of the scores of stage 1 in a record with both stages.
pub const STAGE_1: &str = "stage_1_";

/// The content of a page besides the scores.
#[derive(Debug, Default)]
pub struct Page {
    /// Curves of recall over rank.
    pub curves: Vec<Curve>,
    /// Headings, each with its cases.
    pub cases: Vec<(String, Vec<Case>)>,
}

/// Ranks of the right answers among `n_targets`.
#[derive(Debug)]
pub struct Curve {
    pub name: &'static str,
    pub ranks: Vec<Option<usize>>,
    pub n_targets: usize,
}

/// One photo, or a few side by side, with lines of text.
#[derive(Debug, Default)]
pub struct Case {
    pub pictures: Vec<Shown>,
    /// Labels and texts.
    pub lines: Vec<(&'static str, String)>,
}

/// A picture of the page.
#[derive(Debug)]
pub struct Shown {
    pub label: String,
    pub uri: String,
    /// Width and height of the photo in pixels. Boxes and the point are in these pixels.
    pub size: (u32, u32),
    /// CSS class (`true`, `found`) and box.
    pub boxes: Vec<(&'static str, BoxPx)>,
    /// A point to mark.
    pub point: Option<[f32; 2]>,
}

/// Width and height of a chart.
const CURVE_SIZE: (f64, f64) = (560.0, 300.0);
/// Space for its axes: left, below.
const CURVE_ROOM: (f64, f64) = (44.0, 34.0);

impl Page {
    /// Returns the HTML of the page: facts, the table of scores, curves and cases.
    pub fn html(&self, facts: &[(&'static str, &str)], table: &[[String; 3]]) -> String {
        let body = html! {
            h1 { "Evaluation" }
            dl {
                @for (name, fact) in facts {
                    div class=(name) { dt { (name) } dd { (plain(fact)) } }
                }
            }
            h2 { "Scores" }
            div.wide { (scores(table)) }
            @if !self.curves.is_empty() {
                h2 { "Recall over ranks" }
                div.curves {
                    @for curve in &self.curves { (curve.html()) }
                }
            }
            @for (heading, cases) in self.cases.iter().filter(|(_, cases)| !cases.is_empty()) {
                h2 { (plain(heading)) }
                div.cases {
                    @for case in cases { (case.html()) }
                }
            }
        };
        document("MM-GEM evaluation", include_str!("evaluation.css"), &body)
    }
}

/// The table. A score with a prefix such as `stage_1_` stands beside the score without it.
fn scores(table: &[[String; 3]]) -> Markup {
    let has = |prefix: &str| table.iter().any(|[name, ..]| name.starts_with(prefix));
    let first = if has(STAGE_1) { "stage 2" } else { "value" };
    let others =
        [(STAGE_1, "stage 1"), ("baseline.", "baseline"), ("minus_baseline.", "difference")];
    let others: Vec<(&str, &str)> = others.into_iter().filter(|(prefix, _)| has(prefix)).collect();
    let row_of = |wanted: &str| table.iter().find(|[name, ..]| name == wanted);
    let is_beside_another = |name: &str| {
        let own = others.iter().find_map(|(prefix, _)| name.strip_prefix(prefix));
        own.is_some_and(|own| row_of(own).is_some())
    };
    html! {
        table {
            tr {
                th { "score" }
                @for heading in std::iter::once(first).chain(others.iter().map(|(_, h)| *h)) {
                    th { (heading) }
                    th { "95 % of bootstrap draws of the photos" }
                }
            }
            @for row in table.iter().filter(|[name, ..]| !is_beside_another(name)) {
                tr {
                    td { (plain(&row[0])) }
                    (cells(Some(row)))
                    @for (prefix, _) in &others { (cells(row_of(&format!("{prefix}{}", row[0])))) }
                }
            }
        }
    }
}

/// The value and the interval of a score; empty without a row.
fn cells(row: Option<&[String; 3]>) -> Markup {
    let [value, interval] =
        row.map_or(["", ""], |[_, value, interval]| [value.as_str(), interval.as_str()]);
    html! {
        td.n { (plain(value)) }
        td.n { (plain(interval)) }
    }
}

impl Case {
    fn html(&self) -> Markup {
        html! {
            article {
                div.pictures {
                    @for picture in &self.pictures { (picture.html()) }
                }
                @for (name, line) in &self.lines {
                    p { b { (name) } " " (plain(line)) }
                }
            }
        }
    }
}

impl Shown {
    fn html(&self) -> Markup {
        let (width, height) = self.size;
        let label = plain(&self.label);
        html! {
            figure {
                svg viewBox={ "0 0 " (width) " " (height) } role="img" aria-label=(label) {
                    image href=(self.uri) width=(width) height=(height) {}
                    @for (class, box_px) in &self.boxes { (rect(class, *box_px)) }
                    @if let Some([x, y]) = self.point {
                        circle.point cx=(px(x)) cy=(px(y)) r=(px(f64::from(width.max(height)) / 50.0)) {}
                    }
                }
                figcaption { (label) }
            }
        }
    }
}

impl Curve {
    /// Draws recall in percent over the rank on a logarithmic axis, with a dashed line for chance.
    fn html(&self) -> Markup {
        let (width, height) = CURVE_SIZE;
        let (left, below) = CURVE_ROOM;
        let right = width - 20.0;
        let last = self.n_targets.max(2) as f64;
        let x = |k: f64| left + (right - left) * k.ln() / last.ln();
        let y = |recall: f64| 8.0 + (height - below - 8.0) * (1.0 - recall);
        let line = |recall: &dyn Fn(usize) -> f64| -> String {
            let points = ks(self.n_targets);
            let points = points.iter().map(|&k| format!("{:.1},{:.1}", x(k as f64), y(recall(k))));
            points.collect::<Vec<_>>().join(" ")
        };
        let marks = [1, 5, 10, 100, 1000, 10_000].into_iter().filter(|k| *k <= self.n_targets);
        html! {
            figure {
                svg viewBox={ "0 0 " (width) " " (height) } {
                    @for percent in [0, 25, 50, 75, 100] {
                        @let y = y(f64::from(percent) / 100.0);
                        line.grid x1=(left) x2=(right) y1=(px(y)) y2=(px(y)) {}
                        text x=(left - 6.0) y=(px(y + 4.0)) text-anchor="end" { (percent) }
                    }
                    @for k in marks {
                        text x=(px(x(k as f64))) y=(px(height - below + 18.0))
                            text-anchor="middle" { (k) }
                    }
                    polyline.chance points=(line(&|k| k as f64 / last)) {}
                    polyline.curve points=(line(&|k| recall_at(&self.ranks, k))) {}
                    text x=(right) y=(height - 2.0) text-anchor="end" { "rank" }
                }
                figcaption {
                    (self.name) ": recall in % up to a rank; dashed: one answer by chance"
                }
            }
        }
    }
}

/// About 200 ranks, evenly spaced on the logarithmic axis.
fn ks(n_targets: usize) -> Vec<usize> {
    let last = n_targets.max(1) as f64;
    let mut ks: Vec<usize> =
        (0..=200).map(|i| last.powf(f64::from(i) / 200.0).round() as usize).collect();
    ks.dedup();
    ks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_its_texts_and_escapes_markup() {
        let shown = Shown {
            label: "a <photo>".into(),
            uri: "data:,".into(),
            size: (40, 30),
            boxes: vec![("true", [1.0, 2.0, 11.0, 12.0])],
            point: Some([5.0, 6.0]),
        };
        let case = Case { pictures: vec![shown], lines: vec![("wrote", "dogs & <b>".into())] };
        let curve = Curve { name: "texts", ranks: vec![Some(1), Some(3), None], n_targets: 4 };
        let page = Page { curves: vec![curve], cases: vec![("Worst".into(), vec![case])] };
        let row = ["top1".to_owned(), "0.5000".into(), "[0.4, 0.6]".into()];
        let html = page.html(&[("model", "<m>")], &[row]);
        for wanted in [
            "a &lt;photo&gt;",
            "dogs &amp; &lt;b&gt;",
            "&lt;m&gt;",
            "0.5000",
            "[0.4, 0.6]",
            "<circle",
        ] {
            assert!(html.contains(wanted), "{wanted}");
        }
        assert!(html.contains("class=\"true\" x=\"1.0\" y=\"2.0\" width=\"10.0\" height=\"10.0\""));
    }

    #[test]
    fn scores_of_both_stages_stand_in_one_row() {
        let row = |name: &str, value: &str| [name.to_owned(), value.to_owned(), String::new()];
        let html = scores(&[
            row("region_cider", "0.2"),
            row("n_photos", "5"),
            row("stage_1_region_cider", "0.1"),
        ])
        .into_string();
        let cells = |value: &str| format!("<td class=\"n\">{value}</td><td class=\"n\"></td>");
        assert!(
            html.contains(&format!("<td>region_cider</td>{}{}</tr>", cells("0.2"), cells("0.1"))),
            "{html}"
        );
        assert!(html.contains("<th>stage 2</th>") && html.contains("<th>stage 1</th>"), "{html}");
        assert_eq!(html.matches("<tr>").count(), 3, "{html}");
        // A score without a partner keeps its own row.
        let alone = scores(&[row("baseline.model", "clip")]).into_string();
        assert!(alone.contains("<td>baseline.model</td>"), "{alone}");
    }

    #[test]
    fn ranks_of_a_curve_reach_from_the_first_to_the_last() {
        assert_eq!(ks(4), [1, 2, 3, 4]);
        let many = ks(5000);
        assert!(many.len() < 202 && many[0] == 1 && many[many.len() - 1] == 5000);
    }
}
