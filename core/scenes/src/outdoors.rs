//! Draws small outdoor objects.

use super::brush::{Brush, blob, curve, oval, ovals, poly, rect, rects};
use super::look::Look;
use super::palette::Rgb;

const POLE: Rgb = Rgb(96, 84, 76);

pub(super) fn campfire(b: &mut Brush, look: &Look) {
    let stones: Vec<_> = (0..7).map(|i| (-0.42 + 0.14 * i as f32, 0.05, 0.08, 0.06)).collect();
    b.fill(&ovals(&stones), Rgb(120, 116, 112));
    b.line(&curve(&[(-0.32, 0.08), (0.26, 0.24)]), 0.11, Rgb(104, 66, 38));
    b.line(&curve(&[(0.32, 0.08), (-0.26, 0.24)]), 0.11, Rgb(84, 52, 30));
    let lean = if look.grain & 1 == 1 { 0.05 } else { -0.05 };
    for (k, rgb) in [(1.0, Rgb(236, 84, 20)), (0.72, Rgb(252, 150, 30)), (0.42, Rgb(255, 232, 120))]
    {
        let flame = blob(&[
            (lean, 0.16 + 0.98 * k),
            (-0.1 * k, 0.16 + 0.5 * k),
            (-0.26 * k, 0.16 + 0.66 * k),
            (-0.36 * k, 0.2),
            (0.0, 0.06),
            (0.36 * k, 0.2),
            (0.28 * k, 0.16 + 0.6 * k),
            (0.1 * k, 0.16 + 0.44 * k),
        ]);
        b.fill_lit(&flame, rgb);
    }
}

pub(super) fn snowman(b: &mut Brush, look: &Look) {
    let snow = Rgb(250, 252, 255);
    let below = Rgb(190, 206, 228);
    b.line(&curve(&[(-0.16, 0.54), (-0.38, 0.66)]), 0.025, POLE);
    b.line(&curve(&[(0.16, 0.54), (0.38, 0.68)]), 0.025, POLE);
    for (y, r) in [(0.23, 0.25), (0.52, 0.18), (0.75, 0.13)] {
        b.fill(&oval(0.0, y, r + 0.008, r + 0.008), below.dark(0.15));
        b.shade(&oval(0.0, y, r, r), snow, below);
    }
    b.fill(
        &ovals(&[
            (-0.045, 0.785, 0.018, 0.02),
            (0.045, 0.785, 0.018, 0.02),
            (0.0, 0.5, 0.02, 0.02),
            (0.0, 0.58, 0.02, 0.02),
        ]),
        Rgb(30, 30, 34),
    );
    b.fill(&poly(&[(0.0, 0.765), (0.0, 0.725), (0.15, 0.74)]), Rgb(242, 130, 28));
    b.line(&curve(&[(-0.12, 0.655), (0.0, 0.62), (0.12, 0.655)]), 0.06, look.paint);
    b.line(&curve(&[(0.08, 0.64), (0.1, 0.46)]), 0.06, look.paint.dark(0.12));
    b.fill(&rects(&[(-0.16, 0.845, 0.16, 0.875), (-0.1, 0.87, 0.1, 1.0)]), Rgb(36, 36, 42));
    b.fill(&rect(-0.1, 0.875, 0.1, 0.905), look.paint);
}

/// Draws a dome of five panels in two alternating colours, from `y` up to `top`.
fn dome(b: &mut Brush, paint: Rgb, other: Rgb, half: f32, y: f32, top: f32) {
    let panel = |k0: f32, k1: f32| {
        let rise = top - y;
        blob(&[
            (0.0, top + rise * 0.1),
            (half * k0 * 0.9, y + rise * 0.9),
            (half * k0 * 1.02, y - rise * 0.05),
            (half * k1 * 1.02, y - rise * 0.05),
            (half * k1 * 0.9, y + rise * 0.9),
            (0.0, top + rise * 0.1),
        ])
    };
    b.solid(&panel(-1.0, 1.0), paint);
    b.solid(&panel(-0.62, 0.62), other);
    b.solid(&panel(-0.24, 0.24), paint);
}

pub(super) fn parasol(b: &mut Brush, look: &Look) {
    b.line(&curve(&[(0.0, 0.0), (0.0, 0.96)]), 0.035, Rgb(236, 232, 224));
    dome(b, look.paint, look.paint.light(0.75), 0.58, 0.68, 0.98);
    b.fill(&oval(0.0, 0.985, 0.02, 0.02), POLE);
}

pub(super) fn umbrella(b: &mut Brush, look: &Look) {
    b.line(&curve(&[(0.0, 0.0), (0.0, 0.9)]), 0.035, POLE);
    b.line(&curve(&[(0.0, 0.02), (0.01, -0.07), (0.08, -0.04)]), 0.045, POLE.dark(0.4));
    dome(b, look.paint, look.paint.light(0.16), 0.58, 0.56, 0.97);
}

pub(super) fn kite(b: &mut Brush, look: &Look) {
    let p = look.paint;
    let tail = [(0.0, 0.3), (0.1, 0.2), (-0.06, 0.12), (0.05, 0.0)];
    b.line(&curve(&tail), 0.02, p.dark(0.3));
    for (x, y) in [(0.045, 0.21), (0.0, 0.12), (0.04, 0.03)] {
        b.fill(
            &poly(&[
                (x - 0.06, y + 0.035),
                (x + 0.06, y - 0.035),
                (x + 0.06, y + 0.035),
                (x - 0.06, y - 0.035),
            ]),
            p.light(0.3),
        );
    }
    b.fill(&poly(&[(0.0, 1.0), (-0.33, 0.7), (0.0, 0.3)]), p.light(0.22));
    b.fill(&poly(&[(0.0, 1.0), (0.33, 0.7), (0.0, 0.3)]), p.dark(0.1));
    b.fill(&poly(&[(0.0, 0.7), (-0.33, 0.7), (0.0, 0.3)]), p.dark(0.22));
    b.line(&curve(&[(0.0, 1.0), (0.0, 0.3)]), 0.018, p.dark(0.5));
    b.line(&curve(&[(-0.33, 0.7), (0.33, 0.7)]), 0.018, p.dark(0.5));
}

pub(super) fn balloon(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.line(&curve(&[(0.0, 0.0), (0.04, 0.2), (-0.02, 0.4), (0.0, 0.5)]), 0.012, Rgb(110, 104, 104));
    b.fill(&poly(&[(-0.035, 0.46), (0.035, 0.46), (0.0, 0.52)]), p.dark(0.2));
    b.solid(
        &blob(&[(0.0, 0.44), (-0.2, 0.56), (-0.27, 1.0), (0.0, 1.05), (0.27, 1.0), (0.2, 0.56)]),
        p,
    );
    b.fill(&oval(-0.08, 0.87, 0.035, 0.055), p.light(0.65));
}

pub(super) fn ball(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.solid(&oval(0.0, 0.5, 0.5, 0.5), p);
    b.fill(
        &blob(&[(-0.1, 1.1), (-0.34, 0.5), (-0.1, -0.1), (0.12, 0.2), (0.02, 0.5), (0.12, 0.8)]),
        p.light(0.75),
    );
    b.fill(&oval(0.2, 0.76, 0.09, 0.07), p.light(0.5));
}

pub(super) fn sandcastle(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.solid(&blob(&[(-0.8, -0.04), (-0.5, 0.24), (0.5, 0.24), (0.8, -0.04)]), p.dark(0.1));
    for (x, top) in [(-0.38, 0.62), (0.38, 0.62), (0.0, 0.8)] {
        b.solid(&poly(&[(x - 0.19, 0.06), (x - 0.16, top), (x + 0.16, top), (x + 0.19, 0.06)]), p);
        let teeth = rects(&[
            (x - 0.18, top - 0.02, x - 0.08, top + 0.08),
            (x - 0.05, top - 0.02, x + 0.05, top + 0.08),
            (x + 0.08, top - 0.02, x + 0.18, top + 0.08),
        ]);
        b.fill(&teeth, p.dark(0.06));
        b.fill(&rect(x - 0.03, top - 0.26, x + 0.03, top - 0.14), p.dark(0.5));
    }
    b.fill(&blob(&[(-0.1, 0.02), (-0.1, 0.34), (0.1, 0.34), (0.1, 0.02)]), p.dark(0.55));
    b.line(&curve(&[(0.0, 0.86), (0.0, 1.08)]), 0.02, POLE);
    b.fill(&poly(&[(0.0, 1.08), (0.2, 1.02), (0.0, 0.96)]), look.trim);
}
