//! The text of a scrape: Prometheus 0.0.4, or OpenMetrics 1.0 for those who ask for it.

use super::{Buckets, Kind, Metric, Scrape, Source};
use crate::ds::{BUCKETS, Distribution, bound};
use std::borrow::Cow;
use std::fmt::Write;

/// A format of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Format {
    /// What every scraper reads.
    Prometheus,
    /// The same with units, and an end by which a text that was cut is known.
    OpenMetrics,
}

impl Format {
    /// The format for a request with this `Accept`.
    pub fn accepted(accept: &str) -> Format {
        let wants = accept.split(',').any(|range| range.trim().starts_with("application/openmetrics-text"));
        if wants { Format::OpenMetrics } else { Format::Prometheus }
    }

    /// Its media type.
    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The whole text.
pub(in crate::control) fn write(scrape: &Scrape, aliases: bool, format: Format) -> String {
    let server = format!("server_id=\"{}\"", escape(&scrape.server_id));
    let mut out = Text { text: String::with_capacity(64 << 10), server, name: "", labels: &[] };
    for metric in Metric::all(aliases) {
        out.head(metric, format);
        match &metric.source {
            Source::One(read) => out.sample("", &[], None, read(scrape)),
            Source::By(_, read) => read(scrape, &mut |values, number| out.sample("", values, None, number)),
            Source::Spread(_, buckets, read) => {
                read(scrape, &mut |values, spread| out.histogram(buckets, values, spread));
            }
        }
    }
    if format == Format::OpenMetrics {
        out.text.push_str("# EOF\n");
    }
    out.text
}

struct Text {
    text: String,
    /// The label that all samples have.
    server: String,
    /// Of the metric that is being written.
    name: &'static str,
    labels: &'static [&'static str],
}

impl Text {
    fn head(&mut self, metric: &Metric, format: Format) {
        (self.name, self.labels) = (metric.name, metric.labels());
        // OpenMetrics names the family, of which a counter's sample has the name and `_total`.
        let family = match (format, metric.kind) {
            (Format::OpenMetrics, Kind::Counter) => metric.name.trim_end_matches("_total"),
            _ => metric.name,
        };
        let Metric { kind, unit, help, .. } = metric;
        let _ = writeln!(self.text, "# HELP {family} {help}\n# TYPE {family} {}", kind.name());
        let is_suffix = !unit.is_empty() && family.ends_with(&format!("_{unit}"));
        if format == Format::OpenMetrics && is_suffix {
            let _ = writeln!(self.text, "# UNIT {family} {unit}");
        }
    }

    fn sample(&mut self, suffix: &str, values: &[&str], bound: Option<f64>, number: f64) {
        let _ = write!(self.text, "{}{suffix}{{{}", self.name, self.server);
        for (label, value) in self.labels.iter().zip(values) {
            let _ = write!(self.text, ",{label}=\"{}\"", escape(value));
        }
        match bound {
            // Both formats alike, and as OpenMetrics wants it: a number that is whole still shows its point.
            Some(bound) if bound.fract() == 0.0 => drop(write!(self.text, ",le=\"{bound:.1}\"")),
            Some(bound) if bound.is_finite() => drop(write!(self.text, ",le=\"{bound}\"")),
            Some(_) => self.text.push_str(",le=\"+Inf\""),
            None => {}
        }
        let _ = writeln!(self.text, "}} {number}");
    }

    fn histogram(&mut self, buckets: &Buckets, values: &[&str], spread: &Distribution) {
        let (mut told, mut up_to) = (buckets.bounds.iter().peekable(), 0);
        for bucket in 0..BUCKETS - 1 {
            up_to += spread.counts[bucket];
            if let Some(next) = told.next_if(|next| **next == bound(bucket)) {
                self.sample("_bucket", values, Some(*next as f64 / buckets.per_unit), up_to as f64);
            }
        }
        let count = spread.count() as f64;
        self.sample("_bucket", values, Some(f64::INFINITY), count);
        self.sample("_sum", values, None, spread.sum as f64 / buckets.per_unit);
        self.sample("_count", values, None, count);
    }
}

/// A label's value between quotes.
fn escape(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', '"', '\n']) {
        return value.into();
    }
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").into()
}
