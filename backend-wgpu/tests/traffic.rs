//! Counts work with known kernels. It is the only test of its process, because all of a process's
//! work is counted.

#![cfg(feature = "wgpu")]

use burn::tensor::Tensor;

#[test]
fn a_sum_that_is_read_is_one_dispatch_and_one_read_back() {
    let Ok(device) = mmgem_backend_wgpu::device(None) else {
        eprintln!("SKIPPED: no adapter on this machine");
        return;
    };
    let x = Tensor::<1>::from_floats([1.0, 2.5], &device);
    // Iterate over the values, because `into_data` alone defers the read.
    let work = || (x.clone() + x.clone()).into_data().iter::<f32>().sum::<f32>();
    assert_eq!(work(), 7.0);
    let (sum, traffic) =
        mmgem_backend_wgpu::count(work).expect("no other logger is set in this process");
    let launched: u64 = traffic.kernels.values().sum();
    assert_eq!(
        (sum, traffic.dispatches, launched, traffic.read_backs),
        (7.0, 1, 1, 1),
        "{traffic:?}"
    );
    assert!(traffic.submissions >= 1, "{traffic:?}");
    let (sum, nothing) = mmgem_backend_wgpu::count(|| 7.0).expect("no other logger is set");
    assert_eq!((sum, nothing), (7.0, Default::default()));
}
