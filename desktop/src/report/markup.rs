//! Helpers for HTML and SVG.

use mmgem_core::image::BoxPx;

/// Escapes a text for HTML, also for values of attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // HTML cannot represent control characters, which an untrained model may write.
            _ if c.is_control() => escaped.push('\u{fffd}'),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// An SVG rectangle, in the pixels of its picture.
pub fn rect(class: &str, [x0, y0, x1, y1]: BoxPx) -> String {
    let (width, height) = (x1 - x0, y1 - y0);
    format!(
        "<rect class=\"{class}\" x=\"{x0:.1}\" y=\"{y0:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
    )
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
    fn what_could_be_markup_is_text() {
        assert_eq!(
            escape(r#"<a href="x">'&'</a>"#),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;"
        );
        assert_eq!(escape("a\u{0}b"), "a\u{fffd}b");
    }

    #[test]
    fn a_box_is_drawn_by_its_corner_and_size() {
        let svg = rect("found", [10.0, 20.0, 40.0, 25.5]);
        assert_eq!(
            svg,
            "<rect class=\"found\" x=\"10.0\" y=\"20.0\" width=\"30.0\" height=\"5.5\"/>"
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
