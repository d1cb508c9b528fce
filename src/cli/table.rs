//! The doctor's table: aligned columns, colour only on a terminal that wants it.

use std::fmt;

/// What a row means for the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Enough.
    Good,
    /// Short, but the target is reached: slower, or with losses.
    Warning,
    /// The target cannot be reached.
    Stop,
}

/// One thing looked at.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) verdict: Verdict,
    pub(super) subject: String,
    pub(super) found: String,
    pub(super) needed: String,
    /// The command that mends it; read only when the verdict is not good.
    pub(super) fix: String,
}

impl Row {
    pub(super) fn new(verdict: Verdict, subject: &str, found: String, needed: String, fix: String) -> Row {
        Row { verdict, subject: subject.to_owned(), found, needed, fix }
    }
}

/// Rows as text.
pub(super) struct Table<'a> {
    pub(super) rows: &'a [Row],
    pub(super) colour: bool,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A cause told in a sentence stands alone in its row; it does not push the last column away.
        let aligned = || self.rows.iter().filter(|row| !row.needed.is_empty());
        let width = |head: &str, column: fn(&Row) -> &str| {
            let cells = aligned().map(|row| column(row).chars().count());
            cells.chain([head.len()]).max().unwrap_or(0)
        };
        let subject = width("", |row| &row.subject);
        let found = width("found", |row| &row.found);
        writeln!(f, "      {:subject$}  {:found$}  needed", "", "found")?;
        for row in self.rows {
            let (paint, plain) = if self.colour { (row.verdict.colour(), "\x1b[0m") } else { ("", "") };
            let verdict = row.verdict.word();
            let line = format!("{:subject$}  {:found$}  {}", row.subject, row.found, row.needed);
            writeln!(f, "{paint}{verdict:4}{plain}  {}", line.trim_end())?;
            if row.verdict != Verdict::Good {
                writeln!(f, "      {:subject$}  mend: {}", "", row.fix)?;
            }
        }
        Ok(())
    }
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Good => "ok",
            Verdict::Warning => "warn",
            Verdict::Stop => "STOP",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Verdict::Good => "\x1b[32m",
            Verdict::Warning => "\x1b[33m",
            Verdict::Stop => "\x1b[31m",
        }
    }
}

/// `1000000` as `1,000,000`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let group = |(at, digit): (usize, char)| {
        let comma = at > 0 && (digits.len() - at).is_multiple_of(3);
        comma.then_some(',').into_iter().chain([digit])
    };
    digits.chars().enumerate().flat_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_only_gaps_are_mended() {
        let row = |verdict, subject: &str| Row::new(verdict, subject, "1".into(), "2".into(), "do it".into());
        let told = Row::new(Verdict::Good, "b", "a whole sentence".into(), String::new(), String::new());
        let rows = [row(Verdict::Good, "a"), row(Verdict::Stop, "longer"), told];
        let text = Table { rows: &rows, colour: false }.to_string();
        assert_eq!(
            text,
            "              found  needed\n\
             ok    a       1      2\n\
             STOP  longer  1      2\n\
             \x20             mend: do it\n\
             ok    b       a whole sentence\n"
        );
        assert!(Table { rows: &rows, colour: true }.to_string().contains("\x1b[31mSTOP\x1b[0m"));
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_048_576, "1,048,576")] {
            assert_eq!(grouped(number), text);
        }
    }
}
