//! Chooses the objects of a picture and their relations.

use super::dice::Dice;
use super::kind::{Kind, Pose};
use super::layout;
use super::palette::{BRIGHT, Colour, WALLS};
use super::plan::{Group, Link, Plan, Spot};
use super::stage::{Cast, PLACES, Place, Weather};

const SIZES: &[(u32, u32)] = &[(384, 288), (384, 288), (384, 256), (320, 320), (288, 384)];

pub(super) fn compose(dice: &mut Dice) -> Plan {
    let place = dice.pick(PLACES);
    let cast = place.cast();
    let weather = dice.pick(cast.weathers);
    let (width, height) = dice.pick(SIZES);
    let (subject, object, link) = couple(place, weather, &cast, dice);
    let wall = dice.pick(WALLS);
    let mut groups = vec![subject, object];
    let extra = third(place, &cast, link, &groups, dice).map(|(group, spot)| {
        groups.push(group);
        spot
    });
    let ground = if place.is_indoor() { (0.62, 0.68) } else { (0.46, 0.56) };
    let mut plan = Plan {
        width,
        height,
        place,
        weather,
        wall,
        horizon: height as f32 * dice.range(ground.0, ground.1),
        groups,
        items: Vec::new(),
        link,
        extra,
        grain: dice.bits(),
    };
    layout::arrange(&mut plan, dice);
    plan
}

/// Chooses the two main groups and their relation.
fn couple(place: Place, weather: Weather, cast: &Cast, dice: &mut Dice) -> (Group, Group, Link) {
    let kind = dice.pick(cast.subjects);
    let mut subject = group(kind, dice);
    subject.pose = pose(kind, place, dice);
    if kind.is_person() && dice.chance(0.18) {
        subject.hat = Some(dice.pick(BRIGHT));
    }
    if let Some((object, link)) = deed(&mut subject, place, weather, dice) {
        return (subject, object, link);
    }
    let mut object_kind = dice.pick(cast.objects);
    while object_kind == kind {
        object_kind = dice.pick(cast.objects);
    }
    let small = matches!(kind, Kind::Vase | Kind::Cup | Kind::Apples);
    if small {
        object_kind = Kind::Table;
    }
    let mut object = group(object_kind, dice);
    object.pose = pose(object_kind, place, dice);
    let link = relation(&mut subject, &object, small, dice);
    let many = matches!(
        kind,
        Kind::Dog | Kind::Sheep | Kind::Cow | Kind::Duck | Kind::Horse | Kind::Cup | Kind::Cat
    );
    if many && link != Link::InFront && link != Link::Under && dice.chance(0.32) {
        subject.count = if dice.chance(0.7) { 2 } else { 3 };
    }
    if matches!(object_kind, Kind::Flower | Kind::Duck | Kind::Balloon | Kind::Pine)
        && dice.chance(0.5)
    {
        object.count = 2 + dice.below(2);
    }
    (subject, object, link)
}

/// Chooses an action that only some subjects can do: ride, hold, play, fly a kite.
fn deed(
    subject: &mut Group,
    place: Place,
    weather: Weather,
    dice: &mut Dice,
) -> Option<(Group, Link)> {
    let person = subject.kind.is_person();
    let at_lake = place == Place::Lake;
    let roll = dice.range(0.0, 1.0);
    let (kind, link, pose) = if place.is_indoor() {
        match (person && place == Place::Playroom, roll) {
            (true, r) if r < 0.2 => (Kind::Balloon, Link::Holding, Pose::Wave),
            (true, r) if r < 0.35 => (Kind::Ball, Link::Playing, Pose::Stand),
            _ => return None,
        }
    } else if subject.kind == Kind::Dog && roll < 0.25 {
        (Kind::Ball, Link::Playing, Pose::Run)
    } else if !person {
        return None;
    } else if roll < 0.14 && !at_lake && !subject.kind.is_child() {
        let mount = match place {
            Place::Street | Place::Park => Kind::Bicycle,
            Place::Forest => return None,
            _ => Kind::Horse,
        };
        (mount, Link::Riding, Pose::Ride)
    } else if roll < 0.28 || (roll < 0.6 && weather == Weather::Rain) {
        if weather == Weather::Rain || dice.chance(0.4) {
            (Kind::Umbrella, Link::Holding, Pose::Hold)
        } else {
            (Kind::Balloon, Link::Holding, Pose::Wave)
        }
    } else if roll < 0.38
        && place.is_open()
        && weather != Weather::Rain
        && weather != Weather::Night
    {
        (Kind::Kite, Link::Flying, Pose::Wave)
    } else if roll < 0.5 && !at_lake {
        (Kind::Ball, Link::Playing, dice.pick(&[Pose::Run, Pose::Jump]))
    } else {
        return None;
    };
    subject.pose = pose;
    let mut object = group(kind, dice);
    object.size = "";
    object.scale = 1.0;
    if kind == Kind::Balloon && dice.chance(0.5) {
        object.count = 3;
    }
    Some((object, link))
}

fn relation(subject: &mut Group, object: &Group, small: bool, dice: &mut Dice) -> Link {
    let sits = matches!(subject.kind, Kind::Cat | Kind::Dog | Kind::Teddy | Kind::Guitar)
        || subject.kind.is_person();
    let seat =
        matches!(object.kind, Kind::Sofa | Kind::Armchair | Kind::Bed | Kind::Chair | Kind::Bench);
    if small {
        return Link::On;
    }
    if sits
        && seat
        && dice.chance(0.65)
        && !(subject.kind == Kind::Dog && object.kind == Kind::Chair)
    {
        if !matches!(subject.kind, Kind::Teddy | Kind::Guitar) {
            subject.pose = Pose::Sit;
        }
        return Link::On;
    }
    let wide =
        matches!(object.kind, Kind::House | Kind::Tent | Kind::Bus | Kind::Truck | Kind::Sofa);
    let outsized = object.kind.facts().width * object.kind.facts().height * object.scale
        > 1.8 * subject.kind.facts().width * subject.kind.facts().height * subject.scale;
    let slim = subject.kind.facts().width * subject.kind.facts().height < 0.8;
    if wide && slim && outsized && dice.chance(0.45) {
        return Link::InFront;
    }
    let roof = matches!(object.kind, Kind::Tree | Kind::Parasol | Kind::Palm);
    let low = subject.kind.facts().height < 0.8 && slim;
    if roof && low && dice.chance(0.5) {
        return Link::Under;
    }
    if dice.chance(0.5) { Link::LeftOf } else { Link::RightOf }
}

fn third(
    place: Place,
    cast: &Cast,
    link: Link,
    groups: &[Group],
    dice: &mut Dice,
) -> Option<(Group, Spot)> {
    let fresh = |kind: Kind| groups.iter().all(|g| g.kind != kind);
    let roll = dice.range(0.0, 1.0);
    let (kind, spot) = if roll < 0.35 && !cast.high.is_empty() {
        let spot = if place.is_indoor() { Spot::Wall } else { Spot::Sky };
        (dice.pick(cast.high), spot)
    } else if roll < 0.65 && !cast.far.is_empty() {
        (dice.pick(cast.far), Spot::Far)
    } else if roll < 0.75 && !matches!(link, Link::LeftOf | Link::RightOf) && place != Place::Lake {
        let kind = dice.pick(cast.objects);
        (kind, if dice.chance(0.5) { Spot::Left } else { Spot::Right })
    } else {
        return None;
    };
    if !fresh(kind) || (link == Link::Flying && spot == Spot::Sky) {
        return None;
    }
    let mut group = group(kind, dice);
    group.pose = pose(kind, place, dice);
    if kind == Kind::Birds {
        group.count = 2 + dice.below(2);
    }
    Some((group, spot))
}

fn group(kind: Kind, dice: &mut Dice) -> Group {
    let colour: Colour = dice.pick(kind.facts().colours);
    let (size, scale) = match dice.below(5) {
        0 if kind.has_size() => {
            let tall = matches!(kind, Kind::Tree | Kind::Pine);
            (if tall { "tall" } else { "big" }, if tall { 1.12 } else { 1.25 })
        }
        1 if kind.has_size() => ("small", 0.72),
        _ => ("", 1.0),
    };
    Group { kind, colour, pose: Pose::Stand, count: 1, hat: None, size, scale }
}

fn pose(kind: Kind, place: Place, dice: &mut Dice) -> Pose {
    match kind {
        Kind::Man | Kind::Woman => {
            dice.pick(&[Pose::Stand, Pose::Walk, Pose::Walk, Pose::Run, Pose::Wave])
        }
        Kind::Boy | Kind::Girl => {
            dice.pick(&[Pose::Stand, Pose::Walk, Pose::Run, Pose::Jump, Pose::Wave])
        }
        Kind::Dog if place.is_indoor() => dice.pick(&[Pose::Stand, Pose::Sit]),
        Kind::Dog => dice.pick(&[Pose::Stand, Pose::Sit, Pose::Run, Pose::Run]),
        Kind::Horse => dice.pick(&[Pose::Stand, Pose::Run]),
        Kind::Cat => Pose::Sit,
        Kind::Duck | Kind::Sailboat | Kind::Rowboat => Pose::Float,
        _ => Pose::Stand,
    }
}
