//! An exponential moving average of the trained weights (`optim.ema`), for evaluation and export.
//!
//! After each update, `average = decay * average + (1 - decay) * weight`, from the initial weights
//! on. The average lies in f32 beside the weights. If the ranks share out the moments, each keeps
//! the average of its own parameters. Rank 0 reads and writes it for all.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use mmgem_collective::{Collective, CollectiveError};
use mmgem_core::checkpoint::names::checkpoint_name;
use mmgem_core::checkpoint::{CheckpointError, NamedTensor, Shards};
use mmgem_core::params::{Mapped, map, visit};
use mmgem_core::readback::floats_now;

use super::optimizer::GradientMap;
use super::ownership::Ownership;
use super::reduce::in_buckets;

/// The average of each trained parameter, by module path.
pub struct Average {
    decay: f64,
    values: GradientMap,
    /// Number of values of each averaged parameter, on any rank.
    sizes: BTreeMap<String, usize>,
    /// Present if the ranks share out the moments.
    ownership: Option<Ownership>,
    device: Device,
}

impl Average {
    /// An average that begins with the trained weights of a module. `device` has no autodiff.
    pub fn new<M: Module>(module: &M, decay: f64, device: &Device) -> Self {
        let mut values = GradientMap::new();
        visit(module, |param| {
            if param.is_trained() {
                values.insert(param.path.clone(), param.values());
            }
        });
        let sizes = values.iter().map(|(path, values)| (path.clone(), values.dims()[0])).collect();
        Self { decay, values, sizes, ownership: None, device: device.clone() }
    }

    /// Keeps the values of this rank's parameters only.
    pub fn shard(&mut self, ownership: &Ownership) {
        self.values.retain(|path, _| ownership.is_own(path));
        self.ownership = Some(ownership.clone());
    }

    /// Sends rank 0's averages to the other ranks. Each keeps those of its parameters.
    ///
    /// # Errors
    /// If the ranks lose contact.
    pub fn send(&mut self, group: &dyn Collective) -> Result<(), CollectiveError> {
        let own = if group.rank() == 0 { self.values.clone() } else { GradientMap::new() };
        let values = self.sizes.iter().map(|(path, n)| {
            // The other ranks send nothing, but a buffer of the same length receives.
            let own = own.get(path).cloned();
            (path.clone(), own.unwrap_or_else(|| Tensor::zeros([*n], &self.device)))
        });
        let take = |path: String, values| {
            if group.rank() > 0 && self.values.contains_key(&path) {
                self.values.insert(path, values);
            }
        };
        in_buckets(values, |bucket| group.broadcast(bucket, 0), take)
    }

    /// Adds the weights after an update.
    pub fn update<M: Module>(&mut self, module: &M) {
        visit(module, |param| {
            if let Some(value) = self.values.get_mut(&param.path) {
                let weights = param.values();
                *value = value.clone() * self.decay + weights * (1.0 - self.decay);
            }
        });
    }

    /// The averages of all parameters. All ranks call it if they share the moments.
    ///
    /// # Errors
    /// If the ranks lose contact.
    pub fn gather(&self, group: &dyn Collective) -> Result<GradientMap, CollectiveError> {
        let Some(ownership) = &self.ownership else { return Ok(self.values.clone()) };
        let paths: Vec<String> = self.sizes.keys().cloned().collect();
        let own = |path: &str| match self.values.get(path) {
            Some(values) => values.clone(),
            None => Tensor::zeros([self.sizes[path]], &self.device),
        };
        let mut all = GradientMap::new();
        ownership.gather(&paths, own, group, |path, values| {
            all.insert(path, values);
        })?;
        Ok(all)
    }

    /// Reads the averages of a checkpoint in place of the module's weights.
    ///
    /// # Errors
    /// If a tensor is missing, unused, or has another length.
    pub fn load(&mut self, tensors: &Shards) -> Result<(), CheckpointError> {
        let (values, unused) = read_averages(tensors, &self.sizes, &self.device)?;
        let missing: Vec<String> =
            self.sizes.keys().filter(|path| !values.contains_key(*path)).cloned().collect();
        match (missing.is_empty(), unused.is_empty()) {
            (true, true) => {
                self.values = values;
                Ok(())
            }
            (false, _) => Err(CheckpointError::Missing(missing)),
            (true, false) => Err(CheckpointError::Unused(unused)),
        }
    }
}

/// Averages as named values, for a checkpoint.
pub fn to_tensors(averages: &GradientMap) -> Vec<NamedTensor> {
    let tensor = |(path, values): (&String, &Tensor<1>)| {
        (checkpoint_name(path), values.dims().to_vec(), floats_now(values.clone()))
    };
    averages.iter().map(tensor).collect()
}

/// A module with averages in place of weights.
pub fn with_averages<M: Module>(module: M, mut averages: GradientMap) -> M {
    map(module, |param| averages.remove(&param.path).map_or(Mapped::Same, Mapped::Leaf))
}

/// A module with the averages of a checkpoint in place of its weights.
///
/// # Errors
/// If a tensor is unused, or has another length.
pub fn load_averages<M: Module>(module: M, tensors: &Shards) -> Result<M, CheckpointError> {
    let mut sizes = BTreeMap::new();
    let mut device = None;
    visit(&module, |param| {
        sizes.insert(param.path.clone(), param.n_values());
        device = Some(param.device().inner());
    });
    let Some(device) = device else { return Ok(module) };
    let (averages, unused) = read_averages(tensors, &sizes, &device)?;
    match unused.is_empty() {
        true => Ok(with_averages(module, averages)),
        false => Err(CheckpointError::Unused(unused)),
    }
}

/// The averages of these parameters, as far as they are there, and the names of other tensors.
fn read_averages(
    tensors: &Shards,
    sizes: &BTreeMap<String, usize>,
    device: &Device,
) -> Result<(GradientMap, Vec<String>), CheckpointError> {
    let mut unused: BTreeSet<String> = tensors.names().map(str::to_owned).collect();
    let mut averages = GradientMap::new();
    for (path, n) in sizes {
        let name = checkpoint_name(path);
        let Some(values) = tensors.values(&name).transpose()? else { continue };
        unused.remove(&name);
        if values.len() != *n {
            let (found, wanted) = (vec![values.len()], vec![*n]);
            return Err(CheckpointError::Shape { name, found, wanted });
        }
        averages.insert(path.clone(), Tensor::from_data(TensorData::new(values, [*n]), device));
    }
    Ok((averages, unused.into_iter().collect()))
}
