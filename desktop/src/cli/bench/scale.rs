//! `mmgem bench --scale`: charts of rates over sizes, beside the bounds of this machine.

use std::fs;

use anyhow::{Context as _, Result};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use maud::{Markup, PreEscaped, html};
use mmgem_core::kernels::{is_on_cpu, multiply_in_registers};
use mmgem_core::readback::read_floats;
use mmgem_train::{image_flops, prefill_flops, stage_1_flops};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::search::scan_ms;
use super::work::{Bench, TEXT_LEN};
use super::{BenchArgs, Measured, Work, median_secs};
use crate::globals::Globals;
use crate::terminal::{json_f32, note, print, print_json};

/// Samples of a batch.
const BATCHES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Tokens of a prompt.
const PROMPTS: [usize; 7] = [1, 4, 16, 64, 128, 256, 512];
/// Photos of a library.
const PHOTOS: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Hits of a search.
const K: usize = 100;
/// Bytes that are read to measure the memory. No cache holds them.
const READ_BYTES: usize = 512 << 20;
/// Rows and columns of the matrices that a GPU multiplies to measure its multiplications.
const SIDE: usize = 4096;
/// Rounds of products that a CPU does for the same purpose: some milliseconds.
const ROUNDS: usize = 1 << 21;

/// Measured rates of this machine.
#[derive(Clone, Copy, Debug)]
struct Machine {
    /// Operations per second: of products in registers on a CPU, of a large matrix product on a GPU.
    flops_per_sec: f64,
    /// Bytes per second that all cores read from memory.
    bytes_per_sec: f64,
}

impl Machine {
    fn measure(device: &Device, repeat: usize) -> Self {
        let flops_per_sec = match is_on_cpu(device) {
            true => flops_of_cpu(repeat),
            false => flops_of_gpu(device, repeat),
        };
        let numbers = vec![1u64; READ_BYTES / 8];
        let read = median_secs(repeat, || {
            let sum: u64 = numbers
                .par_chunks(1 << 16)
                .map(|part| part.iter().fold(0, |sum: u64, x| sum.wrapping_add(*x)))
                .reduce(|| 0, u64::wrapping_add);
            std::hint::black_box(sum);
        });
        Self { flops_per_sec, bytes_per_sec: READ_BYTES as f64 / read }
    }

    /// The least time of work with so many operations that reads so many bytes.
    fn least_secs(self, flops: f64, bytes: f64) -> f64 {
        (flops / self.flops_per_sec).max(bytes / self.bytes_per_sec)
    }
}

fn flops_of_cpu(repeat: usize) -> f64 {
    let mut n_operations = 0.0;
    let secs = median_secs(repeat, || n_operations = multiply_in_registers(ROUNDS));
    n_operations / secs
}

fn flops_of_gpu(device: &Device, repeat: usize) -> f64 {
    let [a, b] = [(); 2].map(|()| Tensor::<2>::ones([SIDE, SIDE], device));
    let secs = median_secs(repeat, || {
        let sums = a.clone().matmul(b.clone()).sum();
        drop(pollster::block_on(read_floats(sums)));
    });
    2.0 * (SIDE as f64).powi(3) / secs
}

/// A rate over a size, with the rate that the machine's bounds allow.
#[derive(Clone, Debug)]
struct Chart {
    /// Name of its file.
    name: &'static str,
    title: &'static str,
    size: &'static str,
    /// Size, measured rate, bound.
    points: Vec<[f64; 3]>,
}

pub fn run(args: &BenchArgs, globals: &Globals) -> Result<()> {
    let is_wanted = |work: Work| args.only.is_empty() || args.only.contains(&work);
    let Measured { name, config, files } =
        Measured::new(args.config.as_deref(), args.weights, globals)?;
    let opened = globals.open_device()?;
    let machine = Machine::measure(&opened.device, args.repeat);
    let rates = format!(
        "{:.1} Gflop/s, {:.1} GB/s",
        machine.flops_per_sec / 1e9,
        machine.bytes_per_sec / 1e9
    );
    note(globals.quiet, format!("machine: {rates}"));
    let mut charts = Vec::new();
    if [Work::Image, Work::Prefill].into_iter().any(is_wanted) {
        let model = files.load_to_run(&config, &opened)?;
        let weights = |parameters: usize| 4.0 * parameters as f64;
        let (visual, llm) = (weights(model.visual.num_params()), weights(model.llm.num_params()));
        let bench = Bench::new(model, &config, args.repeat);
        if is_wanted(Work::Image) {
            let point = |n: usize| {
                let least = machine.least_secs(n as f64 * image_flops(&config), visual);
                [n as f64, bench.images_per_sec(n), n as f64 / least]
            };
            charts.push(Chart {
                name: "images",
                title: "images/s",
                size: "images of a batch",
                points: BATCHES.map(point).to_vec(),
            });
        }
        if is_wanted(Work::Prefill) {
            let positions = config.llm.max_position_embeddings;
            let point = |n: usize| {
                let least = machine.least_secs(prefill_flops(&config, n), llm);
                [n as f64, bench.prompt_tokens_per_sec(n), n as f64 / least]
            };
            charts.push(Chart {
                name: "prefill",
                title: "prompt tokens/s",
                size: "tokens of a prompt",
                points: PROMPTS.into_iter().filter(|n| *n <= positions).map(point).collect(),
            });
        }
    }
    if args.only.is_empty() {
        let dim = config.embed_dim;
        let point = |n: usize| {
            // A byte a number, and a scale.
            let least = machine.least_secs(0.0, (n * (dim + 4)) as f64);
            [n as f64, 1e3 / scan_ms(n, dim, K, args.repeat), 1.0 / least]
        };
        charts.push(Chart {
            name: "search",
            title: "searches/s",
            size: "photos of the library",
            points: PHOTOS.map(point).to_vec(),
        });
    }
    if is_wanted(Work::Train) {
        let device = opened.device.clone().autodiff();
        let model = files.load(&config, &device)?;
        // The forward pass, both gradients of a product.
        let weights = 3.0 * 4.0 * model.num_params() as f64;
        let bench = Bench::new(model, &config, args.repeat);
        let flops = stage_1_flops(&config, TEXT_LEN);
        let point = |n: usize| {
            let least = machine.least_secs(n as f64 * flops, weights);
            [n as f64, bench.training_samples_per_sec(n), n as f64 / least]
        };
        charts.push(Chart {
            name: "train",
            title: "training samples/s",
            size: "samples of a step",
            points: BATCHES.map(point).to_vec(),
        });
    }
    fs::create_dir_all(&args.out)
        .with_context(|| format!("cannot write the charts\n  folder: {}", args.out.display()))?;
    let subtitle = format!("{}; {name}; dashed: the bound of {rates}", opened.name);
    for chart in &charts {
        let file = args.out.join(chart.name).with_extension("svg");
        mmgem_data::files::write_atomic(&file, chart.svg(&subtitle).as_bytes())?;
        note(globals.quiet, format!("wrote {}", file.display()));
    }
    if globals.json {
        return print_json(&json!({
            "device": opened.name,
            "model": name,
            "flops_per_sec": json_f32(machine.flops_per_sec as f32),
            "bytes_per_sec": json_f32(machine.bytes_per_sec as f32),
            "charts": charts.iter().map(Chart::json).collect::<Value>(),
        }));
    }
    print(format!("device: {}\nmodel: {name}\nmachine: {rates}", opened.name))?;
    for Chart { title, size, points, .. } in &charts {
        print(format!("{size:>24} {title:>20} {:>12} {:>9}", "bound", "of bound"))?;
        for [size, rate, bound] in points {
            let share = 100.0 * rate / bound;
            print(format!("{size:24} {rate:20.1} {bound:12.1} {share:7.0} %"))?;
        }
    }
    Ok(())
}

/// Width and height of a chart, and its margins: left, top, right, bottom.
const CHART: [f64; 2] = [520.0, 320.0];
const MARGINS: [f64; 4] = [64.0, 56.0, 16.0, 44.0];

const STYLE: &str = "text{font:12px sans-serif;fill:#333}.title{font-size:15px;font-weight:600}\
    .small{font-size:10px;fill:#666}.grid{stroke:#ddd}.bound{stroke:#888;stroke-dasharray:5 4}\
    .rate{stroke:#1667b7;stroke-width:2}polyline{fill:none}circle{fill:#1667b7}";

impl Chart {
    fn json(&self) -> Value {
        let point = |[size, rate, bound]: &[f64; 3]| {
            json!({
                "size": json_f32(*size as f32),
                "rate": json_f32(*rate as f32),
                "bound": json_f32(*bound as f32),
            })
        };
        json!({
            "name": self.name,
            "rate": self.title,
            "size": self.size,
            "points": self.points.iter().map(point).collect::<Value>(),
        })
    }

    /// The chart as an SVG file. Both axes are logarithmic; a dashed line shows the bound.
    fn svg(&self, subtitle: &str) -> String {
        let [width, height] = CHART;
        let [left, top, right, bottom] = MARGINS;
        let sizes = Axis::of(self.points.iter().map(|point| point[0]));
        let rates = Axis::of(self.points.iter().flat_map(|point| [point[1], point[2]]));
        let x = |size: f64| left + (width - left - right) * sizes.place(size);
        let y = |rate: f64| height - bottom - (height - top - bottom) * rates.place(rate);
        let at = |x: f64| format!("{x:.1}");
        let line = |which: usize| {
            let points = self.points.iter();
            let points = points.map(|p| format!("{:.1},{:.1}", x(p[0]), y(p[which])));
            points.collect::<Vec<_>>().join(" ")
        };
        let drawing: Markup = html! {
            svg xmlns="http://www.w3.org/2000/svg" viewBox={ "0 0 " (width) " " (height) }
                width=(width) height=(height) role="img" {
                title { (self.title) " over " (self.size) }
                style { (PreEscaped(STYLE)) }
                rect width=(width) height=(height) fill="#fff" {}
                text.title x=(left) y="22" { (self.title) }
                text.small x=(left) y="38" { (subtitle) }
                @for rate in rates.marks() {
                    line.grid x1=(left) x2=(width - right) y1=(at(y(rate))) y2=(at(y(rate))) {}
                    text x=(left - 6.0) y=(at(y(rate) + 4.0)) text-anchor="end" { (short(rate)) }
                }
                @for point in &self.points {
                    text x=(at(x(point[0]))) y=(height - bottom + 16.0) text-anchor="middle" {
                        (short(point[0]))
                    }
                }
                polyline.bound points=(line(2)) {}
                polyline.rate points=(line(1)) {}
                @for point in &self.points {
                    circle cx=(at(x(point[0]))) cy=(at(y(point[1]))) r="3.5" {}
                }
                text x=(width - right) y=(height - 8.0) text-anchor="end" { (self.size) }
            }
        };
        drawing.into_string() + "\n"
    }
}

/// A logarithmic axis from one power of ten to another.
struct Axis {
    /// Powers.
    from: i32,
    to: i32,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let values = values.filter(|value| *value > 0.0 && value.is_finite());
        let powers: Vec<f64> = values.map(f64::log10).collect();
        let least = powers.iter().copied().fold(f64::INFINITY, f64::min);
        let most = powers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if powers.is_empty() {
            return Self { from: 0, to: 1 };
        }
        let from = least.floor() as i32;
        Self { from, to: (most.ceil() as i32).max(from + 1) }
    }

    /// From 0 at the start of the axis to 1 at its end.
    fn place(&self, value: f64) -> f64 {
        let power = if value > 0.0 { value.log10() } else { f64::from(self.from) };
        (power - f64::from(self.from)) / f64::from(self.to - self.from)
    }

    fn marks(&self) -> Vec<f64> {
        (self.from..=self.to).map(|power| 10f64.powi(power)).collect()
    }
}

/// A number with a unit prefix: 100k, 2M, 0.1.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{}G", v / 1e9),
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e3 => format!("{}k", v / 1e3),
        v => format!("{v}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_time_is_that_of_the_scarcer_resource() {
        let machine = Machine { flops_per_sec: 100.0, bytes_per_sec: 10.0 };
        assert_eq!(machine.least_secs(200.0, 5.0), 2.0);
        assert_eq!(machine.least_secs(200.0, 50.0), 5.0);
    }

    #[test]
    fn an_axis_goes_from_one_power_of_ten_to_another() {
        let axis = Axis::of([3.0, 0.0, 250.0].into_iter());
        assert_eq!((axis.from, axis.to, axis.marks()), (0, 3, vec![1.0, 10.0, 100.0, 1000.0]));
        assert_eq!([1.0, 1000.0, 0.0].map(|value| axis.place(value)), [0.0, 1.0, 0.0]);
        assert_eq!(Axis::of([10.0].into_iter()).marks(), [10.0, 100.0]);
        assert_eq!([0.1, 64.0, 2000.0, 1e6, 1e10].map(short), ["0.1", "64", "2k", "1M", "10G"]);
    }

    #[test]
    fn a_chart_has_a_point_for_each_measurement_and_escapes_names() {
        let chart = Chart {
            name: "images",
            title: "images/s",
            size: "images",
            points: vec![[1.0, 10.0, 100.0], [10.0, 100.0, 1000.0]],
        };
        let svg = chart.svg("a <model>");
        assert!(svg.starts_with("<svg xmlns=") && svg.contains("a &lt;model&gt;"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2);
        // Sizes fill the axis from left to right; rates go from 10 at the bottom to 1000.
        assert!(svg.contains("class=\"rate\" points=\"64.0,276.0 504.0,166.0\""), "{svg}");
        assert!(svg.contains("class=\"bound\" points=\"64.0,166.0 504.0,56.0\""), "{svg}");
    }
}
