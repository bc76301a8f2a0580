//! Animals. All but the cat are seen from the side, facing right.

use super::brush::{Brush, blob, curve, oval, ovals, poly, rect};
use super::kind::Pose;
use super::look::Look;
use super::palette::Rgb;

const DARK: Rgb = Rgb(28, 24, 24);
const BEAK: Rgb = Rgb(240, 150, 30);

/// Four legs from `top` to the ground; the far pair is darker. `stride` spreads them.
fn legs(b: &mut Brush, paint: Rgb, xs: [f32; 2], top: f32, width: f32, stride: f32) {
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
    let (hx, hy) = if look.pose == Pose::Sit {
        (-0.2, 0.04)
    } else {
        (0.0, 0.0)
    };
    if look.pose == Pose::Sit {
        b.line(
            &curve(&[(-0.4, 0.1), (-0.6, 0.08), (-0.68, 0.3)]),
            0.08,
            p.dark(0.1),
        );
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
        b.fill(
            &ovals(&[(0.16, 0.05, 0.12, 0.05), (-0.18, 0.05, 0.24, 0.06)]),
            p.dark(0.12),
        );
    } else {
        let stride = if look.pose == Pose::Run { 0.3 } else { 0.02 };
        b.line(
            &curve(&[(-0.46, 0.6), (-0.64, 0.7), (-0.68, 0.97)]),
            0.08,
            p.dark(0.1),
        );
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
        b.line(
            &curve(&[(0.68 + hx, 0.72 + hy), (0.69 + hx, 0.62 + hy)]),
            0.06,
            Rgb(230, 110, 120),
        );
    }
    b.line(
        &curve(&[(0.36 + hx, 0.68 + hy), (0.44 + hx, 0.64 + hy)]),
        0.05,
        Rgb(200, 40, 40),
    );
}

pub(super) fn cat(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.line(
        &curve(&[(0.2, 0.08), (0.52, 0.02), (0.5, 0.36), (0.4, 0.48)]),
        0.1,
        p.dark(0.15),
    );
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
    b.fill(
        &ovals(&[(-0.11, 0.78, 0.055, 0.055), (0.11, 0.78, 0.055, 0.055)]),
        eye,
    );
    b.fill(
        &ovals(&[(-0.11, 0.78, 0.02, 0.05), (0.11, 0.78, 0.02, 0.05)]),
        DARK,
    );
    b.fill(
        &poly(&[(-0.04, 0.71), (0.04, 0.71), (0.0, 0.66)]),
        Rgb(232, 130, 140),
    );
    let whisker = if p.0 < 90 {
        Rgb(200, 200, 200)
    } else {
        Rgb(90, 80, 76)
    };
    for (x, y) in [(0.34, 0.72), (0.34, 0.64), (-0.34, 0.72), (-0.34, 0.64)] {
        b.line(&curve(&[(x * 0.3, 0.67), (x, y)]), 0.012, whisker);
    }
}

pub(super) fn horse(b: &mut Brush, look: &Look) {
    let p = look.paint;
    let mane = if p.0 > 200 {
        Rgb(190, 180, 164)
    } else {
        p.dark(0.6)
    };
    let stride = if look.pose == Pose::Run { 0.2 } else { 0.01 };
    b.line(
        &curve(&[(-0.38, 0.62), (-0.54, 0.6), (-0.5, 0.28)]),
        0.085,
        mane,
    );
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
        &blob(&[
            (0.1, 0.72),
            (0.3, 1.02),
            (0.5, 0.98),
            (0.42, 0.74),
            (0.3, 0.46),
            (0.12, 0.5),
        ]),
        p,
    );
    b.line(
        &curve(&[(0.35, 0.97), (0.22, 0.9), (0.14, 0.7)]),
        0.08,
        mane,
    );
    b.solid(
        &blob(&[
            (0.32, 1.02),
            (0.48, 1.02),
            (0.72, 0.8),
            (0.66, 0.66),
            (0.54, 0.7),
            (0.34, 0.84),
        ]),
        p.light(0.05),
    );
    b.fill(
        &poly(&[(0.34, 0.95), (0.37, 1.06), (0.42, 0.96)]),
        p.dark(0.15),
    );
    b.fill(&oval(0.47, 0.91, 0.02, 0.023), DARK);
    b.fill(&oval(0.625, 0.76, 0.015, 0.015), DARK);
}

pub(super) fn cow(b: &mut Brush, look: &Look) {
    let p = look.paint;
    b.line(
        &curve(&[(-0.62, 0.8), (-0.76, 0.7), (-0.72, 0.4)]),
        0.04,
        p.dark(0.3),
    );
    b.fill(&oval(-0.3, 0.3, 0.13, 0.1), Rgb(236, 164, 164));
    legs(b, p, [-0.5, 0.3], 0.42, 0.12, 0.01);
    b.solid(
        &blob(&[
            (-0.76, 0.98),
            (-0.74, 0.26),
            (0.0, 0.24),
            (0.54, 0.3),
            (0.56, 0.94),
            (0.0, 0.88),
        ]),
        p,
    );
    if p.0 > 200 {
        b.fill(
            &blob(&[(-0.52, 0.86), (-0.5, 0.5), (-0.2, 0.5), (-0.22, 0.86)]),
            DARK,
        );
        b.fill(
            &blob(&[(0.02, 0.7), (0.04, 0.36), (0.34, 0.36), (0.3, 0.76)]),
            DARK,
        );
    }
    let head = if p.0 > 200 { DARK } else { p };
    b.line(
        &curve(&[(0.52, 0.98), (0.46, 1.06), (0.5, 1.12)]),
        0.05,
        Rgb(226, 214, 180),
    );
    b.line(
        &curve(&[(0.7, 0.98), (0.78, 1.06), (0.74, 1.12)]),
        0.05,
        Rgb(226, 214, 180),
    );
    b.fill(
        &ovals(&[(0.42, 0.9, 0.12, 0.06), (0.82, 0.9, 0.1, 0.06)]),
        head.light(0.1),
    );
    b.solid(
        &blob(&[(0.4, 1.04), (0.46, 0.5), (0.8, 0.5), (0.84, 1.04)]),
        head,
    );
    b.fill(
        &blob(&[(0.6, 1.0), (0.58, 0.6), (0.68, 0.6), (0.66, 1.0)]),
        Rgb(240, 238, 232),
    );
    b.fill(&oval(0.63, 0.62, 0.16, 0.11), Rgb(240, 176, 170));
    b.fill(
        &ovals(&[(0.57, 0.63, 0.025, 0.03), (0.69, 0.63, 0.025, 0.03)]),
        Rgb(120, 60, 60),
    );
    for x in [0.53, 0.73] {
        b.fill(&oval(x, 0.84, 0.035, 0.04), Rgb(250, 250, 250));
        b.fill(&oval(x, 0.84, 0.02, 0.028), Rgb(0, 0, 0));
    }
}

pub(super) fn sheep(b: &mut Brush, look: &Look) {
    let p = look.paint;
    let face = if p.0 < 90 {
        Rgb(90, 84, 80)
    } else {
        Rgb(52, 46, 46)
    };
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
    let under: Vec<_> = curls
        .iter()
        .map(|&(x, y)| (x, y - 0.03, 0.18, 0.17))
        .collect();
    b.fill(&ovals(&under), p.dark(0.18));
    let over: Vec<_> = curls
        .iter()
        .map(|&(x, y)| (x * 0.94, y * 0.92 + 0.07, 0.16, 0.14))
        .collect();
    b.fill(&ovals(&over), p);
    b.fill(&oval(-0.04, 0.6, 0.42, 0.26), p);
    for (i, &(x, y)) in curls.iter().enumerate() {
        let k = 0.5 + 0.1 * (i % 3) as f32;
        let (x, y) = (x * k, 0.6 + (y - 0.58) * k);
        b.line(
            &curve(&[(x - 0.08, y), (x, y + 0.08), (x + 0.08, y)]),
            0.02,
            p.dark(0.2),
        );
    }
    b.fill(
        &ovals(&[(0.42, 0.8, 0.13, 0.05), (0.66, 0.82, 0.1, 0.045)]),
        face.light(0.12),
    );
    b.solid(
        &blob(&[(0.4, 0.92), (0.46, 0.5), (0.72, 0.5), (0.7, 0.92)]),
        face,
    );
    b.fill(&oval(0.53, 0.88, 0.14, 0.09), p);
    b.fill(
        &ovals(&[(0.53, 0.74, 0.03, 0.03), (0.64, 0.74, 0.03, 0.03)]),
        Rgb(250, 250, 250),
    );
    b.fill(
        &ovals(&[(0.535, 0.74, 0.015, 0.02), (0.645, 0.74, 0.015, 0.02)]),
        Rgb(0, 0, 0),
    );
}

pub(super) fn duck(b: &mut Brush, look: &Look) {
    let p = look.paint;
    let base = if look.pose == Pose::Float {
        -0.06
    } else {
        0.06
    };
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
    b.fill(
        &blob(&at(&[(-0.5, 0.5), (-0.3, 0.14), (0.2, 0.14), (0.16, 0.46)])),
        p.dark(0.22),
    );
    let head = if look.grain & 1 == 1 && p.0 < 180 {
        Rgb(30, 110, 60)
    } else {
        p
    };
    b.solid(&oval(0.36, 0.78 + base, 0.19, 0.17), head);
    b.fill(
        &blob(&at(&[
            (0.48, 0.84),
            (0.78, 0.74),
            (0.74, 0.66),
            (0.48, 0.66),
        ])),
        BEAK,
    );
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
    b.solid(
        &blob(&[
            (-0.4, 0.34),
            (-0.1, 0.1),
            (0.26, 0.2),
            (0.34, 0.44),
            (0.0, 0.5),
        ]),
        p,
    );
    b.fill(&wing(1.0), p.dark(0.12));
    b.fill(&oval(0.27, 0.36, 0.12, 0.13), p);
    b.fill(&poly(&[(0.36, 0.42), (0.54, 0.34), (0.36, 0.29)]), BEAK);
    b.fill(&rect(0.29, 0.37, 0.33, 0.43), DARK);
}
