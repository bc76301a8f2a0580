//! What a command that asks the model gets: the opened model and how to speak.

use mmgem_core::session::Session;

/// Most tokens of a caption where nobody says how many.
pub const CAPTION_TOKENS: usize = 32;

/// An opened model and the switches that every command shares.
#[derive(Debug)]
pub struct Context {
    /// The model, ready to be asked.
    pub session: Session,
    /// The model's folder, or "the embedded model".
    pub model_name: String,
    /// The device the model runs on, as a person would call it.
    pub device_name: String,
    /// Whether that is the CPU.
    pub is_cpu: bool,
    /// Say only what was asked for.
    pub quiet: bool,
    /// Print one JSON document instead of text.
    pub json: bool,
    /// A file that cannot be read among many is an error.
    pub strict: bool,
    /// Tells one model's weights and config from another's.
    pub fingerprint: u64,
}
