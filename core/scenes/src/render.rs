//! Draws a plan: place, shadows, objects from far to near, weather, grain.

use tiny_skia::Pixmap;

use super::backdrop;
use super::brush::{Brush, curve, oval, rects};
use super::dice::Dice;
use super::look;
use super::palette::Rgb;
use super::plan::{Item, Plan};
use super::stage::{Place, Weather};

pub(super) struct Picture {
    pub rgb: Vec<u8>,
    /// Bounds of each item of the plan, including parts outside the picture; `None` for the item
    /// that was left out.
    pub bounds: Vec<Option<[f32; 4]>>,
}

/// Draws `plan` without item `leave_out`, whose shadow stays.
pub(super) fn render(plan: &Plan, leave_out: Option<usize>) -> Picture {
    let mut pixmap = Pixmap::new(plan.width, plan.height).expect("pictures have a size");
    let light = plan.weather.light(plan.place.is_indoor());
    let mut dice = Dice::new(u64::from(plan.grain), 0);
    backdrop::draw(&mut Brush::page(&mut pixmap, light), plan, &mut dice);
    for item in &plan.items {
        ground(&mut Brush::page(&mut pixmap, light), plan, item);
    }
    let mut order: Vec<usize> = (0..plan.items.len()).collect();
    order.sort_by(|&a, &b| plan.items[a].depth.total_cmp(&plan.items[b].depth));
    let mut bounds = vec![None; plan.items.len()];
    for i in order {
        if Some(i) == leave_out {
            continue;
        }
        let item = &plan.items[i];
        let mut brush = Brush::object(&mut pixmap, light, item.at, item.size, item.flip);
        look::draw(&mut brush, &item.look);
        bounds[i] = brush.bounds();
    }
    falling(&mut Brush::page(&mut pixmap, light), plan, &mut dice);
    Picture { rgb: grain(plan, &pixmap), bounds }
}

/// Draws an object's effects on the ground (shadow, firelight) and its string.
fn ground(b: &mut Brush, plan: &Plan, item: &Item) {
    if let Some([x, y]) = item.tether {
        let [x0, y0] = item.at;
        let kite = item.look.kind == super::kind::Kind::Kite;
        let y0 = if kite { y0 - item.size * 0.6 } else { y0 };
        let sag =
            if kite { (x + 6.0, (y0 + y) * 0.5 + 8.0) } else { ((x0 + x) * 0.5, (y0 + y) * 0.5) };
        b.line(&curve(&[(x0, y0), sag, (x, y)]), 1.0, Rgb(120, 116, 116));
    }
    if item.look.kind == super::kind::Kind::Campfire {
        b.glow(item.at[0], item.at[1] - item.size * 0.3, item.size * 1.9, Rgb(255, 170, 60), 0.5);
    }
    let Some((half, y)) = item.shadow else {
        return;
    };
    let floats = item.look.pose == super::kind::Pose::Float;
    let strength = match plan.weather {
        _ if floats => 0.3,
        Weather::Sunny | Weather::Sunset => 0.3,
        _ => 0.2,
    };
    let lean = if plan.grain & 1 == 1 { 0.16 } else { -0.16 };
    let lean = if plan.place.is_indoor() || floats { 0.0 } else { lean };
    let tone = if plan.place == Place::Mountains { Rgb(40, 60, 110) } else { Rgb(10, 12, 24) };
    let flat = (half * 0.16).clamp(2.5, 12.0);
    b.veil(&oval(item.at[0] + lean * half, y + 1.0, half * 0.98, flat), tone, strength);
    b.veil(&oval(item.at[0] + lean * half * 0.5, y, half * 0.72, flat * 0.6), tone, strength * 0.6);
}

/// Draws rain or snow in front of everything.
fn falling(b: &mut Brush, plan: &Plan, dice: &mut Dice) {
    let (w, h) = (plan.width as f32, plan.height as f32);
    if plan.place.is_indoor() {
        return;
    }
    match plan.weather {
        Weather::Rain => {
            for _ in 0..70 {
                let (x, y) = (dice.range(0.0, w + 20.0), dice.range(-10.0, h));
                let long = dice.range(9.0, 18.0);
                let streak = super::brush::poly(&[
                    (x, y),
                    (x + 1.3, y),
                    (x - long * 0.25 + 1.3, y + long),
                    (x - long * 0.25, y + long),
                ]);
                b.veil(&streak, Rgb(226, 236, 248), 0.6);
            }
        }
        Weather::Snow => {
            let flakes: Vec<_> = (0..110)
                .map(|_| {
                    let (x, y, s) = (dice.range(0.0, w), dice.range(0.0, h), dice.range(1.2, 3.4));
                    (x, y, x + s, y + s)
                })
                .collect();
            b.veil(&rects(&flakes), Rgb(255, 255, 255), 0.9);
        }
        _ => {}
    }
}

/// Adds soft blotches of light and film grain, as in a photo, so that no area is uniform.
fn grain(plan: &Plan, pixmap: &Pixmap) -> Vec<u8> {
    const CELL: usize = 32;
    let (width, height) = (plan.width as usize, plan.height as usize);
    let columns = width / CELL + 2;
    let mut dice = Dice::new(u64::from(plan.grain), 1);
    let lattice: Vec<i32> =
        (0..columns * (height / CELL + 2)).map(|_| dice.below(15) as i32 - 7).collect();
    let mut noise = plan.grain | 1;
    let mut rgb = Vec::with_capacity(width * height * 3);
    for (y, row) in pixmap.data().chunks_exact(width * 4).enumerate() {
        let (cy, fy) = (y / CELL, (y % CELL) as i32);
        for (x, pixel) in row.chunks_exact(4).enumerate() {
            let (cx, fx) = (x / CELL, (x % CELL) as i32);
            let at = |dx: usize, dy: usize| lattice[(cy + dy) * columns + cx + dx];
            let side = CELL as i32;
            let above = at(0, 0) * (side - fx) + at(1, 0) * fx;
            let below = at(0, 1) * (side - fx) + at(1, 1) * fx;
            let blotch = (above * (side - fy) + below * fy) / (side * side);
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let speck = (noise >> 28) as i32 % 9 - 4;
            rgb.extend(
                pixel[..3].iter().map(|&v| (i32::from(v) + blotch + speck).clamp(0, 255) as u8),
            );
        }
    }
    rgb
}
