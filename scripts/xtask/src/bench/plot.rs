//! Plots, as SVG for a page.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Width and height in pixels.
const SIZE: (u32, u32) = (940, 380);
/// How much of the width is for the legend.
const LEGEND: u32 = 180;

/// A line through points.
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// The points; `x` of a logarithmic axis is the power of two.
    pub points: Vec<(f64, f64)>,
}

fn colour(index: usize) -> PaletteColor<Palette99> {
    Palette99::pick(index)
}

/// A number as short as it can be read.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e9 => format!("{:.1}G", value / 1e9),
        v if v >= 1e6 => format!("{:.1}M", value / 1e6),
        v if v >= 1e4 => format!("{:.0}k", value / 1e3),
        v if v >= 10.0 || v == 0.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}

/// A power of two as a number with a binary unit.
pub fn power(exponent: f64) -> String {
    let value = exponent.exp2().round();
    match value {
        v if v >= 1_048_576.0 => format!("{}M", (v / 1_048_576.0).round()),
        v if v >= 1024.0 => format!("{}K", (v / 1024.0).round()),
        v => format!("{v}"),
    }
}

/// Lines over powers of two.
pub fn lines(title: &str, x: &str, y: &str, all: &[Series]) -> Result<String> {
    let points = || all.iter().flat_map(|series| series.points.iter());
    let least = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
    let most = points().map(|point| point.0).fold(f64::NEG_INFINITY, f64::max);
    let top = points().map(|point| point.1).fold(0.0, f64::max);
    let names: Vec<&str> = all.iter().map(|series| series.name.as_str()).collect();
    draw(&names, |root| {
        let mut chart = ChartBuilder::on(root)
            .caption(title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(60)
            .build_cartesian_2d(least..most.max(least + 1.0), 0.0..top.max(1e-9) * 1.08)?;
        chart
            .configure_mesh()
            .x_desc(x)
            .y_desc(y)
            .x_labels(24)
            .x_label_formatter(&|value| {
                // Nothing between two powers.
                if (value - value.round()).abs() < 1e-6 { power(*value) } else { String::new() }
            })
            .y_label_formatter(&|value| short(*value))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (index, series) in all.iter().enumerate() {
            let style = colour(index).stroke_width(2);
            chart.draw_series(LineSeries::new(series.points.iter().copied(), style).point_size(3))?;
        }
        Ok(())
    })
}

/// One bar for each name, made of parts on top of each other.
pub fn bars(title: &str, y: &str, names: &[String], parts: &[(String, Vec<f64>)]) -> Result<String> {
    let height = |index: usize| -> f64 { parts.iter().filter_map(|(_, values)| values.get(index)).sum() };
    let top = (0..names.len()).map(height).fold(0.0, f64::max);
    let named: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
    draw(&named, |root| {
        let mut chart = ChartBuilder::on(root)
            .caption(title, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(60)
            .build_cartesian_2d(
                (0..names.len().saturating_sub(1)).into_segmented(),
                0.0..top.max(1e-9) * 1.08,
            )?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .y_desc(y)
            .x_labels(names.len().max(1) + 1)
            .x_label_formatter(&|value| match value {
                SegmentValue::CenterOf(index) => names.get(*index).cloned().unwrap_or_default(),
                _ => String::new(),
            })
            .y_label_formatter(&|value| short(*value))
            .light_line_style(TRANSPARENT)
            .draw()?;
        let mut below = vec![0.0; names.len()];
        for (part, (_, values)) in parts.iter().enumerate() {
            let style = colour(part).filled();
            let mut boxes = Vec::new();
            for ((index, value), from) in values.iter().enumerate().zip(&mut below) {
                let corners =
                    [(SegmentValue::Exact(index), *from), (SegmentValue::Exact(index + 1), *from + value)];
                *from += value;
                let mut bar = Rectangle::new(corners, style);
                bar.set_margin(0, 0, 12, 12);
                boxes.push(bar);
            }
            chart.draw_series(boxes)?;
        }
        Ok(())
    })
}

/// What each colour means, beside the chart, so that it hides nothing.
fn legend(area: &Root<'_>, names: &[&str]) -> Result<(), Box<dyn std::error::Error>> {
    for (index, name) in (0_i32..).zip(names) {
        let top = 36 + 20 * index;
        let style = colour(usize::try_from(index)?).filled();
        area.draw(&Rectangle::new([(4, top), (16, top + 10)], style))?;
        area.draw(&Text::new((*name).to_owned(), (22, top - 2), ("sans-serif", 12)))?;
    }
    Ok(())
}

type Root<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Draws a chart with its legend on the right of it.
fn draw(
    names: &[&str],
    work: impl FnOnce(&Root<'_>) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<String> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        let all = || -> Result<(), Box<dyn std::error::Error>> {
            root.fill(&WHITE)?;
            let (chart, side) = root.split_horizontally(SIZE.0 - LEGEND);
            work(&chart)?;
            legend(&side, names)?;
            Ok(root.present()?)
        };
        all().map_err(|error| anyhow!("a plot: {error}"))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_points_and_names() {
        let series = |name: &str, y| Series { name: name.into(), points: vec![(9.0, y), (12.0, 2.0 * y)] };
        let svg =
            lines("Reads", "size", "bytes", &[series("depth 1", 10.0), series("depth 32", 40.0)]).unwrap();
        for sign in ["<svg", "Reads", "depth 1", "depth 32", "4K", "</svg>"] {
            assert!(svg.contains(sign), "{sign} is not in\n{svg}");
        }
        assert_eq!(svg.matches("<circle").count(), 4);
        for label in ["512", "1K", "2K", "4K"] {
            assert_eq!(svg.matches(&format!(">\n{label}\n<")).count(), 1, "{label} in\n{svg}");
        }
    }

    #[test]
    fn bars_have_their_parts() {
        let names = ["a".to_owned(), "b".to_owned()];
        let parts = [("guest".to_owned(), vec![1.0, 2.0]), ("hypervisor".to_owned(), vec![3.0, 4.0])];
        let svg = bars("Cost", "instructions", &names, &parts).unwrap();
        assert!(svg.contains("guest") && svg.contains("hypervisor") && svg.contains("Cost"));
        // Two parts of two bars, two in the legend, and the background.
        assert!(svg.matches("<rect").count() >= 6, "{svg}");
    }

    #[test]
    fn nothing_can_be_drawn_too() {
        lines("none", "x", "y", &[Series { name: "flat".into(), points: vec![(1.0, 0.0)] }]).unwrap();
        bars("none", "y", &["a".into()], &[("p".into(), vec![0.0])]).unwrap();
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 0.25, 12.0, 12_345.0, 2e6, 3e9].map(short),
            ["0", "0.25", "12", "12k", "2.0M", "3.0G"]
        );
        assert_eq!([0.0, 9.0, 12.0, 20.0].map(power), ["1", "512", "4K", "1M"]);
    }
}
