//! Finds this process's rank in the environment variables of its launcher.

use std::fmt;

/// This process's place in the run, as the launcher describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Number of this process.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
    /// Number of this process on its machine; selects its GPU.
    pub local_rank: usize,
    /// Name of the launcher.
    pub launcher: &'static str,
    /// Address of rank 0, `host:port`, if the launcher or the user set it.
    pub master: Option<String>,
    /// The same on all ranks of a run, and different for two runs on the same machines: the
    /// launcher's id of the job and rank 0's port.
    pub run_id: String,
}

/// Errors in the launcher's variables.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A variable is not a number, or the rank is not below the number of ranks.
    #[error("{found}, wanted a rank below the number of ranks (set by {launcher})")]
    InvalidVariable {
        /// The variables and their values.
        found: String,
        /// The launcher that set them.
        launcher: &'static str,
    },
    /// There is neither an address of rank 0 nor MPI.
    #[error(
        "{launch}, but no way to reach the other ranks\n  hint: set MASTER_ADDR (and MASTER_PORT) to rank 0's machine, or use a build with --features mpi under mpirun; for a run of one process unset {variable}"
    )]
    NoTransport {
        /// The rank and launcher that were found.
        launch: String,
        /// The variable to unset.
        variable: &'static str,
    },
}

/// Variables of each launcher: its name, rank, size, rank on the machine.
const LAUNCHERS: [(&str, &str, &str, &str); 4] = [
    ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("MPICH", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("SLURM", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
];

/// Variables that identify a job, in all launchers.
const JOB_IDS: [&str; 4] =
    ["TORCHELASTIC_RUN_ID", "PMIX_NAMESPACE", "SLURM_JOB_ID", "SLURM_STEP_ID"];

/// The port of rank 0 if MASTER_PORT is not set; the same default as torchrun's.
const PORT: &str = "29500";

impl Launch {
    /// Reads the process's environment. Returns `None` if no launcher has set its variables.
    pub fn from_env() -> Result<Option<Self>, LaunchError> {
        Self::discover(|name| std::env::var(name).ok())
    }

    /// Like [`Self::from_env`], with any source of variables.
    pub fn discover(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, LaunchError> {
        for (launcher, rank, size, local) in LAUNCHERS {
            let (Some(rank_text), Some(size_text)) = (variable(rank), variable(size)) else {
                continue;
            };
            let local_text = variable(local).unwrap_or_else(|| "0".into());
            let wrong = || LaunchError::InvalidVariable {
                found: format!("{rank}={rank_text:?} {size}={size_text:?} {local}={local_text:?}"),
                launcher,
            };
            let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
            let (rank, size, local_rank) =
                (number(&rank_text)?, number(&size_text)?, number(&local_text)?);
            if rank >= size {
                return Err(wrong());
            }
            let port = rank_0_port(&variable);
            let master = variable("MASTER_ADDR").map(|host| format!("{host}:{port}"));
            let ids = JOB_IDS.into_iter().filter_map(&variable).chain([port]);
            let run_id = ids.collect::<Vec<String>>().join("/");
            return Ok(Some(Self { rank, size, local_rank, launcher, master, run_id }));
        }
        Ok(None)
    }

    /// Address of rank 0.
    ///
    /// # Errors
    /// If neither the launcher nor the user set it.
    pub fn master(&self) -> Result<&str, LaunchError> {
        let variable =
            LAUNCHERS.iter().find(|known| known.0 == self.launcher).map_or("RANK", |known| known.1);
        self.master
            .as_deref()
            .ok_or_else(|| LaunchError::NoTransport { launch: self.to_string(), variable })
    }
}

/// The port for rank 0: MASTER_PORT, or the next one if torchrun itself listens there.
fn rank_0_port(variable: &impl Fn(&str) -> Option<String>) -> String {
    let port = variable("MASTER_PORT").unwrap_or_else(|| PORT.into());
    let is_taken = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
    match port.trim().parse::<u16>() {
        Ok(number) if is_taken => number.checked_add(1).unwrap_or(number - 1).to_string(),
        // An invalid number is reported when rank 0 listens.
        _ => port,
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {} by {}", self.rank, self.size, self.launcher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn discover(variables: &[(&str, &str)]) -> Result<Option<Launch>, LaunchError> {
        let variables: Vec<(String, String)> =
            variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Launch::discover(|name| Some(variables.iter().find(|(known, _)| known == name)?.1.clone()))
    }

    fn check(variables: &[(&str, &str)], says: &str, local_rank: usize) {
        let launch = discover(variables).unwrap().expect("a launcher");
        assert_eq!((launch.to_string().as_str(), launch.local_rank), (says, local_rank));
    }

    #[test]
    fn each_launcher_is_known_by_its_variables() {
        check(
            &[("RANK", "3"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")],
            "rank 3 of 8 by torchrun",
            1,
        );
        check(
            &[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")],
            "rank 0 of 2 by Open MPI",
            0,
        );
        check(&[("PMI_RANK", "1"), ("PMI_SIZE", "2")], "rank 1 of 2 by MPICH", 0);
        check(
            &[("SLURM_PROCID", "5"), ("SLURM_NTASKS", "64"), ("SLURM_LOCALID", "5")],
            "rank 5 of 64 by SLURM",
            5,
        );
        assert_eq!(discover(&[]).unwrap(), None);
    }

    #[test]
    fn an_inner_launcher_goes_before_the_batch_system() {
        let both =
            [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1"), ("RANK", "2"), ("WORLD_SIZE", "4")];
        check(&both, "rank 2 of 4 by torchrun", 0);
    }

    #[test]
    fn torchruns_own_port_is_left_to_it() {
        let at = |port, agent| {
            let launcher = [("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "node1")];
            let all =
                [&launcher[..], &[("MASTER_PORT", port), ("TORCHELASTIC_USE_AGENT_STORE", agent)]];
            discover(&all.concat()).unwrap().expect("torchrun").master.expect("an address")
        };
        assert_eq!(at("29500", "True"), "node1:29501");
        assert_eq!(at("29500", "False"), "node1:29500");
        assert_eq!(at("65535", "True"), "node1:65534");
    }

    #[test]
    fn runs_differ_in_their_job_or_their_port() {
        let id = |job, port| {
            let variables = [
                ("RANK", "1"),
                ("WORLD_SIZE", "2"),
                ("MASTER_PORT", port),
                ("TORCHELASTIC_RUN_ID", job),
            ];
            discover(&variables).unwrap().expect("torchrun").run_id
        };
        assert_eq!(id("a", "1"), id("a", "1"));
        assert_ne!(id("a", "1"), id("b", "1"));
        assert_ne!(id("none", "1"), id("none", "2"));
    }

    #[test]
    fn a_rank_past_the_last_is_refused() {
        for (rank, size) in [("4", "4"), ("x", "4"), ("0", "0"), ("-1", "2")] {
            let error =
                discover(&[("RANK", rank), ("WORLD_SIZE", size)]).expect_err("no rank").to_string();
            assert!(
                error.contains(&format!("RANK={rank:?}")) && error.contains("torchrun"),
                "{error}"
            );
        }
    }

    #[test]
    fn ranks_without_a_transport_get_a_hint() {
        let launch =
            discover(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]).unwrap().expect("SLURM");
        let error = launch.master().expect_err("no address").to_string();
        for part in ["rank 0 of 4 by SLURM", "MASTER_ADDR", "--features mpi", "unset SLURM_PROCID"]
        {
            assert!(error.contains(part), "{error}");
        }
        let address = [("RANK", "0"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "node1")];
        assert_eq!(discover(&address).unwrap().expect("torchrun").master().unwrap(), "node1:29500");
    }
}
