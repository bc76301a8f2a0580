//! 64 ranks, on threads and with tiny tensors; and sums that do not depend on the number of ranks.

use std::net::TcpListener;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use burn::tensor::{Device, Tensor};
use mmgem_collective::{Collective, Single, Tcp, sum_in_pairs};

use crate::lab::{Lab, PATIENCE, finish, model_bytes, moment_bytes, on_ranks, run_as};

const N_RANKS: usize = 64;
const SLOW: usize = 2;
const LATE: usize = 9;
const DEAD: usize = 17;

/// [`on_ranks`] for 64 ranks, of which one connects a second after the others.
fn on_many_ranks<T: Send>(timeout: Duration, act: impl Fn(&Tcp) -> T + Sync) -> Vec<T> {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let (master, act) = (address.to_string(), &act);
    thread::scope(|scope| {
        let start = |rank| {
            let master = &master;
            scope.spawn(move || {
                if rank == LATE {
                    thread::sleep(Duration::from_secs(1));
                }
                act(&Tcp::connect(rank, N_RANKS, master, "run", timeout).expect("they meet"))
            })
        };
        let ranks: Vec<_> = (0..N_RANKS).map(start).collect();
        ranks.into_iter().map(|rank| rank.join().expect("no rank panics")).collect()
    })
}

/// Values whose sum depends on the order of the additions.
fn values(rank: usize, round: usize) -> Vec<f32> {
    (1..4)
        .map(|at| ((rank * 31 + round * 7 + at) as f32).sin() * 10f32.powi(at as i32 - 2))
        .collect()
}

#[test]
fn a_slow_and_a_late_one_of_64_ranks_change_no_result() {
    const ROUNDS: usize = 3;
    let found = on_many_ranks(PATIENCE, |group| {
        let rank = group.rank();
        let round = |round| {
            if rank == SLOW {
                thread::sleep(Duration::from_millis(200));
            }
            let own = || Tensor::<1>::from_floats(&values(rank, round)[..], &Device::flex());
            let host = |values: Tensor<1>| values.into_data().try_to_vec::<f32>().expect("f32");
            let texts = group.exchange(&vec![rank as u8; rank % 5]).expect("exchange");
            let sum = host(group.all_reduce_sum(own()).expect("sum"));
            let all = host(group.all_gather(own()).expect("gather"));
            let one = host(group.broadcast(own(), N_RANKS - 1).expect("broadcast"));
            (texts, sum, all, one)
        };
        (0..ROUNDS).map(round).collect::<Vec<_>>()
    });
    let wanted = |round| {
        let of_ranks: Vec<_> = (0..N_RANKS).map(|rank| values(rank, round)).collect();
        let texts: Vec<_> = (0..N_RANKS).map(|rank| vec![rank as u8; rank % 5]).collect();
        let add = |a: Vec<f32>, b: Vec<f32>| a.iter().zip(b).map(|(a, b)| a + b).collect();
        let sum = sum_in_pairs(of_ranks.clone(), add).expect("64 of them");
        let (all, one) = (of_ranks.concat(), of_ranks[N_RANKS - 1].clone());
        (texts, sum, all, one)
    };
    let wanted: Vec<_> = (0..ROUNDS).map(wanted).collect();
    assert!(found.iter().all(|found| *found == wanted));
}

#[test]
fn a_dead_one_of_64_ranks_is_named_by_all_others() {
    let errors = on_many_ranks(PATIENCE, |group| {
        group.barrier().expect("all are there");
        (group.rank() != DEAD).then(|| group.barrier().expect_err("one is gone").to_string())
    });
    check_named(&errors);
}

#[test]
fn a_slow_rank_does_not_hide_one_that_hangs() {
    // The slow rank takes most of the time that the others have for the one that hangs.
    let (timeout, slow) = (Duration::from_secs(10), Duration::from_secs(6));
    let all_know = Barrier::new(N_RANKS);
    let errors = on_many_ranks(timeout, |group| {
        group.barrier().expect("all are there");
        if group.rank() == SLOW {
            thread::sleep(slow);
        }
        let error = (group.rank() != DEAD).then(|| group.barrier().expect_err("one hangs"));
        all_know.wait();
        error.map(|error| error.to_string())
    });
    check_named(&errors);
}

fn check_named(errors: &[Option<String>]) {
    for (rank, error) in errors.iter().enumerate().filter(|(rank, _)| *rank != DEAD) {
        let error = error.as_deref().expect("only the dead one has none");
        assert!(error.contains(&format!("rank {DEAD}")), "rank {rank}: {error}");
    }
}

/// Runs six steps in four parts: all on one rank, on 2 ranks, on 4 ranks, and on a changing number.
fn check_bits(set: &[&str]) {
    let lab = Lab::new();
    let config = |out: &str, n_ranks: usize| {
        let workers = format!("optim.workers={}", 4 / n_ranks);
        lab.config(out, &[&["optim.batch_size=8", &workers], set].concat())
    };
    let run = |out: &str, n_ranks: usize, resume: bool, last: usize| {
        let config = config(out, n_ranks);
        on_ranks(n_ranks, PATIENCE, |group| {
            run_as(&config, resume, last, group).unwrap_or_else(|error| panic!("{error}"));
        });
    };
    let one = config("one", 1);
    finish(&one, false);
    run("two", 2, false, usize::MAX);
    run("four", 4, false, usize::MAX);
    run("changing", 2, false, 2);
    run("changing", 4, true, 4);
    let changing = config("changing", 1);
    run_as(&changing, true, usize::MAX, &Single).expect("one process goes on");
    for many in [config("two", 2), config("four", 4), changing] {
        let out = many.out.display();
        assert!(model_bytes(&many) == model_bytes(&one), "{set:?}: other weights in {out}");
        assert!(moment_bytes(&many, 6) == moment_bytes(&one, 6), "{set:?}: other moments in {out}");
    }
}

#[test]
fn the_same_parts_give_the_same_bits_on_any_number_of_ranks() {
    check_bits(&[]);
    check_bits(&["contrastive_loss=siglip", "grounding={ weight = 1.0, contrast = true }"]);
    check_bits(&["recipe=stage2_retrieval", "model={ from = 'LAB/start' }"]);
    check_bits(&["lora={ rank = 2, alpha = 4 }", "model={ from = 'LAB/start' }"]);
}
