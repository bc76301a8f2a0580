//! LAMB or AdamW with the recipe's parameter groups: trained or frozen, learning rate, weight
//! decay.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use burn::optim::{LambConfig, LambState, Optimizer};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use mmgem_collective::{Collective, CollectiveError};
use mmgem_core::checkpoint::names::checkpoint_name;
use mmgem_core::checkpoint::{CheckpointError, NamedTensor, Shards};
use mmgem_core::params::{Mapped, Trained, map, visit};
use mmgem_core::readback::floats_now;

use super::agreement::{of_rank_0, square_sum};
use super::config::{OptimConfig, OptimizerKind, Recipe, Schedule, TrainConfig, TrainConfigError};
use super::groups::{ParamSettings, is_below, param_settings};
use super::lora::is_adapter;
use super::ownership::Ownership;
use super::reduce::in_buckets;
use super::start::from_rank_0_json;

/// The flat gradient of every trained parameter, by module path.
pub type GradientMap = BTreeMap<String, Tensor<1>>;

/// The moments and the settings of each parameter, by module path.
///
/// AdamW is LAMB without the trust ratio. Biases, norms and tokens have no trust ratio in either
/// optimizer: the norm of a bias that starts at zero says nothing about its step size.
pub struct OptimizerGroups {
    settings: BTreeMap<String, ParamSettings>,
    state: BTreeMap<String, LambState<1>>,
    /// Present if the ranks share out the moments.
    ownership: Option<Ownership>,
    /// Number of updates, and of values, of each parameter whose moments another rank has.
    elsewhere: BTreeMap<String, (usize, usize)>,
    device: Device,
}

/// Whether the recipe trains the parameter at this path.
pub fn is_trained(path: &str, config: &TrainConfig) -> bool {
    match config.recipe {
        Recipe::Warmup | Recipe::Stage1 => {
            let of_stage_2 =
                path.starts_with("h4.") || path == "cap_prompts" && !config.trains_prompts();
            let frozen = config.freeze_llm && path.starts_with("llm.")
                || config.freeze_vision && path.starts_with("visual.")
                || config.lora.is_some() && path.starts_with("llm.") && !is_adapter(path)
                || is_below(path, config);
            !(of_stage_2 || frozen || path == "visual.proj")
        }
        Recipe::Stage2Caption => path.starts_with("h3.") || path == "cap_prompts",
        // SigLIP's bias is not part of the model, so it is trained anew.
        Recipe::Stage2Retrieval => path.starts_with("h4.") || path == "logit_bias",
    }
}

/// Whether the recipe trains any weight that the embedding of a text depends on.
pub fn text_learns(config: &TrainConfig) -> bool {
    ["llm.norm.gamma", "h2.weight", "emb_token"].iter().any(|path| is_trained(path, config))
}

/// Learning rate of the parameter at `path` in step `step` (from 0), before the multipliers of its
/// groups: linear warm-up, then the schedule.
pub fn learning_rate(path: &str, step: usize, optim: &OptimConfig) -> f64 {
    let is_tower = path.starts_with("visual.") || path.starts_with("llm.");
    let peak = if is_tower { optim.lr_towers } else { optim.lr_heads };
    peak * schedule(step, optim)
}

fn schedule(step: usize, optim: &OptimConfig) -> f64 {
    if step < optim.warmup_steps {
        return (step + 1) as f64 / optim.warmup_steps as f64;
    }
    let shape = match optim.schedule {
        Schedule::Constant => 1.0,
        Schedule::Cosine => {
            let rest = optim.steps.saturating_sub(optim.warmup_steps).max(1);
            let progress = (step - optim.warmup_steps) as f64 / rest as f64;
            0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos())
        }
        Schedule::Wsd => {
            let left = optim.steps.saturating_sub(step);
            (left as f64 / optim.cooldown_steps as f64).min(1.0)
        }
    };
    optim.lr_floor + (1.0 - optim.lr_floor) * shape
}

/// The effect of a changed config on the learning rate of a run that goes on after `step` steps.
/// `None` if the change does not concern the rate, or if no step is left or done.
pub fn describe_new_rate(step: usize, old: &OptimConfig, new: &OptimConfig) -> Option<String> {
    let at = |path: &str, step: usize, optim: &OptimConfig| learning_rate(path, step, optim);
    let settings = |optim: &OptimConfig| {
        let OptimConfig { steps, warmup_steps, cooldown_steps, schedule, .. } = *optim;
        let rates = [optim.lr_heads, optim.lr_towers, optim.lr_floor];
        (steps, warmup_steps, cooldown_steps, schedule, rates)
    };
    let is_as_before =
        |step| ["h1.", "llm."].map(|path| at(path, step, old) == at(path, step, new));
    if step == 0
        || settings(old) == settings(new)
        || (step..new.steps).all(|step| is_as_before(step) == [true; 2])
    {
        return None;
    }
    let describe = |path: &str| {
        let [before, next, last] =
            [at(path, step - 1, old), at(path, step, new), at(path, new.steps - 1, new)];
        let direction = match next.total_cmp(&before) {
            Ordering::Less => "down to",
            Ordering::Equal => "on at",
            Ordering::Greater => "up to",
        };
        format!(
            "from {before:.2e} in step {step} {direction} {next:.2e} in step {}, and to {last:.2e} in step {}",
            step + 1,
            new.steps
        )
    };
    let [heads, towers] = [describe("h1."), describe("llm.")];
    let hint = match heads.contains("up to") || towers.contains("up to") {
        true => "\n  hint: lower optim.lr_heads and optim.lr_towers if the rate should not rise",
        false => "",
    };
    Some(format!("the learning rate of the heads goes {heads}; that of the towers {towers}{hint}"))
}

impl OptimizerGroups {
    /// An optimizer of a module before its first step. `device` has no autodiff.
    ///
    /// # Errors
    /// If a group of the config fits no parameter.
    pub fn new<M: Module>(
        module: &M,
        optim: &OptimConfig,
        device: &Device,
    ) -> Result<Self, TrainConfigError> {
        Ok(Self {
            settings: param_settings(module, optim)?,
            state: BTreeMap::new(),
            ownership: None,
            elsewhere: BTreeMap::new(),
            device: device.clone(),
        })
    }

    /// Shares out the moments of a module over the ranks. Each rank keeps those of its parameters.
    pub fn shard<M: Module>(&mut self, module: &M, group: &dyn Collective) {
        let ownership = Ownership::new(&trained_shapes(module), group.rank(), group.size());
        let (own, others) = std::mem::take(&mut self.state)
            .into_iter()
            .partition(|(path, _)| ownership.is_own(path));
        self.state = own;
        let others: BTreeMap<String, LambState<1>> = others;
        let counts = |state: LambState<1>| (state.time, state.moment_1.dims()[0]);
        self.elsewhere = others.into_iter().map(|(path, state)| (path, counts(state))).collect();
        self.ownership = Some(ownership);
    }

    /// How the ranks share out the parameters, if they do.
    pub fn ownership(&self) -> Option<&Ownership> {
        self.ownership.as_ref()
    }

    /// Sends rank 0's moments to the other ranks. If they are shared out, each rank keeps only its
    /// own.
    ///
    /// # Errors
    /// If the ranks lose contact.
    pub fn send_moments<M: Module>(
        &mut self,
        module: &M,
        group: &dyn Collective,
    ) -> Result<(), CollectiveError> {
        let mut sizes = BTreeMap::new();
        visit(module, |param| {
            sizes.insert(param.path.clone(), param.n_values());
        });
        let times: BTreeMap<String, usize> =
            self.state.iter().map(|(path, state)| (path.clone(), state.time)).collect();
        let times = serde_json::to_vec(&times).expect("a map of numbers serializes");
        let times: BTreeMap<String, usize> = from_rank_0_json(group, &times)?;
        let mut received: [GradientMap; 2] = Default::default();
        for (which, received) in received.iter_mut().enumerate() {
            let values = times.keys().map(|path| {
                let own = self.state.get(path).map(|state| moment(state, which));
                // The other ranks send nothing, but a buffer of the same length receives.
                let values = own.unwrap_or_else(|| Tensor::zeros([sizes[path]], &self.device));
                (path.clone(), values)
            });
            let is_kept = |path: &str| {
                group.rank() > 0
                    && self.ownership.as_ref().is_none_or(|ownership| ownership.is_own(path))
            };
            in_buckets(
                values,
                |bucket| group.broadcast(bucket, 0),
                |path, values| {
                    if is_kept(&path) {
                        received.insert(path, values);
                    }
                },
            )?;
        }
        if group.rank() > 0 {
            let [first, second] = received;
            let moments = first.into_iter().zip(second.into_values());
            self.state = moments
                .map(|((path, moment_1), moment_2)| {
                    let time = times[&path];
                    (path, LambState { time, moment_1, moment_2 })
                })
                .collect();
            let others = times.into_iter().filter(|(path, _)| !self.state.contains_key(path));
            self.elsewhere =
                others.map(|(path, time)| (path.clone(), (time, sizes[&path]))).collect();
        }
        Ok(())
    }

    /// The weights that each rank has updated, on all ranks.
    ///
    /// # Errors
    /// If the ranks lose contact.
    pub fn share_weights<M: Module>(
        &self,
        module: M,
        group: &dyn Collective,
    ) -> Result<M, CollectiveError> {
        let Some(ownership) = &self.ownership else { return Ok(module) };
        let mut values = GradientMap::new();
        visit(&module, |param| {
            if param.is_trained() {
                values.insert(param.path.clone(), param.values());
            }
        });
        let paths: Vec<String> = values.keys().cloned().collect();
        let mut updated = GradientMap::new();
        ownership.gather(
            &paths,
            |path| values[path].clone(),
            group,
            |path, values| {
                updated.insert(path, values);
            },
        )?;
        Ok(map(module, |param| updated.remove(&param.path).map_or(Mapped::Same, Mapped::Leaf)))
    }

    /// Updates every parameter that has a gradient, or this rank's share of them.
    ///
    /// # Errors
    /// If the ranks lose contact.
    pub fn step<M: Module>(
        &mut self,
        module: M,
        mut gradients: GradientMap,
        step: usize,
        optim: &OptimConfig,
        group: &dyn Collective,
    ) -> Result<M, CollectiveError> {
        // Each rank updates all parameters: LAMB's norms must be the same on all.
        let shares_norms = group.size() > 1 && self.ownership.is_none();
        let mut scaled = if shares_norms {
            self.lamb_updates(&module, &mut gradients, optim, group)?
        } else {
            GradientMap::new()
        };
        Ok(map(module, |param| {
            let settings = self.settings[&param.path];
            let lr = settings.lr_multiplier * learning_rate(&param.path, step, optim);
            if let Some(update) = scaled.remove(&param.path) {
                return Mapped::Leaf(param.values() - update.mul_scalar(lr));
            }
            let Some(gradient) = gradients.remove(&param.path) else { return Mapped::Same };
            if self.ownership.as_ref().is_some_and(|ownership| !ownership.is_own(&param.path)) {
                self.elsewhere.entry(param.path.clone()).or_insert((0, param.n_values())).0 += 1;
                return Mapped::Same;
            }
            let lamb = lamb(settings, optim).build();
            let moments = self.state.remove(&param.path);
            let (values, moments) = lamb.step(lr, param.values(), gradient, moments);
            self.state.extend(moments.map(|moments| (param.path, moments)));
            Mapped::Leaf(values)
        }))
    }

    /// The updates of LAMB with rank 0's trust ratios, for a learning rate of 1, of the parameters
    /// that have such a ratio. An update takes the memory of its gradient.
    fn lamb_updates<M: Module>(
        &mut self,
        module: &M,
        gradients: &mut GradientMap,
        optim: &OptimConfig,
        group: &dyn Collective,
    ) -> Result<GradientMap, CollectiveError> {
        let (mut updates, mut norms) = (GradientMap::new(), Vec::new());
        visit(module, |param| {
            let settings = self.settings[&param.path];
            if !has_trust_ratio(settings, optim) {
                return;
            }
            let Some(gradient) = gradients.remove(&param.path) else { return };
            let values = param.values();
            // From zero at a rate of 1, a step without decay and ratio gives minus the update.
            let adam = lamb(settings, optim).with_weight_decay(0.0).with_use_trust_ratio(false);
            let moments = self.state.remove(&param.path);
            let (minus, moments) = adam.build().step(1.0, values.zeros_like(), gradient, moments);
            self.state.extend(moments.map(|moments| (param.path.clone(), moments)));
            let mut update = -minus;
            if settings.weight_decay != 0.0 {
                update = update + values.clone().mul_scalar(settings.weight_decay);
            }
            norms.extend([square_sum(values).sqrt(), square_sum(update.clone()).sqrt()]);
            updates.insert(param.path, update);
        });
        if updates.is_empty() {
            return Ok(updates);
        }
        // In the order of the module's parameters, which the map does not have.
        let norms = of_rank_0(group, norms)?;
        let mut idx = 0;
        visit(module, |param| {
            let Some(update) = updates.remove(&param.path) else { return };
            let [of_values, of_update] =
                [0, 1].map(|which| norms.clone().narrow(0, 2 * idx + which, 1));
            idx += 1;
            let is_valid = of_values
                .clone()
                .greater_scalar(0.0)
                .bool_and(of_update.clone().greater_scalar(0.0));
            let ratio = of_values / of_update.clamp_min(f32::MIN_POSITIVE);
            let ratio = ratio.ones_like().mask_where(is_valid, ratio);
            updates.insert(param.path, update * ratio);
        });
        Ok(updates)
    }

    /// Moments as named values, for a checkpoint; on rank 0 only. All ranks call it if they share
    /// the moments.
    ///
    /// # Errors
    /// If the ranks lose contact.
    pub fn to_tensors(&self, group: &dyn Collective) -> Result<Vec<NamedTensor>, CollectiveError> {
        let own =
            self.state.iter().map(|(path, state)| (path, (state.time, state.moment_1.dims()[0])));
        let counts: BTreeMap<String, (usize, usize)> = own
            .map(|(path, counts)| (path.clone(), counts))
            .chain(self.elsewhere.clone())
            .collect();
        let mut tensors: BTreeMap<String, [NamedTensor; 3]> = BTreeMap::new();
        let mut keep = |path: String, which: usize, values: Tensor<1>| {
            if group.rank() > 0 {
                return;
            }
            let (time, n) = counts[&path];
            let name = checkpoint_name(&path);
            let entry = tensors.entry(path).or_insert_with(|| {
                [
                    (format!("moment_1.{name}"), vec![n], Vec::new()),
                    (format!("moment_2.{name}"), vec![n], Vec::new()),
                    (format!("time.{name}"), vec![1], vec![time as f32]),
                ]
            });
            entry[which].2 = floats_now(values);
        };
        for which in [0, 1] {
            match &self.ownership {
                None => {
                    self.state
                        .iter()
                        .for_each(|(path, state)| keep(path.clone(), which, moment(state, which)));
                }
                Some(ownership) => {
                    let device = self.device.clone();
                    let paths: Vec<String> = counts.keys().cloned().collect();
                    let values = |path: &str| match self.state.get(path) {
                        Some(state) => moment(state, which),
                        None => Tensor::zeros([counts[path].1], &device),
                    };
                    ownership
                        .gather(&paths, values, group, |path, values| keep(path, which, values))?;
                }
            }
        }
        Ok(tensors.into_values().flatten().collect())
    }

    /// Number of parameters that have moments.
    pub fn n_parameters(&self) -> usize {
        self.state.len() + self.elsewhere.len()
    }

    /// Loads the moments of a module's parameters from a checkpoint. A parameter that never had a
    /// gradient has no moments.
    ///
    /// # Errors
    /// If a parameter has only some of its tensors, if a tensor cannot be read or has another
    /// length, or if a tensor belongs to no parameter.
    pub fn load<M: Module>(&mut self, module: &M, moments: &Shards) -> Result<(), CheckpointError> {
        let device = self.device.clone();
        let mut paths = Vec::new();
        visit(module, |param| paths.push((param.path.clone(), param.n_values())));
        let mut unused: BTreeSet<String> = moments.names().map(str::to_owned).collect();
        for (path, n) in paths {
            let name = checkpoint_name(&path);
            let names = ["moment_1", "moment_2", "time"].map(|kind| format!("{kind}.{name}"));
            let (found, missing): (Vec<&String>, Vec<&String>) =
                names.iter().partition(|name| unused.remove(*name));
            if found.is_empty() {
                continue;
            }
            if !missing.is_empty() {
                return Err(CheckpointError::Missing(missing.into_iter().cloned().collect()));
            }
            let values = |name: &String, n: usize| {
                let values = moments.values(name).expect("it is among the names")?;
                match values.len() == n {
                    true => Ok(values),
                    false => Err(CheckpointError::Shape {
                        name: name.clone(),
                        found: vec![values.len()],
                        wanted: vec![n],
                    }),
                }
            };
            let moment = |name: &String| {
                let values = values(name, n)?;
                Ok(Tensor::<1>::from_data(TensorData::new(values, [n]), &device))
            };
            let [moment_1, moment_2, time] = &names;
            let state = LambState {
                time: values(time, 1)?[0] as usize,
                moment_1: moment(moment_1)?,
                moment_2: moment(moment_2)?,
            };
            self.state.insert(path, state);
        }
        match unused.is_empty() {
            true => Ok(()),
            false => Err(CheckpointError::Unused(unused.into_iter().collect())),
        }
    }
}

/// The first or second moment.
fn moment(state: &LambState<1>, which: usize) -> Tensor<1> {
    match which {
        0 => state.moment_1.clone(),
        _ => state.moment_2.clone(),
    }
}

/// The update of one parameter.
fn lamb(settings: ParamSettings, optim: &OptimConfig) -> LambConfig {
    LambConfig::new()
        .with_beta_1(optim.beta_1)
        .with_beta_2(optim.beta_2)
        .with_epsilon(optim.epsilon)
        .with_weight_decay(settings.weight_decay)
        .with_use_trust_ratio(has_trust_ratio(settings, optim))
}

fn has_trust_ratio(settings: ParamSettings, optim: &OptimConfig) -> bool {
    settings.decays && optim.optimizer == OptimizerKind::Lamb
}

/// Number of values of each trained parameter, by module path.
pub fn trained_shapes<M: Module>(module: &M) -> BTreeMap<String, usize> {
    let mut shapes = BTreeMap::new();
    visit(module, |param| {
        if param.is_trained() {
            shapes.insert(param.path.clone(), param.n_values());
        }
    });
    shapes
}

/// Removes the gradients of a module's parameters from `gradients`, and casts them to f32.
pub fn collect_gradients<M: Module>(module: &M, gradients: &mut Gradients) -> GradientMap {
    collect(&Trained::new(module), gradients)
}

/// The same for the parameters of a module that has many backward passes.
pub fn collect(params: &Trained, gradients: &mut Gradients) -> GradientMap {
    let mut found = GradientMap::new();
    params.take_gradients(gradients, |path, gradient| {
        found.insert(path.to_owned(), gradient.cast(DType::F32));
    });
    found
}

/// Scales all gradients.
pub fn scale(gradients: GradientMap, factor: f64) -> GradientMap {
    gradients.into_iter().map(|(path, gradient)| (path, gradient * factor)).collect()
}

/// Marks the parameters that the recipe trains; all others get no gradient and no graph.
pub fn freeze<M: Module>(module: M, config: &TrainConfig) -> M {
    map(module, |param| Mapped::Trained(is_trained(&param.path, config)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Param;
    use burn::nn::{Linear, LinearConfig};
    use mmgem_collective::Single;

    fn optim() -> OptimConfig {
        toml::from_str(
            "batch_size = 2\nsteps = 110\nwarmup_steps = 10\nlr_heads = 1.0\nlr_towers = 0.1",
        )
        .unwrap()
    }

    #[test]
    fn the_rate_rises_and_falls_along_a_cosine() {
        let at = |step| learning_rate("h1.weight", step, &optim());
        assert!((at(0) - 0.1).abs() < 1e-12);
        assert!((at(9) - 1.0).abs() < 1e-12);
        assert!((at(10) - 1.0).abs() < 1e-12);
        assert!((at(60) - 0.5).abs() < 1e-12);
        assert!(at(109) < 0.001);
    }

    #[test]
    fn other_schedules_hold_the_peak() {
        let mut optim = optim();
        optim.schedule = Schedule::Constant;
        let at = |step, optim: &OptimConfig| learning_rate("h1.weight", step, optim);
        assert_eq!([10, 60, 109].map(|step| at(step, &optim)), [1.0; 3]);
        (optim.schedule, optim.cooldown_steps, optim.lr_floor) = (Schedule::Wsd, 20, 0.2);
        assert!((at(4, &optim) - 0.5).abs() < 1e-12, "the warm-up is the same");
        assert_eq!([10, 60, 90].map(|step| at(step, &optim)), [1.0; 3]);
        assert!((at(100, &optim) - 0.6).abs() < 1e-12);
        assert!((at(109, &optim) - 0.24).abs() < 1e-12);
    }

    #[test]
    fn a_longer_run_says_how_its_rate_goes_on() {
        let old = OptimConfig { steps: 60, ..optim() };
        let new = OptimConfig { steps: 110, ..optim() };
        // The old cosine has ended. The new one is at its middle.
        let found = describe_new_rate(60, &old, &new).expect("the rate changes");
        let heads = "of the heads goes from 9.87e-4 in step 60 up to 5.00e-1 in step 61, and to \
            2.47e-4 in step 110";
        assert!(
            found.contains(heads) && found.contains("that of the towers from 9.87e-5"),
            "{found}"
        );
        assert!(found.contains("lower optim.lr_heads"), "{found}");
        let slower = OptimConfig { lr_heads: 1e-4, lr_towers: 1e-5, ..new.clone() };
        let found = describe_new_rate(60, &old, &slower).expect("the rate changes");
        assert!(found.contains("down to 5.00e-5 in step 61") && !found.contains("hint"), "{found}");

        let constant = |steps| OptimConfig { schedule: Schedule::Constant, steps, ..optim() };
        assert_eq!(describe_new_rate(60, &constant(60), &constant(110)), None);
        assert_eq!(describe_new_rate(60, &new, &OptimConfig { workers: 2, ..new.clone() }), None);
        assert_eq!(describe_new_rate(0, &old, &new), None);
        // A run without an end is compared without walking through its steps.
        let endless = constant(usize::MAX);
        let workers = OptimConfig { workers: 2, ..endless.clone() };
        assert_eq!(describe_new_rate(60, &endless, &workers), None);
        assert_eq!(describe_new_rate(110, &old, &new), None);
    }

    #[test]
    fn towers_learn_at_their_own_rate() {
        assert!((learning_rate("visual.conv1", 10, &optim()) - 0.1).abs() < 1e-12);
        assert!((learning_rate("llm.norm.gamma", 10, &optim()) - 0.1).abs() < 1e-12);
        assert!((learning_rate("emb_token", 10, &optim()) - 1.0).abs() < 1e-12);
    }

    /// One step of the 1 × 2 matrix (3, 4) with gradient (0.5, -2). Adam's first update is the
    /// gradient's sign.
    fn moved(optimizer: &str) -> Vec<f32> {
        let mut optim = optim();
        optim.optimizer = toml::Value::String(optimizer.into()).try_into().expect("an optimizer");
        moved_with(optim)
    }

    fn moved_with(mut optim: OptimConfig) -> Vec<f32> {
        (optim.weight_decay, optim.warmup_steps) = (0.1, 0);
        let device = Device::flex();
        let mut linear: Linear = LinearConfig::new(1, 2).with_bias(false).init(&device);
        linear.weight = Param::from_tensor(Tensor::from_data([[3.0, 4.0]], &device));
        let gradient = Tensor::<1>::from_data([0.5, -2.0], &device);
        let gradients = GradientMap::from([("weight".to_owned(), gradient)]);
        let mut optimizer =
            OptimizerGroups::new(&linear, &optim, &device).expect("no group is wrong");
        let linear = optimizer.step(linear, gradients, 0, &optim, &Single).expect("one rank");
        linear.weight.val().into_data().try_to_vec().expect("f32")
    }

    fn near(found: &[f32], wanted: [f32; 2]) -> bool {
        found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-4)
    }

    #[test]
    fn adamw_moves_every_number_by_the_rate_and_its_decay() {
        let found = moved("adamw");
        assert!(near(&found, [3.0 - 1.0 - 0.3, 4.0 + 1.0 - 0.4]), "{found:?}");
    }

    #[test]
    fn lamb_moves_a_matrix_by_the_rate_times_its_norm() {
        // The update is 1.3, -0.6; the norm of 3, 4 is 5.
        let (found, norm) = (moved("lamb"), (1.3f32 * 1.3 + 0.6 * 0.6).sqrt());
        assert!(near(&found, [3.0 - 5.0 / norm * 1.3, 4.0 + 5.0 / norm * 0.6]), "{found:?}");
    }

    #[test]
    fn a_group_has_its_own_rate_and_decay() {
        let group = |params: &str| -> OptimConfig {
            let groups = format!(
                "\n[[groups]]\nparams = [\"{params}\"]\nlr_multiplier = 0.5\nweight_decay = 0.2"
            );
            let text = "batch_size = 2\nsteps = 110\nlr_heads = 1.0\nlr_towers = 0.1\n\
                optimizer = \"adamw\"";
            toml::from_str(&(text.to_owned() + &groups)).unwrap()
        };
        let found = moved_with(group("wei*"));
        assert!(near(&found, [3.0 - 0.5 - 0.3, 4.0 + 0.5 - 0.4]), "{found:?}");
        let linear: Linear = LinearConfig::new(1, 2).init(&Device::flex());
        // A bias has no weight decay in a group either.
        let settings = param_settings(&linear, &group("*")).expect("it fits");
        assert_eq!((settings["weight"].weight_decay, settings["bias"].weight_decay), (0.2, 0.0));
        assert_eq!(settings["bias"].lr_multiplier, 0.5);
        let error = OptimizerGroups::new(&linear, &group("visual.*"), &Device::flex())
            .err()
            .expect("fits nothing");
        assert!(error.to_string().contains("\"visual.*\", which fits no parameter"), "{error}");
    }
}
