//! Warms up a GPU. A GPU compiles its kernels at their first use, which makes first answers slow.
//! So the idle worker runs each operation of the model once, in the order in which users need them.

use mmgem_core::generate::Decoding;
use mmgem_core::image::Rgb;
use mmgem_core::model::Stage;
use mmgem_core::session::{EncodedImage, Part, Session, SessionError};
use pollster::block_on;

/// Side of the grey test picture, in pixels; the model scales every picture to one size.
const SIDE: u32 = 8;
/// The first token reads the picture, the second continues from it: they use different kernels.
const TWO_TOKENS: Decoding = Decoding { max_tokens: 2, beam: 1, length_penalty: 1.0 };

/// The progress of the warm-up.
#[derive(Default)]
pub struct WarmUp {
    n_asked: usize,
    text: Vec<f32>,
    image: Option<EncodedImage>,
}

impl WarmUp {
    /// Runs the next operation; a request that arrives meanwhile waits for it. Returns `false` once
    /// all are done.
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
            4 => _ = block_on(session.localize(Stage::Two, &image(&mut self.image), &self.text))?,
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
