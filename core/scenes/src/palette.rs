//! Colours and their names.

use super::dice::Dice;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rgb(pub u8, pub u8, pub u8);

impl Rgb {
    /// Blends two colours: `t = 0` gives `self`, `t = 1` gives `other`.
    pub(super) fn mix(self, other: Rgb, t: f32) -> Rgb {
        let blend = |a: u8, b: u8| (f32::from(a) + (f32::from(b) - f32::from(a)) * t + 0.5) as u8;
        Rgb(blend(self.0, other.0), blend(self.1, other.1), blend(self.2, other.2))
    }

    pub(super) fn light(self, t: f32) -> Rgb {
        self.mix(Rgb(255, 255, 255), t)
    }

    pub(super) fn dark(self, t: f32) -> Rgb {
        self.mix(Rgb(0, 0, 0), t)
    }
}

/// A colour that captions can name. The name is empty if captions never mention it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Colour {
    pub name: &'static str,
    pub rgb: Rgb,
}

impl Colour {
    /// A random shade that still has the same name.
    pub(super) fn shade(self, dice: &mut Dice) -> Rgb {
        let mut vary = |v: u8| (f32::from(v) + dice.range(-10.0, 10.0)).clamp(0.0, 255.0) as u8;
        let rgb = Rgb(vary(self.rgb.0), vary(self.rgb.1), vary(self.rgb.2));
        if dice.chance(0.5) {
            rgb.light(dice.range(0.0, 0.1))
        } else {
            rgb.dark(dice.range(0.0, 0.12))
        }
    }
}

const fn colour(name: &'static str, r: u8, g: u8, b: u8) -> Colour {
    Colour { name, rgb: Rgb(r, g, b) }
}

pub(super) const RED: Colour = colour("red", 208, 36, 38);
pub(super) const BLUE: Colour = colour("blue", 36, 88, 208);
pub(super) const GREEN: Colour = colour("green", 40, 150, 62);
pub(super) const YELLOW: Colour = colour("yellow", 246, 208, 40);
pub(super) const ORANGE: Colour = colour("orange", 242, 130, 28);
pub(super) const PURPLE: Colour = colour("purple", 126, 52, 172);
pub(super) const PINK: Colour = colour("pink", 244, 128, 178);
pub(super) const WHITE: Colour = colour("white", 240, 240, 238);
pub(super) const BLACK: Colour = colour("black", 40, 40, 44);
pub(super) const GREY: Colour = colour("grey", 136, 138, 142);
pub(super) const BROWN: Colour = colour("brown", 128, 78, 42);
pub(super) const TAN: Colour = colour("tan", 206, 160, 104);
const LEAF: Colour = colour("green", 62, 138, 52);
const NEEDLE: Colour = colour("", 34, 96, 62);
const CACTUS: Colour = colour("", 66, 130, 74);
const SAND: Colour = colour("", 214, 176, 112);
const WOOD: Colour = colour("wooden", 164, 112, 62);
const STEEL: Colour = colour("", 66, 72, 82);
const FLAME: Colour = colour("", 250, 140, 30);
const BEAR: Colour = colour("brown", 150, 98, 54);

pub(super) const CLOTHES: &[Colour] =
    &[RED, BLUE, GREEN, YELLOW, ORANGE, PURPLE, PINK, WHITE, BLACK];
pub(super) const BRIGHT: &[Colour] = &[RED, BLUE, GREEN, YELLOW, ORANGE, PURPLE, PINK];
pub(super) const CARS: &[Colour] = &[RED, BLUE, GREEN, YELLOW, WHITE, BLACK, ORANGE];
pub(super) const BIG_VEHICLES: &[Colour] = &[RED, BLUE, GREEN, YELLOW, WHITE, ORANGE];
pub(super) const DOGS: &[Colour] = &[BROWN, BLACK, WHITE, TAN, GREY];
pub(super) const CATS: &[Colour] = &[BLACK, WHITE, ORANGE, GREY];
pub(super) const HORSES: &[Colour] = &[BROWN, BLACK, WHITE];
pub(super) const COWS: &[Colour] = &[colour("black and white", 240, 240, 236), BROWN];
pub(super) const SHEEP: &[Colour] = &[WHITE, BROWN, BLACK];
pub(super) const DUCKS: &[Colour] = &[YELLOW, WHITE, BROWN];
pub(super) const BIRDS: &[Colour] = &[WHITE, BLACK, BLUE];
pub(super) const HOUSES: &[Colour] = &[WHITE, YELLOW, RED, BLUE, PINK, BROWN];
pub(super) const STRIPED: &[Colour] = &[
    colour("red and white", 208, 36, 38),
    colour("blue and white", 36, 88, 208),
    colour("black and white", 40, 40, 44),
];
pub(super) const TREES: &[Colour] = &[LEAF, LEAF, ORANGE, colour("yellow", 226, 184, 44)];
pub(super) const PINES: &[Colour] = &[NEEDLE];
pub(super) const PALMS: &[Colour] = &[colour("", 60, 142, 58)];
pub(super) const CACTI: &[Colour] = &[CACTUS];
pub(super) const SANDS: &[Colour] = &[SAND];
pub(super) const FLOWERS: &[Colour] = &[RED, YELLOW, PINK, PURPLE, WHITE, ORANGE];
pub(super) const WOODS: &[Colour] = &[WOOD, WHITE, BROWN];
pub(super) const STEELS: &[Colour] = &[STEEL];
pub(super) const FLAMES: &[Colour] = &[FLAME];
pub(super) const BEARS: &[Colour] = &[BEAR, WHITE, PINK];
pub(super) const SOFAS: &[Colour] = &[RED, BLUE, GREEN, YELLOW, GREY, BROWN, PURPLE];
pub(super) const BEDS: &[Colour] = &[RED, BLUE, GREEN, YELLOW, PINK, PURPLE, WHITE];
pub(super) const SHELVES: &[Colour] = &[BROWN, WHITE, BLACK];
pub(super) const FRIDGES: &[Colour] = &[WHITE, GREY, RED, BLUE];
pub(super) const CLOCKS: &[Colour] = &[RED, BLACK, BLUE, GREEN];
pub(super) const GUITARS: &[Colour] = &[BROWN, RED, BLACK, BLUE];
pub(super) const APPLES: &[Colour] = &[RED, GREEN, YELLOW];
pub(super) const WALLS: &[Colour] = &[
    colour("yellow", 242, 222, 144),
    colour("blue", 158, 196, 230),
    colour("green", 172, 212, 164),
    colour("pink", 244, 194, 206),
    colour("white", 236, 234, 228),
    colour("grey", 176, 178, 184),
];
pub(super) const SKINS: &[Rgb] =
    &[Rgb(246, 208, 176), Rgb(232, 184, 146), Rgb(196, 138, 98), Rgb(134, 86, 58)];
pub(super) const HAIRS: &[Rgb] =
    &[Rgb(48, 34, 26), Rgb(92, 58, 32), Rgb(214, 172, 92), Rgb(164, 84, 40)];
