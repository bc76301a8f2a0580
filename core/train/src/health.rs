//! Detects a run that has collapsed: its numbers are finite, but it no longer learns.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Variance of unit rows below which they count as equal. It lies far above f32's rounding.
const CONSTANT: f64 = 1e-8;

/// Gradient norm below which nothing learns.
const NO_GRADIENT: f64 = 1e-8;

/// Relative distance from the loss of chance.
const NEAR_CHANCE: f64 = 0.005;

/// A sign that a run does not learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// All images, or all texts, have the same embedding.
    ConstantEmbeddings,
    /// The gradient is zero.
    NoGradient,
    /// The contrastive loss is that of a model that cannot tell pairs apart.
    Chance,
    /// The temperature is at its upper bound, 1.
    TemperatureAtMost,
    /// The temperature is at its lower bound. Large healthy runs stay there, so this ends no run.
    TemperatureAtLeast,
}

impl Sign {
    /// Describes the sign for a message.
    pub fn describe(self) -> &'static str {
        match self {
            Self::ConstantEmbeddings => "all images or all texts have the same embedding",
            Self::NoGradient => "the gradient is zero",
            Self::Chance => "the contrastive loss is that of chance",
            Self::TemperatureAtMost => "the temperature is at its upper bound, 1",
            Self::TemperatureAtLeast => "the temperature is at its lower bound",
        }
    }

    /// Whether the run ends if the sign lasts.
    pub fn ends_run(self) -> bool {
        self != Self::TemperatureAtLeast
    }

    /// Consecutive steps after which it is reported.
    fn patience(self, limits: &Limits) -> usize {
        match self {
            Self::ConstantEmbeddings | Self::NoGradient => 1,
            Self::Chance => limits.chance_steps.max(1),
            Self::TemperatureAtMost | Self::TemperatureAtLeast => limits.max_bad_steps.max(1),
        }
    }
}

/// The config's limits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Steps near the loss of chance after which it is reported; 0 never reports it.
    pub chance_steps: usize,
    /// Steps that a sign may last after its report.
    pub max_bad_steps: usize,
}

/// The numbers of a step that tell whether the run learns.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vitals {
    /// Norm of the whole gradient.
    pub grad_norm: f64,
    /// Variance of the embeddings of images and of texts, if there are several pairs.
    pub spread: Option<[f64; 2]>,
    /// The contrastive loss and its value at chance, after the warm-up.
    pub contrast: Option<[f64; 2]>,
    /// The log of the inverse temperature and its maximum, if it learns. The minimum is 0.
    pub log_scale: Option<[f64; 2]>,
}

impl Vitals {
    fn shows(&self, sign: Sign) -> bool {
        match sign {
            Sign::ConstantEmbeddings => {
                self.spread.is_some_and(|spread| spread.iter().any(|of| *of < CONSTANT))
            }
            Sign::NoGradient => self.grad_norm < NO_GRADIENT,
            Sign::Chance => self
                .contrast
                .is_some_and(|[loss, chance]| (loss - chance).abs() < NEAR_CHANCE * chance),
            Sign::TemperatureAtMost => self.log_scale.is_some_and(|[value, _]| value <= 0.0),
            Sign::TemperatureAtLeast => self.log_scale.is_some_and(|[value, max]| value >= max),
        }
    }
}

/// The signs that a run shows, each with the step at which it began. A checkpoint stores them.
pub type Signs = BTreeMap<Sign, usize>;

/// Updates the signs after a step (counted from 1), and returns those to report now.
pub fn observe(signs: &mut Signs, step: usize, vitals: &Vitals, limits: &Limits) -> Vec<Sign> {
    const ALL: [Sign; 5] = [
        Sign::ConstantEmbeddings,
        Sign::NoGradient,
        Sign::Chance,
        Sign::TemperatureAtMost,
        Sign::TemperatureAtLeast,
    ];
    let mut new = Vec::new();
    for sign in ALL {
        if !vitals.shows(sign) || (sign == Sign::Chance && limits.chance_steps == 0) {
            signs.remove(&sign);
            continue;
        }
        let since = *signs.entry(sign).or_insert(step);
        if step + 1 - since == sign.patience(limits) {
            new.push(sign);
        }
    }
    new
}

/// The sign that ends the run after a step, and the step at which it began.
pub fn fatal(signs: &Signs, step: usize, limits: &Limits) -> Option<(Sign, usize)> {
    let is_over = |sign: Sign, since: usize| {
        sign.ends_run() && step + 1 - since >= sign.patience(limits) + limits.max_bad_steps
    };
    signs.iter().map(|(sign, since)| (*sign, *since)).find(|(sign, since)| is_over(*sign, *since))
}

/// The step at which the current trouble began. Checkpoints from before it are worth keeping.
pub fn trouble_since(signs: &Signs, step: usize, limits: &Limits) -> Option<usize> {
    let lasts = |sign: Sign, since: usize| {
        let wanted = sign.patience(limits).min(limits.max_bad_steps.max(1));
        sign.ends_run() && step + 1 - since >= wanted
    };
    signs.iter().filter(|(sign, since)| lasts(**sign, **since)).map(|(_, since)| *since).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { chance_steps: 5, max_bad_steps: 2 };

    fn healthy() -> Vitals {
        Vitals {
            grad_norm: 0.5,
            spread: Some([0.5, 0.4]),
            contrast: Some([1.0, 4.0]),
            log_scale: Some([2.6, 4.6]),
        }
    }

    /// The step of each report, and the step of the end with its sign and the sign's first step.
    type Course = (Vec<(usize, Sign)>, Option<(usize, Sign, usize)>);

    /// The course of a run whose steps from 3 on have these vitals.
    fn course(vitals: Vitals) -> Course {
        let (mut signs, mut reports) = (Signs::new(), Vec::new());
        for step in 1..30 {
            let vitals = if step < 3 { healthy() } else { vitals };
            let new = observe(&mut signs, step, &vitals, &LIMITS);
            reports.extend(new.into_iter().map(|sign| (step, sign)));
            if let Some((sign, since)) = fatal(&signs, step, &LIMITS) {
                return (reports, Some((step, sign, since)));
            }
        }
        (reports, None)
    }

    #[test]
    fn a_healthy_run_shows_no_sign() {
        assert_eq!(course(healthy()), (vec![], None));
    }

    #[test]
    fn a_sign_is_reported_once_and_then_ends_the_run() {
        let constant = Vitals { spread: Some([0.5, 1e-12]), ..healthy() };
        let sign = Sign::ConstantEmbeddings;
        assert_eq!(course(constant), (vec![(3, sign)], Some((5, sign, 3))));
        let still = Vitals { grad_norm: 0.0, ..healthy() };
        let sign = Sign::NoGradient;
        assert_eq!(course(still), (vec![(3, sign)], Some((5, sign, 3))));
        let at_one = Vitals { log_scale: Some([0.0, 4.6]), ..healthy() };
        let sign = Sign::TemperatureAtMost;
        assert_eq!(course(at_one), (vec![(4, sign)], Some((6, sign, 3))));
    }

    #[test]
    fn chance_is_reported_after_its_own_number_of_steps() {
        let chance = Vitals { contrast: Some([4.01, 4.0]), ..healthy() };
        let sign = Sign::Chance;
        assert_eq!(course(chance), (vec![(7, sign)], Some((9, sign, 3))));
        let worse = Vitals { contrast: Some([4.5, 4.0]), ..healthy() };
        assert_eq!(course(worse), (vec![], None));
    }

    #[test]
    fn the_lowest_temperature_is_reported_but_ends_no_run() {
        let sharp = Vitals { log_scale: Some([4.6, 4.6]), ..healthy() };
        assert_eq!(course(sharp), (vec![(4, Sign::TemperatureAtLeast)], None));
    }

    #[test]
    fn a_sign_that_passes_starts_anew() {
        let still = Vitals { grad_norm: 0.0, ..healthy() };
        let mut signs = Signs::new();
        for step in 1..40 {
            let vitals = if step % 3 == 0 { healthy() } else { still };
            observe(&mut signs, step, &vitals, &LIMITS);
            assert_eq!(fatal(&signs, step, &LIMITS), None);
        }
        assert_eq!(trouble_since(&signs, 38, &LIMITS), None);
        observe(&mut signs, 40, &still, &LIMITS);
        assert_eq!(trouble_since(&signs, 40, &LIMITS), Some(40));
    }
}
