//! Describes a plan in words: five captions for the picture, and phrases for each object.

use super::dice::Dice;
use super::kind::{Kind, Pose};
use super::plan::{Group, Link, Plan, Spot};
use super::stage::Place;

pub(super) fn captions(plan: &Plan, dice: &mut Dice) -> [String; 5] {
    let s = noun(plan, 0, true);
    let brief = noun(plan, 0, false);
    let o = noun(plan, 1, true);
    let (progressive, participle, simple) = verb(plan);
    let [rel_a, rel_b] = relation(plan.link, dice.chance(0.5));
    let (_, places) = plan.place.words();
    let indoor = plan.place.is_indoor();
    let first = dice.below(3);
    let (place_a, place_b) = (places[first], places[(first + 1) % 3]);
    let (time_a, time_b) = times(plan, dice.chance(0.5));
    let also = match plan.extra {
        None => String::new(),
        Some(spot) => format!("with {} {}", noun(plan, 2, true), spot_words(spot)),
    };
    let and_also = if indoor { also.replacen("with", "and", 1) } else { also.clone() };
    let many = plan.groups[0].count > 1;
    let bare = match (participle, many) {
        ("", true) => "are".to_owned(),
        ("", false) => "is".to_owned(),
        _ => progressive,
    };
    let lead = match (dice.chance(0.5), many) {
        (false, _) => "The picture shows",
        (true, true) => "There are",
        (true, false) => "There is",
    };
    [
        sentence(&[&s, &bare, rel_a, &o, place_a, &time_a]),
        sentence(&[&s, participle, rel_b, &o, place_b, &time_b, &and_also]),
        sentence(&[place_b, &format!("{time_a},"), &brief, &simple, rel_a, &o]),
        sentence(&[lead, &s, participle, rel_b, &o, place_a, &also]),
        inventory(plan),
    ]
}

/// Lists the place and its contents: "A sunny beach with a dog, a ball and two boats."
fn inventory(plan: &Plan) -> String {
    let (place, _) = plan.place.words();
    let mut things = Vec::new();
    let mut frame = ["", ""];
    if plan.place.is_indoor() {
        things.push(format!("{} walls", plan.wall.name));
    } else {
        frame = plan.weather.words().1;
    }
    things.extend((0..plan.groups.len()).map(|g| noun(plan, g, g > 0)));
    let last = things.pop().expect("every plan has two groups");
    let list = format!("{} and {last}", things.join(", "));
    sentence(&["a", frame[0], place, frame[1], "with", &list])
}

/// Joins words into a sentence: capital first, single spaces, full stop last.
fn sentence(parts: &[&str]) -> String {
    let words: Vec<&str> = parts.iter().flat_map(|p| p.split_whitespace()).collect();
    let text = words.join(" ");
    let mut letters = text.chars();
    let head = letters.next().map(|c| c.to_ascii_uppercase());
    head.into_iter().chain(letters).chain(['.']).collect()
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// Noun with its colours. `full` adds the hat.
fn noun(plan: &Plan, group: usize, full: bool) -> String {
    let g = &plan.groups[group];
    match g.count {
        1 => {
            let text = described(plan, g, false, full);
            format!("{} {text}", article(&text))
        }
        n => format!("{} {}", ["two", "three"][n - 2], described(plan, g, true, full)),
    }
}

fn described(plan: &Plan, g: &Group, plural: bool, full: bool) -> String {
    let facts = g.kind.facts();
    let word = if plural { facts.plural } else { facts.noun };
    if g.kind.is_person() {
        let garment = match g.kind {
            _ if plan.place == Place::Mountains => "jacket",
            Kind::Woman | Kind::Girl => "dress",
            _ => "shirt",
        };
        let clothes = format!("{word} in {} {} {garment}", article(g.colour.name), g.colour.name);
        return match g.hat {
            Some(hat) if full => format!("{clothes} and {} {} hat", article(hat.name), hat.name),
            _ => clothes,
        };
    }
    let words = match g.kind {
        Kind::Snowman => {
            let scarf = format!("with {} {} scarf", article(g.colour.name), g.colour.name);
            return joined(&[word, &scarf]);
        }
        Kind::Vase => {
            return joined(&[
                g.size,
                if plural { "vases of" } else { "vase of" },
                g.colour.name,
                "flowers",
            ]);
        }
        Kind::Apples => return joined(&["bowl of", g.colour.name, "apples"]),
        _ => [g.size, g.colour.name, word],
    };
    joined(&words)
}

fn joined(words: &[&str]) -> String {
    words.iter().filter(|w| !w.is_empty()).copied().collect::<Vec<_>>().join(" ")
}

/// Verb forms such as "is running", "running", "runs". The participle is empty if the object does
/// nothing.
fn verb(plan: &Plan) -> (String, &'static str, String) {
    let g = &plan.groups[0];
    let many = g.count > 1;
    let is = if many { "are" } else { "is" };
    let (participle, one, all) = match (plan.link, g.pose, g.kind) {
        (Link::Riding, ..) => ("riding", "rides", "ride"),
        (Link::Holding, ..) => ("holding", "holds", "hold"),
        (Link::Playing, ..) => ("playing with", "plays with", "play with"),
        (Link::Flying, ..) => ("flying", "flies", "fly"),
        (_, _, k) if k.is_vehicle() => ("parked", "", ""),
        (_, _, Kind::Sailboat) => ("sailing", "sails", "sail"),
        (_, _, Kind::Rowboat) => ("floating", "floats", "float"),
        (_, _, Kind::Duck) => ("swimming", "swims", "swim"),
        (_, Pose::Walk, _) => ("walking", "walks", "walk"),
        (_, Pose::Run, _) => ("running", "runs", "run"),
        (_, Pose::Jump, _) => ("jumping", "jumps", "jump"),
        (_, Pose::Wave, _) => ("waving", "waves", "wave"),
        (_, Pose::Sit, _) => ("sitting", "sits", "sit"),
        (_, _, Kind::Teddy | Kind::Guitar | Kind::Vase | Kind::Cup | Kind::Apples) => ("", "", ""),
        _ => ("standing", "stands", "stand"),
    };
    let simple = match (one, participle) {
        ("", "") => is.to_owned(),
        ("", _) => format!("{is} {participle}"),
        _ if many => all.to_owned(),
        _ => one.to_owned(),
    };
    (format!("{is} {participle}"), participle, simple)
}

/// Two phrases for the relation.
fn relation(link: Link, swap: bool) -> [&'static str; 2] {
    let near = if swap { "next to" } else { "beside" };
    match link {
        Link::LeftOf => [near, "to the left of"],
        Link::RightOf => [near, "to the right of"],
        Link::InFront => ["in front of", "in front of"],
        Link::Under => ["under", "under"],
        Link::On => ["on", "on"],
        Link::Riding | Link::Holding | Link::Playing | Link::Flying => ["", ""],
    }
}

fn spot_words(spot: Spot) -> &'static str {
    match spot {
        Spot::Sky => "in the sky",
        Spot::Wall => "on the wall",
        Spot::Far => "in the background",
        Spot::Left => "on the left",
        Spot::Right => "on the right",
    }
}

/// Two phrases for time and weather outdoors, or for the colour of the walls indoors.
fn times(plan: &Plan, swap: bool) -> (String, String) {
    if plan.place.is_indoor() {
        let walls = format!("with {} walls", plan.wall.name);
        return (walls.clone(), walls);
    }
    let ([a, b], _) = plan.weather.words();
    let (a, b) = if swap { (b, a) } else { (a, b) };
    (a.to_owned(), b.to_owned())
}

/// Two to four phrases for one object.
///
/// `x` is its position among all objects, or within its group: 0 leftmost, 1 rightmost.
pub(super) fn phrases(plan: &Plan, group: usize, x: f32) -> Vec<String> {
    let g = &plan.groups[group];
    let text = described(plan, g, false, true);
    let one = format!("{} {text}", article(&text));
    let side = match x {
        x if x < 0.4 => "on the left",
        x if x > 0.6 => "on the right",
        _ => "in the middle",
    };
    let mut all = vec![one.clone(), format!("the {} {side}", described(plan, g, false, false))];
    let apart = matches!(plan.link, Link::LeftOf | Link::RightOf);
    if group == 0 {
        let (_, participle, _) = verb(plan);
        let near = relation(plan.link, apart)[0];
        all.push(joined(&[&one, participle, near, &noun(plan, 1, false)]));
        if !participle.is_empty()
            && !matches!(plan.link, Link::Playing | Link::Flying | Link::Riding | Link::Holding)
        {
            all.push(joined(&[&one, participle]));
        }
    } else if group == 1 {
        let subject = noun(plan, 0, false);
        all.push(match plan.link {
            Link::LeftOf | Link::RightOf => format!("{one} next to {subject}"),
            Link::InFront => format!("{one} behind {subject}"),
            Link::Under => format!("{one} above {subject}"),
            Link::On => format!("{one} with {subject} on it"),
            Link::Riding => format!("{one} ridden by {subject}"),
            Link::Holding => format!("{one} held by {subject}"),
            Link::Playing => format!("{one} near {subject}"),
            Link::Flying => format!("{one} in the sky"),
        });
    } else if let Some(spot @ (Spot::Sky | Spot::Wall | Spot::Far)) = plan.extra {
        all.push(format!("{one} {}", spot_words(spot)));
    }
    all
}
