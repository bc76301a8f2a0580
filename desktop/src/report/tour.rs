//! The results of the tour.
//!
//! The page stores each picture once. Wherever it is shown, an `<svg>` refers to it and draws boxes
//! over it in the picture's pixels.

use maud::{Markup, html};
use mmgem_core::image::BoxPx;

use super::markup::{document, ordinal, plain, px, rect, signed};
use super::picture::heat_gradient;

/// Everything the page shows.
#[derive(Debug)]
pub struct Page {
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
    pub truth: Option<Truth>,
    /// Whether the caption equals a true description word for word.
    pub is_right: bool,
}

/// The true description of a picture or region.
#[derive(Debug)]
pub enum Truth {
    /// A text about the photo.
    Written(String),
    /// A caption of the drawn scene, or a phrase for a thing in it.
    Drawn(String),
}

impl Page {
    /// The HTML of the page.
    pub fn html(&self) -> String {
        let title = format!("MM-GEM: {}, searched and described", self.album);
        let style = format!(
            "{}:root{{--heat:{};--shape:{:.3}}}",
            include_str!("tour.css"),
            heat_gradient(),
            self.shape()
        );
        let body = html! {
            (self.store())
            (self.header())
            main {
                (self.gallery())
                (self.search())
                (self.captions())
            }
            (self.footer())
        };
        document(&title, &style, &body)
    }

    /// Defines the pictures, which other parts of the page draw.
    fn store(&self) -> Markup {
        html! {
            svg.store width="0" height="0" aria-hidden="true" {
                defs {
                    @for (idx, Picture { width, height, uri, .. }) in
                        self.pictures.iter().enumerate()
                    {
                        image id={ "p" (idx) } width=(width) height=(height) href=(uri) {}
                    }
                }
            }
        }
    }

    fn header(&self) -> Markup {
        html! {
            header {
                p.eyebrow { "MM-GEM" }
                h1 { (plain(&self.album)) " searched and described by one small model" }
                p.lede {
                    "Its language model turns a text into a vector that finds pictures, and writes \
                     what it sees in a picture or in any box of it."
                    br;
                    "All on this page was computed in one run on one machine, with no network."
                }
                dl.facts {
                    @for (label, value) in &self.facts {
                        div { dt { (plain(label)) } dd { (plain(value)) } }
                    }
                }
                @for sentence in &self.measured {
                    p.measured { (plain(sentence)) }
                }
                nav aria-label="Parts of this page" {
                    a href="#pictures" { "Pictures" } " "
                    a href="#search" { "Search" } " "
                    a href="#captions" { "Captions" } " "
                    a href="#limits" { "Limits" }
                }
            }
        }
    }

    fn gallery(&self) -> Markup {
        html! {
            section #pictures {
                h2 { "The pictures" }
                div.gallery {
                    @for &picture in &self.gallery {
                        @let name = &self.pictures[picture].name;
                        figure {
                            (self.drawing(picture, name, &html! {}))
                            figcaption { (plain(name)) }
                        }
                    }
                }
            }
        }
    }

    fn search(&self) -> Markup {
        let mut hits = self.queries.iter().flat_map(|query| &query.hits);
        html! {
            section #search {
                h2 { "Search" }
                p.how {
                    "The best hits of each text. The number is the cosine of the text with the \
                     whole picture; the yellow box is where the text fits best. The heat map shows \
                     the cosine with each patch of the first hit, its hottest patch ringed."
                    @if hits.any(|hit| hit.true_box_px.is_some()) {
                        " A dashed white box is where the thing was really drawn; ✓ marks a right \
                         picture."
                    }
                }
                @for query in &self.queries { (self.query(query)) }
            }
        }
    }

    fn query(&self, query: &Query) -> Markup {
        html! {
            article.query {
                h3 { q { (plain(&query.text)) } }
                @if let Some((rank, n_right)) = query.right {
                    p.verdict.good[rank == 1].missed[rank != 1] { (verdict(rank, n_right)) }
                }
                div.hits {
                    @if let Some((first, rest)) = query.hits.split_first() {
                        (self.hit(query, first, 1))
                        (self.heat(query, first))
                        div.rest {
                            @for (idx, hit) in rest.iter().enumerate() {
                                (self.hit(query, hit, idx + 2))
                            }
                        }
                    }
                }
            }
        }
    }

    fn hit(&self, query: &Query, hit: &Hit, rank: usize) -> Markup {
        let name = &self.pictures[hit.picture].name;
        let alt =
            format!("Hit {rank} for “{}”: {name}, with the box where it fits best", query.text);
        let boxes = html! {
            @if let Some(box_px) = hit.true_box_px { (rect("true-box", box_px)) }
            (rect("case", hit.box_px))
            (rect("found", hit.box_px))
        };
        html! {
            figure {
                (self.drawing(hit.picture, &alt, &boxes))
                figcaption {
                    b { (rank) } " " span.score { (signed(hit.score, 3)) }
                    @if hit.is_right == Some(true) {
                        (right_mark("the text is true of this picture"))
                    }
                    " " span.name { (plain(name)) }
                }
            }
        }
    }

    fn heat(&self, query: &Query, hit: &Hit) -> Markup {
        let Heat { uri, point_px: [x, y], coldest, hottest } = &query.heat;
        let Picture { width, height, name, .. } = &self.pictures[hit.picture];
        let radius = width.min(height) / 24 + 1;
        let alt = format!("Heat map of “{}” over {name}: hottest at {x:.0}, {y:.0} px", query.text);
        let map = html! {
            image width=(width) height=(height) preserveAspectRatio="none" href=(uri) {}
            @for class in ["ring-case", "ring"] {
                circle class=(class) cx=(px(*x)) cy=(px(*y)) r=(radius) {}
            }
        };
        html! {
            figure.heat {
                (self.drawing(hit.picture, &alt, &map))
                figcaption.legend {
                    span { (signed(*coldest, 2)) } i {} span { (signed(*hottest, 2)) }
                }
            }
        }
    }

    fn captions(&self) -> Markup {
        let has = |is_kind: fn(&Truth) -> bool| {
            self.captioned.iter().filter_map(|card| card.whole.truth.as_ref()).any(is_kind)
        };
        html! {
            section #captions {
                h2 { "Captions" }
                p.how {
                    "The model's captions of the whole picture, and of each numbered box alone. \
                     The bar shows its certainty: the mean probability of its tokens."
                    @if has(|truth| matches!(truth, Truth::Written(_))) {
                        " Below, in grey, a reference text about the photo."
                    }
                    @if has(|truth| matches!(truth, Truth::Drawn(_))) {
                        " Below, in grey, what was really drawn."
                    }
                }
                div.cards {
                    @for card in &self.captioned { (self.card(card)) }
                }
            }
        }
    }

    fn card(&self, card: &Captioned) -> Markup {
        let name = &self.pictures[card.picture].name;
        let alt = format!(
            "{name}, with {} numbered boxes; the model says “{}”",
            card.regions.len(),
            card.whole.text
        );
        let boxes = html! {
            @for (idx, (box_px, _)) in card.regions.iter().enumerate() {
                (self.numbered_box(card.picture, idx, *box_px))
            }
        };
        html! {
            article.card {
                figure { (self.drawing(card.picture, &alt, &boxes)) }
                div {
                    div.whole { (said(&card.whole)) }
                    ol {
                        @for (idx, (_, region)) in card.regions.iter().enumerate() {
                            li {
                                span class={ "badge " (color(idx)) } { (idx + 1) }
                                (said(region))
                            }
                        }
                    }
                    p.name { (plain(name)) }
                }
            }
        }
    }

    fn footer(&self) -> Markup {
        html! {
            footer #limits {
                h2 { "Limits" }
                p {
                    "This is a small model. It makes mistakes: in counts, in who does what, in \
                     things that are rare in its training data. A cosine ranks pictures for one \
                     text; it is not a probability and cannot be compared between texts. A caption \
                     can be certain and wrong. The model card lists the training data and the \
                     results on data that the model never saw."
                }
                @if !self.passed_over.is_empty() {
                    p {
                        "Skipped, because they cannot be read (" (self.passed_over.len()) "): "
                        (plain(&self.passed_over.join(", ")))
                    }
                }
                p { "Made by " code { (plain(&self.command)) } }
            }
        }
    }

    /// A picture with an SVG drawn over it, in the picture's pixels.
    fn drawing(&self, picture: usize, alt: &str, over: &Markup) -> Markup {
        let Picture { width, height, .. } = &self.pictures[picture];
        html! {
            svg.picture viewBox={ "0 0 " (width) " " (height) } role="img" aria-label=(plain(alt)) {
                use href={ "#p" (picture) } {}
                (over)
            }
        }
    }

    /// A box with its number in the corner.
    fn numbered_box(&self, picture: usize, idx: usize, box_px: BoxPx) -> Markup {
        let Picture { width, height, .. } = &self.pictures[picture];
        let side = *width.min(height) as f32 * 0.085;
        let [x, y] = [
            box_px[0].clamp(0.0, *width as f32 - side),
            box_px[1].clamp(0.0, *height as f32 - side),
        ];
        html! {
            (rect("halo", box_px))
            (rect(&format!("region {}", color(idx)), box_px))
            (rect(&format!("tag {}", color(idx)), [x, y, x + side, y + side]))
            text x=(px(x + side * 0.5)) y=(px(y + side * 0.78)) font-size=(px(side * 0.8)) {
                (idx + 1)
            }
        }
    }

    /// Aspect ratio of the tiles: the median of the pictures, clamped to what fits a row.
    fn shape(&self) -> f32 {
        let mut shapes: Vec<f32> =
            self.pictures.iter().map(|p| p.width as f32 / p.height as f32).collect();
        shapes.sort_by(f32::total_cmp);
        shapes.get(shapes.len() / 2).map_or(1.0, |shape| shape.clamp(0.8, 1.6))
    }
}

/// CSS class of a box's colour; the fifth box has the colour of the first.
fn color(idx: usize) -> String {
    format!("c{}", idx % 4)
}

fn right_mark(title: &str) -> Markup {
    html! { " " span.mark.good title=(title) { "✓" } }
}

fn said(said: &Said) -> Markup {
    let percent = format!("{:.0}", said.certainty * 100.0);
    html! {
        div.said {
            p {
                @if said.text.is_empty() { i { "nothing" } } @else { (plain(&said.text)) }
                @if said.is_right { (right_mark("word for word")) }
            }
            p.sure {
                span.meter { i style={ "width:" (percent) "%" } {} }
                (percent) " % sure"
            }
            @if let Some(truth) = &said.truth {
                p.truth {
                    @match truth {
                        Truth::Written(text) => { "reference: " (plain(text)) }
                        Truth::Drawn(text) => { "drawn: " (plain(text)) }
                    }
                }
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn said_text(text: &str) -> Said {
        Said { text: text.into(), log_prob: -1.0, certainty: 0.5, truth: None, is_right: false }
    }

    fn page(name: &str) -> Page {
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
        Page {
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
        assert!(!page("<script>alert(1)</script>").html().contains("<script"));
        assert!(!page("\" onload=\"x").html().contains("\" onload"));
    }

    #[test]
    fn the_page_asks_for_nothing_from_elsewhere() {
        let page = page("a.jpg").html();
        for outside in ["http:", "https:", "url(", "src=", "@import", "<link"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_reference_says_whether_it_was_drawn() {
        let of = |truth| said(&Said { truth, ..said_text("a dog") }).into_string();
        let photo = of(Some(Truth::Written("a cat & a dog".into())));
        assert!(photo.contains("<p class=\"truth\">reference: a cat &amp; a dog</p>"), "{photo}");
        let scene = of(Some(Truth::Drawn("a red circle".into())));
        assert!(scene.contains("<p class=\"truth\">drawn: a red circle</p>"), "{scene}");
        assert!(!of(None).contains("truth"));
    }

    #[test]
    fn each_picture_is_in_the_page_once() {
        assert_eq!(
            page("a.jpg").html().matches("base64,AAAA").count(),
            2,
            "two pictures, shown eight times"
        );
    }
}
