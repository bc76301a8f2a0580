//! The counts of a piece of work whose kernels are known. Alone in its process: all of a program's work is counted.

#![cfg(feature = "wgpu")]

use burn::tensor::Tensor;

#[test]
fn a_sum_that_is_read_is_one_dispatch_and_one_read_back() {
    let Ok(device) = mmgem_backend_wgpu::device(None) else {
        eprintln!("SKIPPED: no adapter on this machine");
        return;
    };
    let x = Tensor::<1>::from_floats([1.0, 2.5], &device);
    // The values are looked at: `into_data` alone puts the read off.
    let work = || (x.clone() + x.clone()).into_data().iter::<f32>().sum::<f32>();
    assert_eq!(work(), 7.0);
    let (sum, traffic) =
        mmgem_backend_wgpu::count(work).expect("nobody else has this program's log");
    let launched: u64 = traffic.kernels.values().sum();
    assert_eq!(
        (sum, traffic.dispatches, launched, traffic.read_backs),
        (7.0, 1, 1, 1),
        "{traffic:?}"
    );
    assert!(traffic.submissions >= 1, "{traffic:?}");
    let (sum, nothing) = mmgem_backend_wgpu::count(|| 7.0).expect("the same");
    assert_eq!((sum, nothing), (7.0, Default::default()));
}
