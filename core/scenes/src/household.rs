//! Draws objects that hang on the wall or stand on a table.

use super::brush::{Brush, blob, curve, oval, ovals, poly, rect, rects, round};
use super::look::Look;
use super::palette::Rgb;
use super::plants::blossom;

const DARK: Rgb = Rgb(36, 34, 36);

pub(super) fn clock(b: &mut Brush, look: &Look) {
    b.solid(&oval(0.0, 0.5, 0.5, 0.5), look.paint);
    b.fill(&oval(0.0, 0.5, 0.4, 0.4), Rgb(252, 252, 248));
    b.fill(
        &rects(&[
            (-0.025, 0.78, 0.025, 0.87),
            (-0.025, 0.13, 0.025, 0.22),
            (0.28, 0.475, 0.37, 0.525),
            (-0.37, 0.475, -0.28, 0.525),
        ]),
        DARK,
    );
    let hours = [(0.2, 0.12), (0.05, -0.22), (-0.2, 0.1), (0.14, 0.2)];
    let minutes = [(-0.1, 0.3), (0.28, 0.12), (0.02, 0.32), (-0.3, 0.06)];
    let (hour, minute) = (hours[look.grain as usize % 4], minutes[(look.grain >> 2) as usize % 4]);
    b.line(&curve(&[(0.0, 0.5), (hour.0, 0.5 + hour.1)]), 0.06, DARK);
    b.line(&curve(&[(0.0, 0.5), (minute.0, 0.5 + minute.1)]), 0.04, DARK);
}

pub(super) fn picture(b: &mut Brush, look: &Look) {
    b.solid(&rect(-0.65, 0.0, 0.65, 1.0), Rgb(150, 104, 50));
    b.shade(&rect(-0.55, 0.1, 0.55, 0.9), Rgb(120, 180, 230), Rgb(230, 226, 200));
    b.fill(&oval(0.3, 0.7, 0.1, 0.1), Rgb(255, 220, 100));
    let hill = if look.grain & 1 == 1 { Rgb(80, 150, 80) } else { Rgb(120, 110, 150) };
    b.fill(
        &poly(&[
            (-0.55, 0.1),
            (-0.55, 0.36),
            (-0.25, 0.66),
            (0.1, 0.32),
            (0.3, 0.5),
            (0.55, 0.3),
            (0.55, 0.1),
        ]),
        hill,
    );
    b.fill(&rect(-0.55, 0.1, 0.55, 0.24), Rgb(60, 120, 70));
}

pub(super) fn window(b: &mut Brush, look: &Look) {
    let frame = Rgb(250, 250, 246);
    b.fill(&rect(-0.47, 0.0, 0.47, 1.0), frame);
    let view = rect(-0.41, 0.07, 0.41, 0.94);
    if look.dark {
        b.shade(&view, Rgb(20, 26, 66), Rgb(50, 60, 110));
        b.fill(&oval(0.2, 0.74, 0.07, 0.07), Rgb(244, 240, 210));
    } else {
        b.shade(&view, Rgb(110, 178, 240), Rgb(206, 230, 246));
        b.fill(
            &ovals(&[(-0.2, 0.72, 0.12, 0.05), (-0.1, 0.76, 0.1, 0.06), (0.2, 0.62, 0.12, 0.04)]),
            Rgb(252, 252, 252),
        );
        b.fill(
            &poly(&[
                (-0.41, 0.07),
                (-0.41, 0.26),
                (-0.1, 0.34),
                (0.2, 0.24),
                (0.41, 0.3),
                (0.41, 0.07),
            ]),
            Rgb(96, 168, 88),
        );
    }
    b.fill(&rects(&[(-0.02, 0.05, 0.02, 0.95), (-0.42, 0.49, 0.42, 0.53)]), frame);
    b.solid(&rect(-0.52, -0.04, 0.52, 0.04), frame.dark(0.08));
}

pub(super) fn vase(b: &mut Brush, look: &Look) {
    let stem = Rgb(52, 130, 50);
    let heads = [(-0.2, 0.72), (0.2, 0.72), (0.0, 0.84), (-0.1, 0.62), (0.11, 0.61)];
    for (x, y) in heads {
        b.line(&curve(&[(0.0, 0.36), (x * 0.6, 0.5), (x, y)]), 0.03, stem);
    }
    b.fill(&blob(&[(0.0, 0.4), (0.2, 0.6), (0.34, 0.54), (0.2, 0.4)]), stem.light(0.1));
    b.fill(&blob(&[(0.0, 0.4), (-0.2, 0.6), (-0.34, 0.54), (-0.2, 0.4)]), stem.dark(0.1));
    for (x, y) in heads {
        blossom(b, x, y, 0.14, look.paint);
    }
    let glaze = if look.grain & 1 == 1 { Rgb(88, 130, 180) } else { Rgb(226, 220, 208) };
    b.solid(
        &blob(&[
            (-0.1, 0.48),
            (-0.09, 0.36),
            (-0.26, 0.2),
            (-0.12, -0.05),
            (0.12, -0.05),
            (0.26, 0.2),
            (0.09, 0.36),
            (0.1, 0.48),
        ]),
        glaze,
    );
}

pub(super) fn cup(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.line(&curve(&[(0.3, 0.8), (0.74, 0.8), (0.7, 0.3), (0.28, 0.24)]), 0.1, p.dark(0.1));
    b.solid(
        &poly(&[(-0.42, 0.9), (-0.32, 0.06), (-0.22, 0.0), (0.22, 0.0), (0.32, 0.06), (0.42, 0.9)]),
        p,
    );
    b.fill(&oval(0.0, 0.9, 0.42, 0.1), p.light(0.4));
    b.fill(&oval(0.0, 0.89, 0.36, 0.07), Rgb(92, 56, 32));
}

pub(super) fn apples(b: &mut Brush, look: &Look) {
    let p = look.paint;
    for (x, y) in [(-0.2, 0.72), (0.22, 0.72), (-0.42, 0.56), (0.44, 0.56), (0.0, 0.56)] {
        b.fill(&oval(x, y, 0.225, 0.225), p.dark(0.35));
        b.solid(&oval(x, y, 0.205, 0.205), p);
        b.line(&curve(&[(x, y + 0.17), (x + 0.03, y + 0.27)]), 0.03, Rgb(84, 54, 30));
        b.fill(&oval(x - 0.07, y + 0.08, 0.05, 0.04), p.light(0.5));
    }
    let glaze = Rgb(228, 224, 216);
    b.solid(
        &blob(&[
            (-0.98, 0.56),
            (-0.84, 0.56),
            (-0.5, 0.0),
            (-0.24, -0.02),
            (0.24, -0.02),
            (0.5, 0.0),
            (0.84, 0.56),
            (0.98, 0.56),
            (0.0, 0.42),
        ]),
        glaze,
    );
}

pub(super) fn guitar(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.fill(&rect(-0.025, 0.45, 0.025, 0.9), DARK.light(0.2));
    b.fill(&round(-0.045, 0.87, 0.045, 1.0, 0.02), DARK);
    b.fill(&ovals(&[(0.0, 0.17, 0.2, 0.17), (0.0, 0.4, 0.145, 0.13)]), p.dark(0.4));
    b.fill(
        &ovals(&[(0.0, 0.175, 0.18, 0.152), (0.0, 0.4, 0.127, 0.114), (0.0, 0.3, 0.11, 0.12)]),
        p.light(0.1),
    );
    b.fill(&oval(0.0, 0.35, 0.058, 0.058), DARK);
    b.fill(&rect(-0.075, 0.13, 0.075, 0.155), DARK);
    for x in [-0.014, 0.014] {
        b.line(&curve(&[(x, 0.14), (x, 0.92)]), 0.006, Rgb(230, 224, 200));
    }
}

pub(super) fn teddy(b: &mut Brush, look: &Look) {
    let p = look.paint;
    let pale = p.light(0.45);
    b.solid(&ovals(&[(-0.2, 0.94, 0.11, 0.1), (0.2, 0.94, 0.11, 0.1)]), p.dark(0.08));
    b.fill(&ovals(&[(-0.2, 0.94, 0.06, 0.055), (0.2, 0.94, 0.06, 0.055)]), pale);
    b.line(&curve(&[(-0.18, 0.46), (-0.34, 0.28)]), 0.16, p.dark(0.12));
    b.line(&curve(&[(0.18, 0.46), (0.34, 0.28)]), 0.16, p.dark(0.12));
    b.solid(&oval(0.0, 0.3, 0.26, 0.29), p);
    b.fill(&oval(0.0, 0.29, 0.15, 0.18), pale);
    b.solid(&ovals(&[(-0.24, 0.12, 0.15, 0.12), (0.24, 0.12, 0.15, 0.12)]), p.dark(0.05));
    b.fill(&ovals(&[(-0.26, 0.11, 0.08, 0.07), (0.26, 0.11, 0.08, 0.07)]), pale);
    b.solid(&oval(0.0, 0.75, 0.27, 0.23), p);
    b.fill(&oval(0.0, 0.67, 0.12, 0.1), pale);
    b.fill(
        &ovals(&[(-0.1, 0.81, 0.032, 0.036), (0.1, 0.81, 0.032, 0.036), (0.0, 0.71, 0.045, 0.035)]),
        DARK,
    );
}
