//! Draws things that drive, float and fly, facing right.

use super::brush::{Brush, blob, curve, oval, ovals, poly, rect, rects, round};
use super::look::Look;
use super::palette::Rgb;

const GLASS: Rgb = Rgb(176, 214, 236);
const TYRE: Rgb = Rgb(34, 34, 38);
const STEEL: Rgb = Rgb(190, 194, 200);
const WOOD: Rgb = Rgb(140, 92, 52);

fn wheels(b: &mut Brush, xs: &[f32], radius: f32) {
    let ring = |r: f32| -> Vec<_> { xs.iter().map(|&x| (x, radius, r, r)).collect() };
    b.fill(&ovals(&ring(radius)), TYRE);
    b.fill(&ovals(&ring(radius * 0.55)), STEEL);
    b.fill(&ovals(&ring(radius * 0.18)), TYRE);
}

/// Fills a window: glass in daylight, a lit cabin in the dark.
fn glass(b: &mut Brush, path: &tiny_skia::Path, look: &Look) {
    if look.dark {
        b.fill_lit(path, Rgb(250, 222, 140));
    } else {
        b.shade(path, GLASS.light(0.4), GLASS.dark(0.15));
    }
}

fn lights(b: &mut Brush, front: (f32, f32), back: (f32, f32), r: f32) {
    b.fill_lit(&oval(front.0, front.1, r, r), Rgb(255, 240, 170));
    b.fill_lit(&oval(back.0, back.1, r * 0.8, r), Rgb(190, 24, 24));
}

pub(super) fn car(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.solid(
        &blob(&[
            (-0.98, 0.56),
            (-0.62, 0.62),
            (-0.5, 1.06),
            (-0.1, 1.0),
            (0.36, 1.06),
            (0.62, 0.66),
            (1.0, 0.5),
            (0.0, 0.3),
        ]),
        p,
    );
    b.solid(
        &blob(&[
            (-1.2, 0.66),
            (-1.16, 0.1),
            (-0.4, 0.16),
            (0.4, 0.16),
            (1.2, 0.1),
            (1.2, 0.6),
            (0.7, 0.66),
            (0.0, 0.62),
        ]),
        p,
    );
    glass(b, &poly(&[(-0.58, 0.64), (-0.43, 0.92), (-0.09, 0.93), (-0.09, 0.64)]), look);
    glass(b, &poly(&[(-0.02, 0.64), (-0.02, 0.93), (0.28, 0.91), (0.5, 0.64)]), look);
    b.line(&curve(&[(-0.05, 0.6), (-0.05, 0.24)]), 0.018, p.dark(0.45));
    b.line(&curve(&[(-0.3, 0.54), (-0.2, 0.54)]), 0.035, p.dark(0.5));
    b.line(&curve(&[(-1.0, 0.22), (1.0, 0.22)]), 0.05, p.dark(0.5));
    lights(b, (1.06, 0.47), (-1.07, 0.5), 0.06);
    wheels(b, &[-0.66, 0.66], 0.21);
}

pub(super) fn bus(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.solid(&round(-1.03, 0.1, 1.03, 1.0, 0.09), p);
    b.fill(&rect(-1.03, 0.4, 1.03, 0.47), p.light(0.7));
    for i in 0..5 {
        let x = -0.95 + 0.32 * i as f32;
        glass(b, &round(x, 0.56, x + 0.26, 0.88, 0.04), look);
    }
    glass(b, &round(0.68, 0.2, 0.84, 0.88, 0.03), look);
    glass(b, &round(0.88, 0.5, 1.03, 0.9, 0.03), look);
    lights(b, (0.98, 0.26), (-0.99, 0.28), 0.04);
    wheels(b, &[-0.62, 0.46], 0.16);
}

pub(super) fn truck(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.fill(&rect(-0.95, 0.16, 0.9, 0.26), TYRE);
    b.solid(&round(-0.98, 0.24, 0.36, 1.0, 0.03), p);
    for i in 1..5 {
        let x = -0.98 + 0.268 * i as f32;
        b.line(&curve(&[(x, 0.3), (x, 0.95)]), 0.012, p.dark(0.25));
    }
    b.solid(
        &blob(&[(0.4, 0.86), (0.4, 0.16), (0.98, 0.14), (1.04, 0.46), (0.86, 0.56), (0.74, 0.88)]),
        p.light(0.12),
    );
    b.solid(
        &poly(&[(0.42, 0.2), (0.42, 0.8), (0.68, 0.8), (0.9, 0.5), (0.96, 0.2)]),
        p.light(0.12),
    );
    glass(b, &poly(&[(0.5, 0.5), (0.5, 0.74), (0.67, 0.74), (0.83, 0.5)]), look);
    lights(b, (0.94, 0.32), (-0.96, 0.3), 0.04);
    wheels(b, &[-0.72, -0.4, 0.68], 0.16);
}

pub(super) fn bicycle(b: &mut Brush, look: &Look) {
    let p = look.paint;
    for x in [-0.48, 0.48] {
        b.line(&oval(x, 0.33, 0.3, 0.3), 0.05, TYRE);
        b.line(&oval(x, 0.33, 0.26, 0.26), 0.015, STEEL);
        for (dx, dy) in [(0.26, 0.0), (0.13, 0.225), (0.13, -0.225)] {
            b.line(&curve(&[(x - dx, 0.33 - dy), (x + dx, 0.33 + dy)]), 0.01, STEEL);
        }
    }
    for bar in [
        [(-0.48, 0.33), (-0.06, 0.3)],
        [(-0.06, 0.3), (0.33, 0.7)],
        [(-0.06, 0.3), (-0.2, 0.82)],
        [(-0.18, 0.73), (0.31, 0.78)],
        [(0.31, 0.86), (0.48, 0.33)],
        [(-0.48, 0.33), (-0.17, 0.7)],
    ] {
        b.line(&curve(&bar), 0.055, p);
    }
    b.line(&curve(&[(0.31, 0.84), (0.3, 0.97), (0.46, 0.96)]), 0.045, TYRE);
    b.line(&curve(&[(-0.3, 0.86), (-0.12, 0.85)]), 0.08, TYRE);
    b.fill(&oval(-0.06, 0.3, 0.08, 0.08), STEEL.dark(0.3));
}

pub(super) fn sailboat(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.line(&curve(&[(0.0, 0.14), (0.0, 0.98)]), 0.025, WOOD.dark(0.2));
    b.shade(&poly(&[(-0.025, 0.96), (-0.025, 0.24), (-0.4, 0.24)]), p.light(0.15), p.dark(0.08));
    b.shade(&poly(&[(0.025, 0.9), (0.025, 0.24), (0.36, 0.24)]), p.light(0.3), p.light(0.1));
    for y in [0.42, 0.6, 0.76] {
        let x = -0.025 - (0.96 - y) * 0.52;
        b.line(&curve(&[(x, y), (-0.03, y)]), 0.008, p.dark(0.25));
    }
    b.solid(
        &blob(&[(-0.56, 0.24), (-0.3, -0.04), (0.3, -0.04), (0.6, 0.28), (0.0, 0.17)]),
        WOOD.mix(p, 0.35),
    );
}

pub(super) fn rowboat(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.fill(
        &blob(&[(-1.5, 0.9), (-0.6, 0.4), (0.6, 0.4), (1.5, 0.95), (0.6, 0.82), (-0.6, 0.82)]),
        WOOD.dark(0.3),
    );
    b.line(&curve(&[(-0.4, 0.74), (-0.4, 0.6)]), 0.12, WOOD);
    b.line(&curve(&[(0.4, 0.74), (0.4, 0.6)]), 0.12, WOOD);
    b.solid(
        &blob(&[
            (-1.7, 1.0),
            (-1.2, -0.06),
            (-0.4, -0.02),
            (0.4, -0.02),
            (1.2, -0.06),
            (1.7, 1.05),
            (0.8, 0.56),
            (-0.8, 0.56),
        ]),
        p,
    );
    b.line(&curve(&[(-1.28, 0.62), (0.0, 0.36), (1.28, 0.66)]), 0.06, p.light(0.5));
    b.line(&curve(&[(-0.1, 0.9), (0.5, 0.06)]), 0.07, WOOD.light(0.2));
    b.fill(&oval(0.54, 0.05, 0.15, 0.1), WOOD.light(0.2));
}

pub(super) fn airplane(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.fill(&poly(&[(0.1, 0.55), (-0.3, 0.9), (-0.12, 0.9), (0.4, 0.55)]), p.dark(0.3));
    b.shade(&poly(&[(-1.0, 0.5), (-1.2, 1.0), (-0.94, 1.0), (-0.62, 0.56)]), p, p.dark(0.15));
    b.solid(
        &blob(&[
            (-1.35, 0.6),
            (-0.9, 0.24),
            (0.7, 0.22),
            (1.4, 0.36),
            (1.2, 0.62),
            (0.6, 0.66),
            (-0.6, 0.62),
        ]),
        p,
    );
    let windows: Vec<_> = (0..9).map(|i| (-0.6 + 0.16 * i as f32, 0.5, 0.04, 0.045)).collect();
    b.fill(&ovals(&windows), Rgb(70, 110, 160));
    b.fill(&poly(&[(0.94, 0.58), (1.16, 0.5), (0.96, 0.48)]), Rgb(60, 90, 130));
    b.shade(
        &poly(&[(0.3, 0.36), (-0.42, 0.0), (-0.2, 0.0), (0.66, 0.36)]),
        p.dark(0.12),
        p.dark(0.3),
    );
    b.fill(&poly(&[(-0.9, 0.44), (-1.2, 0.3), (-1.06, 0.3), (-0.7, 0.44)]), p.dark(0.2));
}

pub(super) fn hot_air_balloon(b: &mut Brush, look: &Look) {
    let p = look.paint;
    for x in [-0.1, 0.1] {
        b.line(&curve(&[(x * 1.3, 0.3), (x, 0.14)]), 0.012, WOOD.dark(0.3));
    }
    let envelope = |k: f32| {
        blob(&[
            (0.0, 1.02),
            (-0.46 * k, 1.02),
            (-0.44 * k, 0.56),
            (-0.1 * k, 0.26),
            (0.1 * k, 0.26),
            (0.44 * k, 0.56),
            (0.46 * k, 1.02),
        ])
    };
    b.solid(&envelope(1.0), p);
    b.solid(&envelope(0.62), p.light(0.72));
    b.solid(&envelope(0.3), p);
    b.fill(&rects(&[(-0.1, 0.0, 0.1, 0.14)]), WOOD);
    b.fill(&rects(&[(-0.115, 0.12, 0.115, 0.15)]), WOOD.dark(0.3));
}
