//! Tables of at most 80 columns, and numbers as people read them.

use crate::report::Summary;
use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, presets};

/// A table with a header whose columns after the first hold figures.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(80).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The sizes of two models.
pub(crate) fn sizes(before: &Summary, after: &Summary) -> Table {
    let mut sizes = table(&["", "before", "after", "ratio"]);
    let mut row = |label: &str, a: u64, b: u64, text: fn(u64) -> String| {
        sizes.add_row([label.to_owned(), text(a), text(b), ratio(b as f64, a as f64)]);
    };
    if let (Some(a), Some(b)) = (before.file_bytes, after.file_bytes) {
        row("file", a, b, bytes);
    }
    row("weights", before.weight_bytes, after.weight_bytes, bytes);
    row("parameters", before.parameters, after.parameters, count);
    row("MACs", before.macs, after.macs, count);
    row("nodes", before.nodes, after.nodes, |n| n.to_string());
    sizes
}

/// 1234567 as "1.23 M": decimal multiples, three digits.
pub(crate) fn count(n: u64) -> String {
    scaled(n as f64, 1000.0, &["", " k", " M", " G", " T"])
}

/// Bytes as "1.18 MiB": binary multiples, three digits.
pub(crate) fn bytes(n: u64) -> String {
    scaled(n as f64, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

fn scaled(mut x: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while x >= step && unit + 1 < units.len() {
        x /= step;
        unit += 1;
    }
    let digits = match x {
        _ if unit == 0 => 0,
        x if x < 10.0 => 2,
        x if x < 100.0 => 1,
        _ => 0,
    };
    format!("{x:.digits$}{}", units[unit])
}

/// The beginning of a text, in at most so many columns.
pub(crate) fn head(text: &str, columns: usize) -> String {
    match text.chars().count() > columns {
        true => text.chars().take(columns - 1).chain("…".chars()).collect(),
        false => text.to_owned(),
    }
}

/// The end of a text, where names of layers differ, in at most so many columns.
pub(crate) fn tail(text: &str, columns: usize) -> String {
    match text.chars().count().checked_sub(columns) {
        None | Some(0) => text.to_owned(),
        Some(over) => "…".chars().chain(text.chars().skip(over + 1)).collect(),
    }
}

/// A new figure as a share of the old: "0.26x".
pub(crate) fn ratio(new: f64, old: f64) -> String {
    if old > 0.0 { format!("{:.2}x", new / old) } else { "-".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_to_their_columns() {
        assert_eq!((tail("conv1", 5), tail("/net/conv1", 6)), ("conv1".into(), "…conv1".into()));
        assert_eq!((head("Conv", 4), head("Softmax", 5)), ("Conv".into(), "Soft…".into()));
    }
    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!((count(999), count(1_234_567)), ("999".into(), "1.23 M".into()));
        assert_eq!(
            (bytes(512), bytes(1536), bytes(250 << 20)),
            ("512 B".into(), "1.50 KiB".into(), "250 MiB".into())
        );
        assert_eq!((ratio(1.0, 4.0), ratio(1.0, 0.0)), ("0.25x".into(), "-".into()));
    }
}
