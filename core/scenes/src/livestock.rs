//! Draws horses, cows and sheep from the side, facing right.

use super::animals::{DARK, legs};
use super::brush::{Brush, blob, curve, oval, ovals, poly};
use super::kind::Pose;
use super::look::Look;
use super::palette::Rgb;

pub(super) fn horse(b: &mut Brush, look: &Look) {
    let p = look.paint;
    let mane = if p.0 > 200 { Rgb(190, 180, 164) } else { p.dark(0.6) };
    let stride = if look.pose == Pose::Run { 0.2 } else { 0.01 };
    b.line(&curve(&[(-0.38, 0.62), (-0.54, 0.6), (-0.5, 0.28)]), 0.085, mane);
    legs(b, p, [-0.31, 0.15], 0.5, 0.075, stride);
    b.solid(
        &blob(&[
            (-0.46, 0.72),
            (-0.44, 0.36),
            (-0.1, 0.44),
            (0.2, 0.34),
            (0.36, 0.6),
            (0.22, 0.74),
            (-0.1, 0.68),
        ]),
        p,
    );
    b.solid(
        &blob(&[(0.1, 0.72), (0.3, 1.02), (0.5, 0.98), (0.42, 0.74), (0.3, 0.46), (0.12, 0.5)]),
        p,
    );
    b.line(&curve(&[(0.35, 0.97), (0.22, 0.9), (0.14, 0.7)]), 0.08, mane);
    b.solid(
        &blob(&[(0.32, 1.02), (0.48, 1.02), (0.72, 0.8), (0.66, 0.66), (0.54, 0.7), (0.34, 0.84)]),
        p.light(0.05),
    );
    b.fill(&poly(&[(0.34, 0.95), (0.37, 1.06), (0.42, 0.96)]), p.dark(0.15));
    b.fill(&oval(0.47, 0.91, 0.02, 0.023), DARK);
    b.fill(&oval(0.625, 0.76, 0.015, 0.015), DARK);
}

pub(super) fn cow(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.line(&curve(&[(-0.62, 0.8), (-0.76, 0.7), (-0.72, 0.4)]), 0.04, p.dark(0.3));
    b.fill(&oval(-0.3, 0.3, 0.13, 0.1), Rgb(236, 164, 164));
    legs(b, p, [-0.5, 0.3], 0.42, 0.12, 0.01);
    b.solid(
        &blob(&[(-0.76, 0.98), (-0.74, 0.26), (0.0, 0.24), (0.54, 0.3), (0.56, 0.94), (0.0, 0.88)]),
        p,
    );
    if p.0 > 200 {
        b.fill(&blob(&[(-0.52, 0.86), (-0.5, 0.5), (-0.2, 0.5), (-0.22, 0.86)]), DARK);
        b.fill(&blob(&[(0.02, 0.7), (0.04, 0.36), (0.34, 0.36), (0.3, 0.76)]), DARK);
    }
    let head = if p.0 > 200 { DARK } else { p };
    b.line(&curve(&[(0.52, 0.98), (0.46, 1.06), (0.5, 1.12)]), 0.05, Rgb(226, 214, 180));
    b.line(&curve(&[(0.7, 0.98), (0.78, 1.06), (0.74, 1.12)]), 0.05, Rgb(226, 214, 180));
    b.fill(&ovals(&[(0.42, 0.9, 0.12, 0.06), (0.82, 0.9, 0.1, 0.06)]), head.light(0.1));
    b.solid(&blob(&[(0.4, 1.04), (0.46, 0.5), (0.8, 0.5), (0.84, 1.04)]), head);
    b.fill(&blob(&[(0.6, 1.0), (0.58, 0.6), (0.68, 0.6), (0.66, 1.0)]), Rgb(240, 238, 232));
    b.fill(&oval(0.63, 0.62, 0.16, 0.11), Rgb(240, 176, 170));
    b.fill(&ovals(&[(0.57, 0.63, 0.025, 0.03), (0.69, 0.63, 0.025, 0.03)]), Rgb(120, 60, 60));
    for x in [0.53, 0.73] {
        b.fill(&oval(x, 0.84, 0.035, 0.04), Rgb(250, 250, 250));
        b.fill(&oval(x, 0.84, 0.02, 0.028), Rgb(0, 0, 0));
    }
}

pub(super) fn sheep(b: &mut Brush, look: &Look) {
    let p = look.paint;
    let face = if p.0 < 90 { Rgb(90, 84, 80) } else { Rgb(52, 46, 46) };
    legs(b, face, [-0.32, 0.2], 0.35, 0.09, 0.01);
    let curls = [
        (-0.44, 0.55),
        (-0.32, 0.76),
        (-0.1, 0.84),
        (0.14, 0.82),
        (0.34, 0.7),
        (0.38, 0.48),
        (0.22, 0.34),
        (0.0, 0.3),
        (-0.24, 0.32),
        (-0.4, 0.4),
    ];
    let under: Vec<_> = curls.iter().map(|&(x, y)| (x, y - 0.03, 0.18, 0.17)).collect();
    b.fill(&ovals(&under), p.dark(0.18));
    let over: Vec<_> =
        curls.iter().map(|&(x, y)| (x * 0.94, y * 0.92 + 0.07, 0.16, 0.14)).collect();
    b.fill(&ovals(&over), p);
    b.fill(&oval(-0.04, 0.6, 0.42, 0.26), p);
    for (i, &(x, y)) in curls.iter().enumerate() {
        let k = 0.5 + 0.1 * (i % 3) as f32;
        let (x, y) = (x * k, 0.6 + (y - 0.58) * k);
        b.line(&curve(&[(x - 0.08, y), (x, y + 0.08), (x + 0.08, y)]), 0.02, p.dark(0.2));
    }
    b.fill(&ovals(&[(0.42, 0.8, 0.13, 0.05), (0.66, 0.82, 0.1, 0.045)]), face.light(0.12));
    b.solid(&blob(&[(0.4, 0.92), (0.46, 0.5), (0.72, 0.5), (0.7, 0.92)]), face);
    b.fill(&oval(0.53, 0.88, 0.14, 0.09), p);
    b.fill(&ovals(&[(0.53, 0.74, 0.03, 0.03), (0.64, 0.74, 0.03, 0.03)]), Rgb(250, 250, 250));
    b.fill(&ovals(&[(0.535, 0.74, 0.015, 0.02), (0.645, 0.74, 0.015, 0.02)]), Rgb(0, 0, 0));
}
