use std::collections::HashSet;

use super::compose::compose;
use super::dice::Dice;
use super::render::render;
use super::*;

#[test]
fn a_scene_is_its_seed_and_index() {
    assert_eq!(scene(3, 5), scene(3, 5));
    assert_ne!(scene(3, 5).rgb, scene(3, 6).rgb);
    assert_ne!(scene(3, 5).rgb, scene(4, 5).rgb);
}

/// A change of the pictures also changes the training data. Update the number only on purpose.
#[test]
fn pictures_are_the_same_on_every_platform() {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for index in 0..24 {
        for byte in scene(1, index).rgb {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    assert_eq!(hash, 16_499_007_106_323_420_491);
}

#[test]
fn boxes_lie_within_the_picture() {
    for index in 0..60 {
        let scene = scene(1, index);
        let (w, h) = (scene.width as f32, scene.height as f32);
        assert_eq!(scene.rgb.len(), (scene.width * scene.height * 3) as usize);
        assert!(!scene.regions.is_empty(), "scene {index} has no region");
        for region in &scene.regions {
            let [x0, y0, x1, y1] = region.box_px;
            assert!(0.0 <= x0 && 0.0 <= y0 && x1 <= w && y1 <= h, "scene {index}: {region:?}");
            assert!(x1 - x0 >= 4.0 && y1 - y0 >= 4.0, "scene {index}: {region:?}");
            assert!((2..=4).contains(&region.phrases.len()), "scene {index}: {region:?}");
        }
    }
}

#[test]
fn captions_are_short_sentences() {
    for index in 0..500 {
        let mut dice = Dice::new(1, index);
        let plan = compose(&mut dice);
        for caption in captions::captions(&plan, &mut dice) {
            let words = caption.split(' ').count();
            assert!((5..=40).contains(&words), "scene {index}: {caption}");
            assert!(caption.ends_with('.') && !caption.contains("  "), "scene {index}: {caption}");
            assert!(
                caption.starts_with(|c: char| c.is_ascii_uppercase()),
                "scene {index}: {caption}"
            );
        }
    }
}

#[test]
fn five_hundred_scenes_are_varied() {
    let (mut kinds, mut places, mut firsts) = (HashSet::new(), HashSet::new(), HashSet::new());
    for index in 0..500 {
        let mut dice = Dice::new(2, index);
        let plan = compose(&mut dice);
        kinds.extend(plan.groups.iter().map(|g| g.kind.facts().noun));
        places.insert(plan.place.words().0);
        firsts.insert(captions::captions(&plan, &mut dice)[0].clone());
    }
    assert!(kinds.len() >= 45, "only {} kinds", kinds.len());
    assert_eq!(places.len(), 12);
    assert!(firsts.len() > 475, "only {} distinct captions", firsts.len());
}

#[test]
fn main_objects_are_large_enough_to_recognise() {
    let mut small = Vec::new();
    for index in 0..500 {
        let plan = compose(&mut Dice::new(6, index));
        let subject = plan.items.iter().find(|i| i.group == 0);
        let [x0, y0, x1, y1] = subject.expect("every scene has a subject").extent();
        let share = ((x1 - x0) / plan.width as f32).max((y1 - y0) / plan.height as f32);
        if share < 0.2 {
            small.push((index, plan.groups[0].kind, share));
        }
    }
    assert!(small.len() < 25, "too small: {small:?}");
    assert!(small.iter().all(|s| s.2 > 0.14), "too small: {small:?}");
}

#[test]
fn a_box_holds_all_that_its_object_paints() {
    for index in 0..40 {
        let plan = compose(&mut Dice::new(4, index));
        let whole = render(&plan, None);
        for item in 0..plan.items.len() {
            let without = render(&plan, Some(item));
            let [x0, y0, x1, y1] = whole.bounds[item].expect("it was drawn");
            let mut changed = 0;
            for (i, (a, b)) in whole.rgb.chunks(3).zip(without.rgb.chunks(3)).enumerate() {
                if a == b {
                    continue;
                }
                changed += 1;
                let (x, y) = (i as u32 % plan.width, i as u32 / plan.width);
                let (x, y) = (x as f32 + 0.5, y as f32 + 0.5);
                let near = x > x0 - 1.5 && x < x1 + 1.5 && y > y0 - 1.5 && y < y1 + 1.5;
                assert!(near || glows(&plan.items[item]), "scene {index} item {item}: {x},{y}");
            }
            assert!(changed > 20, "scene {index} item {item} is not to be seen");
        }
    }
}

/// Whether the object also lights its surroundings.
fn glows(item: &plan::Item) -> bool {
    matches!(item.look.kind, kind::Kind::Lamp | kind::Kind::StreetLamp)
}
