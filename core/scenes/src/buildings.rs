//! Draws buildings and street furniture.

use super::brush::{Brush, curve, oval, ovals, poly, rect, rects, round};
use super::look::Look;
use super::palette::Rgb;

const WINDOW: Rgb = Rgb(150, 196, 226);
const LIT: Rgb = Rgb(255, 214, 110);

pub(super) fn house(b: &mut Brush, look: &Look) {
    let (p, roof) = (look.paint, look.trim);
    b.fill(&rect(0.2, 0.7, 0.32, 1.0), Rgb(120, 70, 60));
    b.solid(&rect(-0.47, 0.0, 0.47, 0.6), p);
    b.solid(&poly(&[(-0.58, 0.56), (-0.34, 0.94), (0.34, 0.94), (0.58, 0.56)]), roof);
    for y in [0.65, 0.75, 0.85] {
        let x = 0.58 - (y - 0.56) * 0.63;
        b.line(&curve(&[(-x, y), (x, y)]), 0.008, roof.dark(0.25));
    }
    b.solid(&round(-0.09, 0.0, 0.09, 0.33, 0.01), Rgb(110, 66, 40));
    b.fill(&oval(0.055, 0.16, 0.015, 0.015), Rgb(230, 200, 90));
    for x in [-0.29, 0.29] {
        b.fill(&rect(x - 0.115, 0.19, x + 0.115, 0.45), Rgb(246, 246, 242));
        let pane = rect(x - 0.09, 0.215, x + 0.09, 0.425);
        if look.dark {
            b.fill_lit(&pane, LIT);
        } else {
            b.shade(&pane, WINDOW.light(0.3), WINDOW.dark(0.1));
        }
        let bars =
            rects(&[(x - 0.008, 0.215, x + 0.008, 0.425), (x - 0.09, 0.312, x + 0.09, 0.328)]);
        b.fill(&bars, Rgb(246, 246, 242));
    }
    if look.snowy {
        let snow = poly(&[
            (-0.5, 0.7),
            (-0.35, 0.97),
            (0.35, 0.97),
            (0.5, 0.7),
            (0.3, 0.76),
            (0.1, 0.7),
            (-0.15, 0.77),
        ]);
        b.shade(&snow, Rgb(255, 255, 255), Rgb(226, 234, 244));
    }
}

pub(super) fn lighthouse(b: &mut Brush, look: &Look) {
    let white = Rgb(244, 244, 240);
    let half = |y: f32| 0.15 - y * 0.075;
    for band in 0..5 {
        let (low, high) = (0.15 * band as f32, 0.15 * (band + 1) as f32);
        let part =
            poly(&[(-half(low), low), (half(low), low), (half(high), high), (-half(high), high)]);
        b.fill(&part, if band % 2 == 0 { look.paint } else { white });
        let shadow = poly(&[
            (half(low) * 0.3, low),
            (half(low), low),
            (half(high), high),
            (half(high) * 0.3, high),
        ]);
        b.veil(&shadow, Rgb(0, 0, 20), 0.16);
    }
    b.fill(&rect(-0.15, 0.75, 0.15, 0.78), Rgb(60, 60, 66));
    b.fill_lit(&rect(-0.07, 0.78, 0.07, 0.89), LIT);
    b.fill(
        &rects(&[
            (-0.075, 0.78, -0.05, 0.89),
            (-0.01, 0.78, 0.01, 0.89),
            (0.05, 0.78, 0.075, 0.89),
        ]),
        Rgb(60, 60, 66),
    );
    b.solid(&poly(&[(-0.1, 0.89), (0.0, 1.0), (0.1, 0.89)]), look.paint);
    b.fill(&round(-0.045, 0.0, 0.045, 0.12, 0.02), Rgb(80, 52, 36));
}

pub(super) fn tent(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.shade(&poly(&[(-0.2, 1.0), (0.42, 0.92), (0.85, 0.04), (0.3, 0.0)]), p, p.dark(0.35));
    b.shade(&poly(&[(-0.2, 1.0), (-0.8, 0.0), (0.36, 0.0)]), p.light(0.25), p);
    let inside = if look.dark { Rgb(250, 200, 110) } else { p.dark(0.72) };
    let opening = poly(&[(-0.2, 0.82), (-0.44, 0.0), (0.06, 0.0)]);
    if look.dark {
        b.fill_lit(&opening, inside);
    } else {
        b.fill(&opening, inside);
    }
    b.fill(&poly(&[(-0.2, 0.82), (0.06, 0.0), (0.18, 0.0), (0.0, 0.4)]), p.light(0.45));
    b.line(&curve(&[(-0.2, 1.0), (0.42, 0.92)]), 0.025, p.dark(0.3));
}

pub(super) fn bench(b: &mut Brush, look: &Look) {
    let p = look.paint;
    let iron = Rgb(46, 48, 52);
    for x in [-0.8, 0.8] {
        b.line(&curve(&[(x, 0.98), (x, 0.04)]), 0.06, iron);
        b.line(&curve(&[(x * 1.05, 0.46), (x * 1.08, 0.03)]), 0.07, iron);
    }
    for y in [0.66, 0.8, 0.94] {
        b.solid(&round(-0.97, y - 0.05, 0.97, y + 0.06, 0.02), p);
    }
    b.solid(&round(-1.0, 0.42, 1.0, 0.54, 0.03), p.light(0.1));
    b.fill(&rect(-0.98, 0.36, 0.98, 0.43), p.dark(0.4));
}

pub(super) fn street_lamp(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.solid(&round(-0.055, 0.0, 0.055, 0.07, 0.02), p);
    b.line(&curve(&[(0.0, 0.05), (0.0, 0.84)]), 0.035, p);
    b.line(&curve(&[(-0.08, 0.8), (0.08, 0.8)]), 0.025, p);
    let lamp = poly(&[(-0.065, 0.83), (-0.095, 0.95), (0.095, 0.95), (0.065, 0.83)]);
    if look.dark {
        b.glow(0.0, 0.89, 0.42, Rgb(255, 220, 130), 0.6);
        b.fill_lit(&lamp, Rgb(255, 240, 180));
    } else {
        b.fill(&lamp, Rgb(238, 232, 206));
    }
    b.fill(&poly(&[(-0.12, 0.94), (0.0, 1.0), (0.12, 0.94)]), p);
    b.fill(&ovals(&[(0.0, 0.995, 0.015, 0.015)]), p);
}
