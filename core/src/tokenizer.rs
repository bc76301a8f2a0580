//! Converts text to token ids and back, with the model folder's `tokenizer.json`.

use std::ops::Range;

use tokenizers::{NormalizerWrapper, Tokenizer as HfTokenizer};

use crate::config::MmGemConfig;

/// The tokenizer of a model.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: HfTokenizer,
    max_text_len: usize,
    /// Whether texts are lowercased. Decoded captions then get a capital at the start of each
    /// sentence.
    lowercases: bool,
}

/// A tokenizer that cannot be read or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Not a `tokenizer.json`.
    #[error(
        "tokenizer.json cannot be read: {0}\n  \
         hint: convert a SentencePiece `tokenizer.model` with Hugging Face's `tokenizers`"
    )]
    Malformed(String),
    /// The tokenizer belongs to another model.
    #[error(
        "tokenizer.json has {found}, but the model wants {wanted}\n  \
         hint: was it copied from another model?"
    )]
    OtherVocabulary {
        /// The tokenizer's property.
        found: String,
        /// The property that config.json requires.
        wanted: String,
    },
    /// The text could not be encoded or decoded.
    #[error("the tokenizer fails on {text:?}: {cause}")]
    Text {
        /// The text, or the ids.
        text: String,
        /// The error message of the `tokenizers` library.
        cause: String,
    },
}

impl Tokenizer {
    /// Reads a `tokenizer.json` and checks that it fits the model.
    pub fn from_json(json: &[u8], config: &MmGemConfig) -> Result<Self, TokenizerError> {
        let inner =
            HfTokenizer::from_bytes(json).map_err(|e| TokenizerError::Malformed(e.to_string()))?;
        let (found, wanted) = (inner.get_vocab_size(true), config.llm.vocab_size);
        // A model may pad its table beyond the vocabulary, but never below it.
        if found > wanted {
            return Err(TokenizerError::OtherVocabulary {
                found: format!("{found} tokens"),
                wanted: format!("{wanted} (llm.vocab_size)"),
            });
        }
        // The tokenizer that the model was trained with ends captions with a special token.
        let end = config.eos_token_id;
        if !inner.get_added_tokens_decoder().contains_key(&end) {
            let found = inner
                .id_to_token(end)
                .map_or("nothing".into(), |token| format!("the ordinary {token:?}"));
            return Err(TokenizerError::OtherVocabulary {
                found: format!("{found} as token {end}"),
                wanted: "a special token that ends a caption there (eos_token_id)".into(),
            });
        }
        let lowercases = inner.get_normalizer().is_some_and(lowercases);
        Ok(Self { inner, max_text_len: config.max_text_len, lowercases })
    }

    /// Ids of a text without special tokens, truncated so that one special token still fits.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, false).map_err(|cause| failed(text, cause))?;
        let ids = encoding.get_ids();
        Ok(ids[..ids.len().min(self.max_text_len - 1)].to_vec())
    }

    /// Reports how much of a text is read, and which of its words the tokenizer does not know.
    pub fn report(&self, text: &str) -> Result<TokenizerReport, TokenizerError> {
        let encoding =
            self.inner.encode_char_offsets(text, false).map_err(|cause| failed(text, cause))?;
        let n_tokens = encoding.get_ids().len();
        let spans: Vec<Range<usize>> =
            encoding.get_offsets().iter().map(|(start, end)| *start..*end).collect();
        Ok(TokenizerReport {
            n_tokens,
            n_read: n_tokens.min(self.max_text_len - 1),
            unknown_words: find_unknown_words(text, &spans),
        })
    }

    /// Text of the ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let text =
            self.inner.decode(ids, true).map_err(|cause| failed(&format!("{ids:?}"), cause))?;
        let text = text.trim();
        Ok(if self.lowercases { sentence_case(text) } else { text.to_owned() })
    }

    /// Maximum number of tokens of a text, including its special token.
    pub fn max_text_len(&self) -> usize {
        self.max_text_len
    }
}

/// The result of [`Tokenizer::report`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerReport {
    /// Tokens of the whole text.
    pub n_tokens: usize,
    /// Tokens that [`Tokenizer::encode`] keeps.
    pub n_read: usize,
    /// Words that the tokenizer splits into single letters or bytes, because it learned no longer
    /// piece.
    pub unknown_words: Vec<String>,
}

/// Words that the tokenizer hardly knows.
///
/// Either more than half of a word's letters take several tokens each, as in an unknown script.
/// Or the word has at least four letters, and three quarters of them are tokens by themselves.
///
/// `spans` are the tokens' ranges in characters. The bytes of one character share a span.
fn find_unknown_words(text: &str, spans: &[Range<usize>]) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let mut n_tokens = vec![0; letters.len()];
    let mut is_single = vec![false; letters.len()];
    for span in spans {
        // A leading space belongs to the token, not to the word.
        let within = span.clone().filter(|at| letters.get(*at).is_some_and(|c| !c.is_whitespace()));
        let within: Vec<usize> = within.collect();
        for at in &within {
            n_tokens[*at] += 1;
            is_single[*at] = within.len() == 1;
        }
    }
    let mut unknown_words = Vec::new();
    let mut start = 0;
    for word in letters.split(|c| c.is_whitespace()) {
        let places = start..start + word.len();
        start = places.end + 1;
        // Ignore punctuation.
        let word_chars: Vec<usize> =
            places.filter(|at| letters[*at].is_alphabetic() || !letters[*at].is_ascii()).collect();
        let n_split = word_chars.iter().filter(|at| n_tokens[**at] != 1).count();
        let n_single = word_chars.iter().filter(|at| is_single[**at]).count();
        let is_unknown = 2 * n_split > word_chars.len()
            || (word_chars.len() >= 4 && 4 * n_single >= 3 * word_chars.len());
        if is_unknown {
            unknown_words.push(word.iter().collect());
        }
    }
    unknown_words
}

fn failed(text: &str, cause: tokenizers::Error) -> TokenizerError {
    TokenizerError::Text { text: text.to_owned(), cause: cause.to_string() }
}

fn lowercases(normalizer: &NormalizerWrapper) -> bool {
    match normalizer {
        NormalizerWrapper::Lowercase(_) => true,
        NormalizerWrapper::Sequence(parts) => parts.as_ref().iter().any(lowercases),
        _ => false,
    }
}

/// Capitalises the first letter of each sentence.
fn sentence_case(text: &str) -> String {
    let mut starts = true;
    let mut out = String::with_capacity(text.len());
    for (at, letter) in text.char_indices() {
        if starts && letter.is_alphanumeric() {
            out.extend(letter.to_uppercase());
            starts = false;
        } else {
            out.push(letter);
            // The dot in "3.5" does not end a sentence.
            starts |= matches!(letter, '.' | '!' | '?') && text[at + 1..].starts_with(' ');
        }
    }
    out
}

/// Special tokens of a tokenizer from [`train_bpe`]; their ids are 0, 1 and 2.
pub const SPECIAL_TOKENS: [&str; 3] = ["<unk>", "<s>", "</s>"];

/// Trains a byte-level BPE on lines of text and returns its `tokenizer.json`.
///
/// A small vocabulary must not waste tokens on capitals, or on the space that tokenised captions
/// have before punctuation. The tokenizer's normalizer removes both; [`Tokenizer::decode`] writes
/// sentences again.
#[cfg(feature = "autodiff")]
pub fn train_bpe(lines: &[String], vocab_size: usize) -> Result<String, TokenizerError> {
    use tokenizers::{
        AddedToken, DecoderWrapper, ModelWrapper, PostProcessorWrapper, PreTokenizerWrapper,
        TokenizerImpl,
        models::{
            TrainerWrapper,
            bpe::{BPE, BpeTrainer},
        },
        normalizers::{
            replace::Replace,
            utils::{Lowercase, Sequence},
        },
        pre_tokenizers::byte_level::ByteLevel,
    };
    type Parts = TokenizerImpl<
        ModelWrapper,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >;

    let broken = |cause: tokenizers::Error| TokenizerError::Malformed(cause.to_string());
    let mut tokenizer: Parts = TokenizerImpl::new(ModelWrapper::BPE(BPE::default()));
    // A word is the same token at the start of a text as inside it.
    let byte_level = ByteLevel::new(true, true, true);
    let mut normalizers = vec![NormalizerWrapper::Lowercase(Lowercase)];
    for mark in [".", ",", "!", "?", ";", ":"] {
        normalizers.push(NormalizerWrapper::Replace(
            Replace::new(format!(" {mark}"), mark).map_err(broken)?,
        ));
    }
    tokenizer
        .with_normalizer(Some(NormalizerWrapper::Sequence(Sequence::new(normalizers))))
        .map_err(broken)?
        .with_pre_tokenizer(Some(PreTokenizerWrapper::ByteLevel(byte_level)))
        .with_decoder(Some(DecoderWrapper::ByteLevel(byte_level)));
    let mut trainer = TrainerWrapper::BpeTrainer(
        BpeTrainer::builder()
            .vocab_size(vocab_size)
            .show_progress(false)
            .special_tokens(
                SPECIAL_TOKENS.iter().map(|token| AddedToken::from(*token, true)).collect(),
            )
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build(),
    );
    tokenizer.train(&mut trainer, lines.iter().map(String::as_str)).map_err(broken)?;
    tokenizer.to_string(true).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, tokens: &[&str], wanted: &[&str]) {
        let mut at = 0;
        let spans: Vec<Range<usize>> = tokens
            .iter()
            .map(|token| {
                // `=` is one more byte of the preceding character.
                let start = if *token == "=" { at - 1 } else { at };
                at = if *token == "=" { at } else { at + token.chars().count() };
                start..at
            })
            .collect();
        assert_eq!(at, text.chars().count(), "the tokens are the text");
        assert_eq!(find_unknown_words(text, &spans), wanted);
    }

    #[test]
    fn words_in_single_letters_or_bytes_are_strange() {
        check("a red boat", &["a", " red", " bo", "at"], &[]);
        check("a xqzv, go", &["a", " x", "q", "z", "v", ",", " go"], &["xqzv,"]);
        check("a quokka", &["a", " qu", "o", "kk", "a"], &[]);
        check("dog 狗", &["dog", " ", "狗", "=", "="], &["狗"]);
        check("café", &["ca", "f", "é", "="], &[]);
        check("собака", &["с", "=", "о", "=", "б", "=", "а", "=", "к", "=", "а", "="], &["собака"]);
        check("x - 10:30 !", &["x", " ", "-", " ", "1", "0", ":", "3", "0", " ", "!"], &[]);
        check("", &[], &[]);
    }
}
