//! CLIP's tokenizer: lower case, byte-level BPE with word-end marks, start and end tokens.

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::OpenClipError;

/// The pattern that splits a text into words (OpenAI's `simple_tokenizer.py`).
const WORDS: &str = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
/// Number of merges that OpenAI's models use of the list.
const MOST_MERGES: usize = 49_152 - 256 - 2;

/// Converts text to token ids, as open_clip's `SimpleTokenizer` does.
#[derive(Clone, Debug)]
pub struct ClipTokenizer {
    inner: Tokenizer,
    context_length: usize,
    start: u32,
    end: u32,
}

impl ClipTokenizer {
    /// Reads the text of Hugging Face's `tokenizer.json` or of OpenAI's
    /// `bpe_simple_vocab_16e6.txt`. Also reads `merges.txt`: a heading, then one merge per line.
    ///
    /// # Errors
    /// If the text is neither.
    pub fn new(text: &str, context_length: usize) -> Result<Self, OpenClipError> {
        let json = match text.trim_start().starts_with('{') {
            true => text.to_owned(),
            false => json_of_merges(text)?,
        };
        let inner = Tokenizer::from_bytes(json.as_bytes())
            .map_err(|e| OpenClipError::Tokenizer(e.to_string()))?;
        let special = |names: [&str; 2]| {
            names.into_iter().find_map(|name| inner.token_to_id(name)).ok_or_else(|| {
                OpenClipError::Tokenizer(format!(
                    "it has no token {}; wanted CLIP's tokenizer",
                    names.join(" or ")
                ))
            })
        };
        let start = special(["<start_of_text>", "<|startoftext|>"])?;
        let end = special(["<end_of_text>", "<|endoftext|>"])?;
        Ok(Self { inner, context_length, start, end })
    }

    /// Number of tokens in the vocabulary.
    pub fn n_tokens(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Most tokens of a text, including start and end.
    pub fn context_length(&self) -> usize {
        self.context_length
    }

    /// Ids of a text without start and end.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, OpenClipError> {
        let encoding = self.inner.encode_fast(clean(text), false);
        let encoding =
            encoding.map_err(|e| OpenClipError::Tokenizer(format!("it fails on {text:?}: {e}")))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of a text between start and end, truncated to the context length.
    ///
    /// # Errors
    /// Same as [`Self::encode`].
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, OpenClipError> {
        let mut ids = vec![self.start];
        ids.extend(self.encode(text)?);
        ids.truncate(self.context_length - 1);
        ids.push(self.end);
        Ok(ids)
    }
}

/// A `tokenizer.json` with OpenAI's order of tokens: bytes, bytes that end a word, merges, start
/// and end.
fn json_of_merges(text: &str) -> Result<String, OpenClipError> {
    let merges: Vec<(&str, &str)> = text
        .lines()
        .skip(1)
        .take(MOST_MERGES)
        .filter_map(|line| line.trim().split_once(' '))
        .collect();
    if merges.is_empty() {
        return Err(OpenClipError::Tokenizer(
            "found no merges; wanted bpe_simple_vocab_16e6.txt, merges.txt or tokenizer.json"
                .into(),
        ));
    }
    let bytes: Vec<String> = byte_chars().map(String::from).collect();
    let ends = bytes.iter().map(|byte| format!("{byte}</w>"));
    let merged = merges.iter().map(|(a, b)| format!("{a}{b}"));
    let specials = ["<start_of_text>", "<end_of_text>"];
    let tokens = bytes.iter().cloned().chain(ends).chain(merged).chain(specials.map(String::from));
    let vocab: Map<String, Value> =
        tokens.zip(0u32..).map(|(token, id)| (token, id.into())).collect();
    let added = specials.map(|content| {
        json!({
            "id": vocab[content], "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    });
    let merges: Vec<Value> = merges.iter().map(|(a, b)| json!([a, b])).collect();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": WORDS }, "behavior": "Removed", "invert": true },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        ] },
        "post_processor": null, "decoder": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    });
    Ok(json.to_string())
}

/// The characters that represent the 256 bytes, in OpenAI's order: the printable ones first.
fn byte_chars() -> impl Iterator<Item = char> {
    let printable = (b'!'..=b'~').chain(0xa1..=0xac).chain(0xae..=0xff).map(char::from);
    let others = (0..68).map(|i| char::from_u32(256 + i).expect("Latin Extended-A"));
    printable.chain(others)
}

/// open_clip's cleaning: HTML entities, whitespace, lower case. Of ftfy's repairs, only curly
/// quotes and ligatures are done; text in a wrong encoding is not repaired.
fn clean(text: &str) -> String {
    let text = straight(text);
    let text = unescape(&unescape(&text));
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

fn straight(text: &str) -> String {
    let mut straight = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}' => straight.push('\''),
            '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{201f}' => straight.push('"'),
            '\u{fb00}' => straight.push_str("ff"),
            '\u{fb01}' => straight.push_str("fi"),
            '\u{fb02}' => straight.push_str("fl"),
            '\u{fb03}' => straight.push_str("ffi"),
            '\u{fb04}' => straight.push_str("ffl"),
            _ => straight.push(c),
        }
    }
    straight
}

/// Replaces the entities that occur in captions: `&amp;`, `&lt;`, `&gt;`, `&quot;`, `&apos;`,
/// `&nbsp;` and numbers.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        plain.push_str(before);
        let named = after.split_once(';').and_then(|(name, behind)| Some((entity(name)?, behind)));
        match named {
            Some((c, behind)) => {
                plain.push(c);
                rest = behind;
            }
            None => {
                plain.push('&');
                rest = after;
            }
        }
    }
    plain + rest
}

fn entity(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        "nbsp" => Some('\u{a0}'),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cleaned() {
        assert_eq!(
            clean("  A &amp;amp; B\n&#39;it\u{2019}s&#x27; & more;"),
            "a & b 'it's' & more;"
        );
    }

    #[test]
    fn there_are_256_bytes() {
        let chars: std::collections::BTreeSet<char> = byte_chars().collect();
        assert_eq!(chars.len(), 256);
    }
}
