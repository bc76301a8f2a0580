//! Draws dogs, cats, ducks and birds. All except the cat are seen from the side, facing right.

use super::brush::{Brush, blob, curve, oval, ovals, poly, rect};
use super::kind::Pose;
use super::look::Look;
use super::palette::Rgb;

pub(super) const DARK: Rgb = Rgb(28, 24, 24);
const BEAK: Rgb = Rgb(240, 150, 30);

/// Draws four legs from `top` to the ground. The far pair is darker. `stride` spreads the legs.
pub(super) fn legs(b: &mut Brush, paint: Rgb, xs: [f32; 2], top: f32, width: f32, stride: f32) {
    for (near, shade) in [(false, 0.35), (true, 0.08)] {
        for (end, x) in [(-1.0, xs[0]), (1.0, xs[1])] {
            let step = if near { 1.0 } else { 0.55 };
            let x = if near { x } else { x + 0.09 };
            let foot = (x + end * stride * step, 0.04 + stride.abs() * 0.12);
            let knee = (x + end * stride * 0.2, top * 0.5);
            b.line(&curve(&[(x, top), knee, foot]), width, paint.dark(shade));
        }
    }
}

pub(super) fn dog(b: &mut Brush, look: &Look) {
    let p = look.paint;
    let ear = p.dark(0.38);
    let (hx, hy) = if look.pose == Pose::Sit { (-0.2, 0.04) } else { (0.0, 0.0) };
    if look.pose == Pose::Sit {
        b.line(&curve(&[(-0.4, 0.1), (-0.6, 0.08), (-0.68, 0.3)]), 0.08, p.dark(0.1));
        b.line(&curve(&[(0.16, 0.55), (0.2, 0.05)]), 0.13, p.dark(0.25));
        b.solid(
            &blob(&[
                (-0.52, 0.0),
                (-0.5, 0.42),
                (-0.1, 0.86),
                (0.24, 0.8),
                (0.26, 0.4),
                (0.1, 0.0),
            ]),
            p,
        );
        b.line(&curve(&[(0.06, 0.5), (0.1, 0.05)]), 0.13, p);
        b.fill(&ovals(&[(0.16, 0.05, 0.12, 0.05), (-0.18, 0.05, 0.24, 0.06)]), p.dark(0.12));
    } else {
        let stride = if look.pose == Pose::Run { 0.3 } else { 0.02 };
        b.line(&curve(&[(-0.46, 0.6), (-0.64, 0.7), (-0.68, 0.97)]), 0.08, p.dark(0.1));
        legs(b, p, [-0.38, 0.27], 0.45, 0.12, stride);
        b.solid(
            &blob(&[
                (-0.56, 0.66),
                (-0.5, 0.32),
                (0.0, 0.36),
                (0.42, 0.28),
                (0.56, 0.66),
                (0.2, 0.78),
                (-0.3, 0.74),
            ]),
            p,
        );
        b.line(&curve(&[(0.34, 0.6), (0.46, 0.8)]), 0.24, p);
    }
    b.solid(&oval(0.5 + hx, 0.84 + hy, 0.19, 0.16), p);
    b.solid(
        &blob(&[
            (0.5 + hx, 0.9 + hy),
            (0.86 + hx, 0.88 + hy),
            (0.86 + hx, 0.7 + hy),
            (0.5 + hx, 0.68 + hy),
        ]),
        p.light(0.1),
    );
    b.fill(&oval(0.77 + hx, 0.83 + hy, 0.05, 0.04), DARK);
    b.fill(
        &blob(&[
            (0.34 + hx, 1.02 + hy),
            (0.26 + hx, 0.6 + hy),
            (0.44 + hx, 0.6 + hy),
            (0.54 + hx, 0.96 + hy),
        ]),
        ear,
    );
    b.fill(&oval(0.58 + hx, 0.89 + hy, 0.033, 0.037), DARK);
    if look.grain & 1 == 1 {
        b.line(&curve(&[(0.68 + hx, 0.72 + hy), (0.69 + hx, 0.62 + hy)]), 0.06, Rgb(230, 110, 120));
    }
    b.line(&curve(&[(0.36 + hx, 0.68 + hy), (0.44 + hx, 0.64 + hy)]), 0.05, Rgb(200, 40, 40));
}

pub(super) fn cat(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.line(&curve(&[(0.2, 0.08), (0.52, 0.02), (0.5, 0.36), (0.4, 0.48)]), 0.1, p.dark(0.15));
    b.solid(
        &blob(&[
            (-0.14, 0.78),
            (-0.4, 0.3),
            (-0.36, -0.04),
            (0.36, -0.04),
            (0.4, 0.3),
            (0.14, 0.78),
        ]),
        p,
    );
    b.fill(&oval(0.0, 0.36, 0.13, 0.2), p.light(0.3));
    for x in [-0.12, 0.12] {
        b.line(&curve(&[(x * 0.8, 0.3), (x, 0.06)]), 0.13, p.light(0.06));
        b.fill(&oval(x, 0.05, 0.1, 0.05), p.light(0.25));
        let ear = poly(&[(x * 2.05, 0.76), (x * 1.9, 1.02), (x * 0.45, 0.9)]);
        b.fill(&ear, p.dark(0.1));
        let inner = poly(&[(x * 1.8, 0.82), (x * 1.74, 0.95), (x * 0.9, 0.89)]);
        b.fill(&inner, Rgb(232, 150, 150));
    }
    b.solid(&oval(0.0, 0.75, 0.27, 0.2), p);
    if look.grain & 1 == 1 {
        for x in [-0.08, 0.0, 0.08] {
            b.line(&curve(&[(x, 0.93), (x * 0.8, 0.85)]), 0.03, p.dark(0.4));
        }
    }
    let eye = Rgb(150, 210, 90);
    b.fill(&ovals(&[(-0.11, 0.78, 0.055, 0.055), (0.11, 0.78, 0.055, 0.055)]), eye);
    b.fill(&ovals(&[(-0.11, 0.78, 0.02, 0.05), (0.11, 0.78, 0.02, 0.05)]), DARK);
    b.fill(&poly(&[(-0.04, 0.71), (0.04, 0.71), (0.0, 0.66)]), Rgb(232, 130, 140));
    let whisker = if p.0 < 90 { Rgb(200, 200, 200) } else { Rgb(90, 80, 76) };
    for (x, y) in [(0.34, 0.72), (0.34, 0.64), (-0.34, 0.72), (-0.34, 0.64)] {
        b.line(&curve(&[(x * 0.3, 0.67), (x, y)]), 0.012, whisker);
    }
}

pub(super) fn duck(b: &mut Brush, look: &Look) {
    let p = look.paint;
    let base = if look.pose == Pose::Float { -0.06 } else { 0.06 };
    if look.pose != Pose::Float {
        b.line(&curve(&[(-0.05, 0.2), (-0.03, 0.02)]), 0.05, BEAK);
        b.line(&curve(&[(0.1, 0.2), (0.12, 0.02)]), 0.05, BEAK);
    }
    let at = |points: &[(f32, f32)]| -> Vec<(f32, f32)> {
        points.iter().map(|&(x, y)| (x, y + base)).collect()
    };
    b.solid(
        &blob(&at(&[
            (-0.78, 0.7),
            (-0.5, 0.02),
            (0.0, 0.02),
            (0.4, 0.04),
            (0.54, 0.44),
            (0.2, 0.56),
            (-0.3, 0.42),
        ])),
        p,
    );
    b.line(&curve(&at(&[(0.3, 0.36), (0.34, 0.7)])), 0.22, p);
    b.fill(&blob(&at(&[(-0.5, 0.5), (-0.3, 0.14), (0.2, 0.14), (0.16, 0.46)])), p.dark(0.22));
    let head = if look.grain & 1 == 1 && p.0 < 180 { Rgb(30, 110, 60) } else { p };
    b.solid(&oval(0.36, 0.78 + base, 0.19, 0.17), head);
    b.fill(&blob(&at(&[(0.48, 0.84), (0.78, 0.74), (0.74, 0.66), (0.48, 0.66)])), BEAK);
    b.fill(&oval(0.42, 0.83 + base, 0.035, 0.04), DARK);
}

pub(super) fn bird(b: &mut Brush, look: &Look) {
    let p = look.paint;
    let lift = if look.grain & 1 == 1 { 1.0 } else { 0.8 };
    let wing = |s: f32| {
        blob(&[
            (s * 0.04, 0.34),
            (s * 0.3, 0.95 * lift),
            (s * 0.62, lift),
            (s * 1.2, 0.5),
            (s * 0.62, 0.66 * lift),
            (s * 0.3, 0.26),
        ])
    };
    b.fill(&wing(-1.0), p.dark(0.25));
    b.solid(&blob(&[(-0.4, 0.34), (-0.1, 0.1), (0.26, 0.2), (0.34, 0.44), (0.0, 0.5)]), p);
    b.fill(&wing(1.0), p.dark(0.12));
    b.fill(&oval(0.27, 0.36, 0.12, 0.13), p);
    b.fill(&poly(&[(0.36, 0.42), (0.54, 0.34), (0.36, 0.29)]), BEAK);
    b.fill(&rect(0.29, 0.37, 0.33, 0.43), DARK);
}
