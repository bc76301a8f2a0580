//! Places, weather, and the objects that may appear in each place.

use super::kind::Kind::{self, *};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Beach,
    Park,
    Meadow,
    Mountains,
    Street,
    Desert,
    Lake,
    Forest,
    LivingRoom,
    Kitchen,
    Bedroom,
    Playroom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    Sunny,
    Cloudy,
    Sunset,
    Night,
    Rain,
    Snow,
}

/// The objects and weathers that are possible in a place.
pub(super) struct Cast {
    pub subjects: &'static [Kind],
    pub objects: &'static [Kind],
    /// Small objects in the distance, at the horizon.
    pub far: &'static [Kind],
    /// Objects in the sky, or on the wall of a room.
    pub high: &'static [Kind],
    pub weathers: &'static [Weather],
}

pub(super) const PLACES: &[Place] = &[
    Place::Beach,
    Place::Park,
    Place::Meadow,
    Place::Mountains,
    Place::Street,
    Place::Desert,
    Place::Lake,
    Place::Forest,
    Place::LivingRoom,
    Place::Kitchen,
    Place::Bedroom,
    Place::Playroom,
];

const DRY: &[Weather] = &[Weather::Sunny, Weather::Cloudy, Weather::Sunset, Weather::Night];
const ANY: &[Weather] =
    &[Weather::Sunny, Weather::Cloudy, Weather::Sunset, Weather::Night, Weather::Rain];
const WINTRY: &[Weather] = &[Weather::Sunny, Weather::Cloudy, Weather::Sunset, Weather::Snow];
const SKY: &[Kind] = &[Birds, Airplane, HotAirBalloon];
const WALL: &[Kind] = &[Clock, Picture, Window];

impl Place {
    pub(super) fn is_indoor(self) -> bool {
        use Place::*;
        matches!(self, LivingRoom | Kitchen | Bedroom | Playroom)
    }

    /// Whether the place is open enough to fly a kite.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Place::Beach | Place::Park | Place::Meadow | Place::Desert)
    }

    /// The noun, and three phrases for being there.
    pub(super) fn words(self) -> (&'static str, [&'static str; 3]) {
        match self {
            Place::Beach => {
                ("beach", ["on the beach", "on a sandy beach", "on the beach by the sea"])
            }
            Place::Park => ("park", ["in the park", "in a green park", "on the grass in a park"]),
            Place::Meadow => {
                ("field", ["in a field", "in a grassy field", "in a green field with hills"])
            }
            Place::Mountains => (
                "landscape of snowy mountains",
                ["in the snow", "in the snowy mountains", "in the snow near the mountains"],
            ),
            Place::Street => {
                ("city street", ["on the street", "on a city street", "on a street in the city"])
            }
            Place::Desert => {
                ("desert", ["in the desert", "in a sandy desert", "on the sand in the desert"])
            }
            Place::Lake => ("lake", ["at the lake", "by a lake", "at a lake with mountains"]),
            Place::Forest => {
                ("forest", ["in the forest", "in a pine forest", "in a forest clearing"])
            }
            Place::LivingRoom => {
                ("living room", ["in a living room", "in the living room", "inside a living room"])
            }
            Place::Kitchen => ("kitchen", ["in a kitchen", "in the kitchen", "inside a kitchen"]),
            Place::Bedroom => ("bedroom", ["in a bedroom", "in the bedroom", "inside a bedroom"]),
            Place::Playroom => {
                ("playroom", ["in a playroom", "in a children's playroom", "inside a playroom"])
            }
        }
    }

    pub(super) fn cast(self) -> Cast {
        let cast = |subjects, objects, far, high, weathers| Cast {
            subjects,
            objects,
            far,
            high,
            weathers,
        };
        match self {
            Place::Beach => cast(
                &[Man, Woman, Boy, Girl, Dog, Dog, Horse],
                &[Parasol, Parasol, Palm, Sandcastle, Ball, Lighthouse, Bicycle],
                &[Sailboat, Sailboat, Rowboat],
                &[Birds, Birds, Airplane],
                DRY,
            ),
            Place::Park => cast(
                &[Man, Woman, Boy, Girl, Dog, Dog, Cat, Bicycle],
                &[Tree, Tree, Bench, Flower, Ball, StreetLamp, Bicycle],
                &[],
                SKY,
                ANY,
            ),
            Place::Meadow => cast(
                &[Man, Woman, Boy, Girl, Dog, Horse, Cow, Sheep, Sheep],
                &[Tree, Tree, House, House, Flower, Tent],
                &[],
                SKY,
                ANY,
            ),
            Place::Mountains => cast(
                &[Man, Woman, Boy, Girl, Dog, Horse],
                &[Pine, Pine, House, Snowman, Snowman, Tent],
                &[],
                &[Birds, Airplane, HotAirBalloon],
                WINTRY,
            ),
            Place::Street => cast(
                &[Man, Woman, Boy, Girl, Dog, Cat, Car, Car, Bicycle],
                &[Car, Bus, Truck, StreetLamp, Tree, Bench, Bicycle],
                &[],
                &[Airplane, Birds],
                ANY,
            ),
            Place::Desert => cast(
                &[Man, Woman, Dog, Horse, Car, Truck],
                &[Cactus, Cactus, Tent, Car, Truck],
                &[],
                SKY,
                DRY,
            ),
            Place::Lake => cast(
                &[Duck, Duck, Sailboat, Rowboat, Man, Woman, Boy, Girl, Dog],
                &[Sailboat, Rowboat, Duck, Duck],
                &[],
                SKY,
                ANY,
            ),
            Place::Forest => cast(
                &[Man, Woman, Boy, Girl, Dog, Car],
                &[Tent, Tent, Campfire, Campfire, House],
                &[],
                &[],
                &[Weather::Sunny, Weather::Night, Weather::Night, Weather::Rain],
            ),
            Place::LivingRoom => cast(
                &[Man, Woman, Boy, Girl, Dog, Cat, Cat, Guitar],
                &[Sofa, Sofa, Armchair, Tv, Lamp, Bookshelf],
                &[],
                WALL,
                &[Weather::Sunny],
            ),
            Place::Kitchen => cast(
                &[Man, Woman, Cat, Vase, Cup, Apples, Vase, Apples],
                &[Table, Table, Fridge, Stove, Chair],
                &[],
                &[Clock, Window],
                &[Weather::Sunny],
            ),
            Place::Bedroom => cast(
                &[Woman, Boy, Girl, Cat, Dog, Teddy, Guitar],
                &[Bed, Bed, Lamp, Armchair, Bookshelf],
                &[],
                WALL,
                &[Weather::Sunny, Weather::Night],
            ),
            Place::Playroom => cast(
                &[Boy, Girl, Cat, Dog, Teddy, Teddy],
                &[Ball, Balloon, Chair, Bookshelf, Table, Bed],
                &[],
                WALL,
                &[Weather::Sunny],
            ),
        }
    }
}

impl Weather {
    /// Factor on every colour that daylight reaches.
    pub(super) fn light(self, indoor: bool) -> [f32; 3] {
        match self {
            _ if indoor => [1.0, 0.985, 0.95],
            Weather::Sunny => [1.0, 1.0, 0.98],
            Weather::Cloudy => [0.9, 0.92, 0.94],
            Weather::Sunset => [1.0, 0.86, 0.76],
            Weather::Night => [0.7, 0.7, 0.78],
            Weather::Rain => [0.78, 0.83, 0.9],
            Weather::Snow => [0.93, 0.96, 1.0],
        }
    }

    /// Phrases for the time or the weather, then words before and after the noun of the place.
    pub(super) fn words(self) -> ([&'static str; 2], [&'static str; 2]) {
        match self {
            Weather::Sunny => (["on a sunny day", "under a clear blue sky"], ["sunny", ""]),
            Weather::Cloudy => (["on a cloudy day", "under a grey sky"], ["cloudy", ""]),
            Weather::Sunset => (["at sunset", "under an orange sky"], ["", "at sunset"]),
            Weather::Night => (["at night", "under the stars"], ["", "at night"]),
            Weather::Rain => (["in the rain", "on a rainy day"], ["rainy", ""]),
            Weather::Snow => {
                (["while it is snowing", "on a snowy day"], ["", "while it is snowing"])
            }
        }
    }
}
