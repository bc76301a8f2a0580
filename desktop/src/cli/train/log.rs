//! The output of `mmgem train` on stderr: a bar in a terminal, otherwise the lines of a log.

use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use mmgem_train::Progress;
use serde_json::Value;

use crate::terminal::{note, progress_bar};

/// Skipped samples that are reported one by one. Later ones are counted.
const SKIPS_IN_WORDS: usize = 20;

/// Prefix of the names of the losses in a record.
const LOSS: &str = "loss_";

/// Prints the progress of one run.
pub struct TrainLog {
    bar: ProgressBar,
    quiet: bool,
    every: Duration,
    /// Time of the last line about a step.
    last_line: Option<Instant>,
    /// Step and time of the first step that this process has finished, for the time left.
    first: Option<(usize, Instant)>,
    /// The score that the bar repeats.
    last_score: String,
    n_skipped: usize,
}

impl TrainLog {
    /// A log of a run of `steps` steps. Without a terminal it has a line about a step every
    /// `every`, and about the first and the last step.
    pub fn new(steps: usize, every: Duration, quiet: bool) -> Self {
        let bar = progress_bar(steps, "steps", quiet);
        let template = "{bar:20} {pos}/{len}  {msg}";
        bar.set_style(ProgressStyle::with_template(template).expect("the template is right"));
        Self {
            bar,
            quiet,
            every,
            last_line: None,
            first: None,
            last_score: String::new(),
            n_skipped: 0,
        }
    }

    /// Shows an event of the run.
    pub fn show(&mut self, progress: Progress) {
        match progress {
            Progress::Note(line) => self.say(&line),
            Progress::Skipped(why) => self.skip(&why),
            Progress::Saved { step, seconds } => {
                self.say(&format!("saved the checkpoint of step {step} in {seconds:.1} s"));
            }
            Progress::Eval(scores) => {
                self.last_score = score_in_short(&scores);
                self.say(&score_table(&scores));
            }
            Progress::Step { step, steps, record } => self.step(step, steps, &record),
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if self.n_skipped > SKIPS_IN_WORDS {
            self.say(&format!("{} samples were skipped", self.n_skipped));
        }
        self.bar.finish_and_clear();
    }

    fn skip(&mut self, why: &str) {
        self.n_skipped += 1;
        if self.n_skipped <= SKIPS_IN_WORDS {
            self.say(&format!("skipped: {why}"));
        }
        if self.n_skipped == SKIPS_IN_WORDS {
            self.say("further skipped samples are counted");
        }
    }

    fn step(&mut self, step: usize, steps: usize, record: &Value) {
        let now = Instant::now();
        let (first, since) = *self.first.get_or_insert((step, now));
        let left = (step > first).then(|| {
            now.duration_since(since).mul_f64((steps - step) as f64 / (step - first) as f64)
        });
        let words = step_in_words(record, left);
        if was_skipped(record) {
            self.say(&format!("step {step} was skipped: its loss or gradient is not finite"));
        }
        self.bar.set_position(step as u64);
        self.bar.set_message(format!("{words}  {}", self.last_score));
        let is_due = self.last_line.is_none_or(|last| now.duration_since(last) >= self.every);
        if self.bar.is_hidden() && (is_due || step == steps) {
            self.last_line = Some(now);
            let skipped = match self.n_skipped {
                0 => String::new(),
                n => format!("  {n} samples skipped"),
            };
            let time = Timestamp::now().strftime("%F %TZ");
            note(self.quiet, format!("{time}  step {step}/{steps}  {words}{skipped}"));
        }
    }

    fn say(&self, line: &str) {
        if self.bar.is_hidden() {
            note(self.quiet, line);
        } else {
            self.bar.println(line);
        }
    }
}

/// Whether a step left the weights unchanged. JSON has `null` for a number that is not finite.
fn was_skipped(record: &Value) -> bool {
    ["loss", "grad_norm"].iter().any(|name| record.get(name).is_some_and(Value::is_null))
}

/// Losses, learning rate, throughput, share of the peak and time left of a step's record.
fn step_in_words(record: &Value, left: Option<Duration>) -> String {
    let number = |name: &str| record[name].as_f64();
    let parts: Vec<String> = record
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.strip_prefix(LOSS)?, value.as_f64()?)))
        .map(|(name, value)| format!("{name} {value:.3}"))
        .collect();
    let mut words = Vec::new();
    words.extend(number("loss").map(|loss| match parts.len() {
        0 | 1 => format!("loss {loss:.3}"),
        _ => format!("loss {loss:.3} ({})", parts.join(", ")),
    }));
    words.extend(number("lr_heads").map(|rate| format!("lr {rate:.1e}")));
    words.extend(number("samples_per_sec").map(|rate| format!("{rate:.1} samples/s")));
    words.extend(number("share_of_peak").map(|share| format!("{:.0} % of peak", 100.0 * share)));
    words.extend(left.map(|left| format!("{} left", HumanDuration(left))));
    words.join("  ")
}

/// The scores of an evaluation, a line each.
fn score_table(scores: &Value) -> String {
    let mut lines = vec![format!("held-out scores after step {}", scores["step"])];
    for (name, value) in
        scores.as_object().into_iter().flatten().filter(|(name, _)| *name != "step")
    {
        let value = match value {
            Value::Number(number) if number.is_f64() => {
                format!("{:.4}", number.as_f64().unwrap_or(f64::NAN))
            }
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        lines.push(format!("  {name:<36} {value}"));
    }
    lines.join("\n")
}

/// The first score of an evaluation that is a share or a measure.
fn score_in_short(scores: &Value) -> String {
    let first = scores
        .as_object()
        .into_iter()
        .flatten()
        .find_map(|(name, value)| Some((name, value.as_f64().filter(|_| value.is_f64())?)));
    first.map_or_else(String::new, |(name, value)| format!("{name} {value:.3}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_step_names_its_losses_rate_and_time_left() {
        let record = json!({
            "step": 5, "loss": 4.5, "loss_emb": 3.25, "loss_gen": 1.25, "lr_heads": 3e-4,
            "samples_per_sec": 148.04, "share_of_peak": 0.384, "tau": 0.07,
        });
        assert_eq!(
            step_in_words(&record, Some(Duration::from_secs(7200))),
            "loss 4.500 (emb 3.250, gen 1.250)  lr 3.0e-4  148.0 samples/s  38 % of peak  2 hours left"
        );
        let one = json!({ "loss": 4.5, "loss_emb": 4.5 });
        assert_eq!(step_in_words(&one, None), "loss 4.500");
    }

    #[test]
    fn a_step_without_an_update_is_recognized() {
        let record = |loss: f64, norm: f64| json!({ "loss": loss, "grad_norm": norm });
        assert!(was_skipped(&record(f64::NAN, 1.0)) && was_skipped(&record(1.0, f64::INFINITY)));
        assert!(!was_skipped(&record(1.0, 1.0)) && !was_skipped(&json!({ "empty_steps": 1 })));
    }

    #[test]
    fn an_evaluation_is_a_table_and_the_bar_repeats_one_score() {
        let scores = json!({
            "step": 100, "n_photos": 50, "text_to_image_recall_at_1": 0.125, "example": "a dog",
        });
        let table = score_table(&scores);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "held-out scores after step 100");
        assert_eq!(lines.len(), 4);
        let cells = |name: &str| -> Vec<&str> {
            let line = lines.iter().find(|line| line.trim_start().starts_with(name));
            line.expect(name).split_whitespace().skip(1).collect()
        };
        assert_eq!(cells("text_to_image_recall_at_1"), ["0.1250"]);
        assert_eq!(cells("example"), ["a", "dog"]);
        assert_eq!(score_in_short(&scores), "text_to_image_recall_at_1 0.125");
    }
}
