//! The evaluation of a run, shared out over the ranks.

use std::error::Error;

use burn::tensor::Device;
use mmgem_collective::{Collective, Tcp};
use mmgem_core::generate::Decoding;
use mmgem_core::model::Stage;
use mmgem_core::session::Session;
use mmgem_data::benchmark::{Benchmark, BenchmarkFiles, ReadSummary};
use mmgem_data::webdataset::Sample;
use mmgem_eval::metrics::ranking::Ties;
use mmgem_eval::run::{
    Alone, Encoder, EvalError, RetrievalOptions, Team, captions_in_team, regions_in_team,
    retrieval_in_team,
};
use serde_json::{Value, json};

use crate::lab::{Lab, PATIENCE, finish, on_ranks, run_as, timeless_metrics};
use crate::tiny;

/// Three batches of 32 photos, one of which cannot be read.
const N_PHOTOS: usize = 80;
const DAMAGED: usize = 40;

fn held_out() -> (Lab, Benchmark) {
    let photo = |index: usize| {
        let mut sample = tiny::sample(index % tiny::N_SCENES as usize);
        sample.key = format!("photo{index:03}");
        if index == DAMAGED {
            sample.parts[0].1.truncate(20);
        }
        sample
    };
    let lab = Lab::with(&(0..N_PHOTOS).map(photo).collect::<Vec<Sample>>());
    let data = vec![lab.path("scenes.tar").display().to_string()];
    let benchmark = Benchmark::open(&BenchmarkFiles { data, ..Default::default() });
    (lab, benchmark.expect("a shard"))
}

/// Ranks as a team. `spoiled` sends this message instead of its answers.
struct Ranks<'a> {
    group: &'a Tcp,
    spoiled: Option<(usize, &'static str)>,
}

impl Team for Ranks<'_> {
    fn rank(&self) -> usize {
        self.group.rank()
    }

    fn size(&self) -> usize {
        self.group.size()
    }

    fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, Box<dyn Error + Send + Sync>> {
        let spoiled = self.spoiled.filter(|(rank, _)| *rank == self.rank());
        Ok(self.group.exchange(spoiled.map_or(own, |(_, message)| message.as_bytes()))?)
    }
}

/// All that three evaluations find; `None` on all but the first rank.
fn evaluate(benchmark: &Benchmark, team: &dyn Team) -> Result<Option<Value>, EvalError> {
    let model = tiny::model();
    let session = Session::new(model.config, model.model, model.tokenizer, &Device::flex());
    let (tick, decoding) = (&mut |_: &'static str, _, _| {}, Decoding::default());
    let options =
        RetrievalOptions { ties: Ties::Against, captions_per_photo: None, memory_bytes: 1 << 30 };
    let summary = |read: &ReadSummary| json!([read.n_photos, read.skipped, read.data_hash]);
    pollster::block_on(async {
        let encoder = Encoder::MmGem(&session);
        let ranked = retrieval_in_team(&encoder, benchmark, options, team, tick).await;
        let captioned = captions_in_team(&session, benchmark, decoding, team, tick).await;
        let stages = &[Stage::One, Stage::Two];
        let of_regions =
            regions_in_team(&session, benchmark, stages, None, decoding, team, tick).await;
        let (Some(ranked), Some(captioned), Some(of_regions)) = (ranked?, captioned?, of_regions?)
        else {
            return Ok(None);
        };
        let regions = of_regions.iter().map(|run| {
            let captions: Vec<&str> = run.cases.iter().map(|case| case.caption.as_str()).collect();
            json!([run.scores, captions, format!("{:?}", run.dense)])
        });
        Ok(Some(json!({
            "retrieval": ranked.scores,
            "photos": ranked.photos.iter().map(|photo| (&photo.id, photo.idx)).collect::<Vec<_>>(),
            "cider": captioned.scores.cider,
            "captions": captioned.candidates,
            "regions": regions.collect::<Vec<_>>(),
            "read": [
                summary(&ranked.summary),
                summary(&captioned.summary),
                summary(&of_regions[0].summary)
            ],
        })))
    })
}

#[test]
fn ranks_find_what_one_process_does_bit_for_bit() {
    let (_lab, benchmark) = held_out();
    let wanted = evaluate(&benchmark, &Alone).expect("it can be scored");
    let wanted = wanted.expect("one process has the scores");
    assert_eq!(wanted["read"][0][0], N_PHOTOS - 1);
    assert!(wanted["read"][0][1][0].as_str().is_some_and(|skipped| skipped.contains("photo040")));
    for n_ranks in [2, 3, 5] {
        let found = on_ranks(n_ranks, PATIENCE, |group| {
            evaluate(&benchmark, &Ranks { group, spoiled: None }).expect("it can be scored")
        });
        let (first, others) = found.split_first().expect("some ranks");
        assert_eq!(first.as_ref(), Some(&wanted), "{n_ranks} ranks");
        assert!(others.iter().all(Option::is_none));
    }
}

#[test]
fn a_rank_whose_evaluation_fails_is_named_by_all_others() {
    let (_lab, benchmark) = held_out();
    let errors = on_ranks(3, PATIENCE, |group| {
        let team = Ranks { group, spoiled: Some((1, r#"{"Err":"out of memory"}"#)) };
        evaluate(&benchmark, &team).expect_err("a rank failed").to_string()
    });
    for error in errors {
        assert!(error.contains("process 1 of the evaluation failed: out of memory"), "{error}");
    }
}

#[test]
fn a_run_on_two_ranks_has_the_scores_of_one_process() {
    let lab = Lab::new();
    let eval = "eval={ shards = ['LAB/scenes.tar'], every = 3 }";
    for recipe in ["stage1", "stage2_caption"] {
        let set = |workers: usize| {
            let recipe = format!("recipe={recipe}");
            let workers = format!("optim.workers={workers}");
            let from = "model={ from = 'LAB/start' }";
            [&recipe, eval, &workers, from].map(str::to_owned)
        };
        let config = |out: &str, workers: usize| {
            let set = set(workers);
            lab.config(&format!("{recipe}-{out}"), &set.each_ref().map(String::as_str))
        };
        let (one, two) = (config("one", 2), config("two", 1));
        finish(&one, false);
        on_ranks(2, PATIENCE, |group| {
            run_as(&two, false, usize::MAX, group).unwrap_or_else(|error| panic!("{error}"));
        });
        let scores = |config| {
            let mut lines = timeless_metrics(config);
            lines.retain(|line| line.get("eval").is_some());
            lines
        };
        assert_eq!(scores(&one).len(), 2);
        assert_eq!(scores(&one), scores(&two));
    }
}
