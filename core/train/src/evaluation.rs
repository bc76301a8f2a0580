//! Scores the model in training on held-out photos. The ranks share the photos, and rank 0 gets the
//! scores: the same as one rank computes.

use std::error::Error;

use mmgem_collective::Collective;
use mmgem_core::generate::Decoding;
use mmgem_core::model::Stage;
use mmgem_core::session::Session;
use mmgem_data::benchmark::{Benchmark, BenchmarkFiles};
use mmgem_eval::metrics::ranking::Ties;
use mmgem_eval::run::{
    Encoder, EvalError, RetrievalOptions, Team, captions_in_team, regions_in_team,
    retrieval_in_team,
};
use serde_json::{Value, json};

use super::config::{EvalConfig, Recipe};
use super::run::{TrainError, agree};

/// The ranks of a training run, which evaluate together.
struct Ranks<'a>(&'a dyn Collective);

impl Team for Ranks<'_> {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, Box<dyn Error + Send + Sync>> {
        Ok(self.0.exchange(own)?)
    }
}

/// The scores that matter for a recipe, on held-out photos; `None` on all but rank 0. Every rank
/// calls it.
pub fn evaluate(
    session: &Session,
    recipe: Recipe,
    eval: &EvalConfig,
    group: &dyn Collective,
) -> Result<Option<Value>, TrainError> {
    let files = BenchmarkFiles { data: eval.shards.clone(), ..Default::default() };
    let opened = Benchmark::open(&files).map_err(EvalError::from).map_err(TrainError::from);
    let mut held_out = agree(group, opened)?;
    held_out.truncate(eval.limit);
    let scores = pollster::block_on(scores(session, recipe, &held_out, &Ranks(group)))?;
    Ok(scores)
}

async fn scores(
    session: &Session,
    recipe: Recipe,
    held_out: &Benchmark,
    team: &dyn Team,
) -> Result<Option<Value>, EvalError> {
    let tick = &mut |_: &'static str, _, _| {};
    let decoding = Decoding::default();
    let to_value = |scores: serde_json::Result<Value>| scores.expect("plain structs serialise");
    match recipe {
        Recipe::Warmup => Ok((team.rank() == 0).then(|| json!({}))),
        Recipe::Stage1 => {
            let options = RetrievalOptions {
                ties: Ties::Against,
                captions_per_photo: None,
                memory_bytes: usize::MAX,
            };
            let encoder = Encoder::MmGem(session);
            // Rank 0 alone may fail to score. The other ranks go on to the captions, so it does too.
            let ranked = retrieval_in_team(&encoder, held_out, options, team, tick).await;
            let captioned = captions_in_team(session, held_out, decoding, team, tick).await;
            let (Some(ranked), Some(captioned)) = (ranked?, captioned?) else { return Ok(None) };
            let mut scores = to_value(serde_json::to_value(ranked.scores));
            scores["cider"] = json!(captioned.scores.cider);
            scores["example"] = json!(captioned.candidates.first());
            Ok(Some(scores))
        }
        Recipe::Stage2Caption | Recipe::Stage2Retrieval => {
            let stages = &[Stage::Two];
            let runs =
                regions_in_team(session, held_out, stages, None, decoding, team, tick).await?;
            Ok(runs.map(|runs| to_value(serde_json::to_value(&runs[0].scores))))
        }
    }
}
