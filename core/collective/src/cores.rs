//! Divides a machine's cores among the ranks on it.

use crate::{Collective, CollectiveError};

/// The number of ranks of this machine that may run on the same cores as this rank, itself
/// included.
///
/// `mpirun` and `srun` may bind each rank to cores of its own; then it is 1. It is also 1 on
/// systems other than Linux, where the cores of a process cannot be listed.
///
/// # Errors
/// If the ranks lose contact.
pub fn ranks_on_same_cores(group: &dyn Collective) -> Result<usize, CollectiveError> {
    let own = host_and_cores().unwrap_or_else(|| format!("rank {}", group.rank()));
    Ok(n_equal(&group.exchange(own.as_bytes())?, own.as_bytes()))
}

fn n_equal(all: &[Vec<u8>], own: &[u8]) -> usize {
    all.iter().filter(|other| *other == own).count()
}

/// The machine's name and the list of cores that the process may use.
fn host_and_cores() -> Option<String> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    Some(format!("{} {}", host.trim(), cores.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Single;

    #[test]
    fn only_ranks_with_the_same_machine_and_cores_share() {
        let all = ["a 0-7", "a 0-7", "a 8-15", "b 0-7"].map(|place| place.as_bytes().to_vec());
        assert_eq!(all.iter().map(|own| n_equal(&all, own)).collect::<Vec<_>>(), [2, 2, 1, 1]);
        assert_eq!(ranks_on_same_cores(&Single).expect("one process"), 1);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_process_finds_its_cores() {
        let own = host_and_cores().expect("Linux lists them");
        assert!(own.split(' ').nth(1).is_some_and(|list| !list.is_empty()), "{own:?}");
    }
}
