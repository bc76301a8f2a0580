//! Draws the sky, which shows the time of day and the weather.

use super::backdrop::Page;
use super::brush::{Brush, oval, ovals, rect};
use super::dice::Dice;
use super::palette::Rgb;
use super::stage::Weather;

pub(super) fn draw(b: &mut Brush, weather: Weather, p: Page, dice: &mut Dice) {
    let (above, below) = match weather {
        Weather::Sunny => (Rgb(64, 146, 232), Rgb(190, 224, 246)),
        Weather::Cloudy => (Rgb(146, 154, 164), Rgb(208, 212, 216)),
        Weather::Sunset => (Rgb(150, 84, 150), Rgb(255, 190, 120)),
        Weather::Night => (Rgb(14, 20, 64), Rgb(56, 66, 130)),
        Weather::Rain => (Rgb(108, 120, 136), Rgb(178, 190, 204)),
        Weather::Snow => (Rgb(178, 190, 208), Rgb(226, 232, 240)),
    };
    b.shade(&rect(0.0, 0.0, p.w, p.horizon + 4.0), above, below);
    let x = p.w * dice.range(0.12, 0.88);
    let y = p.horizon * dice.range(0.15, 0.3);
    let r = p.w.min(p.h) * 0.055;
    match weather {
        Weather::Sunny => {
            b.glow(x, y, r * 3.0, Rgb(255, 244, 190), 0.7);
            b.fill_lit(&oval(x, y, r, r), Rgb(255, 240, 150));
            clouds(b, p, Rgb(252, 252, 254), 2, dice);
        }
        Weather::Sunset => {
            let y = p.horizon * 0.78;
            b.glow(x, y, r * 5.0, Rgb(255, 150, 60), 0.75);
            b.fill_lit(&oval(x, y, r * 1.3, r * 1.3), Rgb(255, 226, 120));
            clouds(b, p, Rgb(236, 130, 130), 2, dice);
        }
        Weather::Night => {
            let stars: Vec<_> = (0..46)
                .map(|_| {
                    let s = dice.range(0.5, 1.3);
                    (dice.range(0.0, p.w), dice.range(0.0, p.horizon), s, s)
                })
                .collect();
            b.fill_lit(&ovals(&stars), Rgb(250, 248, 226));
            b.glow(x, y, r * 2.4, Rgb(220, 224, 250), 0.4);
            b.fill_lit(&oval(x, y, r, r), Rgb(246, 242, 214));
            b.fill_lit(&oval(x + r * 0.3, y - r * 0.2, r * 0.22, r * 0.22), Rgb(222, 218, 190));
        }
        Weather::Cloudy => clouds(b, p, Rgb(228, 230, 234), 6, dice),
        Weather::Rain => clouds(b, p, Rgb(124, 132, 144), 6, dice),
        Weather::Snow => clouds(b, p, Rgb(214, 220, 230), 4, dice),
    }
}

fn clouds(b: &mut Brush, p: Page, rgb: Rgb, count: usize, dice: &mut Dice) {
    for _ in 0..count {
        let (x, y) = (dice.range(0.0, p.w), p.horizon * dice.range(0.06, 0.6));
        let s = p.w * dice.range(0.04, 0.075);
        let puffs = [
            (x, y, s * 1.9, s * 0.5),
            (x - s * 0.7, y - s * 0.3, s * 0.8, s * 0.55),
            (x + s * 0.4, y - s * 0.5, s * 0.9, s * 0.7),
            (x + s * 1.2, y - s * 0.15, s * 0.7, s * 0.45),
        ];
        b.shade(&ovals(&puffs), rgb, rgb.dark(0.1));
    }
}
