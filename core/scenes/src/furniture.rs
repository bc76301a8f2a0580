//! Draws furniture that stands on the floor of a room.

use super::brush::{Brush, curve, oval, ovals, poly, rect, rects, round};
use super::look::Look;
use super::palette::Rgb;

const DARK: Rgb = Rgb(40, 40, 46);
const WOOD: Rgb = Rgb(134, 88, 52);

/// Draws a sofa or armchair. `wide` is 1 for a sofa, less for an armchair.
pub(super) fn sofa(b: &mut Brush, look: &Look, wide: f32) {
    let p = look.paint;
    let half = 1.04 * wide;
    let arm = 0.2;
    b.fill(
        &rects(&[(-half + 0.08, 0.0, -half + 0.16, 0.12), (half - 0.16, 0.0, half - 0.08, 0.12)]),
        WOOD.dark(0.4),
    );
    b.solid(&round(-half + 0.06, 0.14, half - 0.06, 1.0, 0.12), p.dark(0.08));
    b.solid(&round(-half + 0.08, 0.08, half - 0.08, 0.34, 0.04), p.dark(0.22));
    let cushions = if wide > 0.8 { 2 } else { 1 };
    let span = (2.0 * half - 2.0 * arm) / cushions as f32;
    for i in 0..cushions {
        let x = -half + arm + span * i as f32;
        b.solid(&round(x + 0.015, 0.46, x + span - 0.015, 0.92, 0.08), p.light(0.05));
        b.solid(&round(x + 0.01, 0.28, x + span - 0.01, 0.5, 0.06), p.light(0.16));
    }
    for side in [-1.0f32, 1.0] {
        let (x0, x1) = if side < 0.0 { (-half, -half + arm) } else { (half - arm, half) };
        b.solid(&round(x0, 0.08, x1, 0.68, 0.09), p);
    }
}

pub(super) fn table(b: &mut Brush, look: &Look) {
    let p = look.paint;
    for (x, shade) in [(-0.72, 0.4), (0.72, 0.4), (-0.9, 0.15), (0.9, 0.15)] {
        b.fill(&rect(x - 0.05, if shade > 0.3 { 0.12 } else { 0.0 }, x + 0.05, 0.9), p.dark(shade));
    }
    b.fill(&rect(-0.9, 0.74, 0.9, 0.86), p.dark(0.25));
    b.solid(&poly(&[(-1.0, 0.88), (-0.9, 1.02), (0.9, 1.02), (1.0, 0.88)]), p.light(0.12));
    b.fill(&rect(-1.0, 0.82, 1.0, 0.89), p.dark(0.12));
}

pub(super) fn chair(b: &mut Brush, look: &Look) {
    let p = look.paint;
    for (x, low) in [(-0.24, 0.08), (0.24, 0.08), (-0.28, 0.0), (0.28, 0.0)] {
        b.line(&curve(&[(x, 0.45), (x, low + 0.03)]), 0.05, p.dark(0.35));
    }
    b.line(&curve(&[(-0.24, 0.45), (-0.24, 0.95)]), 0.055, p.dark(0.1));
    b.line(&curve(&[(0.24, 0.45), (0.24, 0.95)]), 0.055, p.dark(0.1));
    b.solid(&round(-0.27, 0.66, 0.27, 1.0, 0.06), p);
    b.solid(&poly(&[(-0.3, 0.42), (-0.25, 0.52), (0.25, 0.52), (0.3, 0.42)]), p.light(0.15));
    b.fill(&rect(-0.3, 0.38, 0.3, 0.43), p.dark(0.2));
}

pub(super) fn bed(b: &mut Brush, look: &Look) {
    let p = look.paint;
    let sheet = Rgb(246, 244, 240);
    b.solid(&round(-1.15, 0.0, -1.03, 1.0, 0.04), WOOD);
    b.solid(&round(1.03, 0.0, 1.15, 0.62, 0.04), WOOD);
    b.fill(&rect(-1.05, 0.14, 1.05, 0.28), WOOD.dark(0.25));
    b.solid(&round(-1.04, 0.24, 1.04, 0.52, 0.06), sheet);
    b.solid(&round(-1.0, 0.46, -0.5, 0.66, 0.09), Rgb(255, 255, 255));
    b.solid(&round(-0.46, 0.16, 1.04, 0.56, 0.07), p);
    b.fill(&round(-0.46, 0.42, -0.28, 0.56, 0.05), p.light(0.55));
    for x in [0.0, 0.36, 0.72] {
        b.line(&curve(&[(x, 0.5), (x + 0.06, 0.34), (x, 0.2)]), 0.014, p.dark(0.25));
    }
}

pub(super) fn bookshelf(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.fill(&rect(-0.3, 0.0, 0.3, 1.0), p.dark(0.5));
    let spines = [
        Rgb(190, 50, 50),
        Rgb(50, 90, 170),
        Rgb(230, 190, 70),
        Rgb(60, 140, 80),
        Rgb(150, 80, 150),
        Rgb(230, 230, 220),
        Rgb(220, 120, 50),
    ];
    let mut state = look.grain | 1;
    for shelf in 0..4 {
        let y = 0.05 + 0.235 * shelf as f32;
        let mut x = -0.26;
        while x < 0.22 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let width = 0.03 + 0.028 * ((state >> 24) % 3) as f32;
            let tall = 0.13 + 0.018 * ((state >> 20) % 4) as f32;
            if !(state >> 16).is_multiple_of(9) {
                b.fill(
                    &rect(x, y, (x + width - 0.004).min(0.265), y + tall),
                    spines[(state >> 12) as usize % spines.len()],
                );
            }
            x += width;
        }
    }
    let mut boards = vec![(-0.31, 0.0, -0.265, 1.0), (0.265, 0.0, 0.31, 1.0)];
    boards.extend((0..5).map(|i| (-0.31, 0.01 + 0.235 * i as f32, 0.31, 0.05 + 0.235 * i as f32)));
    b.fill(&rects(&boards), p);
}

pub(super) fn lamp(b: &mut Brush, look: &Look) {
    b.glow(0.0, 0.82, 0.42, Rgb(255, 230, 150), 0.45);
    b.fill(&oval(0.0, 0.025, 0.13, 0.03), DARK);
    b.line(&curve(&[(0.0, 0.03), (0.0, 0.76)]), 0.03, DARK);
    let p = look.paint;
    b.shade(&poly(&[(-0.18, 0.7), (-0.11, 1.0), (0.11, 1.0), (0.18, 0.7)]), p, p.light(0.45));
}

pub(super) fn tv(b: &mut Brush, look: &Look) {
    b.solid(&round(-0.52, 0.0, 0.52, 0.27, 0.02), WOOD);
    b.line(&curve(&[(0.0, 0.04), (0.0, 0.24)]), 0.012, WOOD.dark(0.4));
    b.fill(&ovals(&[(-0.05, 0.14, 0.02, 0.02), (0.05, 0.14, 0.02, 0.02)]), WOOD.dark(0.5));
    b.fill(&rects(&[(-0.16, 0.27, 0.16, 0.3), (-0.04, 0.28, 0.04, 0.4)]), DARK);
    b.fill(&round(-0.55, 0.36, 0.55, 1.0, 0.03), DARK.dark(0.4));
    b.shade(&rect(-0.51, 0.4, 0.51, 0.96), Rgb(90, 150, 214), Rgb(190, 222, 240));
    b.shade(
        &poly(&[(-0.51, 0.4), (-0.51, 0.58), (-0.2, 0.7), (0.1, 0.56), (0.51, 0.64), (0.51, 0.4)]),
        Rgb(90, 170, 90),
        Rgb(50, 120, 60),
    );
    b.fill(&oval(0.28, 0.83, 0.06, 0.06), Rgb(255, 230, 110));
    if look.grain & 1 == 1 {
        b.veil(&poly(&[(-0.51, 0.96), (-0.3, 0.96), (-0.51, 0.6)]), Rgb(255, 255, 255), 0.3);
    }
}

pub(super) fn fridge(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.solid(&round(-0.25, 0.02, 0.25, 1.0, 0.04), p);
    b.fill(&rects(&[(-0.2, 0.0, -0.14, 0.03), (0.14, 0.0, 0.2, 0.03)]), DARK);
    b.line(&curve(&[(-0.25, 0.66), (0.25, 0.66)]), 0.014, p.dark(0.45));
    b.line(&curve(&[(-0.18, 0.72), (-0.18, 0.86)]), 0.024, p.dark(0.5));
    b.line(&curve(&[(-0.18, 0.4), (-0.18, 0.6)]), 0.024, p.dark(0.5));
    b.veil(&rect(0.12, 0.04, 0.24, 0.98), Rgb(255, 255, 255), 0.18);
}

pub(super) fn stove(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.solid(&round(-0.45, 0.02, 0.45, 0.97, 0.03), p);
    b.fill(&rect(-0.46, 0.93, 0.46, 0.98), DARK);
    b.fill(&rect(-0.45, 0.76, 0.45, 0.92), p.dark(0.3));
    b.fill(
        &ovals(&[
            (-0.3, 0.84, 0.045, 0.05),
            (-0.1, 0.84, 0.045, 0.05),
            (0.1, 0.84, 0.045, 0.05),
            (0.3, 0.84, 0.045, 0.05),
        ]),
        DARK,
    );
    b.fill(&round(-0.34, 0.2, 0.34, 0.6, 0.05), DARK);
    b.shade(&round(-0.29, 0.25, 0.29, 0.55, 0.04), Rgb(120, 80, 50), Rgb(230, 150, 60));
    b.line(&curve(&[(-0.32, 0.68), (0.32, 0.68)]), 0.035, Rgb(200, 204, 208));
}
