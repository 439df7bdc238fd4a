//! How often each row of a table is looked up.

use super::{
    layer::{Candidate, Kind},
    metric::Metric,
};
use crate::{
    error::Result,
    ir::Model,
    measure::{ALL, Probe, Seen},
    passes::Context,
};

/// For each candidate that is a table what errors in its rows count, by how often the samples look them up: once more than
/// they do, as those that they do not show may be asked for as well.
pub(super) fn metrics(
    model: &Model,
    candidates: &[Candidate],
    cx: &Context<'_>,
) -> Result<Vec<Option<Metric>>> {
    let tables: Vec<&Candidate> = candidates.iter().filter(|c| c.kind == Kind::Lookup).collect();
    let mut counts: Vec<Vec<f64>> = tables.iter().map(|table| vec![1.0; table.layer.channels]).collect();
    if !tables.is_empty() {
        let fetch: Vec<_> =
            tables.iter().map(|table| model.graph.name_of(table.layer.input).to_owned()).collect();
        cx.sweep(&[Probe { model, fetch: &fetch }], ALL, &mut |seen: Seen<'_>| {
            for (counts, rows) in counts.iter_mut().zip(seen.values.iter().flatten()) {
                let n = counts.len() as i64;
                for row in rows.to_i64().into_iter().flatten() {
                    let row = usize::try_from(if row < 0 { row + n } else { row });
                    row.ok().and_then(|row| counts.get_mut(row)).into_iter().for_each(|count| *count += 1.0);
                }
            }
            Ok(())
        })?;
    }
    let mut counts = counts.into_iter();
    let of = |c: &Candidate| (c.kind == Kind::Lookup).then(|| counts.next().map(Metric::counted)).flatten();
    Ok(candidates.iter().map(of).collect())
}
