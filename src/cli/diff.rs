//! The command `diff`: how two models differ.

use super::{inspect::load, out, table};
use crate::{
    error::{Error, Result},
    report::{self, Change, ModelDiff, Summary},
};
use std::path::Path;

/// Lines of one kind that are shown; JSON has all.
const MOST_LINES: usize = 20;
const COLUMNS: usize = 80;

/// Compares two model files; an error with exit code 3 where they differ.
pub(super) fn run(before: &Path, after: &Path, json: bool) -> Result<()> {
    let (a, b) = (load(before)?, load(after)?);
    let mut found = report::diff(&a, &b)?;
    found.before.file_bytes = Summary::file_bytes(&a, before);
    found.after.file_bytes = Summary::file_bytes(&b, after);
    if json {
        out(&serde_json::to_string_pretty(&found).expect("a comparison is plain data"))?;
    } else {
        out(&show(&found))?;
    }
    if found.equal {
        return Ok(());
    }
    Err(Error::BelowBar("the models differ".to_owned()))
}

fn show(found: &ModelDiff) -> String {
    if found.equal {
        return "the models are equal".to_owned();
    }
    let mut lines = vec![table::sizes(&found.before, &found.after).to_string()];
    let mut section = |title: &str, rows: Vec<String>| {
        if rows.is_empty() {
            return;
        }
        lines.push(format!("{title}:"));
        let left = rows.len().saturating_sub(MOST_LINES);
        lines.extend(rows.iter().take(MOST_LINES).map(|row| table::head(&format!("  {row}"), COLUMNS)));
        if left > 0 {
            lines.push(format!("  ... and {left} more; --json lists all"));
        }
    };
    let plain = |changes: &[Change]| changes.iter().map(|c| line(c, "")).collect();
    section("versions", plain(&found.versions));
    section("metadata", plain(&found.metadata));
    section("inputs", plain(&found.inputs));
    section("outputs", plain(&found.outputs));
    section("operators", plain(&found.operators));
    let ops = found.ops.iter().map(|op| line(&op.operator, &op.differs.join("; ")));
    section(&counted("ops", found.ops.iter().map(|op| &op.operator)), ops.collect());
    let constants = found.initializers.iter().map(|c| {
        let difference = c.max_difference.map(|d| format!("values differ by at most {d:.3e}"));
        line(&c.ty, &difference.unwrap_or_default())
    });
    section(&counted("initializers", found.initializers.iter().map(|c| &c.ty)), constants.collect());
    lines.join("\n")
}

/// A change as one line: `+ name what`, `- name what`, or `~ name before -> after: how`.
fn line(change: &Change, how: &str) -> String {
    let name = &change.name;
    match (&change.before, &change.after) {
        (None, Some(after)) => format!("+ {name} {after}"),
        (Some(before), None) => format!("- {name} {before}"),
        (Some(before), Some(after)) => {
            let how = if how.is_empty() { String::new() } else { format!(": {how}") };
            let what = if before == after { before.clone() } else { format!("{before} -> {after}") };
            format!("~ {name} {what}{how}")
        }
        (None, None) => name.clone(),
    }
}

fn counted<'a>(what: &str, changes: impl Iterator<Item = &'a Change>) -> String {
    let (mut added, mut removed, mut changed) = (0, 0, 0);
    for change in changes {
        match (&change.before, &change.after) {
            (None, _) => added += 1,
            (_, None) => removed += 1,
            _ => changed += 1,
        }
    }
    format!("{what}, {added} added, {removed} removed, {changed} changed")
}
