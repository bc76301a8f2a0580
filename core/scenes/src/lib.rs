//! Draws captioned scenes from a seed.
//!
//! A scene shows people, animals and things in one of twelve places. It has five captions, and a
//! box with phrases for every object.
//!
//! A scene is planned first (`compose`), then drawn (`render`) and described (`captions`) from the
//! same plan, so that captions match the picture. This module reads no file and no clock. The same
//! seed gives the same bytes on every platform.

mod aloft;
mod animals;
mod backdrop;
mod brush;
mod buildings;
mod captions;
mod compose;
mod dice;
mod furniture;
mod household;
mod kind;
mod layout;
mod livestock;
mod look;
mod outdoors;
mod palette;
mod person;
mod plan;
mod plants;
mod render;
mod rooms;
mod sky;
mod stage;
mod street;
#[cfg(test)]
mod tests;
mod vehicles;

use dice::Dice;
use plan::Plan;

/// A picture with its captions and regions.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Rows from the top, three bytes per pixel.
    pub rgb: Vec<u8>,
    /// Captions of the whole picture.
    pub captions: [String; 5],
    /// Clearly visible objects.
    pub regions: Vec<SceneRegion>,
}

/// A clearly visible object of a [`Scene`].
#[derive(Clone, Debug, PartialEq)]
pub struct SceneRegion {
    /// `[x0, y0, x1, y1]` pixels of the picture, tight around the object.
    pub box_px: [f32; 4],
    /// Two to four phrases for the object, the simplest first.
    pub phrases: Vec<String>,
    /// Noun of the object: `dog`, `street lamp`.
    pub kind: &'static str,
}

/// Draws scene `index` of the collection `seed`.
pub fn scene(seed: u64, index: u64) -> Scene {
    let mut dice = Dice::new(seed, index);
    let plan = compose::compose(&mut dice);
    let captions = captions::captions(&plan, &mut dice);
    let picture = render::render(&plan, None);
    Scene {
        width: plan.width,
        height: plan.height,
        regions: regions(&plan, &picture.bounds),
        rgb: picture.rgb,
        captions,
    }
}

/// Smallest side of a region's box, in pixels.
const MIN_SIDE_PX: f32 = 6.0;
/// Smallest share of an object that must be inside the picture and not covered.
const MIN_VISIBLE: f32 = 0.4;

fn regions(plan: &Plan, bounds: &[Option<[f32; 4]>]) -> Vec<SceneRegion> {
    let mut regions = Vec::new();
    for (i, item) in plan.items.iter().enumerate() {
        let Some(full) = bounds[i] else { continue };
        let box_px = clipped(full, plan);
        let [x0, y0, x1, y1] = box_px;
        if x1 - x0 < MIN_SIDE_PX || y1 - y0 < MIN_SIDE_PX || visible(plan, bounds, i) < MIN_VISIBLE
        {
            continue;
        }
        let across = match plan.groups[item.group].count {
            1 => (x0 + x1) * 0.5 / plan.width as f32,
            n => (rank(plan, i) as f32 + 0.5) / n as f32,
        };
        regions.push(SceneRegion {
            box_px,
            phrases: captions::phrases(plan, item.group, across),
            kind: item.look.kind.facts().noun,
        });
    }
    regions
}

/// Number of objects of the same group that are further left.
fn rank(plan: &Plan, item: usize) -> usize {
    let this = &plan.items[item];
    let same = plan.items.iter().filter(|i| i.group == this.group);
    same.filter(|i| i.at[0] < this.at[0]).count()
}

fn clipped([x0, y0, x1, y1]: [f32; 4], plan: &Plan) -> [f32; 4] {
    let (w, h) = (plan.width as f32, plan.height as f32);
    [x0.max(0.0), y0.max(0.0), x1.min(w), y1.min(h)]
}

/// Share of an object's bounds that is inside the picture and outside the bounds of nearer objects.
fn visible(plan: &Plan, bounds: &[Option<[f32; 4]>], item: usize) -> f32 {
    const GRID: usize = 12;
    let Some([x0, y0, x1, y1]) = bounds[item] else {
        return 0.0;
    };
    let inside = |[l, t, r, b]: [f32; 4], x: f32, y: f32| x >= l && x < r && y >= t && y < b;
    let page = [0.0, 0.0, plan.width as f32, plan.height as f32];
    let nearer: Vec<[f32; 4]> = (0..plan.items.len())
        .filter(|&j| plan.items[j].depth > plan.items[item].depth)
        .filter_map(|j| bounds[j])
        .collect();
    let mut seen = 0;
    for i in 0..GRID * GRID {
        let at = |k: usize| (k as f32 + 0.5) / GRID as f32;
        let (x, y) = (x0 + (x1 - x0) * at(i % GRID), y0 + (y1 - y0) * at(i / GRID));
        if inside(page, x, y) && !nearer.iter().any(|&other| inside(other, x, y)) {
            seen += 1;
        }
    }
    seen as f32 / (GRID * GRID) as f32
}
