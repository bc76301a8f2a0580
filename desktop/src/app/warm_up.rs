//! A GPU's programs are made when they are first used, which makes first answers slow. So the model is asked a little of
//! everything while nobody waits, in the order in which people ask.

use mmgem_core::generate::Decoding;
use mmgem_core::image::Rgb;
use mmgem_core::session::{EncodedImage, Part, Session, SessionError};
use pollster::block_on;

/// Of the grey picture that is looked at; the model sees every picture in one size.
const SIDE: u32 = 8;
/// The first token reads the picture, the second goes on from it: they have programs of their own.
const TWO_TOKENS: Decoding = Decoding { max_tokens: 2, beam: 1, length_penalty: 1.0 };

/// What was asked already.
#[derive(Default)]
pub struct WarmUp {
    n_asked: usize,
    text: Vec<f32>,
    image: Option<EncodedImage>,
}

impl WarmUp {
    /// Asks one more thing, which whoever comes meanwhile has to wait for; false when there was nothing left.
    pub fn ask_one(&mut self, session: &Session) -> Result<bool, SessionError> {
        let image = |kept: &mut Option<EncodedImage>| {
            let grey = || Rgb::from_raw(SIDE, SIDE, vec![128; 3 * (SIDE * SIDE) as usize]);
            kept.get_or_insert_with(|| session.encode_rgb(&grey().expect("three bytes a pixel")))
                .clone()
        };
        match self.n_asked {
            0 => self.text = block_on(session.embed_text("a photo"))?,
            1 => _ = block_on(session.embed_image(&image(&mut self.image), &Part::Whole))?,
            2 => _ = block_on(session.caption(&image(&mut self.image), &Part::Whole, TWO_TOKENS))?,
            3 => {
                let part = Part::Box([0.0, 0.0, SIDE as f32 / 2.0, SIDE as f32 / 2.0]);
                block_on(session.caption(&image(&mut self.image), &part, TWO_TOKENS))?;
            }
            4 => _ = block_on(session.localize(&image(&mut self.image), &self.text))?,
            _ => return Ok(false),
        }
        self.n_asked += 1;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DeviceChoice, open_device};
    use crate::model::ModelFiles;

    #[test]
    fn everything_is_asked_once() {
        let cpu = open_device(DeviceChoice::Cpu).expect("the CPU is there");
        let session = ModelFiles::read(None)
            .and_then(|files| files.open(&cpu))
            .expect("the embedded model opens");
        let mut warm_up = WarmUp::default();
        while warm_up.ask_one(&session).expect("the CPU computes") {}
        assert_eq!((warm_up.n_asked, warm_up.text.len()), (5, session.config().embed_dim));
    }
}
