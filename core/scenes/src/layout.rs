//! Places the groups of a plan, in pixels.

use super::aloft;
use super::dice::Dice;
use super::kind::{Kind, Pose};
use super::look::Look;
use super::palette::{BLACK, BLUE, BRIGHT, BROWN, GREY, HAIRS, RED, SKINS};
use super::person;
use super::plan::{Item, Link, Plan, Spot};
use super::stage::{Place, Weather};

/// An object in a column. Lengths are relative to an adult's height at the column's foot.
struct Draft {
    group: usize,
    /// Offset from the middle of the column.
    dx: f32,
    /// Height above the foot.
    lift: f32,
    /// Position of the foot, in picture heights.
    foot: f32,
    nearer: f32,
}

/// Objects that are placed together. Columns are placed side by side.
#[derive(Default)]
struct Column {
    width: f32,
    drafts: Vec<Draft>,
}

pub(super) fn arrange(plan: &mut Plan, dice: &mut Dice) {
    let flips = [dice.chance(0.5), dice.chance(0.5), dice.chance(0.5)];
    let mut columns = couple(plan, flips, dice);
    if let Some(spot @ (Spot::Left | Spot::Right)) = plan.extra {
        let side = single(plan, 2, dice);
        let at = if spot == Spot::Left { 0 } else { columns.len() };
        columns.insert(at, side);
    }
    place_columns(plan, columns, flips, dice);
    if let Some(spot @ (Spot::Sky | Spot::Wall | Spot::Far)) = plan.extra
        && !aloft::hang(plan, 2, spot, dice)
    {
        plan.extra = None;
        plan.groups.truncate(2);
    }
    if plan.link == Link::Flying {
        aloft::fly_kite(plan, dice);
    }
}

/// Height of a group's objects, relative to an adult.
pub(super) fn tall(plan: &Plan, group: usize) -> f32 {
    let g = &plan.groups[group];
    g.kind.facts().height * g.scale
}

pub(super) fn wide(plan: &Plan, group: usize) -> f32 {
    let g = &plan.groups[group];
    let spread = match g.pose {
        Pose::Run | Pose::Jump if g.kind.is_person() => 1.45,
        Pose::Run => 1.12,
        _ => 1.0,
    };
    tall(plan, group) * g.kind.facts().width * spread
}

fn single(plan: &Plan, group: usize, dice: &mut Dice) -> Column {
    let kind = plan.groups[group].kind;
    let indoor = plan.place.is_indoor();
    let foot = match kind {
        k if k.is_boat() => dice.range(0.66, 0.74),
        Kind::Duck => dice.range(0.68, 0.76),
        _ if plan.place == Place::Lake => dice.range(0.92, 0.96),
        k if indoor && (k.is_person() || k.facts().height < 0.55) => dice.range(0.87, 0.93),
        _ if indoor => dice.range(0.8, 0.84),
        k if k.facts().height > 1.1 => dice.range(0.76, 0.84),
        _ => dice.range(0.83, 0.93),
    };
    let count = plan.groups[group].count;
    let step = wide(plan, group) * 1.02;
    let drafts = (0..count)
        .map(|i| Draft {
            group,
            dx: (i as f32 - (count as f32 - 1.0) * 0.5) * step,
            lift: if kind == Kind::Balloon { 0.3 + 0.12 * ((i * 2) % 3) as f32 } else { 0.0 },
            foot: foot + if i % 2 == 1 { 0.02 } else { 0.0 },
            nearer: 0.0,
        })
        .collect();
    Column { width: step * count as f32, drafts }
}

fn couple(plan: &Plan, flips: [bool; 3], dice: &mut Dice) -> Vec<Column> {
    let facing = if flips[0] { -1.0 } else { 1.0 };
    let mut object = single(plan, 1, dice);
    let (s_wide, o_wide) = (wide(plan, 0), wide(plan, 1));
    let subject = &plan.groups[0];
    let at = |group, dx, lift, foot, nearer| Draft { group, dx, lift, foot, nearer };
    match plan.link {
        Link::LeftOf => vec![single(plan, 0, dice), object],
        Link::RightOf => vec![object, single(plan, 0, dice)],
        Link::InFront | Link::Under => {
            let back = if plan.place.is_indoor() { 0.81 } else { dice.range(0.74, 0.8) };
            object.drafts[0].foot = back;
            let reach = if plan.link == Link::Under { 0.12 } else { 0.28 };
            let dx = dice.range(-reach, reach) * (o_wide - s_wide * 0.3).max(0.2);
            let near = if plan.link == Link::Under { 0.03 } else { 0.1 };
            object.drafts.push(at(0, dx, 0.0, back + near, 0.0));
            object.width = o_wide.max(s_wide + dx.abs() * 2.0);
            vec![object]
        }
        Link::On => {
            let foot = object.drafts[0].foot;
            let top = plan.groups[1].kind.top().unwrap_or(0.5) * tall(plan, 1);
            let lift = if subject.kind.is_person() {
                top - person::SEAT * tall(plan, 0)
            } else {
                top - 0.03
            };
            let room = (o_wide * 0.76 - s_wide * subject.count as f32).max(0.0) * 0.5;
            let start = dice.range(-room, room);
            for i in 0..subject.count {
                let dx = start + (i as f32 - (subject.count as f32 - 1.0) * 0.5) * s_wide * 1.1;
                object.drafts.push(at(0, dx, lift, foot, 1.0));
            }
            object.width = o_wide.max(s_wide * 1.1 * subject.count as f32);
            vec![object]
        }
        Link::Riding => {
            let (lift, dx) =
                if plan.groups[1].kind == Kind::Bicycle { (0.1, -0.1) } else { (0.25, -0.04) };
            let foot = object.drafts[0].foot.max(0.86);
            object.drafts[0].foot = foot;
            object.drafts.push(at(0, dx * facing, lift, foot, 1.0));
            vec![object]
        }
        Link::Holding => {
            let size = tall(plan, 0);
            let (hx, hy) = person::hand(subject.kind, subject.pose);
            let foot = dice.range(0.88, 0.95);
            let count = object.drafts.len();
            for (i, draft) in object.drafts.iter_mut().enumerate() {
                let fan = i as f32 - (count as f32 - 1.0) * 0.5;
                let balloon = plan.groups[1].kind == Kind::Balloon;
                draft.dx = hx * size * facing + if balloon { fan * 0.27 } else { 0.0 };
                draft.lift =
                    hy * size + if balloon && count > 1 { 0.14 - 0.06 * fan * fan } else { 0.0 };
                draft.foot = foot;
                draft.nearer = -1.0;
            }
            object.drafts.push(at(0, 0.0, 0.0, foot, 0.0));
            object.width = object.width.max(1.0);
            vec![object]
        }
        Link::Playing => {
            let foot = object.drafts[0].foot.max(0.88);
            let reach = s_wide * 0.5 + o_wide * 0.62;
            object.drafts[0].foot = foot;
            object.drafts[0].dx = reach * 0.55 * facing;
            object.drafts.push(at(0, -reach * 0.45 * facing, 0.0, foot, -0.1));
            object.width = s_wide + o_wide * 1.2;
            vec![object]
        }
        Link::Flying => vec![single(plan, 0, dice)],
    }
}

/// Scale of objects at height `y` of the picture; 1 at the front.
fn perspective(plan: &Plan, y: f32) -> f32 {
    if plan.place.is_indoor() {
        return 1.0;
    }
    let near = (y - plan.horizon) / (plan.height as f32 - plan.horizon);
    0.5 + 0.5 * near
}

fn place_columns(plan: &mut Plan, columns: Vec<Column>, flips: [bool; 3], dice: &mut Dice) {
    let (width, height) = (plan.width as f32, plan.height as f32);
    let widths: Vec<f32> =
        columns.iter().map(|c| c.width * perspective(plan, c.drafts[0].foot * height)).collect();
    let total: f32 = widths.iter().sum();
    let roomy = if plan.place.is_indoor() { 0.6 } else { 0.66 };
    let unit = (roomy * width.min(height)).min(0.9 * width / total).min(headroom(plan, &columns));
    let free = width - total * unit;
    let gap = (free * 0.5).min(0.08 * width);
    let margin = free - gap * (columns.len() as f32 - 1.0);
    let mut left = margin * dice.range(0.3, 0.7);
    for (column, wide) in columns.iter().zip(widths) {
        let middle = left + wide * unit * 0.5;
        for draft in &column.drafts {
            let item = placed(plan, draft, middle, unit, flips, dice);
            plan.items.push(item);
        }
        left += wide * unit + gap;
    }
    aloft::tie(plan);
}

/// The largest unit at which no object leaves the top of the picture.
fn headroom(plan: &Plan, columns: &[Column]) -> f32 {
    let drafts = columns.iter().flat_map(|c| &c.drafts);
    drafts
        .map(|draft| {
            let foot = draft.foot * plan.height as f32;
            let high = (draft.lift + tall(plan, draft.group) * 1.06) * perspective(plan, foot);
            (foot - 5.0) / high
        })
        .fold(f32::INFINITY, f32::min)
}

/// Places the object of `draft` in a column around `middle`. An adult at the front is `unit` pixels
/// tall.
fn placed(
    plan: &Plan,
    draft: &Draft,
    middle: f32,
    unit: f32,
    flips: [bool; 3],
    dice: &mut Dice,
) -> Item {
    let foot = draft.foot * plan.height as f32;
    let scale = unit * perspective(plan, foot);
    let at = [middle + draft.dx * scale, foot - draft.lift * scale];
    let size = tall(plan, draft.group) * scale;
    let flip = match plan.link {
        Link::Riding | Link::Holding | Link::Playing if draft.group < 2 => flips[0],
        _ => flips[draft.group],
    };
    let mut item = item(plan, draft.group, at, size, flip, dice);
    item.depth = foot + draft.nearer;
    if item.look.pose == Pose::Jump {
        item.at[1] -= size * 0.1;
    }
    let group = &plan.groups[draft.group];
    let seated = group.kind.is_person() && plan.link == Link::On;
    if (draft.lift < 0.28 || group.kind == Kind::Balloon) && !seated {
        item.shadow = Some((group.kind.facts().width * size * 0.5, foot));
    }
    item
}

pub(super) fn item(
    plan: &Plan,
    group: usize,
    at: [f32; 2],
    size: f32,
    flip: bool,
    dice: &mut Dice,
) -> Item {
    let g = &plan.groups[group];
    let trousers = [BLUE, BLACK, GREY, BROWN];
    let trim = match g.kind {
        Kind::House => dice.pick(&[RED, GREY, BROWN]),
        Kind::Sandcastle => dice.pick(BRIGHT),
        _ => dice.pick(&trousers),
    };
    let mut trim_rgb = trim.rgb.dark(0.25);
    if g.kind == Kind::House && g.colour == RED {
        trim_rgb = GREY.rgb.dark(0.3);
    }
    let look = Look {
        kind: g.kind,
        pose: g.pose,
        paint: g.colour.shade(dice),
        trim: trim_rgb,
        skin: dice.pick(SKINS),
        hair: dice.pick(HAIRS),
        hat: g.hat.map(|hat| hat.rgb),
        coat: plan.place == Place::Mountains,
        snowy: plan.place == Place::Mountains,
        dark: plan.weather == Weather::Night,
        grain: dice.bits() >> 8,
    };
    Item { group, look, at, size, flip, depth: 0.0, tether: None, shadow: None }
}
