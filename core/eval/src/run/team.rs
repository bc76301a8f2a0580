//! Shares an evaluation out over several processes.
//!
//! Each process answers every n-th batch of the benchmark. The first process gathers all answers
//! and scores them in the order of the benchmark, so the scores are the same bit for bit for any
//! number of processes.

use std::error::Error;

use mmgem_core::image::Preprocessed;
use mmgem_data::benchmark::{BatchNotes, Batches, BenchmarkPhoto, ReadSummary};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{EvalError, Tick};

/// The processes of an evaluation, as seen from one of them.
///
/// All of them have the same model, and call the same functions with the same benchmark.
pub trait Team {
    /// Number of this process, from 0. Process 0 gets the scores.
    fn rank(&self) -> usize;

    /// Number of processes.
    fn size(&self) -> usize;

    /// The bytes of every process, in order of rank. Every evaluation calls it once on each.
    ///
    /// # Errors
    /// If contact is lost.
    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, Box<dyn Error + Send + Sync>>;
}

/// An evaluation in one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Team for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, Box<dyn Error + Send + Sync>> {
        Ok(vec![own.to_vec()])
    }
}

/// What a model says of a batch of photos.
pub(super) trait Answer: Serialize + DeserializeOwned {
    /// Its photos, in order.
    fn photos(&mut self) -> Vec<&mut BenchmarkPhoto>;
}

/// What a process sends.
#[derive(Serialize, Deserialize)]
struct Message<A> {
    notes: Vec<BatchNotes>,
    /// The first photo of each batch, the answer, and the indices of its photos.
    answers: Vec<(usize, A, Vec<usize>)>,
}

/// Answers this process's batches. On process 0, passes the answers of all processes to `take`, in
/// order of the batches, and returns the summary of what was read; `None` on the others.
///
/// In a team of one, each answer is taken before the next batch is read.
pub(super) async fn answer_batches<A: Answer>(
    mut batches: Batches<'_>,
    team: &dyn Team,
    (tick, unit): (Tick<'_>, &'static str),
    answer: impl AsyncFn(Vec<BenchmarkPhoto>, Vec<Preprocessed>) -> Result<A, EvalError>,
    mut take: impl FnMut(A) -> Result<(), EvalError>,
) -> Result<Option<ReadSummary>, EvalError> {
    let total = batches.total();
    if team.size() == 1 {
        while let Some(batch) = batches.next_batch() {
            let (photos, inputs) = batch.into_iter().unzip();
            take(answer(photos, inputs).await?)?;
            tick(unit, batches.position(), total);
        }
        return Ok(Some(batches.into_summary()));
    }
    batches = batches.of_process(team.rank(), team.size());
    let mut answers = Vec::new();
    let mut failed = None;
    while let Some(batch) = batches.next_batch() {
        let (photos, inputs) = batch.into_iter().unzip();
        match answer(photos, inputs).await {
            Ok(mut answer) => {
                let indices = answer.photos().iter().map(|photo| photo.idx).collect();
                answers.push((batches.first(), answer, indices));
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
        tick(unit, batches.position(), total);
    }
    // The others wait for this process, whether it failed or not.
    let message = match &failed {
        None => Ok(Message { notes: batches.take_notes(), answers }),
        Some(error) => Err(error.to_string()),
    };
    let own = serde_json::to_vec(&message).expect("plain structs serialize");
    let all = team.gather(&own).map_err(EvalError::Team)?;
    if let Some(error) = failed {
        return Err(error);
    }
    let mut answers = Vec::new();
    for (rank, bytes) in all.iter().enumerate() {
        if team.rank() > 0 && !bytes.starts_with(br#"{"Err""#) {
            continue;
        }
        let message: Result<Message<A>, String> =
            serde_json::from_slice(bytes).map_err(|error| EvalError::OtherProcess {
                rank,
                why: format!("its answers cannot be read ({error})"),
            })?;
        let message = message.map_err(|why| EvalError::OtherProcess { rank, why })?;
        batches.add_notes(message.notes);
        answers.extend(message.answers);
    }
    if team.rank() > 0 {
        return Ok(None);
    }
    answers.sort_by_key(|(first, ..)| *first);
    for (_, mut answer, indices) in answers {
        answer.photos().into_iter().zip(indices).for_each(|(photo, idx)| photo.idx = idx);
        take(answer)?;
    }
    Ok(Some(batches.into_summary()))
}

/// Floats as their bits: JSON has no NaN.
pub(super) mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(values: &[f32], to: S) -> Result<S::Ok, S::Error> {
        values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<f32>, D::Error> {
        Ok(Vec::<u32>::deserialize(from)?.into_iter().map(f32::from_bits).collect())
    }
}
