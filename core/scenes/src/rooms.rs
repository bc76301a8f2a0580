//! Draws walls and floors.

use super::backdrop::Page;
use super::brush::{Brush, oval, ovals, poly, rect, rects};
use super::dice::Dice;
use super::palette::Rgb;
use super::plan::Plan;
use super::stage::Place;

pub(super) fn draw(b: &mut Brush, plan: &Plan, p: Page, dice: &mut Dice) {
    let wall = plan.wall.shade(dice);
    b.shade(&rect(0.0, 0.0, p.w, p.horizon), wall.light(0.08), wall.dark(0.06));
    match plan.place {
        Place::Kitchen => kitchen(b, p, wall, dice),
        Place::Playroom => playroom(b, p, wall, dice),
        _ => boards(b, p, plan.place == Place::LivingRoom, dice),
    }
    b.fill(&rect(0.0, p.horizon - 7.0, p.w, p.horizon), Rgb(246, 244, 238));
    b.veil(&rect(0.0, p.horizon, p.w, p.horizon + 2.0), Rgb(0, 0, 0), 0.3);
}

/// Draws a wooden floor, with a rug in a living room or dark curtains at the edges of a bedroom's
/// wall.
fn boards(b: &mut Brush, p: Page, rug: bool, dice: &mut Dice) {
    let wood = dice.pick(&[Rgb(178, 126, 78), Rgb(150, 100, 62), Rgb(200, 156, 104)]);
    b.shade(&rect(0.0, p.horizon, p.w, p.h), wood.dark(0.1), wood.light(0.08));
    for i in 0..4 {
        let t = i as f32 / 4.0;
        let y = p.horizon + (p.h - p.horizon) * t * t;
        b.fill(&rect(0.0, y, p.w, y + 1.2), wood.dark(0.3));
    }
    for i in -6..7 {
        let x = p.w * 0.5 + i as f32 * p.w * 0.09;
        let near = p.w * 0.5 + i as f32 * p.w * 0.16;
        b.fill(
            &poly(&[(x, p.horizon), (x + 0.8, p.horizon), (near + 1.6, p.h), (near, p.h)]),
            wood.dark(0.22),
        );
    }
    if rug {
        let rgb = dice.pick(&[
            Rgb(196, 180, 160),
            Rgb(150, 90, 90),
            Rgb(96, 116, 150),
            Rgb(120, 140, 110),
        ]);
        let y = p.horizon + (p.h - p.horizon) * 0.62;
        let ry = (p.h - p.horizon) * 0.3;
        b.fill(&oval(p.w * 0.5, y, p.w * 0.42, ry), rgb);
        b.fill(&oval(p.w * 0.5, y, p.w * 0.38, ry * 0.86), rgb.light(0.25));
    } else {
        b.veil(
            &rects(&[(0.0, 0.0, p.w * 0.045, p.horizon), (p.w * 0.955, 0.0, p.w, p.horizon)]),
            Rgb(120, 80, 120),
            0.35,
        );
    }
}

fn kitchen(b: &mut Brush, p: Page, wall: Rgb, dice: &mut Dice) {
    let tile = p.w / 11.0;
    let top = p.horizon * 0.55;
    let mut lines = Vec::new();
    for i in 0..12 {
        lines.push((tile * i as f32, top, tile * i as f32 + 1.5, p.horizon));
    }
    for i in 0..4 {
        let y = top + (p.horizon - top) * i as f32 / 4.0;
        lines.push((0.0, y, p.w, y + 1.5));
    }
    b.fill(&rects(&lines), wall.dark(0.16));
    let cupboard = dice.pick(&[Rgb(226, 216, 196), Rgb(170, 124, 82), Rgb(150, 176, 176)]);
    let low = p.horizon * 0.2;
    b.shade(&rect(0.0, 0.0, p.w, low), cupboard, cupboard.dark(0.12));
    for i in 0..6 {
        let x = p.w * i as f32 / 6.0;
        b.fill(&rect(x, 0.0, x + 1.5, low), cupboard.dark(0.4));
        b.fill(&oval(x + p.w / 6.0 - 8.0, low - 9.0, 2.2, 2.2), cupboard.dark(0.6));
    }
    let (light, dark) = (Rgb(232, 230, 224), Rgb(150, 158, 166));
    b.fill(&rect(0.0, p.horizon, p.w, p.h), light);
    for row in 0..4 {
        let y = |r: usize| p.horizon + (p.h - p.horizon) * (r * (r + 1)) as f32 / 20.0;
        let (y0, y1) = (y(row), y(row + 1));
        for column in -7..8 {
            if (row as i32 + column) % 2 == 0 {
                let at = |c: i32, y: f32| {
                    let spread = 0.09 + 0.09 * (y - p.horizon) / (p.h - p.horizon);
                    (p.w * (0.5 + c as f32 * spread), y)
                };
                b.fill(
                    &poly(&[
                        at(column, y0),
                        at(column + 1, y0),
                        at(column + 1, y1),
                        at(column, y1),
                    ]),
                    dark,
                );
            }
        }
    }
}

fn playroom(b: &mut Brush, p: Page, wall: Rgb, dice: &mut Dice) {
    let mut dots = Vec::new();
    for i in 0..48 {
        let (column, row) = (i % 8, i / 8);
        let shift = if row % 2 == 1 { 0.06 } else { 0.0 };
        dots.push((
            p.w * (0.06 + 0.125 * column as f32 + shift),
            p.horizon * (0.08 + 0.16 * row as f32),
            4.0,
            4.0,
        ));
    }
    b.fill(
        &ovals(&dots),
        if wall.0 > 225 && wall.2 > 215 { wall.dark(0.14) } else { wall.light(0.5) },
    );
    let mats = [Rgb(236, 120, 110), Rgb(112, 178, 224), Rgb(250, 214, 110), Rgb(136, 200, 130)];
    let shift = dice.below(4);
    b.fill(&rect(0.0, p.horizon, p.w, p.h), mats[0]);
    for row in 0..2 {
        let (y0, y1) = if row == 0 {
            (p.horizon, p.horizon + (p.h - p.horizon) * 0.4)
        } else {
            (p.horizon + (p.h - p.horizon) * 0.4, p.h)
        };
        for column in 0..6usize {
            let at = |c: f32, y: f32| {
                let spread = 0.2 + 0.08 * (y - p.horizon) / (p.h - p.horizon);
                (p.w * (0.5 + (c - 3.0) * spread), y)
            };
            let c = column as f32;
            b.fill(
                &poly(&[at(c, y0), at(c + 1.0, y0), at(c + 1.0, y1), at(c, y1)]),
                mats[(column + row * 2 + shift) % 4].light(0.15),
            );
        }
    }
}
