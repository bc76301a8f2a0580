//! A hash that identifies the files of a model, the same in every shell.
//!
//! Vectors of different models cannot be compared. Each store of vectors therefore saves this
//! fingerprint.

/// Fingerprint of a model's files; `weights` are the bytes of its safetensors files in order.
pub fn fingerprint<'a>(
    config_json: &str,
    tokenizer_json: &[u8],
    weights: impl IntoIterator<Item = &'a [u8]>,
) -> u64 {
    let head = hash_bytes(hash_bytes(HASH_START, config_json.as_bytes()), tokenizer_json);
    weights.into_iter().fold(head, hash_bytes)
}

/// Initial value of a hash chain.
pub const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a over 8-byte words, seeded with `hash`: limited only by memory speed, and the same on
/// every platform.
pub fn hash_bytes(hash: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    words.fold(step(hash, bytes.len() as u64), step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_other_bit_is_another_model() {
        let bytes = [7u8; 100];
        for place in 0..bytes.len() {
            let mut other = bytes;
            other[place] ^= 0x80;
            assert_ne!(hash_bytes(HASH_START, &bytes), hash_bytes(HASH_START, &other), "{place}");
        }
        assert_ne!(hash_bytes(HASH_START, &[0; 8]), hash_bytes(HASH_START, &[0; 9]));
    }
}
