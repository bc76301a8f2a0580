//! The objects of a picture and their relations, before anything is drawn or described.

use super::kind::{Kind, Pose};
use super::look::Look;
use super::palette::Colour;
use super::stage::{Place, Weather};

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub width: u32,
    pub height: u32,
    pub place: Place,
    pub weather: Weather,
    /// Colour of the room's walls; unused outdoors.
    pub wall: Colour,
    /// Upper edge of the ground, in pixels from the top.
    pub horizon: f32,
    pub groups: Vec<Group>,
    pub items: Vec<Item>,
    /// Relation of group 0 to group 1.
    pub link: Link,
    /// Position of a third group, if there is one.
    pub extra: Option<Spot>,
    pub grain: u32,
}

/// Objects of one kind, which captions mention together.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub kind: Kind,
    pub colour: Colour,
    pub pose: Pose,
    pub count: usize,
    pub hat: Option<Colour>,
    /// Size word in captions. `scale` draws it.
    pub size: &'static str,
    pub scale: f32,
}

/// One object of the picture.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub group: usize,
    pub look: Look,
    /// Position of the foot, in pixels.
    pub at: [f32; 2],
    /// Height of the object, in pixels.
    pub size: f32,
    pub flip: bool,
    /// Drawing order: greater is nearer and drawn later.
    pub depth: f32,
    /// End of the object's string, in pixels.
    pub tether: Option<[f32; 2]>,
    /// Half the width of the shadow, and the y position of the ground below, both in pixels.
    pub shadow: Option<(f32, f32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    LeftOf,
    RightOf,
    InFront,
    Under,
    On,
    Riding,
    Holding,
    Playing,
    Flying,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    Sky,
    Wall,
    Far,
    Left,
    Right,
}

impl Item {
    /// Approximate bounds `[x0, y0, x1, y1]` in pixels.
    pub(super) fn extent(&self) -> [f32; 4] {
        let half = self.look.kind.facts().width * self.size * 0.5;
        let [x, y] = self.at;
        [x - half, y - self.size, x + half, y]
    }
}
