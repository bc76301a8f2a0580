//! Draws people, seen from the front or, when they walk, run or ride, from the side.

use super::brush::{Brush, blob, curve, oval, ovals, poly};
use super::kind::{Kind, Pose};
use super::look::Look;
use super::palette::Rgb;

type Point = (f32, f32);

/// Positions of the body parts for one kind of body in one pose.
struct Body {
    head: (f32, f32, f32),
    shoulder: (f32, f32),
    hip: (f32, f32),
    limb: f32,
    /// Knee and foot of the left and the right leg.
    legs: [[Point; 2]; 2],
    /// Elbow and hand of the left and the right arm.
    arms: [[Point; 2]; 2],
    sideways: bool,
}

/// Position of the right hand, which holds an umbrella, a balloon or a kite string.
pub(super) fn hand(kind: Kind, pose: Pose) -> Point {
    body(kind, pose).arms[1][1]
}

/// Height of the hip of a seated person, and so of the seat.
pub(super) const SEAT: f32 = 0.27;

fn body(kind: Kind, pose: Pose) -> Body {
    let (radius, head_y, shoulder, hip, limb) = if kind.is_child() {
        (0.135, 0.85, (0.115, 0.68), (0.075, 0.37), 0.095)
    } else {
        (0.095, 0.895, (0.12, 0.765), (0.08, 0.45), 0.088)
    };
    let (sy, hy) = (shoulder.1, hip.1);
    let down = |side: f32| [(side * 0.19, sy - 0.16), (side * 0.2, sy - 0.33)];
    let up = |side: f32| [(side * 0.22, sy + 0.04), (side * 0.25, sy + 0.22)];
    let straight = |side: f32| [(side * 0.08, hy * 0.5), (side * 0.09, 0.03)];
    let (legs, arms) = match pose {
        Pose::Stand | Pose::Float => ([straight(-1.0), straight(1.0)], [down(-1.0), down(1.0)]),
        Pose::Wave => ([straight(-1.0), straight(1.0)], [down(-1.0), up(1.0)]),
        Pose::Hold => {
            ([straight(-1.0), straight(1.0)], [down(-1.0), [(0.2, sy - 0.15), (0.27, sy - 0.04)]])
        }
        Pose::Walk => (
            [[(-0.05, hy * 0.5), (-0.19, 0.05)], [(0.11, hy * 0.52), (0.15, 0.03)]],
            [[(-0.17, sy - 0.15), (-0.2, sy - 0.3)], [(0.13, sy - 0.18), (0.22, sy - 0.28)]],
        ),
        Pose::Run => (
            [[(-0.1, hy * 0.5), (-0.33, hy * 0.5)], [(0.22, hy * 0.68), (0.2, 0.05)]],
            [[(-0.24, sy - 0.1), (-0.2, sy - 0.26)], [(0.15, sy - 0.2), (0.3, sy - 0.08)]],
        ),
        Pose::Jump => (
            [[(-0.17, hy * 0.62), (-0.24, hy * 0.24)], [(0.17, hy * 0.62), (0.24, hy * 0.24)]],
            [up(-1.0), up(1.0)],
        ),
        Pose::Sit => (
            [[(-0.11, SEAT - 0.02), (-0.11, 0.03)], [(0.11, SEAT - 0.02), (0.11, 0.03)]],
            [[(-0.2, sy - 0.16), (-0.12, sy - 0.3)], [(0.2, sy - 0.16), (0.12, sy - 0.3)]],
        ),
        Pose::Ride => (
            [[(0.12, 0.3), (0.0, 0.12)], [(0.17, 0.32), (0.06, 0.1)]],
            [[(0.12, sy - 0.18), (0.26, sy - 0.19)], [(0.12, sy - 0.2), (0.27, sy - 0.21)]],
        ),
    };
    let mut body = Body {
        head: (0.0, head_y, radius),
        shoulder,
        hip,
        limb,
        legs,
        arms,
        sideways: matches!(pose, Pose::Walk | Pose::Run | Pose::Ride),
    };
    if pose == Pose::Sit {
        let drop = hy - SEAT;
        body.head.1 -= drop;
        body.shoulder.1 -= drop;
        body.hip.1 -= drop;
        for point in body.arms.iter_mut().flatten() {
            point.1 -= drop;
        }
    }
    body
}

pub(super) fn draw(b: &mut Brush, look: &Look) {
    let body = body(look.kind, look.pose);
    let female = matches!(look.kind, Kind::Woman | Kind::Girl);
    let dress = female && !look.coat;
    if female {
        let (x, y, r) = body.head;
        let back = if body.sideways { -0.35 * r } else { 0.0 };
        b.solid(
            &blob(&[
                (x + back - r * 1.3, y + r * 1.2),
                (x + back - r * 1.5, y - r * 1.9),
                (x + back + r * 1.5, y - r * 1.9),
                (x + back + r * 1.3, y + r * 1.2),
            ]),
            look.hair,
        );
    }
    draw_arm(b, look, &body, 0);
    for (side, [knee, foot]) in [-1.0, 1.0].into_iter().zip(body.legs) {
        let cloth = if dress { look.skin } else { look.trim };
        let cloth = if side < 0.0 { cloth.dark(0.18) } else { cloth };
        let hip = (side * body.hip.0 * 0.7, body.hip.1);
        let leg = limb(hip, knee, foot);
        b.line(&leg, body.limb, cloth);
        let toe = if body.sideways { 0.03 } else { side * 0.015 };
        let shoe = oval(foot.0 + toe, foot.1 - 0.0, body.limb * 0.72, body.limb * 0.38);
        b.fill(&shoe, Rgb(52, 40, 36));
    }
    draw_torso(b, look, &body, dress);
    draw_arm(b, look, &body, 1);
    draw_head(b, look, &body);
}

fn limb(from: Point, joint: Point, to: Point) -> tiny_skia::Path {
    let soft = |a: Point, c: Point| (a.0 + (c.0 - a.0) * 0.8, a.1 + (c.1 - a.1) * 0.8);
    curve(&[from, soft(from, joint), joint, soft(to, joint), to])
}

fn draw_arm(b: &mut Brush, look: &Look, body: &Body, side: usize) {
    let sign = if side == 0 { -1.0 } else { 1.0 };
    let [elbow, hand] = body.arms[side];
    let shoulder = (sign * body.shoulder.0 * 0.85, body.shoulder.1 - 0.03);
    let width = body.limb * 0.8;
    let sleeve = look.paint.dark(if side == 0 { 0.22 } else { 0.1 });
    let lower = if look.coat { sleeve } else { look.skin };
    b.line(&curve(&[shoulder, elbow, hand]), width * 0.9, lower);
    b.fill(&oval(hand.0, hand.1, width * 0.55, width * 0.55), look.skin);
    b.line(&curve(&[shoulder, elbow]), width * 1.1, sleeve);
}

fn draw_torso(b: &mut Brush, look: &Look, body: &Body, dress: bool) {
    let (sx, sy) = body.shoulder;
    let (hx, hy) = body.hip;
    let narrow = if body.sideways { 0.86 } else { 1.0 };
    let (sx, hx) = (sx * narrow, (hx + 0.03) * narrow);
    let neck = body.limb * 0.5;
    b.line(&curve(&[(0.0, sy - 0.02), (0.0, sy + 0.06)]), neck * 1.6, look.skin);
    let outline = if dress {
        let hem = (hy - 0.17).max(0.12);
        vec![
            (-sx * 0.5, sy + 0.045),
            (-sx * 1.25, sy + 0.02),
            (-hx * 0.55, hy + 0.14),
            (-hx * 2.1, hem),
            (-hx * 2.0, hem - 0.03),
            (hx * 2.0, hem - 0.03),
            (hx * 2.1, hem),
            (hx * 0.55, hy + 0.14),
            (sx * 1.25, sy + 0.02),
            (sx * 0.5, sy + 0.045),
        ]
    } else {
        vec![
            (-sx * 0.6, sy + 0.045),
            (-sx * 1.35, sy + 0.02),
            (-hx * 1.05, hy + 0.12),
            (-hx * 1.2, hy - 0.06),
            (hx * 1.2, hy - 0.06),
            (hx * 1.05, hy + 0.12),
            (sx * 1.35, sy + 0.02),
            (sx * 0.6, sy + 0.045),
        ]
    };
    b.solid(&blob(&outline), look.paint);
}

fn draw_head(b: &mut Brush, look: &Look, body: &Body) {
    let (x, y, r) = body.head;
    b.solid(&oval(x, y, r * 0.9, r), look.skin);
    let turn = if body.sideways { 0.38 * r } else { 0.0 };
    let fringe = if body.sideways {
        vec![
            (x - r * 1.05, y - r * 0.5),
            (x - r * 1.25, y + r * 0.9),
            (x, y + r * 1.4),
            (x + r * 1.1, y + r * 0.9),
            (x + r * 0.8, y + r * 0.4),
            (x - r * 0.3, y + r * 0.5),
        ]
    } else {
        vec![
            (x - r * 0.98, y + r * 0.0),
            (x - r * 1.15, y + r * 0.9),
            (x, y + r * 1.45),
            (x + r * 1.15, y + r * 0.9),
            (x + r * 0.98, y + r * 0.0),
            (x + r * 0.6, y + r * 0.6),
            (x - r * 0.6, y + r * 0.6),
        ]
    };
    b.fill(&blob(&fringe), look.hair);
    let eyes = ovals(&[
        (x + turn - r * 0.33, y + r * 0.06, r * 0.1, r * 0.13),
        (x + turn + r * 0.33, y + r * 0.06, r * 0.1, r * 0.13),
    ]);
    b.fill(&eyes, Rgb(30, 26, 30));
    let smile = curve(&[
        (x + turn - r * 0.28, y - r * 0.4),
        (x + turn, y - r * 0.58),
        (x + turn + r * 0.28, y - r * 0.4),
    ]);
    b.line(&smile, r * 0.1, Rgb(160, 60, 60));
    if let Some(hat) = look.hat {
        let brim = oval(x, y + r * 0.52, r * 1.55, r * 0.24);
        let crown = poly(&[
            (x - r * 0.9, y + r * 0.5),
            (x - r * 0.75, y + r * 1.3),
            (x + r * 0.75, y + r * 1.3),
            (x + r * 0.9, y + r * 0.5),
        ]);
        b.solid(&crown, hat);
        b.fill(&brim, hat.dark(0.15));
    }
}
