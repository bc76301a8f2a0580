//! Draws buildings, pavement and road.

use super::backdrop::Page;
use super::brush::{Brush, rect, rects};
use super::dice::Dice;
use super::palette::Rgb;
use super::stage::Weather;

pub(super) fn draw(b: &mut Brush, weather: Weather, p: Page, dice: &mut Dice) {
    let walls = [
        Rgb(176, 108, 84),
        Rgb(150, 156, 168),
        Rgb(206, 186, 150),
        Rgb(122, 136, 160),
        Rgb(186, 150, 130),
    ];
    let mut x = -10.0;
    while x < p.w {
        let wide = p.w * dice.range(0.16, 0.26);
        let top = p.horizon * dice.range(0.12, 0.5);
        let wall = dice.pick(&walls);
        b.shade(&rect(x, top, x + wide - 2.0, p.horizon + 8.0), wall.light(0.1), wall.dark(0.1));
        let (mut lit, mut unlit) = (Vec::new(), Vec::new());
        let (dx, dy) = (wide / 4.2, p.h * 0.075);
        let mut y = top + dy * 0.4;
        while y + dy * 0.6 < p.horizon - 4.0 {
            for column in 0..3 {
                let left = x + dx * (0.6 + 1.1 * column as f32);
                let pane = (left, y, left + dx * 0.65, y + dy * 0.58);
                if dice.chance(0.5) { lit.push(pane) } else { unlit.push(pane) }
            }
            y += dy;
        }
        if !unlit.is_empty() {
            b.fill(&rects(&unlit), Rgb(84, 104, 128));
        }
        if !lit.is_empty() {
            let path = rects(&lit);
            if weather == Weather::Night {
                b.fill_lit(&path, Rgb(250, 212, 116))
            } else {
                b.fill(&path, Rgb(150, 186, 212))
            }
        }
        x += wide;
    }
    let kerb = p.horizon + (p.h - p.horizon) * 0.26;
    b.shade(&rect(0.0, p.horizon, p.w, kerb), Rgb(176, 174, 170), Rgb(196, 194, 190));
    b.fill(&rect(0.0, kerb, p.w, kerb + 4.0), Rgb(150, 148, 146));
    b.shade(&rect(0.0, kerb + 4.0, p.w, p.h), Rgb(84, 86, 92), Rgb(104, 106, 112));
    let y = kerb + (p.h - kerb) * 0.45;
    let dashes: Vec<_> = (0..5)
        .map(|i| (p.w * (0.03 + 0.21 * i as f32), y, p.w * (0.14 + 0.21 * i as f32), y + 5.0))
        .collect();
    b.fill(&rects(&dashes), Rgb(236, 232, 214));
}
