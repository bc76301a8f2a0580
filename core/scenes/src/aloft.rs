//! Places objects that do not stand on the ground nearby: in the sky, on a wall, at the horizon, on
//! a string.

use super::dice::Dice;
use super::kind::Kind;
use super::layout::{item, tall, wide};
use super::person;
use super::plan::{Link, Plan, Spot};

/// Number of attempts to find a free place for an object.
const ATTEMPTS: usize = 24;

/// Returns the hand of the first item of group 0, in pixels.
fn hand(plan: &Plan) -> Option<[f32; 2]> {
    let item = plan.items.iter().find(|i| i.group == 0)?;
    let (x, y) = person::hand(item.look.kind, item.look.pose);
    let x = if item.flip { -x } else { x };
    Some([item.at[0] + x * item.size, item.at[1] - y * item.size])
}

/// Attaches balloons to the hand by strings, and removes the shadows of held objects.
pub(super) fn tie(plan: &mut Plan) {
    if plan.link != Link::Holding {
        return;
    }
    let hand = hand(plan);
    for item in plan.items.iter_mut().filter(|i| i.group == 1) {
        item.shadow = None;
        if item.look.kind == Kind::Balloon {
            item.tether = hand;
        }
    }
}

pub(super) fn fly_kite(plan: &mut Plan, dice: &mut Dice) {
    let hand = hand(plan);
    hang(plan, 1, Spot::Sky, dice);
    for item in plan.items.iter_mut().filter(|i| i.look.kind == Kind::Kite) {
        item.tether = hand;
    }
}

/// Finds a free place in the sky, on the wall or at the horizon. Returns false if all are taken.
pub(super) fn hang(plan: &mut Plan, group: usize, spot: Spot, dice: &mut Dice) -> bool {
    let (width, height) = (plan.width as f32, plan.height as f32);
    let indoor = plan.place.is_indoor();
    let kite = plan.groups[group].kind == Kind::Kite;
    for attempt in 0..ATTEMPTS {
        let shrink = 1.0 - 0.015 * attempt as f32;
        let unit = width.min(height) * shrink * if spot == Spot::Far { 0.34 } else { 0.56 };
        let size = tall(plan, group) * unit;
        let half = wide(plan, group) * unit * 0.5;
        let count = plan.groups[group].count as f32;
        let rise = if count > 1.0 { 1.6 } else { 1.05 };
        let reach = half * (1.0 + 1.1 * (count - 1.0));
        let x = dice.range(reach + 4.0, (width - reach - 4.0).max(reach + 5.0));
        let foot = match spot {
            Spot::Far => plan.horizon + dice.range(0.01, 0.05) * height,
            _ if indoor => dice.range(size + 6.0, (plan.horizon * 0.72).max(size + 8.0)),
            _ => dice.range(size * rise + 6.0, (plan.horizon * 0.8).max(size * rise + 8.0)),
        };
        let taken = [x - reach, foot - size * rise, x + reach, foot];
        let free = plan.items.iter().all(|other| apart(taken, other.extent()));
        let must = kite && attempt + 1 == ATTEMPTS;
        if !free && !must {
            continue;
        }
        let flip = dice.chance(0.5);
        for i in 0..plan.groups[group].count {
            let offset = (i as f32 - (count - 1.0) * 0.5) * half * 2.2;
            let at = [x + offset, foot - if i % 2 == 1 { size * 0.5 } else { 0.0 }];
            let mut item = item(plan, group, at, size, flip, dice);
            item.depth = -1.0;
            plan.items.push(item);
        }
        return true;
    }
    false
}

fn apart(a: [f32; 4], b: [f32; 4]) -> bool {
    a[2] < b[0] || b[2] < a[0] || a[3] < b[1] || b[3] < a[1]
}
