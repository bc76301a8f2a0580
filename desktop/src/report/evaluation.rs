//! `--report`: an evaluation as one HTML file.

use mmgem_core::image::BoxPx;
use mmgem_eval::metrics::retrieval::recall_at;

use super::markup::{escape, rect};

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
        let fact = |(name, fact): &(&str, &str)| {
            format!(
                "<div class=\"{name}\"><dt>{}</dt><dd>{}</dd></div>",
                escape(name),
                escape(fact)
            )
        };
        let facts: String = facts.iter().map(fact).collect();
        let scores = scores(table);
        let curves: String = self.curves.iter().map(Curve::html).collect();
        let curves = match self.curves.is_empty() {
            true => String::new(),
            false => format!("<h2>Recall over ranks</h2><div class=\"curves\">{curves}</div>"),
        };
        let cases: String = self.cases.iter().map(section).collect();
        format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
             content=\"width=device-width\"><title>MM-GEM evaluation</title><style>{}</style><h1>Evaluation</h1>\
             <dl>{facts}</dl><h2>Scores</h2><div class=\"wide\"><table>{scores}</table></div>{curves}{cases}</html>\n",
            include_str!("evaluation.css")
        )
    }
}

/// The rows of the table. A score with a prefix such as `stage_1_` stands beside the score without
/// it.
fn scores(table: &[[String; 3]]) -> String {
    let has = |prefix: &str| table.iter().any(|[name, ..]| name.starts_with(prefix));
    let first = if has(STAGE_1) { "stage 2" } else { "value" };
    let others =
        [(STAGE_1, "stage 1"), ("baseline.", "baseline"), ("minus_baseline.", "difference")];
    let others: Vec<(&str, &str)> = others.into_iter().filter(|(prefix, _)| has(prefix)).collect();
    let partner = |name: &str| {
        let own = others.iter().find_map(|(prefix, _)| name.strip_prefix(prefix));
        own.is_some_and(|own| table.iter().any(|[name, ..]| name == own))
    };
    let cells = |row: Option<&[String; 3]>| {
        let cell = |text: &str| format!("<td class=\"n\">{}</td>", escape(text));
        row.map_or_else(
            || [cell(""), cell("")],
            |[_, value, interval]| [cell(value), cell(interval)],
        )
        .concat()
    };
    let row = |row: &[String; 3]| {
        let [name, ..] = row;
        let beside = others.iter().map(|(prefix, _)| {
            let of_other = format!("{prefix}{name}");
            cells(table.iter().find(|[name, ..]| *name == of_other))
        });
        format!(
            "<tr><td>{}</td>{}{}</tr>",
            escape(name),
            cells(Some(row)),
            beside.collect::<String>()
        )
    };
    let headings = std::iter::once(first).chain(others.iter().map(|(_, heading)| *heading));
    let headings: String = headings
        .map(|heading| format!("<th>{heading}</th><th>95 % of bootstrap draws of the photos</th>"))
        .collect();
    let rows: String = table.iter().filter(|[name, ..]| !partner(name)).map(row).collect();
    format!("<tr><th>score</th>{headings}</tr>{rows}")
}

fn section((heading, cases): &(String, Vec<Case>)) -> String {
    if cases.is_empty() {
        return String::new();
    }
    let cases: String = cases.iter().map(Case::html).collect();
    format!("<h2>{}</h2><div class=\"cases\">{cases}</div>", escape(heading))
}

impl Case {
    fn html(&self) -> String {
        let pictures: String = self.pictures.iter().map(Shown::html).collect();
        let line = |(name, line): &(&str, String)| {
            format!("<p><b>{}</b> {}</p>", escape(name), escape(line))
        };
        let lines: String = self.lines.iter().map(line).collect();
        format!("<article><div class=\"pictures\">{pictures}</div>{lines}</article>")
    }
}

impl Shown {
    fn html(&self) -> String {
        let (width, height) = self.size;
        let boxes: String = self.boxes.iter().map(|(class, box_px)| rect(class, *box_px)).collect();
        let radius = f64::from(width.max(height)) / 50.0;
        let point = self.point.map_or(String::new(), |[x, y]| {
            format!("<circle class=\"point\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\"/>")
        });
        let label = escape(&self.label);
        format!(
            "<figure><svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\"><image href=\"{}\" \
             width=\"{width}\" height=\"{height}\"/>{boxes}{point}</svg><figcaption>{label}</figcaption></figure>",
            self.uri
        )
    }
}

impl Curve {
    /// Draws recall in percent over the rank on a logarithmic axis, with a dashed line for chance.
    fn html(&self) -> String {
        let (width, height) = CURVE_SIZE;
        let (left, below) = CURVE_ROOM;
        let last = self.n_targets.max(2) as f64;
        let x = |k: f64| left + (width - left - 20.0) * k.ln() / last.ln();
        let y = |recall: f64| 8.0 + (height - below - 8.0) * (1.0 - recall);
        let line = |recall: &dyn Fn(usize) -> f64| -> String {
            let points = ks(self.n_targets);
            let points = points.iter().map(|&k| format!("{:.1},{:.1}", x(k as f64), y(recall(k))));
            points.collect::<Vec<_>>().join(" ")
        };
        let grid: String = [0.0, 0.25, 0.5, 0.75, 1.0]
            .into_iter()
            .map(|recall| {
                let (y, percent) = (y(recall), recall * 100.0);
                format!(
                    "<line class=\"grid\" x1=\"{left}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text x=\"{:.0}\" \
                     y=\"{:.1}\" text-anchor=\"end\">{percent:.0}</text>",
                    width - 20.0,
                    left - 6.0,
                    y + 4.0
                )
            })
            .collect();
        let marks: String = [1, 5, 10, 100, 1000, 10_000]
            .into_iter()
            .filter(|k| *k <= self.n_targets)
            .map(|k| {
                let (x, y) = (x(k as f64), height - below + 18.0);
                format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{k}</text>")
            })
            .collect();
        let found = line(&|k| recall_at(&self.ranks, k));
        let chance = line(&|k| k as f64 / last);
        format!(
            "<figure><svg viewBox=\"0 0 {width} {height}\">{grid}{marks}<polyline class=\"chance\" points=\"{chance}\"/>\
             <polyline class=\"curve\" points=\"{found}\"/><text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">rank</text>\
             </svg><figcaption>{}: recall in % up to a rank; dashed: one answer by chance</figcaption></figure>",
            width - 20.0,
            height - 2.0,
            escape(self.name)
        )
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
        ]);
        let cells = |value: &str| format!("<td class=\"n\">{value}</td><td class=\"n\"></td>");
        assert!(
            html.contains(&format!("<td>region_cider</td>{}{}</tr>", cells("0.2"), cells("0.1"))),
            "{html}"
        );
        assert!(html.contains("<th>stage 2</th>") && html.contains("<th>stage 1</th>"), "{html}");
        assert_eq!(html.matches("<tr>").count(), 3, "{html}");
        // A score without a partner keeps its own row.
        assert!(scores(&[row("baseline.model", "clip")]).contains("<td>baseline.model</td>"));
    }

    #[test]
    fn ranks_of_a_curve_reach_from_the_first_to_the_last() {
        assert_eq!(ks(4), [1, 2, 3, 4]);
        let many = ks(5000);
        assert!(many.len() < 202 && many[0] == 1 && many[many.len() - 1] == 5000);
    }
}
