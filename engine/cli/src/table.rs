//! Tables and numbers as people read them.

use std::fmt;
use std::io::IsTerminal;
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// Width of a table of names and values where no terminal says how wide it is, as in a pipe or a file. (Rows of many
/// columns keep to one line there, for programs that look for one.)
const PIPE_COLUMNS: u16 = 100;

/// A table with this header; every column but the first is aligned to the right.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    for column in 1..N {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A table of names and values.
#[derive(Debug)]
pub(crate) struct Pairs(Table);

impl Pairs {
    /// With this header over the names.
    pub(crate) fn new(header: &str) -> Pairs {
        let mut table = table([header, ""]);
        if !std::io::stdout().is_terminal() {
            table.set_width(PIPE_COLUMNS);
        }
        Pairs(table)
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, name: &str, value: impl ToString) {
        self.0.add_row([name.to_owned(), value.to_string()]);
    }
}

impl fmt::Display for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// 1234567 as "1,234,567".
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of bytes with a binary unit.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let unit = UNITS.get(unit).copied().unwrap_or("B");
    if n < 1024 { format!("{n} B") } else { format!("{value:.1} {unit}") }
}

/// A duration in the unit that suits it.
pub(crate) fn duration(d: Duration) -> String {
    let us = d.as_micros();
    let (value, unit) = match us {
        0..1_000 => return format!("{us} us"),
        1_000..1_000_000 => (us as f64 / 1e3, "ms"),
        _ => (us as f64 / 1e6, "s"),
    };
    if value < 10.0 && value.fract() != 0.0 { format!("{value:.2} {unit}") } else { format!("{value:.0} {unit}") }
}

/// A duration in milliseconds, whatever its size: where several stand below each other, they are compared.
pub(crate) fn milliseconds(d: Duration) -> String {
    let ms = d.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.2} ms") } else { format!("{} ms", count(ms.round() as u64)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_a_pipe() {
        let mut rows = Pairs::new("a table");
        rows.row("a name", "many words ".repeat(40));
        assert!(rows.to_string().lines().all(|line| line.chars().count() <= PIPE_COLUMNS.into()), "{rows}");
    }

    #[test]
    fn one_unit_a_column() {
        let us = Duration::from_micros;
        assert_eq!([us(17), us(3210), us(250_000), us(2_500_000)].map(milliseconds), ["0.02 ms", "3.21 ms", "250 ms", "2,500 ms"]);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1000), "1,000");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(duration(Duration::from_micros(17)), "17 us");
        assert_eq!(duration(Duration::from_micros(3210)), "3.21 ms");
        assert_eq!(duration(Duration::from_millis(10)), "10 ms");
        assert_eq!(duration(Duration::from_millis(250)), "250 ms");
        assert_eq!(duration(Duration::from_millis(2500)), "2.50 s");
    }
}
