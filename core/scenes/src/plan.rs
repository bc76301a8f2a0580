//! What is on a picture and how it relates, before anything is drawn or said.

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
    /// Of the room; unused outdoors.
    pub wall: Colour,
    /// Where the ground begins, in pixels from the top.
    pub horizon: f32,
    pub groups: Vec<Group>,
    pub items: Vec<Item>,
    /// How group 0 relates to group 1.
    pub link: Link,
    /// A third group and where it is.
    pub extra: Option<Spot>,
    pub grain: u32,
}

/// Objects of one kind that captions mention together.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub kind: Kind,
    pub colour: Colour,
    pub pose: Pose,
    pub count: usize,
    pub hat: Option<Colour>,
    /// What captions call its size, drawn as a factor of `scale`.
    pub size: &'static str,
    pub scale: f32,
}

/// One object on the picture.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub group: usize,
    pub look: Look,
    /// The foot, in pixels.
    pub at: [f32; 2],
    /// Pixels of the object's height.
    pub size: f32,
    pub flip: bool,
    /// Greater is nearer and drawn later.
    pub depth: f32,
    /// Where a string runs to.
    pub tether: Option<[f32; 2]>,
    /// Half the width of its shadow in pixels, and the height of the ground below it.
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
    /// Roughly where it will be drawn: `[x0, y0, x1, y1]` pixels.
    pub(super) fn extent(&self) -> [f32; 4] {
        let half = self.look.kind.facts().width * self.size * 0.5;
        let [x, y] = self.at;
        [x - half, y - self.size, x + half, y]
    }
}
