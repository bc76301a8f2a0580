//! Pairs drawn by these tests: stored again, and different. `--nocapture` prints their distance
//! from the limits.

use image::imageops::{self, FilterType};
use mmgem_core::image::{Rgb, decode, resize, to_jpeg};
use mmgem_scenes::scene;

use super::*;

/// Digits and letters of 5 × 7 dots, one number per row.
const GLYPHS: [[u8; 7]; 14] = [
    [14, 17, 19, 21, 25, 17, 14],
    [4, 12, 4, 4, 4, 4, 14],
    [14, 17, 1, 2, 4, 8, 31],
    [31, 2, 4, 2, 1, 17, 14],
    [2, 6, 10, 18, 31, 2, 2],
    [31, 16, 30, 1, 1, 17, 14],
    [6, 8, 16, 30, 17, 17, 14],
    [31, 1, 2, 4, 8, 8, 8],
    [14, 17, 17, 14, 17, 17, 14],
    [14, 17, 17, 15, 1, 2, 12],
    [14, 17, 17, 31, 17, 17, 17],
    [31, 16, 16, 30, 16, 16, 31],
    [17, 25, 25, 21, 19, 19, 17],
    [31, 4, 4, 4, 4, 4, 4],
];

/// Writes glyphs `px` pixels high, dark on light, with soft edges as fonts have them.
fn write(page: &mut Rgb, text: &[usize], left: u32, top: u32, px: u32) {
    let dot = f64::from(px) / 7.0;
    for (i, glyph) in text.iter().enumerate() {
        let left = f64::from(left) + i as f64 * 6.0 * dot;
        for y in 0..px + 1 {
            for x in 0..(5.0 * dot) as u32 + 2 {
                // 4 × 4 samples of each pixel.
                let inked = (0..16).filter(|sample| {
                    let (dx, dy) = (f64::from(sample % 4) / 4.0, f64::from(sample / 4) / 4.0);
                    let column = ((f64::from(x) + dx - left.fract()) / dot).floor();
                    let row = ((f64::from(y) + dy) / dot).floor();
                    (0.0..5.0).contains(&column)
                        && (0.0..7.0).contains(&row)
                        && GLYPHS[*glyph][row as usize] >> (4 - column as usize) & 1 == 1
                });
                let share = inked.count() as f32 / 16.0;
                let (x, y) = (left as u32 + x, top + y);
                if share > 0.0 && x < page.width() && y < page.height() {
                    let pixel = page.get_pixel_mut(x, y);
                    pixel.0 = pixel.0.map(|level| (f32::from(level) * (1.0 - 0.9 * share)) as u8);
                }
            }
        }
    }
}

/// A page of text in lines below a coloured bar; a line in the middle has a number.
fn page(width: u32, height: u32, px: u32, number: &[usize]) -> Rgb {
    let mut page = Rgb::from_pixel(width, height, image::Rgb([252, 252, 250]));
    for y in height / 20..height / 9 {
        for x in width / 16..width * 15 / 16 {
            page.put_pixel(x, y, image::Rgb([40, 70, 140]));
        }
    }
    let (first, step) = (height / 6, px * 2);
    let n_lines = (height * 3 / 4) / step;
    let mut state = 12_345u32;
    for line in 0..n_lines {
        let text: Vec<usize> = (0..width / (px * 6 / 7) * 3 / 5)
            .map(|_| {
                state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                (state >> 16) as usize % GLYPHS.len()
            })
            .collect();
        let text = if line == n_lines / 2 { [&[13, 11, 10], number].concat() } else { text };
        write(&mut page, &text, width / 12, first + line * step, px);
    }
    page
}

/// A page in a phone's photo: uneven light and sensor noise.
fn photographed(page: &Rgb, seed: u32) -> Rgb {
    let mut state = seed;
    let (width, height) = page.dimensions();
    Rgb::from_fn(width, height, |x, y| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = (state >> 24) as f32 / 16.0 - 8.0;
        let light = 0.6 + 0.25 * y as f32 / height as f32 + 0.1 * x as f32 / width as f32;
        image::Rgb(
            page.get_pixel(x, y)
                .0
                .map(|level| (f32::from(level) * light + noise).clamp(0.0, 255.0) as u8),
        )
    })
}

/// A bob on a rod in front of a triangle, at an angle; `contrast` 255 is black on grey.
fn pendulum(angle: f32, contrast: u8) -> Rgb {
    let (x0, y0) = (200.0f32, 300.0f32);
    let (x1, y1) = (x0 + 180.0 * angle.sin(), y0 - 180.0 * angle.cos());
    Rgb::from_fn(400, 400, |x, y| {
        let (x, y) = (x as f32, y as f32);
        let along =
            (((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / 180.0f32.powi(2)).clamp(0.0, 1.0);
        let off = (x - x0 - along * (x1 - x0)).hypot(y - y0 - along * (y1 - y0));
        let is_rod = off < 3.0 || (x - x1).hypot(y - y1) < 12.0;
        let is_triangle = y > 40.0 && y < 360.0 && (x - 200.0).abs() < (y - 40.0) * 0.31;
        let ground = if is_triangle { [150, 80, 40] } else { [184, 190, 180] };
        image::Rgb(if is_rod {
            ground.map(|level: u8| level.saturating_sub(contrast))
        } else {
            ground
        })
    })
}

fn drawn(index: u64) -> Rgb {
    let scene = scene(11, index);
    Rgb::from_raw(scene.width, scene.height, scene.rgb).expect("three bytes for each pixel")
}

fn as_jpeg(photo: &Rgb, quality: u8) -> Rgb {
    decode(&to_jpeg(photo, quality), Default::default()).expect("just written")
}

fn half(photo: &Rgb) -> Rgb {
    resize(photo, photo.width() / 2, photo.height() / 2)
}

/// Ways in which a picture may be stored again.
fn stored_again(photo: &Rgb) -> Vec<(&'static str, Rgb)> {
    let lanczos =
        imageops::resize(photo, photo.width() / 2, photo.height() / 2, FilterType::Lanczos3);
    let odd = resize(photo, photo.width() * 2 / 3, photo.height() * 2 / 3);
    // Strong compression of a small copy leaves too little to be sure.
    let poorest = if photo.width().max(photo.height()) < 512 { 60 } else { 30 };
    let mut copies = vec![
        ("JPEG 90", as_jpeg(photo, 90)),
        ("JPEG 30", as_jpeg(photo, 30)),
        ("JPEG 70, then 50", as_jpeg(&as_jpeg(photo, 70), 50)),
        ("half", half(photo)),
        ("half, JPEG 30 or 60", as_jpeg(&half(photo), poorest)),
        ("half by Lanczos, JPEG 75", as_jpeg(&lanczos, 75)),
        ("two thirds", odd),
    ];
    copies.retain(|(_, copy)| copy.width().max(copy.height()) >= LEAST_SIDE);
    copies
}

fn of(a: &Rgb, b: &Rgb) -> Difference {
    Difference::of(&fitted(a.clone()), &fitted(b.clone())).expect("one shape")
}

#[track_caller]
fn check(what: &str, a: &Rgb, b: &Rgb, is_same: bool) {
    let difference = of(a, b);
    let Difference { spot, area, hue, noise, side } = difference;
    eprintln!(
        "{what:60} spot {spot:6.1} area {area:5.1} hue {hue:5.1} noise {noise:5.1} side {side}"
    );
    assert_eq!(difference.is_stored_again(), is_same, "{what}: {difference:?}");
    assert_eq!(of(b, a), difference, "{what}: from either side");
}

/// Pages at the sizes of a screen, of a scan and of a phone.
fn pages(number: &[usize]) -> Vec<(&'static str, Rgb)> {
    vec![
        ("850 × 1100, 14 px", page(850, 1100, 14, number)),
        ("1240 × 1754, 16 px", page(1240, 1754, 16, number)),
        ("1800 × 2400, 24 px, photographed", photographed(&page(1800, 2400, 24, number), 1)),
    ]
}

#[test]
fn a_page_that_is_stored_again_is_the_same() {
    for (name, page) in pages(&[4, 3, 9]) {
        for (how, stored) in stored_again(&page) {
            check(&format!("{name}: {how}"), &page, &stored, true);
        }
    }
}

#[test]
fn a_page_with_another_digit_or_line_is_another() {
    let (three, others) = (
        [4, 3, 9],
        [("3 to 8", vec![4, 8, 9]), ("3 to 2", vec![4, 2, 9]), ("a line", vec![9, 1, 1, 2, 7, 0])],
    );
    for (what, number) in others {
        for ((name, a), (_, b)) in pages(&three).into_iter().zip(pages(&number)) {
            check(&format!("{name}: {what}"), &a, &b, false);
            check(&format!("{name}: {what}, JPEG 50"), &a, &as_jpeg(&b, 50), false);
            check(&format!("{name}: {what}, half"), &a, &half(&b), false);
            check(&format!("{name}: {what}, half, JPEG 50"), &a, &as_jpeg(&half(&b), 50), false);
        }
    }
}

#[test]
fn a_thing_in_another_pose_is_another_picture() {
    for contrast in [160, 60, 30] {
        let (up, aside) = (pendulum(0.0, contrast), pendulum(0.2, contrast));
        check(&format!("pendulum, contrast {contrast}"), &up, &aside, false);
        check(&format!("pendulum, contrast {contrast}, JPEG 50"), &up, &as_jpeg(&aside, 50), false);
        for (how, stored) in stored_again(&up) {
            check(&format!("pendulum, contrast {contrast}: {how}"), &up, &stored, true);
        }
    }
}

#[test]
fn drawn_photos_are_the_same_as_themselves_only() {
    for index in 0..6 {
        let photo = drawn(index);
        for (how, stored) in stored_again(&photo) {
            check(&format!("scene {index}: {how}"), &photo, &stored, true);
        }
    }
}

#[test]
fn an_edited_photo_is_another() {
    let photo = drawn(2);
    let changed = |change: fn([u8; 3]) -> [u8; 3]| {
        let mut other = photo.clone();
        other.pixels_mut().for_each(|pixel| pixel.0 = change(pixel.0));
        other
    };
    check("lighter", &photo, &changed(|rgb| rgb.map(|level| level.saturating_add(14))), false);
    check(
        "grey",
        &photo,
        &changed(|[r, g, b]| {
            [((299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b)) / 1000) as u8; 3]
        }),
        false,
    );
    check("mirrored", &photo, &imageops::flip_horizontal(&photo), false);
    let cropped =
        imageops::crop_imm(&photo, 0, 0, photo.width(), photo.height() * 9 / 10).to_image();
    assert_eq!(Difference::of(&photo, &cropped), None);
    // Too small to compare.
    let tiny = resize(&photo, photo.width() / 4, photo.height() / 4);
    assert!(tiny.width() < LEAST_SIDE && Difference::of(&photo, &tiny).is_none());
    assert!(Difference::of(&tiny, &tiny).is_some_and(|difference| difference.is_stored_again()));
}

#[test]
fn means_of_squares_are_those_of_adding_each_up() {
    let values: Vec<i32> = (0..35i32).map(|i| i * i % 23 - 11).collect();
    let (width, height) = (7usize, 5usize);
    for k in [1usize, 2, 3, 9] {
        let (across, down) = (k.min(width), k.min(height));
        let mean = |left: usize, top: usize| {
            let rows = (top..top + down).flat_map(|y| values[y * width + left..][..across].iter());
            (rows.sum::<i32>() as f32 / (across * down) as f32).abs()
        };
        let wanted = (0..=height - down)
            .flat_map(|top| (0..=width - across).map(move |left| (left, top)))
            .map(|(left, top)| mean(left, top))
            .fold(0.0, f32::max);
        assert_eq!(largest_mean(&values, 7, 5, k), wanted, "{k}");
    }
}

#[test]
fn looks_that_differ_in_few_bits_share_a_part() {
    let look = 0x0123_4567_89ab_cdef;
    let mut families = Families::default();
    families.add(0, 1, look);
    for flipped in [0u64, 1, 1 << 63 | 1, 1 << 12 | 1 << 25 | 1 << 38 | 1 << 51] {
        assert!(families.near(look ^ flipped).any(|at| at == 0), "{flipped:x}");
    }
    assert_eq!(parts(u64::MAX), [0x1fff, 0x1fff, 0x1fff, 0x1fff, 0xfff]);
}

#[test]
fn shapes_are_the_same_but_for_rounding() {
    for (a, b, wanted) in [
        ((4000, 3000), (1333, 1000), true),
        ((4000, 3000), (400, 300), true),
        ((400, 300), (300, 400), false),
        ((400, 300), (400, 310), false),
        ((1920, 1080), (1280, 720), true),
        ((1, 3000), (1, 1000), true),
    ] {
        assert_eq!((same_shape(a, b), same_shape(b, a)), (wanted, wanted), "{a:?} {b:?}");
    }
}
