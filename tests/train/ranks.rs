//! Several ranks compute the same as one process, stop together, and report why they fail.

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use burn::tensor::{Device, Tensor};
use mmgem_collective::{Collective, CollectiveError, Single, Tcp};
use mmgem_data::files::ModelFolder;
use mmgem_train::{
    Batches, Progress, Signals, StepContext, Totals, TrainConfig, Trainee, gradient, in_buckets,
    nudge_sums, train,
};

use crate::lab::{
    COMMIT, Lab, Outcome, PATIENCE, check_same, checkpoints, finish, model_bytes, moment_bytes,
    on_ranks, on_ranks_at, run_as,
};

fn run_ranks(config: &TrainConfig, n_ranks: usize, resume: bool, last: usize) -> Vec<Outcome> {
    on_ranks(n_ranks, PATIENCE, |group| {
        run_as(config, resume, last, group).unwrap_or_else(|error| panic!("{error}"))
    })
}

#[test]
fn values_of_the_ranks_are_gathered_in_order() {
    let found = on_ranks(3, PATIENCE, |group| {
        let rank = group.rank();
        let texts = group.exchange(&vec![rank as u8; rank]).expect("they are all there");
        let own = || Tensor::<1>::from_floats([rank as f32 + 0.5, 10.0], &Device::flex());
        let host = |values: Tensor<1>| values.into_data().try_to_vec::<f32>().expect("f32");
        let sum = host(group.all_reduce_sum(own()).expect("sum"));
        let all = host(group.all_gather(own()).expect("gather"));
        let one = host(group.broadcast(own(), 1).expect("broadcast"));
        group.barrier().expect("barrier");
        (texts, sum, all, one)
    });
    for (texts, sum, all, one) in found {
        assert_eq!(texts, [vec![], vec![1], vec![2, 2]]);
        assert_eq!((sum, one), (vec![4.5, 30.0], vec![1.5, 10.0]));
        assert_eq!(all, [0.5, 10.0, 1.5, 10.0, 2.5, 10.0]);
    }
}

#[test]
fn ranks_meet_at_a_name_and_at_an_address_of_another_kind() {
    // A host name may resolve to IPv6 first, where a rank 0 on IPv4 does not listen.
    let has_ipv6 = TcpListener::bind("[::1]:0").is_ok();
    for host in ["localhost", "0.0.0.0", "[::1]"] {
        if host == "[::1]" && !has_ipv6 {
            eprintln!("SKIPPED: no IPv6 here");
            continue;
        }
        let met = on_ranks_at(host, 2, PATIENCE, |group| {
            group.exchange(&[group.rank() as u8]).expect("both")
        });
        assert_eq!(met, [[vec![0], vec![1]], [vec![0], vec![1]]], "{host}");
    }
}

/// Ranks `(rank, size, run_id)` that start at the same time with one address, on threads.
fn meet_at(
    master: &str,
    ranks: &[(usize, usize, &str)],
) -> Vec<Result<Vec<Vec<u8>>, CollectiveError>> {
    thread::scope(|scope| {
        let start = |(rank, size, run_id): (usize, usize, &'_ str)| {
            let (master, run_id) = (master.to_owned(), run_id.to_owned());
            scope.spawn(move || {
                let group = Tcp::connect(rank, size, &master, &run_id, PATIENCE)?;
                group.exchange(run_id.as_bytes())
            })
        };
        let ranks: Vec<_> = ranks.iter().copied().map(start).collect();
        ranks.into_iter().map(|rank| rank.join().expect("no rank panics")).collect()
    })
}

#[test]
fn ranks_meet_although_the_port_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let master = taken.local_addr().expect("an address").to_string();
    for met in meet_at(&master, &[(0, 2, "a"), (1, 2, "a")]) {
        assert_eq!(met.expect("they meet at the next port"), [b"a", b"a"]);
    }
}

#[test]
fn two_runs_at_one_address_do_not_mix() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let ranks = [(0, 2, "a"), (1, 2, "b"), (0, 2, "b"), (1, 2, "a")];
    for (met, (_, _, run_id)) in meet_at(&port.to_string(), &ranks).into_iter().zip(ranks) {
        assert_eq!(met.expect("each run meets"), [run_id.as_bytes(); 2]);
    }
}

#[test]
fn ranks_that_were_started_wrongly_say_so_at_once() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let master = port.to_string();
    for error in meet_at(&master, &[(0, 3, "a"), (1, 2, "a")]).into_iter().map(Result::unwrap_err) {
        let error = error.to_string();
        assert!(error.contains("one of 2 ranks, rank 0 as one of 3"), "{error}");
    }
    let same_rank = meet_at(&master, &[(0, 3, "a"), (1, 3, "a"), (1, 3, "a")]);
    let told = |met: &&Result<_, CollectiveError>| {
        met.as_ref().is_err_and(|e| e.to_string().contains("two processes were started as rank 1"))
    };
    assert!(same_rank.iter().filter(told).count() >= 2, "{same_rank:?}");
}

#[test]
fn values_are_summed_in_buckets() {
    // The values need more than one bucket, and one does not fit the first bucket's end.
    let sizes = [3usize, 9 << 20, 9 << 20, 5];
    let found = on_ranks(2, PATIENCE, |group| {
        let value = group.rank() as f32 + 1.0;
        let full = |(idx, n): (usize, &usize)| {
            (format!("p{idx}"), Tensor::<1>::full([*n], value * (idx + 1) as f32, &Device::flex()))
        };
        let mut found: Vec<(usize, f32, f32)> = Vec::new();
        let take = |_, sum: Tensor<1>| {
            found.push((sum.dims()[0], sum.clone().min().into_scalar(), sum.max().into_scalar()));
        };
        let values = sizes.iter().enumerate().map(full);
        in_buckets(values, |bucket| group.all_reduce_sum(bucket), take).expect("a sum");
        found
    });
    let wanted: Vec<(usize, f32, f32)> = sizes
        .iter()
        .enumerate()
        .map(|(idx, n)| (*n, 3.0 * (idx + 1) as f32, 3.0 * (idx + 1) as f32))
        .collect();
    assert_eq!(found, [wanted.clone(), wanted]);
}

/// Compares twenty steps on two, three and four ranks, with micro-batches and workers, with one
/// process.
fn check_ranks(set: &[&str]) {
    let lab = Lab::new();
    let config = |out: &str, more: &[&str]| {
        let mut all = vec![
            "optim.batch_size=8",
            "optim.steps=20",
            "optim.lr_heads=1e-3",
            "optim.lr_towers=1e-3",
            "checkpoint.every=20",
        ];
        all.extend(set);
        all.extend(more);
        lab.config(out, &all)
    };
    let one = config("one", &[]);
    finish(&one, false);
    for (out, n_ranks, more) in [
        ("two", 2, &["optim.micro_batch=2"][..]),
        ("four", 4, &[]),
        ("three", 3, &["optim.workers=2"]),
    ] {
        let many = config(out, more);
        run_ranks(&many, n_ranks, false, usize::MAX);
        check_same(&one.out, &many.out);
    }
}

#[test]
fn ranks_of_stage_1_compute_what_one_process_does() {
    check_ranks(&[]);
}

#[test]
fn ranks_that_share_out_the_moments_compute_what_one_process_does() {
    check_ranks(&["optim.shard_moments=true"]);
}

#[test]
fn shared_out_moments_give_the_same_bits_and_can_be_resumed_without() {
    let lab = Lab::new();
    let set =
        ["optim.batch_size=6", "optim.lr_heads=1e-3", "optim.lr_towers=1e-3", "optim.ema=0.7"];
    let sharded = [&set[..], &["optim.shard_moments=true"]].concat();
    let (plain, shared) = (lab.config("plain", &set), lab.config("shared", &sharded));
    run_ranks(&plain, 2, false, usize::MAX);
    run_ranks(&shared, 2, false, 2);
    // The last steps do without.
    run_ranks(&shared, 2, true, 4);
    run_ranks(&lab.config("shared", &set), 2, true, usize::MAX);
    assert!(model_bytes(&shared) == model_bytes(&plain));
    assert!(moment_bytes(&shared, 6) == moment_bytes(&plain, 6));
    assert!(average_bytes(&shared, 6) == average_bytes(&plain, 6));
}

/// The bytes of a checkpoint's averaged weights.
fn average_bytes(config: &TrainConfig, step: usize) -> Vec<u8> {
    let path = config.out.join(format!("checkpoints/step-{step:08}/average.safetensors"));
    fs::read(path).expect("a checkpoint with averages")
}

#[test]
fn ranks_with_siglip_compute_what_one_process_does() {
    check_ranks(&["contrastive_loss=siglip"]);
}

#[test]
fn ranks_that_drop_patches_compute_what_one_process_does() {
    check_ranks(&["data.patch_dropout=0.5"]);
}

#[test]
fn ranks_of_stage_2_for_captions_compute_what_one_process_does() {
    check_ranks(&[
        "recipe=stage2_caption",
        "model={ from = 'LAB/start' }",
        "data.whole_image_share=0.3",
    ]);
}

#[test]
fn ranks_of_stage_2_for_retrieval_compute_what_one_process_does() {
    check_ranks(&["recipe=stage2_retrieval", "model={ from = 'LAB/start' }"]);
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let lab = Lab::new();
    let set =
        ["optim.batch_size=6", "optim.lr_heads=1e-3", "optim.lr_towers=1e-3", "checkpoint.every=6"];
    let [one, many] = ["one", "many"].map(|out| lab.config(out, &set));
    finish(&one, false);
    // Only rank 0 is asked to stop.
    let stopped = run_ranks(&many, 2, false, 2);
    assert!(
        stopped
            .iter()
            .all(|outcome| (outcome.summary.step, outcome.summary.finished) == (2, false))
    );
    assert_eq!(checkpoints(&many), [2]);
    run_ranks(&many, 3, true, 4);
    assert_eq!(checkpoints(&many), [2, 4]);
    run_as(&many, true, usize::MAX, &Single).expect("one process goes on with what three left");
    check_same(&one.out, &many.out);
}

#[test]
fn a_rank_that_fails_at_the_start_ends_all_with_its_reason() {
    let lab = Lab::new();
    let whole = lab.config("run", &[]);
    let errors = on_ranks(3, PATIENCE, |group| {
        // Simulates a machine on which the data is not mounted.
        let set: &[&str] =
            if group.rank() == 1 { &["data.shards=['LAB/unmounted/*.tar']"] } else { &[] };
        run_as(&lab.config("run", set), false, usize::MAX, group)
            .err()
            .expect("it cannot run")
            .to_string()
    });
    assert!(errors[1].contains("no file fits"), "{errors:?}");
    for error in [&errors[0], &errors[2]] {
        assert!(error.contains("rank 1 failed: no file fits"), "{error}");
    }
    assert!(!whole.out.join("checkpoints").exists());
}

#[test]
fn a_rank_that_dies_or_hangs_is_named_by_all_others() {
    for dies in [true, false] {
        let errors = on_ranks(3, Duration::from_secs(2), |group| {
            group.barrier().expect("all are there");
            if group.rank() == 1 {
                if !dies {
                    thread::sleep(Duration::from_secs(7));
                }
                return None;
            }
            group.barrier().err()
        });
        let Some(first) = &errors[0] else { panic!("rank 0 waits for rank 1") };
        assert_eq!(matches!(first, CollectiveError::TimedOut { .. }), !dies, "{first}");
        for error in [first, errors[2].as_ref().expect("rank 2 waits too")] {
            assert!(error.to_string().contains("rank 1"), "{error}");
        }
    }
}

/// A rank whose sums and gathered values differ from those of the others: a fault of the network.
struct Faulty<'a>(&'a Tcp);

impl Collective for Faulty<'_> {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn size(&self) -> usize {
        self.0.size()
    }

    fn exchange(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        self.0.exchange(own)
    }

    fn all_reduce_sum(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
        Ok(self.0.all_reduce_sum(values)? * 1.00001)
    }

    fn all_gather(&self, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
        Ok(self.0.all_gather(values)? * 1.00001)
    }

    fn broadcast(&self, values: Tensor<1>, root: usize) -> Result<Tensor<1>, CollectiveError> {
        self.0.broadcast(values, root)
    }
}

#[test]
fn a_rank_that_sums_in_another_order_keeps_the_same_weights() {
    for optimizer in ["optim.optimizer=lamb", "optim.optimizer=adamw"] {
        let lab = Lab::new();
        // Every gradient is clipped, and every checkpoint compares the weights of the ranks.
        let set = [optimizer, "optim.batch_size=6", "optim.clip_norm=0.01"];
        let [plain, nudged] = ["plain", "nudged"].map(|out| lab.config(out, &set));
        run_ranks(&plain, 2, false, usize::MAX);
        on_ranks(2, PATIENCE, |group| {
            if group.rank() == 1 {
                nudge_sums();
            }
            run_as(&nudged, false, usize::MAX, group).unwrap_or_else(|error| panic!("{error}"));
        });
        assert_eq!(checkpoints(&nudged), [4, 6]);
        assert!(model_bytes(&nudged) == model_bytes(&plain), "rank 0's sums count");
    }
}

#[test]
fn all_ranks_act_on_the_norm_and_the_spread_of_rank_0() {
    let lab = Lab::new();
    let config = lab.config("run", &[]);
    let device = Device::flex().autodiff();
    let start = ModelFolder::read(&lab.path("start"), &device).expect("the lab has a model");
    let sizes = &start.config;
    let trainee = Trainee::new(start.model, sizes, &config, &device);
    let found = on_ranks(2, PATIENCE, |group| {
        let faulty = Faulty(group);
        let rank = group.rank();
        let group: &dyn Collective = if rank == 0 { group } else { &faulty };
        let batches = Batches::open(&config, sizes, &start.tokenizer, rank, 2);
        let batch = batches.expect("a shard").batch(0);
        let totals = Totals::new(&batch, &config, group).expect("the ranks are in sync");
        let context = StepContext { sizes, config: &config, device: &device, totals: &totals };
        let step = gradient(&trainee, &batch, &context, group).expect("the norms are near");
        (step.norm, step.spread.expect("stage 1 contrasts"))
    });
    assert_eq!(found[1], found[0]);
}

#[test]
fn a_rank_with_other_weights_is_told() {
    let lab = Lab::new();
    let errors = on_ranks(2, PATIENCE, |group| {
        let seed: &[&str] = if group.rank() == 1 { &["seed=12"] } else { &[] };
        run_as(&lab.config("start", seed), false, usize::MAX, group).err().expect("they differ")
    });
    for error in errors {
        let error = error.to_string();
        assert!(error.contains("rank 1 starts with different weights than rank 0"), "{error}");
    }
    let errors = on_ranks(2, PATIENCE, |group| {
        let config = lab.config("drift", &[]);
        let run = match group.rank() {
            0 => run_as(&config, false, usize::MAX, group),
            _ => run_as(&config, false, usize::MAX, &Faulty(group)),
        };
        run.err().expect("they drift apart")
    });
    for error in errors {
        let error = error.to_string();
        assert!(error.contains("rank 1 has different weights than rank 0 after step 2"), "{error}");
    }
}

#[test]
fn ranks_wait_for_one_that_is_busy_for_longer_than_the_time_out() {
    let second = Duration::from_secs(1);
    for slow in [0, 1] {
        on_ranks(3, second, |group| {
            let _busy = group.busy();
            if group.rank() == slow {
                thread::sleep(5 * second);
            }
            group.barrier().unwrap_or_else(|error| panic!("{error}"));
        });
    }
    // A busy rank that dies is still told.
    let errors = on_ranks(3, 20 * second, |group| {
        let _busy = group.busy();
        (group.rank() != 1).then(|| group.barrier().expect_err("rank 1 is gone").to_string())
    });
    for error in errors.into_iter().flatten() {
        assert!(error.contains("rank 1 is gone"), "{error}");
    }
}

#[test]
fn a_run_goes_on_after_rank_0_has_evaluated_for_longer_than_the_time_out() {
    let lab = Lab::new();
    let config = lab.config(
        "run",
        &[
            "optim.steps=2",
            "recipe=warmup",
            "data={ text = ['LAB/captions.txt'] }",
            "eval={ shards = ['LAB/scenes.tar'], every = 1 }",
        ],
    );
    on_ranks(2, Duration::from_secs(3), |group| {
        let device = Device::flex();
        train(&config, &device, COMMIT, false, &Signals::default(), group, |progress| {
            if let Progress::Eval(_) = progress {
                thread::sleep(Duration::from_secs(8));
            }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    });
}

#[test]
fn one_rank_reads_the_checkpoint_for_all() {
    let (sharded, adapters) = ("optim.shard_moments=true", "lora={ rank = 2, alpha = 4 }");
    let averaged = "optim.ema=0.7";
    let sets: [&[&str]; 4] = [&[], &[averaged], &[sharded, averaged], &[sharded, adapters]];
    for more in sets {
        let lab = Lab::new();
        let set = ["optim.batch_size=6", "optim.lr_heads=1e-3", "optim.lr_towers=1e-3"];
        let set = [&set, more].concat();
        let [whole, resumed, bare] = ["whole", "resumed", "bare"].map(|out| lab.config(out, &set));
        run_ranks(&whole, 2, false, usize::MAX);
        run_ranks(&resumed, 2, false, 4);
        // Rank 1 sees the run's records, but no checkpoint that it could read.
        fs::create_dir(&bare.out).expect("writable");
        for name in ["config.json", "tokenizer.json", "train.toml"] {
            fs::copy(resumed.out.join(name), bare.out.join(name)).expect("a run has records");
        }
        on_ranks(2, PATIENCE, |group| {
            let config = if group.rank() == 0 { &resumed } else { &bare };
            run_as(config, true, usize::MAX, group).unwrap_or_else(|error| panic!("{error}"));
        });
        assert!(model_bytes(&resumed) == model_bytes(&whole), "{more:?}");
        assert!(moment_bytes(&resumed, 6) == moment_bytes(&whole, 6), "{more:?}");
        if more.contains(&averaged) {
            assert!(average_bytes(&resumed, 6) == average_bytes(&whole, 6), "{more:?}");
        }
    }
}

#[test]
fn one_rank_reads_the_start_model_for_all() {
    let lab = Lab::new();
    fs::create_dir(lab.path("bare")).expect("writable");
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(lab.path("start").join(name), lab.path("bare").join(name)).expect("a model");
    }
    for recipe in ["recipe=stage1", "recipe=stage2_caption"] {
        let config = |out: &str, from: &str| {
            let from = format!("model={{ from = 'LAB/{from}', roi_output_size = 4 }}");
            lab.config(out, &[recipe, &from, "optim.steps=2"])
        };
        let (whole, bare) = (config("whole", "start"), config("run", "bare"));
        let sent = config("run", "start");
        run_ranks(&whole, 2, false, usize::MAX);
        on_ranks(2, PATIENCE, |group| {
            let config = if group.rank() == 0 { &sent } else { &bare };
            run_as(config, false, usize::MAX, group).unwrap_or_else(|error| panic!("{error}"));
        });
        assert!(model_bytes(&sent) == model_bytes(&whole), "{recipe}");
        for config in [&whole, &sent] {
            fs::remove_dir_all(&config.out).expect("a finished run");
        }
    }
}
