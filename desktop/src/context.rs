//! The opened model and the switches that commands share.

use mmgem_core::session::Session;

/// Default limit on the tokens of a caption.
pub const CAPTION_TOKENS: usize = 32;

/// An opened model and the switches that all commands share.
#[derive(Debug)]
pub struct Context {
    /// The model, ready to use.
    pub session: Session,
    /// The model's folder, or "the embedded model".
    pub model_name: String,
    /// A readable name of the device that the model runs on.
    pub device_name: String,
    /// Prints results only.
    pub quiet: bool,
    /// Prints one JSON document instead of text.
    pub json: bool,
    /// Fails if one of many files cannot be read, instead of skipping it.
    pub strict: bool,
    /// Hash of the model's weights, config and tokenizer.
    pub fingerprint: u64,
}
