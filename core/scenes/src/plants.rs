//! Draws trees, cacti and flowers.

use super::brush::{Brush, blob, curve, oval, ovals, poly, round};
use super::look::Look;
use super::palette::Rgb;

const BARK: Rgb = Rgb(108, 74, 46);
const SNOW: Rgb = Rgb(250, 252, 255);

pub(super) fn tree(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.shade(&poly(&[(-0.07, 0.0), (-0.04, 0.5), (0.04, 0.5), (0.07, 0.0)]), BARK.dark(0.25), BARK);
    b.line(&curve(&[(0.0, 0.3), (0.12, 0.45), (0.18, 0.55)]), 0.035, BARK.dark(0.15));
    b.line(&curve(&[(0.0, 0.34), (-0.12, 0.46), (-0.18, 0.56)]), 0.03, BARK.dark(0.15));
    let lobes = [
        (-0.21, 0.57, 0.18, 0.15),
        (0.22, 0.57, 0.17, 0.15),
        (0.0, 0.55, 0.2, 0.14),
        (-0.17, 0.75, 0.18, 0.15),
        (0.17, 0.74, 0.18, 0.16),
        (0.0, 0.84, 0.18, 0.15),
    ];
    b.fill(&ovals(&lobes), p.dark(0.28));
    let wobble = (look.grain % 7) as f32 * 0.006;
    let lit: Vec<_> = lobes
        .iter()
        .map(|&(x, y, rx, ry)| (x - 0.02, y + 0.03 - wobble, rx * 0.86, ry * 0.82))
        .collect();
    b.fill(&ovals(&lit), p);
    let top: Vec<_> = lobes
        .iter()
        .map(|&(x, y, rx, ry)| (x - 0.045 + wobble, y + 0.055, rx * 0.5, ry * 0.44))
        .collect();
    b.fill(&ovals(&top), p.light(0.2));
    if look.snowy {
        b.fill(
            &ovals(&[(-0.1, 0.93, 0.14, 0.05), (0.12, 0.86, 0.12, 0.04), (-0.25, 0.82, 0.1, 0.04)]),
            SNOW,
        );
    }
}

pub(super) fn pine(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.fill(&round(-0.035, 0.0, 0.035, 0.2, 0.01), BARK);
    for tier in 0..4 {
        let t = tier as f32;
        let (low, half) = (0.13 + 0.19 * t, 0.27 - 0.055 * t);
        let high = (low + 0.36).min(1.0);
        let layer = poly(&[
            (-half, low),
            (-half * 0.5, low + 0.035),
            (0.0, low - 0.01),
            (half * 0.5, low + 0.035),
            (half, low),
            (0.0, high),
        ]);
        b.shade(&layer, p.light(0.12), p.dark(0.3));
        if look.snowy {
            let snow = poly(&[
                (0.0, high),
                (-half * 0.62, low + 0.11),
                (-half * 0.2, low + 0.15),
                (half * 0.1, low + 0.1),
                (half * 0.6, low + 0.12),
            ]);
            b.fill(&snow, SNOW);
        }
    }
}

pub(super) fn palm(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.line(&curve(&[(-0.06, 0.02), (0.04, 0.4), (0.0, 0.8)]), 0.065, BARK.light(0.15));
    for i in 0..6 {
        let y = 0.12 + 0.11 * i as f32;
        b.line(&curve(&[(-0.02, y), (0.03, y - 0.012)]), 0.012, BARK.dark(0.25));
    }
    let fronds: [(f32, f32, f32); 7] = [
        (-0.38, 0.6, 0.16),
        (0.38, 0.6, 0.16),
        (-0.42, 0.78, 0.22),
        (0.42, 0.78, 0.22),
        (-0.26, 0.98, 0.2),
        (0.26, 0.98, 0.2),
        (0.0, 1.05, 0.14),
    ];
    for (i, &(x, y, bend)) in fronds.iter().enumerate() {
        let rgb = if i < 2 { p.dark(0.3) } else { p.light(0.04 * i as f32) };
        let leaf = blob(&[
            (0.0, 0.8),
            (x * 0.5, y.max(0.84) + bend * 0.6),
            (x, y),
            (x * 1.04, y - 0.05),
            (x * 0.5, y.max(0.8) + bend * 0.1),
            (0.0, 0.76),
        ]);
        b.fill(&leaf, rgb);
    }
    b.fill(&ovals(&[(-0.03, 0.77, 0.03, 0.03), (0.035, 0.765, 0.03, 0.03)]), Rgb(96, 60, 34));
}

pub(super) fn cactus(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.line(&curve(&[(0.0, 0.35), (-0.26, 0.34), (-0.24, 0.66)]), 0.13, p.dark(0.08));
    b.line(&curve(&[(0.0, 0.48), (0.27, 0.46), (0.24, 0.8)]), 0.13, p.dark(0.16));
    b.solid(&round(-0.115, 0.0, 0.115, 1.0, 0.11), p);
    for x in [-0.05, 0.0, 0.05] {
        b.line(&curve(&[(x, 0.05), (x, 0.93)]), 0.012, p.dark(0.3));
    }
    if look.grain & 1 == 1 {
        b.fill(&ovals(&[(0.0, 1.0, 0.05, 0.04), (-0.24, 0.74, 0.04, 0.035)]), Rgb(236, 90, 150));
    }
}

pub(super) fn flower(b: &mut Brush, look: &Look) {
    let stem = Rgb(52, 130, 50);
    b.line(&curve(&[(0.0, 0.0), (0.03, 0.35), (0.0, 0.7)]), 0.05, stem);
    b.fill(&blob(&[(0.0, 0.1), (0.16, 0.4), (0.32, 0.36), (0.2, 0.14)]), stem.light(0.1));
    b.fill(&blob(&[(0.0, 0.06), (-0.16, 0.34), (-0.32, 0.3), (-0.2, 0.1)]), stem.dark(0.1));
    blossom(b, 0.0, 0.74, 0.27, look.paint);
}

/// Draws eight petals around a heart. `r` is the distance from the centre to a tip.
pub(super) fn blossom(b: &mut Brush, x: f32, y: f32, r: f32, paint: Rgb) {
    let petals = [
        (0.62, 0.0),
        (0.44, 0.44),
        (0.0, 0.62),
        (-0.44, 0.44),
        (-0.62, 0.0),
        (-0.44, -0.44),
        (0.0, -0.62),
        (0.44, -0.44),
    ];
    let shapes: Vec<_> =
        petals.iter().map(|&(px, py)| (x + px * r, y + py * r, r * 0.36, r * 0.36)).collect();
    b.solid(&ovals(&shapes), paint);
    let heart = if paint.0 > 225 && paint.1 > 180 && paint.2 < 120 {
        Rgb(150, 84, 24)
    } else {
        Rgb(250, 204, 50)
    };
    b.fill(&oval(x, y, r * 0.32, r * 0.32), heart);
}
