//! Plots, as SVG.

use std::{fs, path::Path};

use plotters::prelude::*;

/// A plot with one colour for each series.
pub(crate) struct Plot {
    /// The name of the file, without the ending.
    pub(crate) file: &'static str,
    pub(crate) title: String,
    pub(crate) y_label: &'static str,
    /// What stands under the places 0, 1, 2 and so on of the horizontal axis.
    pub(crate) places: Vec<String>,
    pub(crate) series: Vec<(String, Vec<f64>)>,
    pub(crate) shape: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Bars beside each other, from zero.
    Bars,
    /// Lines over a logarithmic axis.
    LogLines,
}

const SIZE: (u32, u32) = (960, 480);

/// The same for a subject in all plots: by its name up to the comma; this engine in shades of red.
fn colour(number: usize, name: &str) -> RGBColor {
    const OURS: [RGBColor; 3] = [RGBColor(200, 20, 30), RGBColor(255, 165, 60), RGBColor(240, 110, 90)];
    match name.split(',').next().unwrap_or_default() {
        "writeback" => OURS[number % OURS.len()],
        "dashmap" | "fjall" => RGBColor(31, 119, 180),
        "scc" | "LMDB" => RGBColor(44, 160, 44),
        "papaya" | "redb" => RGBColor(148, 103, 189),
        "quick_cache" | "SQLite" => RGBColor(23, 190, 207),
        "TinyUFO" | "RocksDB" => RGBColor(188, 189, 34),
        "foyer" => RGBColor(140, 86, 75),
        "moka" => RGBColor(127, 199, 227),
        _ => RGBColor(110, 110, 110),
    }
}

impl Plot {
    /// Writes the file.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), Box<dyn std::error::Error>> {
        fs::create_dir_all(folder)?;
        let path = folder.join(self.file).with_extension("svg");
        let area = SVGBackend::new(&path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let of = |value: f64| if self.shape == Shape::LogLines { value.max(1e-9).log10() } else { value };
        let values = || self.series.iter().flat_map(|(_, values)| values).copied().filter(|v| v.is_finite());
        let highest = values().map(of).fold(f64::MIN, f64::max);
        let (low, high) = match self.shape {
            Shape::Bars => (0.0, highest * 1.05),
            Shape::LogLines => (values().map(of).fold(f64::MAX, f64::min).floor(), highest.ceil()),
        };
        let last = self.places.len() as f64;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 18))
            .margin(10)
            .margin_right(210)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(-0.5..last - 0.5, low..high)?;
        let place = |x: &f64| {
            let is_place = (x - x.round()).abs() < 0.01 && *x > -0.01;
            let label = is_place.then(|| self.places.get(x.round() as usize)).flatten();
            label.cloned().unwrap_or_default()
        };
        let value = |y: &f64| match self.shape {
            Shape::Bars => format!("{y:.2}"),
            Shape::LogLines => time(10_f64.powf(*y)),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(self.places.len() * 2 + 2)
            .x_label_formatter(&place)
            .y_label_formatter(&value)
            .y_desc(self.y_label)
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.15))
            .label_style(("sans-serif", 13))
            .draw()?;
        let count = self.series.len() as f64;
        for (number, (name, values)) in self.series.iter().enumerate() {
            let points = values.iter().map(|value| of(*value)).enumerate();
            let points = points.map(|(place, value)| (place as f64, value)).filter(|(_, v)| v.is_finite());
            let colour = colour(number, name);
            match self.shape {
                Shape::Bars => {
                    let left = |place: f64| place - 0.42 + 0.84 * number as f64 / count;
                    let bar = |(place, value)| {
                        let corners = [(left(place), 0.0), (left(place) + 0.8 / count, value)];
                        Rectangle::new(corners, colour.filled())
                    };
                    chart.draw_series(points.map(bar))?;
                }
                Shape::LogLines => {
                    chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?;
                }
            }
        }
        self.legend(&area)?;
        area.present()?;
        Ok(())
    }

    /// At the right margin.
    fn legend(
        &self,
        area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let left = SIZE.0 as i32 - 200;
        for (number, (name, _)) in self.series.iter().enumerate() {
            let top = 50 + 20 * number as i32;
            let colour = colour(number, name);
            area.draw(&Rectangle::new([(left, top), (left + 12, top + 12)], colour.filled()))?;
            area.draw(&Text::new(name.clone(), (left + 18, top), ("sans-serif", 13)))?;
        }
        Ok(())
    }
}

/// Nanoseconds, in the unit that suits.
pub(crate) fn time(nanos: f64) -> String {
    match nanos {
        _ if !nanos.is_finite() => "–".to_owned(),
        _ if nanos < 999.5 => format!("{nanos:.0} ns"),
        _ if nanos < 999_500.0 => format!("{} µs", short(nanos / 1e3)),
        _ if nanos < 999.5e6 => format!("{} ms", short(nanos / 1e6)),
        _ => format!("{} s", short(nanos / 1e9)),
    }
}

/// Three digits at most, where it is below a thousand.
pub(crate) fn short(number: f64) -> String {
    match number {
        _ if !number.is_finite() => "–".to_owned(),
        _ if number >= 100.0 => format!("{number:.0}"),
        _ if number >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}
