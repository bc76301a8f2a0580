//! Embeddings of a gallery of any size, and retrieval ranks in it.
//!
//! Computes scores in blocks on all cores and never holds the whole matrix.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::metrics::ranking::{Ahead, RightScores, Ties, dot};
use crate::metrics::retrieval::{RetrievalError, RetrievalRanks};

/// Number of images in a block of scores.
const IMAGE_BLOCK: usize = 256;
/// Number of texts in a block of scores.
const TEXT_BLOCK: usize = 1024;

/// Why a gallery cannot be ranked.
#[derive(Debug, thiserror::Error)]
pub enum GalleryError {
    /// The scratch file failed.
    #[error(
        "cannot store embeddings in a scratch file: {0}\n  hint: is the folder for temporary files (TMPDIR) full?"
    )]
    Scratch(#[from] io::Error),
    /// The sizes contradict each other.
    #[error(transparent)]
    Ranking(#[from] RetrievalError),
}

/// A growing table of embeddings.
///
/// Stays in memory up to a limit. Later rows go to a scratch file, which is deleted with the
/// gallery.
#[derive(Debug)]
pub struct Gallery {
    embed_dim: usize,
    n_rows: usize,
    memory: Vec<f32>,
    most_in_memory: usize,
    scratch: Option<Scratch>,
}

#[derive(Debug)]
struct Scratch {
    file: Mutex<File>,
    path: PathBuf,
}

impl Gallery {
    /// An empty gallery that uses at most `memory_bytes` of memory.
    pub fn new(embed_dim: usize, memory_bytes: usize) -> Self {
        let most_in_memory = memory_bytes / size_of::<f32>() / embed_dim * embed_dim;
        Self { embed_dim, n_rows: 0, memory: Vec::new(), most_in_memory, scratch: None }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.n_rows
    }

    /// Whether the gallery has no rows.
    pub fn is_empty(&self) -> bool {
        self.n_rows == 0
    }

    /// Number of values in a row.
    pub fn embed_dim(&self) -> usize {
        self.embed_dim
    }

    /// Appends one or more complete rows.
    ///
    /// # Errors
    /// If the scratch file cannot be written.
    pub fn push(&mut self, rows: &[f32]) -> io::Result<()> {
        debug_assert!(rows.len().is_multiple_of(self.embed_dim));
        let room = self.most_in_memory.saturating_sub(self.memory.len());
        let (here, there) = rows.split_at(rows.len().min(room));
        self.memory.extend_from_slice(here);
        if !there.is_empty() {
            let scratch = match &mut self.scratch {
                Some(scratch) => scratch,
                none => none.insert(Scratch::create(&std::env::temp_dir())?),
            };
            scratch.append(there)?;
        }
        self.n_rows += rows.len() / self.embed_dim;
        Ok(())
    }

    /// Reads a range of rows.
    ///
    /// # Errors
    /// If the scratch file cannot be read.
    pub fn read(&self, rows: Range<usize>) -> io::Result<Cow<'_, [f32]>> {
        let (start, end) = (rows.start * self.embed_dim, rows.end * self.embed_dim);
        let in_memory = self.memory.len();
        if end <= in_memory {
            return Ok(Cow::Borrowed(&self.memory[start..end]));
        }
        let mut values = self.memory[start.min(in_memory)..].to_vec();
        let scratch = self.scratch.as_ref().expect("rows beyond the memory are in the file");
        let first = start.max(in_memory) - in_memory;
        scratch.read(first..end - in_memory, &mut values)?;
        Ok(Cow::Owned(values))
    }
}

impl Scratch {
    fn create(folder: &Path) -> io::Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("mmgem-gallery-{}-{number}.tmp", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok(Self { file: Mutex::new(file), path })
    }

    fn append(&mut self, values: &[f32]) -> io::Result<()> {
        let file = self.file.get_mut().expect("no thread panics while it reads");
        file.seek(SeekFrom::End(0))?;
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        file.write_all(&bytes)
    }

    fn read(&self, range: Range<usize>, values: &mut Vec<f32>) -> io::Result<()> {
        let mut bytes = vec![0; range.len() * size_of::<f32>()];
        let mut file = self.file.lock().expect("no thread panics while it reads");
        file.seek(SeekFrom::Start((range.start * size_of::<f32>()) as u64))?;
        file.read_exact(&mut bytes)?;
        values.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Ranks of every image among all texts and of every text among all images.
///
/// `text_image_idx` names the image of each text. Texts should be in the order of their images,
/// which keeps reads short.
///
/// # Errors
/// If the sizes contradict each other, or if the scratch file fails.
pub fn ranks(
    images: &Gallery,
    texts: &Gallery,
    text_image_idx: &[usize],
    ties: Ties,
) -> Result<RetrievalRanks, GalleryError> {
    if texts.len() != text_image_idx.len() {
        let (found, n_queries) = (text_image_idx.len(), texts.len());
        return Err(RetrievalError::TargetCount { found, n_queries }.into());
    }
    let mut right = RightScores::new(images.len(), text_image_idx, ties)?;
    record_right_scores(&mut right, images, texts, text_image_idx)?;
    let starts: Vec<usize> = (0..images.len()).step_by(IMAGE_BLOCK).collect();
    let next = AtomicUsize::new(0);
    let count = || -> io::Result<Ahead> {
        let mut ahead = Ahead::new(&right);
        while let Some(&start) = starts.get(next.fetch_add(1, Ordering::Relaxed)) {
            let image_block = images.read(start..(start + IMAGE_BLOCK).min(images.len()))?;
            for text_start in (0..texts.len()).step_by(TEXT_BLOCK) {
                let text_block =
                    texts.read(text_start..(text_start + TEXT_BLOCK).min(texts.len()))?;
                let (image_block, text_block) =
                    ((start, &*image_block), (text_start, &*text_block));
                ahead.count_block(&right, image_block, text_block, images.embed_dim);
            }
        }
        Ok(ahead)
    };
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from).min(starts.len());
    let parts: Vec<io::Result<Ahead>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads).map(|_| scope.spawn(count)).collect();
        threads.into_iter().map(|thread| thread.join().expect("counting does not panic")).collect()
    });
    let mut sum = Ahead::new(&right);
    for part in parts {
        sum.add(&part?);
    }
    Ok(sum.ranks(&right))
}

fn record_right_scores(
    right: &mut RightScores,
    images: &Gallery,
    texts: &Gallery,
    text_image_idx: &[usize],
) -> io::Result<()> {
    let embed_dim = images.embed_dim;
    for (block_idx, own) in text_image_idx.chunks(TEXT_BLOCK).enumerate() {
        let start = block_idx * TEXT_BLOCK;
        let text_block = texts.read(start..start + own.len())?;
        let first = own.iter().copied().min().expect("a chunk is not empty");
        let last = own.iter().copied().max().expect("a chunk is not empty");
        let image_block = images.read(first..last + 1)?;
        for (i, (&image_idx, text_embed)) in
            own.iter().zip(text_block.chunks_exact(embed_dim)).enumerate()
        {
            let image_embed = &image_block[(image_idx - first) * embed_dim..][..embed_dim];
            right.add(start + i, dot(image_embed, text_embed));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::retrieval::ranks_from_embeds;

    fn noise(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729 + 13) % 1009) as f32 / 1009.0 - 0.5).collect()
    }

    fn gallery(rows: &[f32], embed_dim: usize, memory_bytes: usize) -> Gallery {
        let mut gallery = Gallery::new(embed_dim, memory_bytes);
        rows.chunks(3 * embed_dim).for_each(|rows| gallery.push(rows).expect("a scratch file"));
        gallery
    }

    #[test]
    fn a_gallery_on_disk_ranks_as_one_in_memory() {
        let (n_images, n_texts, dim) = (300, 1100, 5);
        let (images, texts) = (noise(n_images * dim, 1), noise(n_texts * dim, 2));
        let own: Vec<usize> = (0..n_texts).map(|text| text * n_images / n_texts).collect();
        let wanted =
            ranks_from_embeds(&images, &texts, dim, &own, Ties::Against).expect("they fit");
        for memory_bytes in [0, 1000, usize::MAX] {
            let [images, texts] = [&images, &texts].map(|rows| gallery(rows, dim, memory_bytes));
            assert_eq!(images.scratch.is_some(), memory_bytes < 6000, "{memory_bytes}");
            assert_eq!(images.len(), n_images);
            assert_eq!(ranks(&images, &texts, &own, Ties::Against).expect("they fit"), wanted);
        }
    }

    #[test]
    fn a_scratch_file_vanishes_with_its_gallery() {
        let gallery = gallery(&noise(40, 3), 2, 16);
        let path =
            gallery.scratch.as_ref().expect("40 numbers do not fit in 16 bytes").path.clone();
        assert!(path.exists());
        drop(gallery);
        assert!(!path.exists());
    }
}
