//! Appearance of an object, and the choice of the module that draws it.

use super::brush::Brush;
use super::kind::{Kind, Pose};
use super::palette::Rgb;
use super::{
    animals, buildings, furniture, household, livestock, outdoors, person, plants, vehicles,
};

#[derive(Clone, Debug)]
pub(super) struct Look {
    pub kind: Kind,
    pub pose: Pose,
    /// A shade of the colour that captions name.
    pub paint: Rgb,
    /// A second colour: trousers, roof.
    pub trim: Rgb,
    pub skin: Rgb,
    pub hair: Rgb,
    pub hat: Option<Rgb>,
    /// Whether a person wears warm clothes.
    pub coat: bool,
    /// Whether snow lies on the object.
    pub snowy: bool,
    /// Whether it is night: windows and lamps shine.
    pub dark: bool,
    /// Selects small variations that captions do not mention.
    pub grain: u32,
}

/// Paints the object in its own frame: foot at the origin, height about 1.
pub(super) fn draw(b: &mut Brush, look: &Look) {
    use Kind::*;
    match look.kind {
        Man | Woman | Boy | Girl => person::draw(b, look),
        Dog => animals::dog(b, look),
        Cat => animals::cat(b, look),
        Horse => livestock::horse(b, look),
        Cow => livestock::cow(b, look),
        Sheep => livestock::sheep(b, look),
        Duck => animals::duck(b, look),
        Birds => animals::bird(b, look),
        Car => vehicles::car(b, look),
        Bus => vehicles::bus(b, look),
        Truck => vehicles::truck(b, look),
        Bicycle => vehicles::bicycle(b, look),
        Sailboat => vehicles::sailboat(b, look),
        Rowboat => vehicles::rowboat(b, look),
        Airplane => vehicles::airplane(b, look),
        HotAirBalloon => vehicles::hot_air_balloon(b, look),
        House => buildings::house(b, look),
        Lighthouse => buildings::lighthouse(b, look),
        Tent => buildings::tent(b, look),
        Bench => buildings::bench(b, look),
        StreetLamp => buildings::street_lamp(b, look),
        Campfire => outdoors::campfire(b, look),
        Snowman => outdoors::snowman(b, look),
        Parasol => outdoors::parasol(b, look),
        Umbrella => outdoors::umbrella(b, look),
        Kite => outdoors::kite(b, look),
        Balloon => outdoors::balloon(b, look),
        Ball => outdoors::ball(b, look),
        Sandcastle => outdoors::sandcastle(b, look),
        Tree => plants::tree(b, look),
        Pine => plants::pine(b, look),
        Palm => plants::palm(b, look),
        Cactus => plants::cactus(b, look),
        Flower => plants::flower(b, look),
        Sofa => furniture::sofa(b, look, 1.0),
        Armchair => furniture::sofa(b, look, 0.53),
        Table => furniture::table(b, look),
        Chair => furniture::chair(b, look),
        Bed => furniture::bed(b, look),
        Bookshelf => furniture::bookshelf(b, look),
        Lamp => furniture::lamp(b, look),
        Tv => furniture::tv(b, look),
        Fridge => furniture::fridge(b, look),
        Stove => furniture::stove(b, look),
        Clock => household::clock(b, look),
        Picture => household::picture(b, look),
        Window => household::window(b, look),
        Vase => household::vase(b, look),
        Cup => household::cup(b, look),
        Apples => household::apples(b, look),
        Guitar => household::guitar(b, look),
        Teddy => household::teddy(b, look),
    }
}
