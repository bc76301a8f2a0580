//! Plots the curves of a run as one SVG image.

use plotters::prelude::*;

/// Plots each named curve of `(step, value)` over the steps, smoothed by a running mean.
pub fn loss_plot(title: &str, curves: &[(String, Vec<(f64, f64)>)]) -> Result<String, String> {
    const COLORS: [RGBColor; 5] = [
        RGBColor(31, 119, 180),
        RGBColor(214, 39, 40),
        RGBColor(44, 160, 44),
        RGBColor(148, 103, 189),
        RGBColor(140, 86, 75),
    ];
    let points =
        || curves.iter().flat_map(|(_, points)| points.iter()).filter(|(_, y)| y.is_finite());
    let last_step = points().map(|(x, _)| *x).fold(1.0, f64::max);
    let highest = points().map(|(_, y)| *y).fold(0.0, f64::max);
    let mut svg = String::new();
    (|| -> Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::with_string(&mut svg, (900, 480)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 18))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..last_step, 0.0..(highest * 1.05).max(1e-6))?;
        chart.configure_mesh().x_desc("step").y_desc("loss").draw()?;
        for ((name, points), color) in curves.iter().zip(COLORS.iter().cycle()) {
            let smooth = running_mean(points, (points.len() / 100).max(1));
            chart
                .draw_series(LineSeries::new(smooth, color.stroke_width(2)))?
                .label(name.as_str())
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .border_style(BLACK)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        area.present()?;
        Ok(())
    })()
    .map_err(|e| e.to_string())?;
    Ok(svg)
}

/// Mean of the last `window` values at every point.
fn running_mean(points: &[(f64, f64)], window: usize) -> Vec<(f64, f64)> {
    points
        .iter()
        .enumerate()
        .map(|(i, (x, _))| {
            let recent = &points[i.saturating_sub(window - 1)..=i];
            (*x, recent.iter().map(|(_, y)| y).sum::<f64>() / recent.len() as f64)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_runs_over_the_last_values() {
        let points = [(0.0, 2.0), (1.0, 4.0), (2.0, 6.0)];
        assert_eq!(running_mean(&points, 2), [(0.0, 2.0), (1.0, 3.0), (2.0, 5.0)]);
    }

    #[test]
    fn a_plot_names_its_curves() {
        let svg = loss_plot("run", &[("loss_emb".into(), vec![(0.0, 1.0), (5.0, 0.5)])]).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("loss_emb"));
    }
}
