//! The pictures of the tour and their embeddings.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mmgem_core::image::{Rgb, decode, preprocess};
use mmgem_core::session::{EncodedImage, Part};
use mmgem_scenes::{Scene, scene};
use pollster::block_on;
use rayon::prelude::*;

use crate::context::Context;
use crate::names::printable_path;
use crate::photos::{find_photos, for_each_encoded, read_photo};
use crate::terminal::progress_bar;

/// Seed of the tour's scenes, far from the seeds of the training data.
const HELD_OUT_SEED: u64 = 7_000_003;
/// Scenes per batch of the image encoder.
const BATCH: usize = 8;

/// A photo embedded in the program, with a text that describes only this photo (terms:
/// `assets/demo/README.md`).
#[derive(Debug)]
pub(super) struct DemoPhoto {
    name: &'static str,
    bytes: &'static [u8],
    /// Describes the photo.
    pub text: &'static str,
}

macro_rules! demo_photos {
    ($($name:literal: $text:literal,)*) => {
        &[$(DemoPhoto {
            name: $name,
            bytes: include_bytes!(concat!("../../../../assets/demo/", $name)),
            text: $text,
        }),*]
    };
}

const DEMO_PHOTOS: &[DemoPhoto] = demo_photos! {
    "coffee.jpg": "a cup of coffee on a table",
    "cat.jpg": "a close up of a cat",
    "astronaut.jpg": "a woman in an orange suit",
    "rocket.jpg": "a rocket at night",
    "raccoon.jpg": "a furry animal in green leaves",
    "photographer.jpg": "a man with a camera on a tripod",
    "officer.jpg": "an old woman in a uniform and glasses",
    "stairs.jpg": "a person on the stairs of a building",
    "galaxies.jpg": "many stars in the dark sky",
    "grass.jpg": "grass",
};

/// A picture, with its description if the program knows it.
#[derive(Debug)]
pub(super) enum Source {
    File(PathBuf),
    Demo(&'static DemoPhoto),
    Scene(usize, Scene),
}

/// Pictures that could be read, with their embeddings.
#[derive(Debug, Default)]
pub(super) struct Album {
    pub sources: Vec<Source>,
    /// Embeddings of the pictures, of unit length, in one slice.
    embeds: Vec<f32>,
    /// Time from the start to the end of each picture.
    done: Vec<Duration>,
    /// Files that could not be read.
    pub passed_over: Vec<PathBuf>,
}

impl Source {
    /// The file's name, or the number of the scene.
    pub fn name(&self) -> String {
        match self {
            Self::File(path) => {
                path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
            }
            Self::Demo(photo) => photo.name.to_owned(),
            Self::Scene(idx, _) => format!("scene {}", idx + 1),
        }
    }

    /// The file's path, or the name of a picture without a file.
    pub fn path(&self) -> String {
        match self {
            Self::File(path) => printable_path(path),
            Self::Demo(_) | Self::Scene(..) => self.name(),
        }
    }

    /// The drawn scene, if the picture is one.
    pub fn scene(&self) -> Option<&Scene> {
        match self {
            Self::File(_) | Self::Demo(_) => None,
            Self::Scene(_, scene) => Some(scene),
        }
    }

    /// A text that describes this picture and hardly any other; `None` for files.
    pub fn own_text(&self) -> Option<&str> {
        match self {
            Self::File(_) => None,
            Self::Demo(photo) => Some(photo.text),
            Self::Scene(_, scene) => Some(&scene.captions[0]),
        }
    }

    pub fn pixels(&self) -> Result<Rgb> {
        match self {
            Self::File(path) => read_photo(path),
            Self::Demo(photo) => Ok(decode(photo.bytes, Default::default())?),
            Self::Scene(_, scene) => {
                Ok(Rgb::from_raw(scene.width, scene.height, scene.rgb.clone())
                    .expect("a scene has three bytes for each pixel"))
            }
        }
    }
}

impl Album {
    /// Encodes the embedded photos, then scenes that training has not seen.
    pub fn demo(seed: u64, n: usize, context: &Context) -> Result<Self> {
        let photos = DEMO_PHOTOS.iter().take(n).map(Source::Demo);
        let draw = |idx| Source::Scene(idx, scene(HELD_OUT_SEED.wrapping_add(seed), idx as u64));
        let scenes: Vec<Source> = (0..n - photos.len()).into_par_iter().map(draw).collect();
        let config = context.session.config().preprocess();
        let bar = progress_bar(n, "pictures", context.quiet);
        let mut album = Self::default();
        let start = Instant::now();
        let mut sources = photos.chain(scenes).peekable();
        while sources.peek().is_some() {
            let batch: Vec<Source> = sources.by_ref().take(BATCH).collect();
            let inputs: Result<Vec<_>> =
                batch.par_iter().map(|source| Ok(preprocess(&source.pixels()?, &config))).collect();
            for (source, image) in batch.into_iter().zip(&context.session.encode_batch(&inputs?)) {
                album.add(source, image, start, context)?;
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        Ok(album)
    }

    /// The files that were read.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.sources.iter().filter_map(|source| match source {
            Source::File(path) => Some(path.as_path()),
            Source::Demo(_) | Source::Scene(..) => None,
        })
    }

    /// Reads and encodes the photos in and below a folder.
    pub fn of_folder(folder: &Path, context: &Context) -> Result<Self> {
        let cure = "there is nothing to show\n  hint: give a folder with photos; `mmgem demo` alone brings its own pictures";
        let paths = find_photos(&[folder.to_owned()], context.quiet).context(cure)?.photos;
        let mut album = Self::default();
        let start = Instant::now();
        for_each_encoded(context, &paths, |path, image| {
            album.add(Source::File(path.to_owned()), image, start, context)
        })?;
        let read: HashSet<PathBuf> = album.files().map(Path::to_owned).collect();
        album.passed_over = paths.into_iter().filter(|path| !read.contains(path)).collect();
        Ok(album)
    }

    fn add(
        &mut self,
        source: Source,
        image: &EncodedImage,
        start: Instant,
        context: &Context,
    ) -> Result<()> {
        self.embeds.extend(block_on(context.session.embed_image(image, &Part::Whole))?);
        self.sources.push(source);
        self.done.push(start.elapsed());
        Ok(())
    }

    /// The embeddings, in one slice.
    pub fn embeds(&self) -> &[f32] {
        &self.embeds
    }

    /// All pictures with their cosines, the most similar first.
    pub fn rank(&self, text_embed: &[f32]) -> Vec<(usize, f32)> {
        let dot = |embed: &[f32]| embed.iter().zip(text_embed).map(|(a, b)| a * b).sum::<f32>();
        let mut ranked: Vec<(usize, f32)> =
            self.embeds.chunks(text_embed.len()).map(dot).enumerate().collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked
    }

    /// Pictures read, resized and encoded per second, without the first half, in which devices warm
    /// up.
    pub fn images_per_sec(&self) -> f64 {
        let half = self.done.len() / 2;
        let warm = half.checked_sub(1).map_or(Duration::ZERO, |idx| self.done[idx]);
        let taken = self.done.last().copied().unwrap_or_default().saturating_sub(warm);
        (self.done.len() - half) as f64 / taken.as_secs_f64().max(1e-9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_similar_picture_comes_first() {
        let album = Album { embeds: vec![1.0, 0.0, 0.0, 1.0, 0.6, 0.8], ..Album::default() };
        let order: Vec<usize> = album.rank(&[0.0, 1.0]).into_iter().map(|(idx, _)| idx).collect();
        assert_eq!(order, [1, 2, 0]);
    }

    #[test]
    fn the_first_half_does_not_count_for_the_rate() {
        let done = [9.0, 10.0, 10.5, 11.0].map(Duration::from_secs_f64).to_vec();
        assert_eq!(Album { done, ..Album::default() }.images_per_sec(), 2.0);
        let done = vec![Duration::from_secs(2)];
        assert_eq!(Album { done, ..Album::default() }.images_per_sec(), 0.5);
    }

    #[test]
    fn the_photos_of_the_demo_can_be_read_and_their_terms_are_there() {
        let terms = include_str!("../../../../assets/demo/README.md");
        for photo in DEMO_PHOTOS {
            let (width, height) = Source::Demo(photo).pixels().expect(photo.name).dimensions();
            assert_eq!(width.min(height), 256, "{}", photo.name);
            assert!(terms.contains(&format!("| `{}` |", photo.name)), "{}", photo.name);
        }
    }

    #[test]
    fn a_scene_gives_its_own_pixels() {
        let scene = scene(HELD_OUT_SEED, 0);
        let (width, height) = (scene.width, scene.height);
        let source = Source::Scene(0, scene);
        assert_eq!(source.pixels().expect("drawn").dimensions(), (width, height));
        assert_eq!(source.path(), "scene 1");
    }
}
