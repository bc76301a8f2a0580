//! The results of the tour as one self-contained HTML page, without network or scripts.
//!
//! The page stores each picture once. Wherever it is shown, an `<svg>` refers to it and draws boxes
//! over it in the picture's pixels.

use std::fmt::Write as _;

use mmgem_core::image::BoxPx;

use super::markup::{escape, ordinal, rect, signed};
use super::picture::heat_gradient;

/// Everything the page shows.
#[derive(Debug)]
pub struct Report {
    /// Such as "34 pictures of the demo".
    pub album: String,
    /// Labels and values: settings and measurements.
    pub facts: Vec<(String, String)>,
    /// The pictures of the page; other fields refer to them by index.
    pub pictures: Vec<Picture>,
    /// Pictures of the contact sheet.
    pub gallery: Vec<usize>,
    /// Measurements against the truth, as sentences.
    pub measured: Vec<String>,
    pub queries: Vec<Query>,
    pub captioned: Vec<Captioned>,
    pub passed_over: Vec<String>,
    pub command: String,
}

#[derive(Debug)]
pub struct Picture {
    pub name: String,
    /// Its path on disk, or its name.
    pub path: String,
    pub width: u32,
    pub height: u32,
    /// `data:image/..`
    pub uri: String,
}

/// A query and its hits.
#[derive(Debug)]
pub struct Query {
    pub text: String,
    /// The best first.
    pub hits: Vec<Hit>,
    /// Heat map of the first hit.
    pub heat: Heat,
    /// Rank of the first right picture and number of right pictures, if the truth is known.
    pub right: Option<(usize, usize)>,
}

#[derive(Debug)]
pub struct Hit {
    pub picture: usize,
    pub score: f32,
    pub box_px: BoxPx,
    /// Whether the text describes the picture, if known.
    pub is_right: Option<bool>,
    /// The true box of the described thing, if known.
    pub true_box_px: Option<BoxPx>,
}

/// A heat map over a whole picture.
#[derive(Debug)]
pub struct Heat {
    pub uri: String,
    /// Centre of the hottest patch, in pixels.
    pub point_px: [f32; 2],
    pub coldest: f32,
    pub hottest: f32,
}

/// A picture with the model's captions.
#[derive(Debug)]
pub struct Captioned {
    pub picture: usize,
    pub whole: Said,
    pub regions: Vec<(BoxPx, Said)>,
}

/// A caption with the truth.
#[derive(Debug)]
pub struct Said {
    pub text: String,
    pub log_prob: f32,
    /// Geometric mean of the tokens' probabilities, in 0..=1.
    pub certainty: f32,
    /// The true description of the picture or region, if known.
    pub truth: Option<String>,
    /// Whether the caption equals a true description word for word.
    pub is_right: bool,
}

impl Report {
    /// The HTML of the page.
    pub fn html(&self) -> String {
        let mut page = String::from("<!doctype html>\n<html lang=\"en\">\n");
        self.write(&mut page).expect("writing to a string cannot fail");
        page
    }

    fn write(&self, page: &mut String) -> std::fmt::Result {
        let title = format!("MM-GEM: {}, searched and described", self.album);
        write!(
            page,
            "<head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\"><title>{}</title>\n<style>{}:root{{--heat:{};--shape:{:.3}}}\
             </style></head>\n<body>\n",
            escape(&title),
            include_str!("tour.css"),
            heat_gradient(),
            self.shape(),
        )?;
        self.write_pictures(page)?;
        self.write_header(page)?;
        page.push_str("<main>\n");
        self.write_gallery(page)?;
        self.write_queries(page)?;
        self.write_captions(page)?;
        page.push_str("</main>\n");
        self.write_footer(page)?;
        page.push_str("</body>\n</html>\n");
        Ok(())
    }

    /// Defines the pictures, which other parts of the page draw.
    fn write_pictures(&self, page: &mut String) -> std::fmt::Result {
        page.push_str(
            "<svg class=\"store\" width=\"0\" height=\"0\" aria-hidden=\"true\"><defs>\n",
        );
        for (idx, Picture { width, height, uri, .. }) in self.pictures.iter().enumerate() {
            writeln!(
                page,
                "<image id=\"p{idx}\" width=\"{width}\" height=\"{height}\" href=\"{uri}\"/>"
            )?;
        }
        page.push_str("</defs></svg>\n");
        Ok(())
    }

    fn write_header(&self, page: &mut String) -> std::fmt::Result {
        write!(
            page,
            "<header>\n<p class=\"eyebrow\">MM-GEM</p>\n<h1>{} searched and described by one small model</h1>\n\
             <p class=\"lede\">Its language model turns a text into a vector that finds pictures, and writes what it sees \
             in a picture or in any box of it.<br>All on this page was computed in one run on one machine, with no \
             network.</p>\n<dl class=\"facts\">\n",
            escape(&self.album),
        )?;
        for (label, value) in &self.facts {
            writeln!(page, "<div><dt>{}</dt><dd>{}</dd></div>", escape(label), escape(value))?;
        }
        page.push_str("</dl>\n");
        for sentence in &self.measured {
            writeln!(page, "<p class=\"measured\">{}</p>", escape(sentence))?;
        }
        page.push_str(
            "<nav aria-label=\"Parts of this page\"><a href=\"#pictures\">Pictures</a> <a href=\"#search\">Search</a> \
             <a href=\"#captions\">Captions</a> <a href=\"#limits\">Limits</a></nav>\n</header>\n",
        );
        Ok(())
    }

    fn write_gallery(&self, page: &mut String) -> std::fmt::Result {
        page.push_str("<section id=\"pictures\"><h2>The pictures</h2>\n<div class=\"gallery\">\n");
        for &picture in &self.gallery {
            let name = &self.pictures[picture].name;
            writeln!(
                page,
                "<figure>{}<figcaption>{}</figcaption></figure>",
                self.svg(picture, name, ""),
                escape(name)
            )?;
        }
        page.push_str("</div></section>\n");
        Ok(())
    }

    fn write_queries(&self, page: &mut String) -> std::fmt::Result {
        page.push_str(
            "<section id=\"search\"><h2>Search</h2>\n<p class=\"how\">The best hits of each text. The number is the cosine \
             of the text with the whole picture; the yellow box is where the text fits best. The heat map shows the \
             cosine with each patch of the first hit, its hottest patch ringed.",
        );
        if self.queries.iter().flat_map(|query| &query.hits).any(|hit| hit.true_box_px.is_some()) {
            page.push_str(
                " A dashed white box is where the thing was really drawn; ✓ marks a right picture.",
            );
        }
        page.push_str("</p>\n");
        for query in &self.queries {
            self.write_query(page, query)?;
        }
        page.push_str("</section>\n");
        Ok(())
    }

    fn write_query(&self, page: &mut String, query: &Query) -> std::fmt::Result {
        write!(page, "<article class=\"query\"><h3><q>{}</q></h3>", escape(&query.text))?;
        if let Some((rank, n_right)) = query.right {
            write!(
                page,
                "<p class=\"verdict {}\">{}</p>",
                mark_class(rank == 1),
                verdict(rank, n_right)
            )?;
        }
        page.push_str("\n<div class=\"hits\">\n");
        let Some((first, rest)) = query.hits.split_first() else {
            page.push_str("</div></article>\n");
            return Ok(());
        };
        self.write_hit(page, query, first, 1)?;
        self.write_heat(page, query, first)?;
        page.push_str("<div class=\"rest\">\n");
        for (idx, hit) in rest.iter().enumerate() {
            self.write_hit(page, query, hit, idx + 2)?;
        }
        page.push_str("</div></div></article>\n");
        Ok(())
    }

    fn write_hit(
        &self,
        page: &mut String,
        query: &Query,
        hit: &Hit,
        rank: usize,
    ) -> std::fmt::Result {
        let name = &self.pictures[hit.picture].name;
        let alt =
            format!("Hit {rank} for “{}”: {name}, with the box where it fits best", query.text);
        let true_box = hit.true_box_px.map(|box_px| rect("true-box", box_px)).unwrap_or_default();
        let boxes = format!("{true_box}{}{}", rect("case", hit.box_px), rect("found", hit.box_px));
        let mark = match hit.is_right {
            Some(true) => {
                " <span class=\"mark good\" title=\"the text is true of this picture\">✓</span>"
            }
            _ => "",
        };
        writeln!(
            page,
            "<figure>{}<figcaption><b>{rank}</b> <span class=\"score\">{}</span>{mark} <span class=\"name\">{}</span>\
             </figcaption></figure>",
            self.svg(hit.picture, &alt, &boxes),
            signed(hit.score, 3),
            escape(name),
        )
    }

    fn write_heat(&self, page: &mut String, query: &Query, hit: &Hit) -> std::fmt::Result {
        let Heat { uri, point_px: [x, y], coldest, hottest } = &query.heat;
        let Picture { width, height, name, .. } = &self.pictures[hit.picture];
        let radius = width.min(height) / 24 + 1;
        let alt = format!("Heat map of “{}” over {name}: hottest at {x:.0}, {y:.0} px", query.text);
        let ring = format!("cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"");
        let map = format!(
            "<image width=\"{width}\" height=\"{height}\" preserveAspectRatio=\"none\" href=\"{uri}\"/>\
             <circle class=\"ring-case\" {ring}/><circle class=\"ring\" {ring}/>",
        );
        writeln!(
            page,
            "<figure class=\"heat\">{}<figcaption class=\"legend\"><span>{}</span><i></i><span>{}</span>\
             </figcaption></figure>",
            self.svg(hit.picture, &alt, &map),
            signed(*coldest, 2),
            signed(*hottest, 2),
        )
    }

    fn write_captions(&self, page: &mut String) -> std::fmt::Result {
        page.push_str(
            "<section id=\"captions\"><h2>Captions</h2>\n<p class=\"how\">The model's \
             captions of the whole picture, and of each numbered box alone. The bar shows its \
             certainty: the mean probability of its tokens.",
        );
        if self.captioned.iter().any(|card| card.whole.truth.is_some()) {
            page.push_str(" Below, in grey, what was really drawn.");
        }
        page.push_str("</p>\n<div class=\"cards\">\n");
        for card in &self.captioned {
            self.write_card(page, card)?;
        }
        page.push_str("</div></section>\n");
        Ok(())
    }

    fn write_card(&self, page: &mut String, card: &Captioned) -> std::fmt::Result {
        let name = &self.pictures[card.picture].name;
        let alt = format!(
            "{name}, with {} numbered boxes; the model says “{}”",
            card.regions.len(),
            card.whole.text
        );
        let boxes =
            card.regions.iter().enumerate().fold(String::new(), |boxes, (idx, (box_px, _))| {
                boxes + &self.numbered_box(card.picture, idx, *box_px)
            });
        write!(
            page,
            "<article class=\"card\"><figure>{}</figure><div>",
            self.svg(card.picture, &alt, &boxes)
        )?;
        write!(page, "<div class=\"whole\">{}</div><ol>", said(&card.whole))?;
        for (idx, (_, region)) in card.regions.iter().enumerate() {
            write!(
                page,
                "<li><span class=\"badge c{}\">{}</span>{}</li>",
                idx % 4,
                idx + 1,
                said(region)
            )?;
        }
        writeln!(page, "</ol><p class=\"name\">{}</p></div></article>", escape(name))
    }

    fn write_footer(&self, page: &mut String) -> std::fmt::Result {
        write!(
            page,
            "<footer id=\"limits\"><h2>Limits</h2>\n<p>This is a small model. \
             It makes mistakes: in counts, in who does what, in things that are rare in its \
             training data. A cosine ranks pictures for one text; it is not a probability and \
             cannot be compared between texts. A caption can be certain and wrong. The model card \
             lists the training data and the results on data that the model never saw.</p>\n",
        )?;
        if !self.passed_over.is_empty() {
            let names = escape(&self.passed_over.join(", "));
            writeln!(
                page,
                "<p>Skipped, because they cannot be read ({}): {names}</p>",
                self.passed_over.len()
            )?;
        }
        writeln!(page, "<p>Made by <code>{}</code></p></footer>", escape(&self.command))
    }

    /// A picture with an SVG drawn over it, in the picture's pixels.
    fn svg(&self, picture: usize, alt: &str, over: &str) -> String {
        let Picture { width, height, .. } = &self.pictures[picture];
        format!(
            "<svg class=\"picture\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\"><use href=\"#p{picture}\"\
             />{over}</svg>",
            escape(alt),
        )
    }

    /// A box with its number in the corner.
    fn numbered_box(&self, picture: usize, idx: usize, box_px: BoxPx) -> String {
        let Picture { width, height, .. } = &self.pictures[picture];
        let side = *width.min(height) as f32 * 0.085;
        let [x, y] = [
            box_px[0].clamp(0.0, *width as f32 - side),
            box_px[1].clamp(0.0, *height as f32 - side),
        ];
        format!(
            "{}{}<rect class=\"tag c{}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{side:.1}\" height=\"{side:.1}\"/><text \
             x=\"{:.1}\" y=\"{:.1}\" font-size=\"{:.1}\">{}</text>",
            rect("halo", box_px),
            rect(&format!("region c{}", idx % 4), box_px),
            idx % 4,
            x + side * 0.5,
            y + side * 0.78,
            side * 0.8,
            idx + 1,
        )
    }

    /// Aspect ratio of the tiles: the median of the pictures, clamped to what fits a row.
    fn shape(&self) -> f32 {
        let mut shapes: Vec<f32> =
            self.pictures.iter().map(|p| p.width as f32 / p.height as f32).collect();
        shapes.sort_by(f32::total_cmp);
        shapes.get(shapes.len() / 2).map_or(1.0, |shape| shape.clamp(0.8, 1.6))
    }
}

fn said(said: &Said) -> String {
    let percent = said.certainty * 100.0;
    let text = if said.text.is_empty() { "<i>nothing</i>".to_owned() } else { escape(&said.text) };
    let mark = if said.is_right {
        " <span class=\"mark good\" title=\"word for word\">✓</span>"
    } else {
        ""
    };
    let truth =
        said.truth.as_ref().map(|truth| format!("<p class=\"truth\">drawn: {}</p>", escape(truth)));
    format!(
        "<div class=\"said\"><p>{text}{mark}</p><p class=\"sure\"><span class=\"meter\"><i style=\"width:{percent:.0}%\"></i>\
         </span>{percent:.0} % sure</p>{}</div>",
        truth.unwrap_or_default(),
    )
}

fn verdict(rank: usize, n_right: usize) -> String {
    let what = if n_right == 1 {
        "The picture it describes".into()
    } else {
        format!("One of the {n_right} pictures it describes")
    };
    let sign = if rank == 1 { "✓ " } else { "" };
    format!("{sign}{what} came {}", ordinal(rank))
}

fn mark_class(is_right: bool) -> &'static str {
    if is_right { "good" } else { "missed" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said_text(text: &str) -> Said {
        Said { text: text.into(), log_prob: -1.0, certainty: 0.5, truth: None, is_right: false }
    }

    fn report(name: &str) -> Report {
        let picture = |name: &str| Picture {
            name: name.into(),
            path: name.into(),
            width: 200,
            height: 100,
            uri: "data:image/png;base64,AAAA".into(),
        };
        let box_px = [10.0, 10.0, 60.0, 50.0];
        let hit = |picture| Hit {
            picture,
            score: 0.25,
            box_px,
            is_right: Some(picture == 0),
            true_box_px: None,
        };
        let heat = Heat {
            uri: "data:image/png;base64,BBBB".into(),
            point_px: [70.0, 30.0],
            coldest: -0.1,
            hottest: 0.3,
        };
        Report {
            album: "2 pictures".into(),
            facts: vec![("Model".into(), name.into())],
            pictures: vec![picture(name), picture("other")],
            gallery: vec![0, 1],
            measured: Vec::new(),
            queries: vec![Query {
                text: name.into(),
                hits: vec![hit(0), hit(1)],
                heat,
                right: Some((1, 1)),
            }],
            captioned: vec![Captioned {
                picture: 0,
                whole: said_text(name),
                regions: vec![(box_px, said_text(name))],
            }],
            passed_over: vec![name.into()],
            command: name.into(),
        }
    }

    #[test]
    fn names_and_captions_cannot_become_markup() {
        assert!(!report("<script>alert(1)</script>").html().contains("<script"));
        assert!(!report("\" onload=\"x").html().contains("\" onload"));
    }

    #[test]
    fn the_page_asks_for_nothing_from_elsewhere() {
        let page = report("a.jpg").html();
        for outside in ["http:", "https:", "url(", "src=", "@import", "<link"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn each_picture_is_in_the_page_once() {
        assert_eq!(
            report("a.jpg").html().matches("base64,AAAA").count(),
            2,
            "two pictures, shown eight times"
        );
    }
}
