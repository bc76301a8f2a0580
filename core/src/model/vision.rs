//! The image encoder, of either kind: pixels in, V (the patch tokens) on a square grid out.
//!
//! The code after V does not depend on the kind of tower.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::segments::cut;
use super::{EfficientNetLite, Linear, Vit};
use crate::config::VisionConfig;

/// One of the towers; `vision.model_type` in `config.json` selects it.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a model has one tower")]
pub enum VisionTower {
    /// A vision transformer.
    Vit(Vit),
    /// A convolutional network.
    EfficientNetLite(EfficientNetLite),
}

impl VisionTower {
    /// Builds the modules. A checkpoint or [`crate::init::fresh`] sets the values.
    pub fn new(config: &VisionConfig, device: &Device) -> Self {
        match config {
            VisionConfig::Vit(vit) => Self::Vit(Vit::new(vit, device)),
            VisionConfig::EfficientNetLite(lite) => {
                Self::EfficientNetLite(EfficientNetLite::new(lite, device))
            }
        }
    }

    /// V, the patch tokens.
    ///
    /// # Shapes
    /// - pixels: `[batch, 3, side, side]`, standardised
    /// - returns: `[batch, grid², hidden]`, patches row by row
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        match self {
            Self::Vit(vit) => vit.forward(pixels),
            Self::EfficientNetLite(lite) => cut(lite.forward(pixels)),
        }
    }

    /// The tower as a vision transformer, or `None` if it is another kind.
    pub fn as_vit(&self) -> Option<&Vit> {
        match self {
            Self::Vit(vit) => Some(vit),
            Self::EfficientNetLite(_) => None,
        }
    }

    /// The tower as a mutable vision transformer, or `None` if it is another kind.
    pub fn as_vit_mut(&mut self) -> Option<&mut Vit> {
        match self {
            Self::Vit(vit) => Some(vit),
            Self::EfficientNetLite(_) => None,
        }
    }

    /// Calls `act` with every linear layer that may stay packed and its path from here.
    ///
    /// Point-wise convolutions never stay packed, because each weight serves hundreds of pixels. A
    /// product from packed weights took ten times as long as the whole block with plain weights,
    /// and it also rounded the activations.
    pub(super) fn for_each_linear(&mut self, act: &mut dyn FnMut(String, &mut Linear)) {
        match self {
            Self::Vit(vit) => vit.for_each_linear(act),
            Self::EfficientNetLite(_) => {}
        }
    }
}
