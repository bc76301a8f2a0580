//! `mmgem verify collectives`: every transfer between ranks, with known numbers.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use clap::Args;
use mmgem_collective::{Collective, Launch};
use mmgem_core::readback::floats_now;
use serde_json::json;

use crate::cli::train::{join, nccl};
use crate::device::{OpenedDevice, open_device};
use crate::globals::Globals;
use crate::terminal::{print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    mmgem verify collectives --device cuda\n  \
    torchrun --no-python --nproc-per-node 2 mmgem verify collectives --device cuda\n\n\
    On NVIDIA GPUs the transfers go through NCCL, also with one rank. Otherwise they go the way \
    that training takes.")]
pub struct CollectivesArgs {
    /// Length of the largest tensor
    #[arg(long, value_name = "N", default_value_t = 1 << 22)]
    floats: usize,
    /// Seconds until a transfer without an answer fails
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    timeout_secs: u64,
}

/// A transfer that gave the right numbers.
struct Checked {
    what: &'static str,
    floats: usize,
    secs: f64,
}

pub fn run(args: &CollectivesArgs, globals: &Globals) -> Result<()> {
    let timeout = Duration::from_secs(args.timeout_secs);
    let launch = Launch::from_env()?;
    let local_rank = launch.as_ref().map_or(0, |launch| launch.local_rank);
    let choice = globals.device.on_rank(local_rank);
    let hosts = join(launch.as_ref(), timeout, choice, globals.quiet)?;
    let checked = || -> Result<()> {
        let opened = open_device(choice)?;
        let gpus = nccl(hosts.as_collective(), choice, timeout)?;
        let group = gpus.as_deref().unwrap_or(hosts.as_collective());
        // The second pass shows what a transfer costs once the library has set itself up.
        check(group, &opened.device, args.floats)?;
        let checked = check(group, &opened.device, args.floats)?;
        match group.rank() {
            0 => show(&checked, gpus.is_some(), group.size(), &opened, globals),
            _ => Ok(()),
        }
    };
    match checked() {
        Err(error) => hosts.leave(error),
        done => done,
    }
}

fn show(
    checked: &[Checked],
    is_nccl: bool,
    n_ranks: usize,
    opened: &OpenedDevice,
    globals: &Globals,
) -> Result<()> {
    if globals.json {
        let rows = checked
            .iter()
            .map(|row| json!({ "transfer": row.what, "floats": row.floats, "secs": row.secs }));
        return print_json(&json!({
            "device": opened.name,
            "nccl": is_nccl,
            "ranks": n_ranks,
            "transfers": rows.collect::<Vec<_>>(),
        }));
    }
    let through = if is_nccl { "through NCCL" } else { "without NCCL" };
    print(format!("{n_ranks} rank(s) on {}, {through}", opened.name))?;
    checked.iter().try_for_each(|row| {
        print(format!("{:16} {:>9} floats {:>9.3} ms", row.what, row.floats, row.secs * 1e3))
    })
}

/// Runs every transfer and compares its result with what the ranks sent.
fn check(group: &dyn Collective, device: &Device, floats: usize) -> Result<Vec<Checked>> {
    let (rank, size) = (group.rank(), group.size());
    // Small whole numbers, so that their sums are exact.
    let sent = |rank: usize, idx: usize| ((rank * 31 + idx * 7) % 61) as f32;
    let tensor = |n: usize| {
        let values: Vec<f32> = (0..n).map(|idx| sent(rank, idx)).collect();
        Tensor::<1>::from_data(TensorData::new(values, [n]), device)
    };
    let mut checked = Vec::new();
    let mut note = |what, n, start: Instant, found: Vec<f32>, wanted: Vec<f32>| {
        let at = found.iter().zip(&wanted).position(|(found, wanted)| found != wanted);
        ensure!(
            found.len() == wanted.len() && at.is_none(),
            "{what} of {n} floats on rank {rank}: found {} floats{}, wanted {}",
            found.len(),
            at.map_or(String::new(), |at| format!(
                ", {} at {at} instead of {}",
                found[at], wanted[at]
            )),
            wanted.len()
        );
        checked.push(Checked { what, floats: n, secs: start.elapsed().as_secs_f64() });
        Ok(())
    };

    let start = Instant::now();
    let bytes = group.exchange(&vec![rank as u8; rank + 1])?;
    let wanted: Vec<Vec<u8>> = (0..size).map(|rank| vec![rank as u8; rank + 1]).collect();
    ensure!(bytes == wanted, "exchange on rank {rank}: found {bytes:?}, wanted {wanted:?}");
    group.barrier()?;
    note("exchange", 0, start, Vec::new(), Vec::new())?;
    for n in [1, 1000, floats] {
        let own = tensor(n);
        let start = Instant::now();
        let found = floats_now(group.all_reduce_sum(own)?);
        let sum = |idx| (0..size).map(|rank| sent(rank, idx)).sum();
        note("all_reduce_sum", n, start, found, (0..n).map(sum).collect())?;

        let own = tensor(n);
        let start = Instant::now();
        let found = floats_now(group.all_gather(own)?);
        let all = (0..size).flat_map(|rank| (0..n).map(move |idx| sent(rank, idx))).collect();
        note("all_gather", n, start, found, all)?;

        for root in 0..size {
            let own = tensor(n);
            let start = Instant::now();
            let found = floats_now(group.broadcast(own, root)?);
            note("broadcast", n, start, found, (0..n).map(|idx| sent(root, idx)).collect())?;
        }
        // A computed tensor that shares its buffer: NCCL must not change the original.
        let doubled = tensor(n) + tensor(n);
        let start = Instant::now();
        let found = floats_now(group.all_reduce_sum(doubled.clone())?);
        note("of a sum", n, start, found, (0..n).map(|idx| 2.0 * sum(idx)).collect())?;
        let own = (0..n).map(|idx| 2.0 * sent(rank, idx)).collect();
        note("its source", n, start, floats_now(doubled), own)?;
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use mmgem_collective::{CollectiveError, Single};

    use super::*;

    /// A rank whose sums are wrong.
    struct Wrong;

    impl Collective for Wrong {
        fn rank(&self) -> usize {
            0
        }

        fn size(&self) -> usize {
            1
        }

        fn exchange(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
            Single.exchange(own)
        }

        fn all_reduce_sum(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
            Ok(values * 2.0)
        }

        fn all_gather(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
            Single.all_gather(values)
        }

        fn broadcast(&self, values: Tensor<1>, root: usize) -> Result<Tensor<1>, CollectiveError> {
            Single.broadcast(values, root)
        }
    }

    #[test]
    fn one_rank_passes_and_a_wrong_sum_is_named() {
        let checked = check(&Single, &Device::flex(), 4096).expect("nothing is sent");
        assert_eq!(checked.iter().filter(|row| row.what == "all_gather").count(), 3);
        let error = check(&Wrong, &Device::flex(), 4096).err().expect("a wrong sum").to_string();
        assert!(error.contains("all_reduce_sum of 1000 floats on rank 0"), "{error}");
        assert!(error.contains("14 at 1 instead of 7"), "{error}");
    }
}
