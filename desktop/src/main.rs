//! temporary
use std::sync::atomic::{AtomicBool, Ordering};
static STOP: AtomicBool = AtomicBool::new(false);
fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let text = std::fs::read_to_string(&args[0])?;
    let resume = args.iter().any(|a| a == "--resume");
    let sets: Vec<String> = args[1..].iter().filter(|a| a.contains('=')).cloned().collect();
    let config = mmgem_core::train::TrainConfig::from_toml(&text, &sets)?;
    ctrlc::set_handler(|| STOP.store(true, Ordering::Relaxed))?;
    let device = burn::tensor::Device::flex();
    let start = std::time::Instant::now();
    let summary = mmgem_core::train::train(&config, &device, "dev", resume, &STOP, |p| match p {
        mmgem_core::train::Progress::Step { step, steps, loss, samples_per_sec } => {
            if step % 10 == 0 || step < 5 { eprintln!("{:7.1}s {step}/{steps} loss {loss:.4} {samples_per_sec:.1}/s", start.elapsed().as_secs_f64()) }
        }
        other => eprintln!("{other:?}"),
    })?;
    eprintln!("{summary:?}");
    Ok(())
}
