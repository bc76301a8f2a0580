//! Values of options: boxes, texts, cosines.

use std::str::FromStr;

use mmgem_core::image::{BoxError, BoxPx};

/// `x0,y0,x1,y1` in pixels of the upright photo.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BoxArg(pub BoxPx);

impl FromStr for BoxArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted =
            || format!("{text:?} is not a box; wanted x0,y0,x1,y1 in pixels, as in 10,20,110,220");
        let numbers = text
            .split(',')
            .map(|number| number.trim().parse::<f32>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| wanted())?;
        let box_px: BoxPx = numbers.try_into().map_err(|_| wanted())?;
        let [x0, y0, x1, y1] = box_px;
        // Whether the box lies in the photo is checked later, when the photo is read.
        let wrong = match () {
            () if !box_px.iter().all(|x| x.is_finite()) => Some(BoxError::NotFinite(box_px)),
            () if x1 < x0 || y1 < y0 => Some(BoxError::Inverted(box_px)),
            () if x1 == x0 || y1 == y0 => Some(BoxError::Empty(box_px)),
            () => None,
        };
        if let Some(wrong) = wrong {
            return Err(wrong.to_string());
        }
        Ok(Self(box_px))
    }
}

/// Accepts a text that is not blank.
pub fn not_empty(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("the text is empty; wanted a few words, as in \"the dog\"".into()),
        _ => Ok(text.to_owned()),
    }
}

/// Parses a cosine.
pub fn cosine(text: &str) -> Result<f32, String> {
    let wanted = || format!("{text:?} is not a cosine; wanted a number from -1 to 1");
    text.parse().ok().filter(|cosine| (-1.0..=1.0).contains(cosine)).ok_or_else(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_numbers_are_a_box() {
        assert_eq!("1,2.5, 30,40".parse(), Ok(BoxArg([1.0, 2.5, 30.0, 40.0])));
        assert_eq!("-3,-1,30,40".parse(), Ok(BoxArg([-3.0, -1.0, 30.0, 40.0])));
    }

    fn check(text: &str, says: &str) {
        let error = text.parse::<BoxArg>().expect_err(text);
        assert!(error.contains(says), "{text}: {error}");
    }

    #[test]
    fn an_invalid_box_gives_a_reason() {
        check("1,2,3", "wanted x0,y0,x1,y1");
        check("1,2,3,4,5", "wanted x0,y0,x1,y1");
        check("a,b,c,d", "wanted x0,y0,x1,y1");
        check("30,0,10,10", "swap the corners");
        check("5,5,5,10", "no area");
        check("nan,0,1,1", "not a number");
        check("0,0,inf,1", "not a number");
    }

    #[test]
    fn empty_texts_and_numbers_out_of_range_are_refused() {
        assert_eq!((not_empty("a dog").as_deref(), cosine("-0.25")), (Ok("a dog"), Ok(-0.25)));
        for text in ["", " \t"] {
            assert!(not_empty(text).is_err(), "{text:?}");
        }
        for text in ["5", "-1.01", "nan", "inf", "a"] {
            assert!(cosine(text).expect_err(text).contains("from -1 to 1"), "{text}");
        }
    }
}
