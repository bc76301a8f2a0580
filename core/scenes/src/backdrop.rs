//! Draws the ground and the distant background: the place in a caption.

use super::brush::{Brush, blob, curve, ovals, poly, rect};
use super::dice::Dice;
use super::palette::Rgb;
use super::plan::Plan;
use super::stage::{Place, Weather};
use super::{rooms, sky, street};

/// Size of the picture and height of the horizon, in pixels.
#[derive(Clone, Copy)]
pub(super) struct Page {
    pub w: f32,
    pub h: f32,
    pub horizon: f32,
}

pub(super) fn draw(b: &mut Brush, plan: &Plan, dice: &mut Dice) {
    let page = Page { w: plan.width as f32, h: plan.height as f32, horizon: plan.horizon };
    if plan.place.is_indoor() {
        return rooms::draw(b, plan, page, dice);
    }
    sky::draw(b, plan.weather, page, dice);
    match plan.place {
        Place::Beach => beach(b, page, dice),
        Place::Park => park(b, page, dice),
        Place::Meadow => meadow(b, page, dice),
        Place::Mountains => mountains(b, page, dice),
        Place::Street => street::draw(b, plan.weather, page, dice),
        Place::Desert => desert(b, page, dice),
        Place::Lake => lake(b, plan.weather, page, dice),
        _ => forest(b, page, dice),
    }
}

/// Outline of hills or peaks from edge to edge, filled down to the bottom.
fn ridge(
    p: Page,
    base: f32,
    swing: f32,
    bumps: usize,
    sharp: bool,
    dice: &mut Dice,
) -> tiny_skia::Path {
    let mut points = vec![(-40.0, p.h + 40.0), (-40.0, base)];
    for i in 0..=bumps * 2 {
        let x = p.w * (i as f32 + dice.range(-0.25, 0.25)) / (bumps * 2) as f32;
        let lift =
            if i % 2 == 1 { swing * dice.range(0.65, 1.0) } else { swing * dice.range(0.0, 0.25) };
        points.push((x, base - lift));
    }
    points.extend([(p.w + 40.0, base), (p.w + 40.0, p.h + 40.0)]);
    if sharp { poly(&points) } else { blob(&points) }
}

fn tufts(b: &mut Brush, p: Page, from: f32, rgb: Rgb, count: usize, dice: &mut Dice) {
    let mut blades = Vec::new();
    for _ in 0..count {
        let t = dice.range(0.0, 1.0);
        let (x, y) = (dice.range(0.0, p.w), from + (p.h - from) * t);
        let s = 2.0 + 5.0 * t;
        blades.push((x, y, s * 0.8, s * 0.22));
    }
    b.fill(&ovals(&blades), rgb);
}

fn beach(b: &mut Brush, p: Page, dice: &mut Dice) {
    let shore = p.horizon + (p.h - p.horizon) * 0.3;
    b.shade(&rect(0.0, p.horizon, p.w, shore + 10.0), Rgb(30, 96, 164), Rgb(86, 178, 204));
    for i in 0..5 {
        let y = p.horizon + (shore - p.horizon) * (0.15 + 0.18 * i as f32);
        let x = dice.range(0.0, p.w * 0.7);
        b.line(
            &curve(&[(x, y), (x + p.w * 0.1, y - 2.0), (x + p.w * 0.22, y)]),
            1.4,
            Rgb(190, 224, 236),
        );
    }
    let bend = dice.range(-10.0, 10.0);
    let line = |d: f32| {
        [
            (-5.0, shore + d),
            (p.w * 0.33, shore + bend + d),
            (p.w * 0.66, shore - bend + d),
            (p.w + 5.0, shore + d),
        ]
    };
    let mut sand = line(0.0).to_vec();
    sand.extend([(p.w + 5.0, p.h + 5.0), (-5.0, p.h + 5.0)]);
    b.shade(&poly(&sand), Rgb(206, 172, 116), Rgb(240, 212, 156));
    b.line(&curve(&line(-1.0)), 5.0, Rgb(246, 250, 250));
    tufts(b, p, shore + 12.0, Rgb(204, 170, 116), 40, dice);
}

fn bushes(b: &mut Brush, p: Page, rgb: Rgb, dice: &mut Dice) {
    let mut row = Vec::new();
    let mut x = 0.0;
    while x < p.w {
        let r = p.w * dice.range(0.035, 0.065);
        row.push((x, p.horizon - r * 0.3, r, r * dice.range(0.7, 1.1)));
        x += r * 1.1;
    }
    b.shade(&ovals(&row), rgb.light(0.12), rgb.dark(0.3));
}

fn park(b: &mut Brush, p: Page, dice: &mut Dice) {
    bushes(b, p, Rgb(52, 116, 58), dice);
    b.shade(&rect(0.0, p.horizon, p.w, p.h), Rgb(104, 168, 72), Rgb(72, 146, 54));
    let (far, near) = (p.w * dice.range(0.3, 0.7), p.w * dice.range(0.1, 0.9));
    let (wide, y) = (p.w * 0.2, p.horizon);
    let path = poly(&[(far - 5.0, y), (far + 5.0, y), (near + wide, p.h), (near - wide, p.h)]);
    b.shade(&path, Rgb(206, 190, 154), Rgb(222, 206, 170));
    tufts(b, p, p.horizon + 8.0, Rgb(62, 130, 48), 50, dice);
}

fn meadow(b: &mut Brush, p: Page, dice: &mut Dice) {
    b.shade(&ridge(p, p.horizon, p.h * 0.14, 2, false, dice), Rgb(112, 158, 128), Rgb(96, 150, 96));
    b.shade(
        &ridge(p, p.horizon + 8.0, p.h * 0.07, 3, false, dice),
        Rgb(140, 188, 84),
        Rgb(98, 160, 62),
    );
    tufts(b, p, p.horizon + 22.0, Rgb(86, 146, 52), 60, dice);
    for rgb in [Rgb(250, 240, 150), Rgb(250, 250, 250)] {
        tufts(b, p, p.horizon + 30.0, rgb, 10, dice);
    }
}

fn peaks(b: &mut Brush, p: Page, height: f32, dice: &mut Dice) {
    for i in 0..4 {
        let x = p.w * (0.1 + 0.27 * i as f32 + dice.range(-0.08, 0.08));
        let top = p.horizon - height * dice.range(0.65, 1.0);
        let half = p.w * dice.range(0.2, 0.27);
        b.shade(
            &poly(&[(x - half, p.horizon + 4.0), (x, top), (x + half, p.horizon + 4.0)]),
            Rgb(128, 140, 166),
            Rgb(96, 110, 136),
        );
        let k = 0.42;
        let y = top + (p.horizon - top) * k;
        let cap = [
            (x, top),
            (x + half * k, y),
            (x + half * k * 0.5, y - 7.0),
            (x + half * k * 0.15, y + 6.0),
            (x - half * k * 0.3, y - 6.0),
            (x - half * k * 0.6, y + 3.0),
            (x - half * k, y),
        ];
        b.shade(&poly(&cap), Rgb(252, 253, 255), Rgb(222, 232, 244));
    }
}

fn mountains(b: &mut Brush, p: Page, dice: &mut Dice) {
    peaks(b, p, p.horizon * 0.72, dice);
    b.shade(
        &ridge(p, p.horizon + 6.0, p.h * 0.05, 2, false, dice),
        Rgb(250, 252, 255),
        Rgb(218, 228, 242),
    );
    tufts(b, p, p.horizon + 20.0, Rgb(206, 218, 236), 40, dice);
}

fn desert(b: &mut Brush, p: Page, dice: &mut Dice) {
    b.shade(&ridge(p, p.horizon, p.h * 0.15, 2, true, dice), Rgb(190, 110, 74), Rgb(170, 96, 66));
    b.shade(
        &ridge(p, p.horizon + 10.0, p.h * 0.06, 2, false, dice),
        Rgb(234, 184, 112),
        Rgb(214, 158, 88),
    );
    b.shade(
        &ridge(p, p.horizon + p.h * 0.2, p.h * 0.05, 2, false, dice),
        Rgb(240, 196, 124),
        Rgb(222, 170, 98),
    );
    tufts(b, p, p.horizon + 30.0, Rgb(200, 148, 84), 40, dice);
}

fn lake(b: &mut Brush, weather: Weather, p: Page, dice: &mut Dice) {
    peaks(b, p, p.horizon * 0.5, dice);
    bushes(b, p, Rgb(50, 106, 66), dice);
    let deep = if weather == Weather::Sunset { Rgb(140, 96, 130) } else { Rgb(44, 112, 160) };
    b.shade(&rect(0.0, p.horizon, p.w, p.h), deep.light(0.35), deep);
    for _ in 0..26 {
        let (x, t) = (dice.range(-10.0, p.w), dice.range(0.03, 1.0));
        let y = p.horizon + (p.h - p.horizon) * t;
        let s = 8.0 + 22.0 * t;
        b.line(&curve(&[(x, y), (x + s * 0.5, y - 1.5), (x + s, y)]), 1.3, deep.light(0.5));
    }
    let bank = p.h * 0.85;
    let edge = [
        (-30.0, p.h + 30.0),
        (-30.0, bank),
        (p.w * 0.3, bank + 6.0),
        (p.w * 0.7, bank - 5.0),
        (p.w + 30.0, bank),
        (p.w + 30.0, p.h + 30.0),
    ];
    b.shade(&blob(&edge), Rgb(112, 164, 72), Rgb(84, 140, 56));
}

fn forest(b: &mut Brush, p: Page, dice: &mut Dice) {
    b.fill(&rect(0.0, p.horizon * 0.45, p.w, p.h), Rgb(34, 74, 56));
    for row in 0..2 {
        let shade = if row == 0 { Rgb(38, 84, 62) } else { Rgb(30, 92, 58) };
        let mut x = dice.range(-20.0, 0.0);
        while x < p.w + 10.0 {
            let (half, foot) = (p.w * dice.range(0.05, 0.075), p.horizon + 4.0 + 6.0 * row as f32);
            let top = p.horizon * (0.05 + 0.2 * row as f32 + dice.range(0.0, 0.18));
            let tall = foot - top;
            b.fill(&rect(x - 2.5, foot - tall * 0.2, x + 2.5, foot), Rgb(84, 58, 40));
            for tier in 0..3 {
                let y = foot - tall * (0.1 + 0.27 * tier as f32);
                let k = half * (1.0 - 0.25 * tier as f32);
                b.shade(
                    &poly(&[(x - k, y), (x, y - tall * 0.38), (x + k, y)]),
                    shade.light(0.1),
                    shade.dark(0.25),
                );
            }
            x += half * 1.35;
        }
    }
    b.shade(&ridge(p, p.horizon + 10.0, 8.0, 3, false, dice), Rgb(96, 124, 66), Rgb(116, 100, 64));
    tufts(b, p, p.horizon + 18.0, Rgb(84, 96, 50), 60, dice);
}
