//! Parts of the pages in HTML and SVG. `maud` escapes their texts.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use mmgem_core::image::BoxPx;

/// A whole page.
pub fn document(title: &str, style: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (plain(title)) }
                style { (PreEscaped(style)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

/// A text for a page. HTML has no control characters, and an untrained model may write some.
pub fn plain(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

/// An SVG rectangle, in the pixels of its picture.
pub fn rect(class: &str, [x0, y0, x1, y1]: BoxPx) -> Markup {
    html! {
        rect class=(class) x=(px(x0)) y=(px(y0)) width=(px(x1 - x0)) height=(px(y1 - y0)) {}
    }
}

/// A length in an SVG, with one decimal.
pub fn px(length: impl Into<f64>) -> String {
    format!("{:.1}", length.into())
}

/// A number with a typographic minus sign; zero has no sign.
pub fn signed(value: f32, digits: usize) -> String {
    let number = format!("{:.digits$}", value.abs());
    let is_zero = number.bytes().all(|digit| matches!(digit, b'0' | b'.'));
    if value < 0.0 && !is_zero { format!("−{number}") } else { number }
}

/// A rank in words: "first", "2nd".
pub fn ordinal(rank: usize) -> String {
    let ending = match (rank % 10, rank % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    if rank == 1 { "first".into() } else { format!("{rank}{ending}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_text_and_a_style_is_not() {
        let page = document("</title><b> \u{1b}& \"c\"", "p > b {}", &html! { p { "x" } });
        for wanted in [
            "<!DOCTYPE html><html lang=\"en\">",
            "<title>&lt;/title&gt;&lt;b&gt; \u{fffd}&amp; &quot;c&quot;</title>",
            "<style>p > b {}</style>",
            "<body><p>x</p></body>",
        ] {
            assert!(page.contains(wanted), "{wanted}: {page}");
        }
    }

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(plain("a\u{0}b\nc d<"), "a\u{fffd}b\u{fffd}c d<");
    }

    #[test]
    fn a_box_is_drawn_by_its_corner_and_size() {
        let svg = rect("found", [10.0, 20.0, 40.0, 25.5]).into_string();
        assert_eq!(
            svg,
            "<rect class=\"found\" x=\"10.0\" y=\"20.0\" width=\"30.0\" height=\"5.5\"></rect>"
        );
    }

    #[test]
    fn a_negative_number_has_a_real_minus_sign() {
        assert_eq!(
            [signed(-0.25, 2), signed(0.25, 1), signed(-0.004, 2)],
            ["−0.25", "0.2", "0.00"]
        );
    }

    #[test]
    fn ranks_read_as_people_say_them() {
        assert_eq!(
            [1, 2, 3, 4, 11, 12, 21, 113].map(ordinal),
            ["first", "2nd", "3rd", "4th", "11th", "12th", "21st", "113th"]
        );
    }
}
