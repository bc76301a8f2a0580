//! `mmgem eval`: scores of a model on benchmarks and held-out photos.

mod baseline;
mod cases;
mod compare;
mod data;
mod record;
pub mod score;
mod scorers;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use mmgem_core::generate::Decoding;
use mmgem_core::model::Stage;
use mmgem_data::benchmark::Benchmark;
use mmgem_data::benchmark::LongText;
use mmgem_data::benchmark::classes::{ClassSet, open_elevater};
use mmgem_data::files::{read, write_atomic};
use mmgem_eval::metrics::bootstrap::Measures;
use mmgem_eval::metrics::dense::dense_scores;
use mmgem_eval::metrics::ranking::Ties;
use mmgem_eval::run::{
    ClassRun, Encoder, Proposals, RegionCase, RegionRun, RetrievalOptions, RetrievalRun, captions,
    clicks, regions, retrieval, unscored_captions, zero_shot,
};
use pollster::block_on;
use serde_json::{Map, Value, json};

use self::baseline::BaselineArgs;
use self::data::{Data, Progress, named, note_skipped};
use self::record::{Outputs, Record};
use self::score::ScoreArgs;
use self::scorers::Scorers;
use crate::context::Context;
use crate::globals::{Globals, WrongArguments};
use crate::model::ModelFiles;
use crate::report::evaluation::{Page, STAGE_1};
use crate::terminal::note;

/// Arguments of `mmgem eval`.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    mmgem eval retrieval --data 'data/scenes/*.tar'\n  \
    mmgem eval retrieval --data dataset_coco.json --images coco/ --save coco.json\n  \
    mmgem eval zero-shot --elevater icinw/\n  \
    mmgem eval caption --data nocaps_val_4500_captions.json --images nocaps/ --beam 5 --out captions.json\n  \
    mmgem eval region --data flickr30k_entities/ --images flickr30k-images/\n  \
    mmgem eval region --data refcocog/ --images train2014/ --stage both --meteor --report r.html\n  \
    mmgem eval region --data coco-clicks.tar --click\n  \
    mmgem eval long-text --data docci/ --text-len 200\n  \
    mmgem eval score --references captions_val2017.json --candidates results.json\n  \
    mmgem eval compare before.json after.json\n\n\
    --data takes WebDataset shards, or a benchmark as its authors publish it. `mmgem eval COMMAND \
    --help` lists the benchmarks of each command and their files.")]
pub struct EvalArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Rank captions by photo and photos by caption: COCO, Flickr30k (Karpathy's JSON), shards
    Retrieval(RetrievalArgs),
    /// Classify photos by class names: a folder per class, shards, CIFAR, ELEVATER's 20 sets
    ZeroShot(ZeroShotArgs),
    /// Compare captions of whole photos with people's: COCO, NoCaps, Flickr30k, shards
    Caption(CaptionArgs),
    /// Find and describe boxes: Visual Genome, Flickr30k Entities, RefCOCOg, shards
    Region(RegionArgs),
    /// Rank photos and long descriptions: DCI, IIW, DOCCI
    LongText(LongTextArgs),
    /// Score captions in files, without a model: BLEU, ROUGE-L, CIDEr
    Score(ScoreArgs),
    /// Compare two saved runs on the same photos, with intervals
    Compare(compare::CompareArgs),
}

impl EvalArgs {
    /// `mmgem eval score` with these arguments.
    pub fn score(args: ScoreArgs) -> Self {
        Self { what: What::Score(args) }
    }
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "--data is one of\n  \
    'DIR/*.tar'             WebDataset shards: a photo and a .json with \"captions\"\n  \
    dataset_coco.json       Karpathy's COCO, photos in train2014/ and val2014/ beside it or below\n                          \
    --images\n  \
    dataset_flickr30k.json  Karpathy's Flickr30k, photos in flickr30k-images/ beside it or in --images\n  \
    captions_val2017.json   COCO's own captions, photos in val2017/ beside it or in --images")]
struct RetrievalArgs {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    outputs: Outputs,
    /// Order of a wrong answer with the same score as the right one
    #[arg(long, value_enum, default_value_t = TiesArg::Against)]
    ties: TiesArg,
    /// Use only the first N captions of each photo
    #[arg(long, value_name = "N")]
    captions: Option<usize>,
    #[command(flatten)]
    baseline: BaselineArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TiesArg {
    /// The wrong answer ranks first
    Against,
    /// The earlier one in the data ranks first, as in open_clip's metric with a stable sort
    Index,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "--data is one of\n  \
    DIR          a folder of photos for each class; classes.txt and templates.txt in DIR\n               \
    override the names of the folders\n  \
    'DIR/*.tar'  shards: a photo and a .json with \"class\", or a .cls with classnames.txt\n               \
    beside the shards\n  \
    DIR          CIFAR's binary version: test_batch.bin and batches.meta.txt, or test.bin and\n               \
    fine_label_names.txt\n\n\
    --elevater takes a folder with any of ELEVATER's 20 sets, as its toolkit downloads them. A set \
    is, for example, classification/dtd_20211007/ with test.txt, labels.txt and test.zip, zipped \
    or unpacked. Missing sets are listed and not part of the mean.")]
struct ZeroShotArgs {
    /// A folder per class, CIFAR's binary folder, or shards with classes
    #[arg(long, required_unless_present = "elevater", value_name = "PATH")]
    data: Vec<String>,
    /// Folder with any of ELEVATER's 20 sets (ICinW)
    #[arg(long, value_name = "DIR", conflicts_with = "data")]
    elevater: Option<PathBuf>,
    /// File of class names for the prompts, one per line
    ///
    /// The lines are in the order of the classes. `|` separates synonyms.
    #[arg(long, value_name = "FILE", conflicts_with = "elevater")]
    classes: Option<PathBuf>,
    /// File of prompt templates with {} for the class, one per line
    #[arg(long, value_name = "FILE", conflicts_with = "elevater")]
    templates: Option<PathBuf>,
    /// Use only the first N photos
    ///
    /// With --elevater, of each set.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    outputs: Outputs,
    #[command(flatten)]
    baseline: BaselineArgs,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "--data is one of\n  \
    'DIR/*.tar'                    WebDataset shards: a photo and a .json with \"captions\"\n  \
    dataset_coco.json              Karpathy's COCO or Flickr30k (by default --split test)\n  \
    nocaps_val_4500_captions.json  NoCaps, scored by domain, or COCO's captions_*.json\n  \
    image_info_test2014.json       a server's test photos, without captions: needs --out,\n                                 \
    prints no scores\n\n\
    Photos are beside the file or below --images.")]
struct CaptionArgs {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    outputs: Outputs,
    #[command(flatten)]
    decoding: DecodingArgs,
    #[command(flatten)]
    scorers: Scorers,
    /// JSON file of captions to write, in the format of the COCO and NoCaps servers
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ClapArgs)]
struct DecodingArgs {
    /// Beam width; 1 is greedy decoding
    #[arg(long, default_value_t = 1)]
    beam: usize,
    /// Length penalty of --beam: the score is the log probability divided by length^A
    ///
    /// 1 is the mean over the tokens; 0 prefers short captions.
    #[arg(long, default_value_t = 1.0, value_name = "A")]
    length_penalty: f32,
    /// Maximum number of tokens of a caption
    #[arg(long, default_value_t = Decoding::default().max_tokens, value_name = "N")]
    max_tokens: usize,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "--data is one of\n  \
    'DIR/*.tar'                  WebDataset shards: a photo and a .json with\n                               \
    \"regions\": [{\"box\", \"phrases\", \"n_boxes\"}]\n  \
    DIR                          Visual Genome: region_descriptions.json, VG_100K/, VG_100K_2/,\n                               \
    densecap_splits.json\n  \
    DIR                          Flickr30k Entities: Sentences/, Annotations/, test.txt,\n                               \
    flickr30k-images/\n  \
    refcocog/                    refer's RefCOCOg: instances.json and refs(umd).json; the error for\n                               \
    refs(umd).p, a pickle, has the command that converts it\n  \
    finetune_refcocog_val.json   MDETR's RefCOCOg\n  \
    refcocog.jsonl               RefCOCOg from Hugging Face, one JSON object per line:\n                               \
    file_name or image_path, bbox [x, y, width, height], captions,\n                               \
    answer or sentences\n\n\
    RefCOCOg's photos are COCO's train2014, beside it or below --images. Its usual split is val. \
    The caption of a box is scored against all expressions of the box: region_cider and, with \
    --meteor, region_meteor.")]
struct RegionArgs {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    outputs: Outputs,
    #[command(flatten)]
    decoding: DecodingArgs,
    #[command(flatten)]
    scorers: Scorers,
    /// Stage of the model for boxes: 2 with the region head and prompts, 1 without, or both
    #[arg(long, value_enum, default_value_t = StageArg::Two)]
    stage: StageArg,
    /// JSON file of boxes for dense captioning [default: the true boxes]
    ///
    /// Its format is {"PHOTO ID": [[x0,y0,x1,y1,score], ..]}.
    #[arg(long, value_name = "FILE")]
    proposals: Option<PathBuf>,
    /// Score the boxes that the model proposes at a click on each object
    ///
    /// An object has one box, which covers at least 4 % of the photo, and is not a person.
    #[arg(long, conflicts_with_all = ["stage", "proposals"])]
    click: bool,
    /// JSON file of the box captions to write; with --click, of the proposed boxes
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum StageArg {
    #[value(name = "1")]
    One,
    #[value(name = "2")]
    Two,
    Both,
}

#[derive(Debug, ClapArgs)]
#[command(after_help = "--data is one of\n  \
    DIR          DCI: annotations/*.json, photos/, with --split also splits.json\n  \
    DIR          DOCCI: docci_descriptions.jsonlines, images/\n  \
    DIR          IIW: data.jsonl, photos as KEY.jpg in images/ or in --images\n  \
    'DIR/*.tar'  WebDataset shards: a photo and a .json with \"captions\"; the first one is used")]
struct LongTextArgs {
    #[command(flatten)]
    data: Data,
    #[command(flatten)]
    outputs: Outputs,
    /// DCI: the text of a photo
    ///
    /// The paper does not describe its L-DCI. LoTLIP uses short-extra of all photos, FG-CLIP uses
    /// extra. --split test selects the authors' 112 photos.
    #[arg(long, value_enum, default_value_t = LongTextArg::ShortExtra)]
    text: LongTextArg,
    /// Maximum number of tokens of a text, including its special token (the paper: 200)
    #[arg(long, default_value_t = 200, value_name = "N")]
    text_len: usize,
    #[command(flatten)]
    baseline: BaselineArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LongTextArg {
    ShortExtra,
    Extra,
    Short,
}

/// Computes, prints and writes the scores.
pub fn run(args: &EvalArgs, globals: &Globals) -> Result<()> {
    args.what.spare_inputs(globals)?;
    match &args.what {
        What::Retrieval(args) => run_retrieval(args, &open(globals, None)?),
        What::ZeroShot(args) => run_zero_shot(args, &open(globals, None)?),
        What::Caption(args) => run_caption(args, &open(globals, None)?),
        What::Region(args) if args.click => run_clicks(args, &open(globals, None)?),
        What::Region(args) => run_region(args, &open(globals, None)?),
        What::LongText(args) => run_long_text(args, &open(globals, Some(args.text_len))?),
        What::Score(args) => score::run(args, globals),
        What::Compare(args) => compare::run(args, globals),
    }
}

impl What {
    /// Rejects outputs that would overwrite an input, before anything is opened.
    fn spare_inputs(&self, globals: &Globals) -> Result<()> {
        match self {
            Self::Retrieval(args) => args.outputs.spare(None, &args.data.inputs(), globals),
            Self::ZeroShot(args) => {
                let files =
                    [&args.elevater, &args.classes, &args.templates].into_iter().flatten().cloned();
                let inputs: Vec<PathBuf> = named(&args.data).into_iter().chain(files).collect();
                args.outputs.spare(None, &inputs, globals)
            }
            Self::Caption(args) => {
                args.outputs.spare(args.out.as_ref(), &args.data.inputs(), globals)
            }
            Self::Region(args) => {
                let inputs: Vec<PathBuf> =
                    args.data.inputs().into_iter().chain(args.proposals.clone()).collect();
                args.outputs.spare(args.out.as_ref(), &inputs, globals)
            }
            Self::LongText(args) => args.outputs.spare(None, &args.data.inputs(), globals),
            Self::Score(_) | Self::Compare(_) => Ok(()),
        }
    }
}

/// Opens the model, with `text_len` as the maximum text length if given.
fn open(globals: &Globals, text_len: Option<usize>) -> Result<Context> {
    let Some(text_len) = text_len else { return globals.open() };
    let mut files = ModelFiles::read(globals.model.as_deref())?;
    // A record names the model's own files.
    let fingerprint = files.fingerprint();
    files.set_max_text_len(text_len)?;
    Ok(Context { fingerprint, ..globals.open_files(files)? })
}

const CAPTION_MEMORY_BYTES: usize = 2 << 30;

fn run_retrieval(args: &RetrievalArgs, context: &Context) -> Result<()> {
    let (ties, said) = match args.ties {
        TiesArg::Against => (Ties::Against, "a tie counts against"),
        TiesArg::Index => (Ties::ByIndex, "of equals the first in the data wins"),
    };
    let options = RetrievalOptions {
        ties,
        captions_per_photo: args.captions,
        memory_bytes: CAPTION_MEMORY_BYTES,
    };
    let of_each =
        args.captions.map_or("every caption".into(), |n| format!("the first {n} captions"));
    let protocol = format!("every photo against {of_each} of all photos, both ways; {said}");
    let benchmark = args.data.open(LongText::default())?;
    let ranking = Ranking { benchmark, options, task: "retrieval", protocol };
    ranking.run(&args.outputs, &args.baseline, context)
}

fn run_long_text(args: &LongTextArgs, context: &Context) -> Result<()> {
    let long_text = match args.text {
        LongTextArg::ShortExtra => LongText::ShortAndExtra,
        LongTextArg::Extra => LongText::Extra,
        LongTextArg::Short => LongText::Short,
    };
    let options = RetrievalOptions {
        ties: Ties::Against,
        captions_per_photo: Some(1),
        memory_bytes: CAPTION_MEMORY_BYTES,
    };
    let protocol = format!(
        "every photo against the long text of all photos, both ways; at most {} tokens; a tie counts against",
        args.text_len
    );
    let benchmark = args.data.open(long_text)?.with_long_texts();
    let ranking = Ranking { benchmark, options, task: "long-text", protocol };
    ranking.run(&args.outputs, &args.baseline, context)
}

/// The photos and texts to rank, and the protocol.
struct Ranking {
    benchmark: Benchmark,
    options: RetrievalOptions,
    task: &'static str,
    protocol: String,
}

impl Ranking {
    fn run(&self, outputs: &Outputs, baseline: &BaselineArgs, context: &Context) -> Result<()> {
        outputs.check(None)?;
        let baseline = baseline.open(context)?;
        let (mut record, run) = self.record(&Encoder::MmGem(&context.session), context)?;
        note_skipped(&run.summary, context)?;
        let page = match outputs.wants_page() {
            true => cases::of_retrieval(&run, &self.benchmark, &context.session)?,
            false => Page::default(),
        };
        if let Some(baseline) = baseline {
            let (of_baseline, _) = self.record(&Encoder::OpenClip(&baseline.model), context)?;
            record.add_baseline(&baseline.sign(of_baseline))?;
        }
        record.publish(outputs, &page, context)
    }

    fn record(&self, encoder: &Encoder<'_>, context: &Context) -> Result<(Record, RetrievalRun)> {
        let mut progress = Progress::new(context.quiet);
        let tick = &mut |what: &'static str, n, all| progress.tick(what, n, all);
        let run = block_on(retrieval(encoder, &self.benchmark, self.options, tick))?;
        progress.finish();
        let mut record = Record::new(
            self.task,
            &self.benchmark.name,
            self.protocol.clone(),
            &run.summary,
            context,
        );
        record.add_scores(&run.scores)?;
        record.measures = run.measures.clone();
        Ok((record, run))
    }
}

fn run_zero_shot(args: &ZeroShotArgs, context: &Context) -> Result<()> {
    args.outputs.check(None)?;
    let baseline = args.baseline.open(context)?;
    let (sets, missing) = match &args.elevater {
        Some(root) => open_elevater(root)?,
        None => (vec![open_class_set(args)?], Vec::new()),
    };
    sets.iter().flat_map(|set| &set.notes).for_each(|words| note(context.quiet, words));
    let missing = args.elevater.as_ref().map(|_| missing.as_slice());
    let runs = class_runs(&Encoder::MmGem(&context.session), &sets, args.limit, context)?;
    for run in &runs {
        note_skipped(&run.summary, context)?;
    }
    let page = match args.outputs.wants_page() {
        true => cases::of_classes(&runs, &sets)?,
        false => Page::default(),
    };
    let mut record = class_record(&runs, &sets, missing, context)?;
    if let Some(baseline) = baseline {
        let runs = class_runs(&Encoder::OpenClip(&baseline.model), &sets, args.limit, context)?;
        record.add_baseline(&baseline.sign(class_record(&runs, &sets, missing, context)?))?;
    }
    record.publish(&args.outputs, &page, context)
}

fn class_runs(
    encoder: &Encoder<'_>,
    sets: &[ClassSet],
    limit: Option<usize>,
    context: &Context,
) -> Result<Vec<ClassRun>> {
    let run = |set: &ClassSet| {
        let mut progress = Progress::new(context.quiet);
        let tick = &mut |what: &'static str, n, all| progress.tick(what, n, all);
        let run = block_on(zero_shot(encoder, set, limit, tick))
            .with_context(|| format!("in {}", set.name))?;
        progress.finish();
        Ok(run)
    };
    sets.iter().map(run).collect()
}

/// The record of one set, or of the available sets of ELEVATER with the names of the `missing`
/// ones.
fn class_record(
    runs: &[ClassRun],
    sets: &[ClassSet],
    missing: Option<&[String]>,
    context: &Context,
) -> Result<Record> {
    let protocol =
        "softmax(100 cosine) with class vectors: prompts at unit length, their mean at unit length";
    let summaries: Vec<_> = runs.iter().map(|run| &run.summary).collect();
    let benchmark = match missing {
        Some(_) => format!("ELEVATER ICinW, {} of 20 sets", runs.len()),
        None => sets[0].name.clone(),
    };
    let mut record = Record::of_runs("zero-shot", &benchmark, protocol.into(), &summaries, context);
    match (runs, missing) {
        ([run], None) => {
            record.add_scores(run)?;
            record.measures = run.measures.clone();
        }
        _ => {
            let mean = runs.iter().map(|run| run.score).sum::<f64>() / runs.len() as f64;
            record.scores.insert("mean_over_sets".into(), json!(mean));
            let sets = runs.iter().map(|run| (run.set.as_str(), run.metric, &run.measures));
            record.measures = Measures::of_sets(sets, "mean_over_sets");
            record.scores.insert("n_sets".into(), json!(runs.len()));
            record.scores.insert("missing_sets".into(), json!(missing.unwrap_or_default()));
            record.scores.insert("sets".into(), serde_json::to_value(runs)?);
        }
    }
    Ok(record)
}

fn open_class_set(args: &ZeroShotArgs) -> Result<ClassSet> {
    let mut set = ClassSet::open(&args.data)?;
    if let Some(path) = &args.classes {
        set.read_classes(path)?;
    }
    if let Some(path) = &args.templates {
        set.read_templates(path)?;
    }
    Ok(set)
}

impl DecodingArgs {
    fn decoding(self) -> Result<Decoding> {
        if self.beam == 0 || self.max_tokens == 0 {
            return Err(WrongArguments("--beam and --max-tokens must be at least 1".into()).into());
        }
        let Self { beam, length_penalty, max_tokens } = self;
        Ok(Decoding { max_tokens, beam, length_penalty })
    }

    fn words(self) -> String {
        match self.beam {
            1 => "greedy".into(),
            beam => format!("beam {beam}, length penalty {}", self.length_penalty),
        }
    }
}

fn run_caption(args: &CaptionArgs, context: &Context) -> Result<()> {
    args.outputs.check(args.out.as_ref())?;
    let benchmark = args.data.open(LongText::default())?;
    let decoding = args.decoding.decoding()?;
    if !benchmark.may_have_captions() {
        return run_unscored(args, &benchmark, decoding, context);
    }
    args.scorers.check()?;
    let mut progress = Progress::new(context.quiet);
    let tick = &mut |what: &'static str, n, all| progress.tick(what, n, all);
    let run = block_on(captions(&context.session, &benchmark, decoding, tick))?;
    progress.finish();
    note_skipped(&run.summary, context)?;
    if let Some(path) = &args.out {
        write_for_server(path, run.measures.ids.iter().zip(&run.candidates))?;
    }
    let page = match args.outputs.wants_page() {
        true => cases::of_captions(&run, &benchmark)?,
        false => Page::default(),
    };
    let protocol = format!(
        "one caption a photo against all of its own, PTB tokens, as pycocoevalcap scores (CIDEr in 0..10); {}",
        args.decoding.words()
    );
    let mut record = Record::new("caption", &benchmark.name, protocol, &run.summary, context);
    record.add_scores(&run.scores)?;
    record.scores.insert("n_images".into(), json!(run.candidates.len()));
    record.measures = run.measures;
    for (name, values) in args.scorers.score(&run.candidates, &run.references)? {
        record.scores.insert(name.into(), json!(values.mean));
        record.measures.add_mean(name, values.each);
    }
    for (domain, scores) in &run.domains {
        record.scores.insert(domain.replace('-', "_"), serde_json::to_value(scores)?);
    }
    record.publish(&args.outputs, &page, context)
}

/// Writes captions of photos without references, for a server that scores them.
fn run_unscored(
    args: &CaptionArgs,
    benchmark: &Benchmark,
    decoding: Decoding,
    context: &Context,
) -> Result<()> {
    let path = args.out.as_ref().context(
        "the photos have no captions, so there is nothing to score\n  hint: --out FILE writes the model's captions in the format of the COCO and NoCaps servers",
    )?;
    let mut progress = Progress::new(context.quiet);
    let tick = &mut |what: &'static str, n, all| progress.tick(what, n, all);
    let (captions, summary) =
        block_on(unscored_captions(&context.session, benchmark, decoding, tick))?;
    progress.finish();
    note_skipped(&summary, context)?;
    write_for_server(path, captions.iter().map(|(id, caption)| (id, caption)))?;
    let protocol = format!("captions for a server, not scored; {}", args.decoding.words());
    let mut record = Record::new("caption", &benchmark.name, protocol, &summary, context);
    record.scores.insert("n_images".into(), json!(captions.len()));
    record.publish(&args.outputs, &Page::default(), context)
}

fn write_for_server<'a>(
    path: &Path,
    captions: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<()> {
    let results: Vec<Value> = captions.map(server_entry).collect();
    Ok(write_atomic(path, &serde_json::to_vec_pretty(&results)?)?)
}

/// A caption in a server's format. Numeric ids become JSON numbers.
fn server_entry((id, caption): (&String, &String)) -> Value {
    let number = id.parse::<u64>().ok().filter(|number| number.to_string() == *id);
    json!({ "image_id": number.map_or_else(|| json!(id), |number| json!(number)), "caption": caption })
}

fn run_region(args: &RegionArgs, context: &Context) -> Result<()> {
    args.outputs.check(args.out.as_ref())?;
    let benchmark = args.data.open(LongText::default())?;
    args.scorers.check()?;
    let proposals = args.proposals.as_deref().map(read_proposals).transpose()?;
    let decoding = args.decoding.decoding()?;
    let stages: &[Stage] = match args.stage {
        StageArg::One => &[Stage::One],
        StageArg::Two => &[Stage::Two],
        StageArg::Both => &[Stage::Two, Stage::One],
    };
    let asked = if benchmark.every_phrase { "every phrase" } else { "the first phrase" };
    let protocol = format!(
        "regions that one box describes; {asked} against the boxes of all photos (region_text_to_region) or of its \
         own (in_photo); pointing: the most similar patch lies in the box; captions against the phrases, {}",
        args.decoding.words()
    );
    let mut progress = Progress::new(context.quiet);
    let tick = &mut |what: &'static str, n, all| progress.tick(what, n, all);
    let runs = block_on(regions(
        &context.session,
        &benchmark,
        stages,
        proposals.as_ref(),
        decoding,
        tick,
    ))?;
    progress.finish();
    let runs: Vec<(Stage, RegionRun)> = stages.iter().copied().zip(runs).collect();
    let (_, lead) = &runs[0];
    note_skipped(&lead.summary, context)?;
    if let Some(path) = &args.out {
        write_atomic(path, &serde_json::to_vec_pretty(&said_of_boxes(&runs))?)?;
    }
    let page = match args.outputs.wants_page() {
        true => cases::of_regions(&runs, &benchmark, &context.session)?,
        false => Page::default(),
    };
    let mut record = Record::new("region", &benchmark.name, protocol, &lead.summary, context);
    record.measures.ids.clone_from(&lead.measures.ids);
    for ((_, run), prefix) in runs.iter().zip(["", STAGE_1]) {
        let (scores, measures) = region_scores(run, &args.scorers, proposals.is_some())?;
        record
            .scores
            .extend(scores.into_iter().map(|(name, score)| (format!("{prefix}{name}"), score)));
        let measures = measures.measures.into_iter();
        record.measures.measures.extend(measures.map(|(name, m)| (format!("{prefix}{name}"), m)));
    }
    record.publish(&args.outputs, &page, context)
}

fn run_clicks(args: &RegionArgs, context: &Context) -> Result<()> {
    args.outputs.check(args.out.as_ref())?;
    let benchmark = args.data.open(LongText::default())?;
    let mut progress = Progress::new(context.quiet);
    let tick = &mut |what: &'static str, n, all| progress.tick(what, n, all);
    let run = block_on(clicks(&context.session, &benchmark, tick))?;
    progress.finish();
    note_skipped(&run.summary, context)?;
    if let Some(path) = &args.out {
        write_atomic(path, &serde_json::to_vec_pretty(&run.cases)?)?;
    }
    let protocol = "a click on the centre of each thing (one box, 4 % of its photo or more, no person): the first proposed \
        box has IoU >= 0.5 with the thing's; off_center: clicks at 30 % and 70 % of the thing's sides; fixed_box: a \
        box of 75 % x 70 % of the photo around the click instead";
    let mut record = Record::new("region", &benchmark.name, protocol.into(), &run.summary, context);
    record.add_scores(&run.scores)?;
    record.measures = run.measures;
    record.publish(&args.outputs, &Page::default(), context)
}

/// The scores of a stage, including METEOR and SPICE and those of dense captioning.
fn region_scores(
    run: &RegionRun,
    scorers: &Scorers,
    has_proposals: bool,
) -> Result<(Map<String, Value>, Measures)> {
    let (mut scores, mut measures) = (to_object(&run.scores)?, run.measures.clone());
    let of_regions: Vec<&str> = run.cases.iter().map(|case| case.caption.as_str()).collect();
    let references: Vec<Vec<String>> = run.cases.iter().map(|case| case.phrases.clone()).collect();
    for (name, values) in scorers.score(&of_regions, &references)? {
        let photo_of: Vec<usize> = run.cases.iter().map(|case| case.photo_idx).collect();
        scores.insert(format!("region_{name}"), json!(values.mean));
        measures.add_mean_of_parts(&format!("region_{name}"), &photo_of, values.each);
    }
    let (matched, n_true) = &run.dense;
    let meteors = scorers.meteor_of(matched)?;
    let dense = dense_scores(matched, meteors.as_deref(), *n_true);
    // With the true boxes as input, a detection score has no meaning.
    scores.insert("detection_map".into(), json!(has_proposals.then_some(dense.detection_map)));
    scores.insert("dense_captioning_map".into(), json!(dense.dense_captioning_map));
    Ok((scores, measures))
}

/// The caption of each box, by each stage.
fn said_of_boxes(runs: &[(Stage, RegionRun)]) -> Vec<Value> {
    let (_, lead) = &runs[0];
    let said = |(idx, case): (usize, &RegionCase)| {
        let mut entry = json!({
            "image_id": lead.photos[case.photo_idx].id, "box": case.box_px,
            "caption": case.caption, "phrases": case.phrases, "cider": case.cider,
        });
        for (_, other) in &runs[1..] {
            let other = &other.cases[idx];
            entry[format!("{STAGE_1}caption")] = json!(other.caption);
            entry[format!("{STAGE_1}cider")] = json!(other.cider);
        }
        entry
    };
    lead.cases.iter().enumerate().map(said).collect()
}

fn to_object(scores: &impl serde::Serialize) -> Result<Map<String, Value>> {
    match serde_json::to_value(scores)? {
        Value::Object(object) => Ok(object),
        other => anyhow::bail!("scores are an object, not {other}"),
    }
}

fn read_proposals(path: &Path) -> Result<Proposals> {
    let wanted = || {
        format!(
            "cannot use the proposals; wanted {{\"PHOTO ID\": [[x0, y0, x1, y1, score], ..]}}\n  file: {}",
            path.display()
        )
    };
    let boxes: HashMap<String, Vec<[f64; 5]>> =
        serde_json::from_slice(&read(path)?).with_context(wanted)?;
    let split =
        |[x0, y0, x1, y1, score]: [f64; 5]| ([x0, y0, x1, y1].map(|corner| corner as f32), score);
    Ok(boxes.into_iter().map(|(id, boxes)| (id, boxes.into_iter().map(split).collect())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_numbers_are_numbers_for_the_server() {
        let entry =
            |id: &str| server_entry((&id.to_owned(), &"a dog".to_owned()))["image_id"].clone();
        assert_eq!(
            [entry("391895"), entry("00012"), entry("a.jpg")],
            [json!(391895), json!("00012"), json!("a.jpg")]
        );
    }
}
