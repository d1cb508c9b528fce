//! The plots of the page, as SVG whose colours are the page's: each is drawn in a marker colour that is then replaced
//! by a CSS variable, so that one drawing serves light and dark.

use super::guard::Homecoming;
use super::{Moment, Quantile};
use plotters::prelude::*;

const WIDTH: u32 = 860;
const HEIGHT: u32 = 300;

/// Marker colour, and the variable it stands for.
const COLORS: [(RGBColor, &str, &str); 4] = [
    (INK, "#010203", "var(--ink)"),
    (LINE, "#010204", "var(--line)"),
    (FIRST, "#010205", "var(--first)"),
    (SECOND, "#010206", "var(--second)"),
];
const INK: RGBColor = RGBColor(1, 2, 3);
const LINE: RGBColor = RGBColor(1, 2, 4);
const FIRST: RGBColor = RGBColor(1, 2, 5);
const SECOND: RGBColor = RGBColor(1, 2, 6);

/// One curve.
struct Curve {
    name: &'static str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// What the axes say.
struct Axes {
    x: &'static str,
    y: &'static str,
    x_label: fn(f64) -> String,
    y_label: fn(f64) -> String,
}

/// Connections open over time.
pub(super) fn ramp(timeline: &[Moment]) -> Option<String> {
    let points = timeline.iter().map(|moment| (moment.seconds, moment.open as f64)).collect();
    let axes = Axes { x: "seconds", y: "connections", x_label: |x| format!("{x:.0}"), y_label: thousands };
    draw(&[Curve { name: "open connections", color: FIRST, points }], &axes)
}

/// Memory over connections.
pub(super) fn memory(timeline: &[Moment]) -> Option<String> {
    let at = |moment: &Moment, bytes: u64| (moment.open as f64, bytes as f64 / f64::from(1 << 20));
    let slab = timeline.iter().map(|moment| at(moment, moment.slab_bytes)).collect();
    let rss: Vec<_> = timeline.iter().filter_map(|m| Some(at(m, m.server_rss_bytes?))).collect();
    let axes = Axes { x: "connections", y: "MB", x_label: thousands, y_label: thousands };
    let mut curves = vec![Curve { name: "kernel slab of this host, MB", color: SECOND, points: slab }];
    if !rss.is_empty() {
        curves.push(Curve { name: "server RSS, MB", color: FIRST, points: rss });
    }
    draw(&curves, &axes)
}

/// Echo latency by percentile, both on logarithmic scales.
pub(super) fn latency(quantiles: &[Quantile]) -> Option<String> {
    let points =
        quantiles.iter().map(|q| (-(1.0 - q.quantile).log10(), (q.us.max(1) as f64).log10())).collect();
    let percentile = |nines: f64| format!("{} %", trim(100.0 - 10f64.powf(2.0 - nines)));
    let time = |exponent: f64| super::table::time(10f64.powf(exponent).round() as u64);
    let axes = Axes { x: "percentile", y: "latency", x_label: percentile, y_label: time };
    draw(&[Curve { name: "echo latency from the intended send", color: FIRST, points }], &axes)
}

/// Attempts and welcomes a second, as clients come back.
pub(super) fn homecoming(home: &Homecoming) -> Option<String> {
    let attempts = home.attempts_per_100ms.per_second().collect();
    let welcomed = home.welcomed_per_100ms.per_second().collect();
    let axes = Axes { x: "seconds", y: "a second", x_label: |x| format!("{x:.0}"), y_label: thousands };
    let curves = [
        Curve { name: "attempts", color: SECOND, points: attempts },
        Curve { name: "welcomed", color: FIRST, points: welcomed },
    ];
    draw(&curves, &axes)
}

fn trim(percent: f64) -> String {
    let text = format!("{percent:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn thousands(value: f64) -> String {
    super::table::count(value.max(0.0).round() as u64)
}

fn draw(curves: &[Curve], axes: &Axes) -> Option<String> {
    if curves.iter().all(|curve| curve.points.len() < 2) {
        return None;
    }
    let mut svg = String::new();
    // Drawing into a string fails only where the ranges are empty; then there is no plot.
    render(&mut svg, curves, axes).ok()?;
    for (_, marker, variable) in COLORS {
        svg = svg.replace(marker, variable);
    }
    Some(svg)
}

fn render(svg: &mut String, curves: &[Curve], axes: &Axes) -> Result<(), Box<dyn std::error::Error>> {
    let all = || curves.iter().flat_map(|curve| curve.points.iter());
    let most = |part: fn(&(f64, f64)) -> f64| all().map(part).fold(1e-9, f64::max);
    let (x_max, y_max) = (most(|point| point.0), most(|point| point.1) * 1.08);
    let root = SVGBackend::with_string(svg, (WIDTH, HEIGHT)).into_drawing_area();
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .margin_right(36)
        .x_label_area_size(46)
        .y_label_area_size(92)
        .build_cartesian_2d(0.0..x_max, 0.0..y_max)?;
    let text = ("sans-serif", 15).into_font().color(&INK);
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(LINE)
        .axis_style(LINE)
        .label_style(text.clone())
        .x_labels(8)
        .y_labels(6)
        .x_desc(axes.x)
        .y_desc(axes.y)
        .x_label_formatter(&|x| (axes.x_label)(*x))
        .y_label_formatter(&|y| (axes.y_label)(*y))
        .draw()?;
    for curve in curves {
        let color = curve.color;
        chart
            .draw_series(LineSeries::new(curve.points.iter().copied(), color.stroke_width(2)))?
            .label(curve.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .border_style(TRANSPARENT)
        .label_font(text)
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_use_the_colours_of_the_page_and_nothing_is_drawn_of_nothing() {
        let at = |n: u64| Moment {
            seconds: n as f64,
            open: n * 100,
            server_rss_bytes: Some(n << 20),
            slab_bytes: n << 22,
        };
        let timeline: Vec<_> = (0..10).map(at).collect();
        let svg = memory(&timeline).unwrap();
        assert!(svg.contains("var(--first)") && svg.contains("var(--second)") && svg.contains("var(--ink)"));
        assert!(!svg.contains("#0102"));
        assert!(ramp(&[]).is_none() && latency(&[]).is_none());
    }

    #[test]
    fn percentiles_are_labelled_in_nines() {
        let labels: Vec<String> =
            [0.0f64, 1.0, 3.0].iter().map(|n| trim(100.0 - 10f64.powf(2.0 - n))).collect();
        assert_eq!(labels, ["0", "90", "99.9"]);
    }
}
