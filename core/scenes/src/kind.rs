//! Kinds of objects, with their words, sizes and colours.

use super::palette::{self as colours, Colour};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Man,
    Woman,
    Boy,
    Girl,
    Dog,
    Cat,
    Horse,
    Cow,
    Sheep,
    Duck,
    Birds,
    Car,
    Bus,
    Truck,
    Bicycle,
    Sailboat,
    Rowboat,
    Airplane,
    HotAirBalloon,
    House,
    Lighthouse,
    Tent,
    Bench,
    Campfire,
    StreetLamp,
    Snowman,
    Parasol,
    Umbrella,
    Kite,
    Balloon,
    Ball,
    Sandcastle,
    Tree,
    Pine,
    Palm,
    Cactus,
    Flower,
    Sofa,
    Armchair,
    Table,
    Chair,
    Bed,
    Bookshelf,
    Lamp,
    Tv,
    Fridge,
    Stove,
    Clock,
    Picture,
    Window,
    Vase,
    Cup,
    Apples,
    Guitar,
    Teddy,
}

/// Posture of a body. Things have `Stand`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pose {
    Stand,
    Walk,
    Run,
    Jump,
    Wave,
    Hold,
    Sit,
    Ride,
    Float,
}

pub(super) struct Facts {
    pub noun: &'static str,
    pub plural: &'static str,
    /// Height relative to an adult of 1. Small things are drawn larger than life.
    pub height: f32,
    /// Width relative to the height.
    pub width: f32,
    pub colours: &'static [Colour],
}

const fn facts(
    noun: &'static str,
    plural: &'static str,
    height: f32,
    width: f32,
    colours: &'static [Colour],
) -> Facts {
    Facts { noun, plural, height, width, colours }
}

impl Kind {
    pub(super) fn facts(self) -> Facts {
        use Kind::*;
        use colours::*;
        match self {
            Man => facts("man", "men", 1.0, 0.5, CLOTHES),
            Woman => facts("woman", "women", 0.96, 0.5, CLOTHES),
            Boy => facts("boy", "boys", 0.72, 0.55, CLOTHES),
            Girl => facts("girl", "girls", 0.72, 0.55, CLOTHES),
            Dog => facts("dog", "dogs", 0.5, 1.45, DOGS),
            Cat => facts("cat", "cats", 0.46, 0.9, CATS),
            Horse => facts("horse", "horses", 0.98, 1.15, HORSES),
            Cow => facts("cow", "cows", 0.72, 1.6, COWS),
            Sheep => facts("sheep", "sheep", 0.55, 1.35, SHEEP),
            Duck => facts("duck", "ducks", 0.36, 1.3, DUCKS),
            Birds => facts("bird", "birds", 0.16, 2.2, BIRDS),
            Car => facts("car", "cars", 0.58, 2.3, CARS),
            Bus => facts("bus", "buses", 0.82, 2.1, BIG_VEHICLES),
            Truck => facts("truck", "trucks", 0.8, 2.0, BIG_VEHICLES),
            Bicycle => facts("bicycle", "bicycles", 0.64, 1.66, BRIGHT),
            Sailboat => facts("sailboat", "sailboats", 0.9, 0.85, BIG_VEHICLES),
            Rowboat => facts("rowing boat", "rowing boats", 0.3, 3.0, BIG_VEHICLES),
            Airplane => facts("airplane", "airplanes", 0.3, 2.6, &[WHITE, RED, BLUE]),
            HotAirBalloon => facts("hot air balloon", "hot air balloons", 0.62, 0.72, BRIGHT),
            House => facts("house", "houses", 1.35, 1.15, HOUSES),
            Lighthouse => facts("lighthouse", "lighthouses", 1.6, 0.42, STRIPED),
            Tent => facts("tent", "tents", 0.75, 1.6, BRIGHT),
            Bench => facts("bench", "benches", 0.5, 2.0, WOODS),
            Campfire => facts("campfire", "campfires", 0.46, 0.95, FLAMES),
            StreetLamp => facts("street lamp", "street lamps", 1.5, 0.3, STEELS),
            Snowman => facts("snowman", "snowmen", 0.8, 0.75, BRIGHT),
            Parasol => facts("beach umbrella", "beach umbrellas", 1.15, 1.1, BRIGHT),
            Umbrella => facts("umbrella", "umbrellas", 0.72, 1.1, BRIGHT),
            Kite => facts("kite", "kites", 0.46, 0.7, BRIGHT),
            Balloon => facts("balloon", "balloons", 0.62, 0.42, BRIGHT),
            Ball => facts("ball", "balls", 0.27, 1.0, BRIGHT),
            Sandcastle => facts("sandcastle", "sandcastles", 0.48, 1.3, SANDS),
            Tree => facts("tree", "trees", 1.55, 0.78, TREES),
            Pine => facts("pine tree", "pine trees", 1.6, 0.52, PINES),
            Palm => facts("palm tree", "palm trees", 1.6, 0.72, PALMS),
            Cactus => facts("cactus", "cacti", 1.0, 0.62, CACTI),
            Flower => facts("flower", "flowers", 0.45, 0.55, FLOWERS),
            Sofa => facts("sofa", "sofas", 0.72, 2.1, SOFAS),
            Armchair => facts("armchair", "armchairs", 0.74, 1.15, SOFAS),
            Table => facts("table", "tables", 0.56, 2.0, WOODS),
            Chair => facts("chair", "chairs", 0.78, 0.6, SOFAS),
            Bed => facts("bed", "beds", 0.72, 2.3, BEDS),
            Bookshelf => facts("bookshelf", "bookshelves", 1.2, 0.62, SHELVES),
            Lamp => facts("lamp", "lamps", 1.15, 0.36, BRIGHT),
            Tv => facts("television", "televisions", 0.85, 1.12, STEELS),
            Fridge => facts("fridge", "fridges", 1.2, 0.5, FRIDGES),
            Stove => facts("stove", "stoves", 0.7, 0.92, FRIDGES),
            Clock => facts("clock", "clocks", 0.36, 1.0, CLOCKS),
            Picture => facts("picture", "pictures", 0.42, 1.3, STEELS),
            Window => facts("window", "windows", 0.6, 0.95, STEELS),
            Vase => facts("vase of flowers", "vases of flowers", 0.5, 0.62, FLOWERS),
            Cup => facts("cup", "cups", 0.36, 1.2, BRIGHT),
            Apples => facts("bowl of apples", "bowls of apples", 0.34, 1.7, APPLES),
            Guitar => facts("guitar", "guitars", 0.85, 0.4, GUITARS),
            Teddy => facts("teddy bear", "teddy bears", 0.46, 0.8, BEARS),
        }
    }

    pub(super) fn is_person(self) -> bool {
        matches!(self, Kind::Man | Kind::Woman | Kind::Boy | Kind::Girl)
    }

    pub(super) fn is_child(self) -> bool {
        matches!(self, Kind::Boy | Kind::Girl)
    }

    pub(super) fn is_vehicle(self) -> bool {
        matches!(self, Kind::Car | Kind::Bus | Kind::Truck | Kind::Bicycle)
    }

    pub(super) fn is_boat(self) -> bool {
        matches!(self, Kind::Sailboat | Kind::Rowboat)
    }

    /// Height of the surface that other things stand or sit on, relative to the object's height.
    pub(super) fn top(self) -> Option<f32> {
        match self {
            Kind::Sofa | Kind::Armchair => Some(0.46),
            Kind::Bench => Some(0.5),
            Kind::Chair => Some(0.48),
            Kind::Bed => Some(0.52),
            Kind::Table | Kind::Stove => Some(0.97),
            _ => None,
        }
    }

    /// Whether captions may call it big or small. It is then drawn that way.
    pub(super) fn has_size(self) -> bool {
        matches!(self, Kind::Dog | Kind::Ball | Kind::House | Kind::Tree | Kind::Pine | Kind::Tent)
    }
}
