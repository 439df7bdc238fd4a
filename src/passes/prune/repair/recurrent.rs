//! Repair of recurrent layers: the weights of the units that stay, towards what goes into their gates in the original.
//!
//! What the layer sees is the original's own: those of its inputs and of its states at the step before that stay. (A fit
//! on the states of the cut layer, once repaired, does worse on samples held out: they drift differently in each.)

use super::{super::Context, UNKNOWN, twin};
use crate::{
    error::Result,
    ir::{Model, OpId, ValueId},
    ops::axes::Stays,
    passes::linear::{Kept, Recurrent, Rows, fit, moments},
};

/// Repairs a recurrent layer of `model`; says what it gained, or why it stays as it was cut.
pub(super) fn run(
    original: &Model,
    model: &mut Model,
    op: OpId,
    stays: &Stays,
    cx: &Context<'_>,
) -> Result<std::result::Result<String, String>> {
    let output = model.graph.outputs_of(op).into_iter().flatten().next();
    let twin = output.and_then(|v| original.graph.producer(twin(model, v, original)?));
    let Some((twin, _)) = twin else { return Ok(Err(UNKNOWN.into())) };
    let read = |model: &Model, op: OpId| {
        let layer = Recurrent::of(&model.graph, op)?.ok()?;
        let weights = layer.weights(&model.graph)?;
        Some((layer, weights))
    };
    let (Some((teacher, right)), Some((student, mut weights))) = (read(original, twin), read(model, op))
    else {
        return Ok(Err("its weights cannot be read".into()));
    };
    let Some(parts) = moments(original, &teacher, &right, &kept(&teacher, stays), cx)? else {
        return Ok(Err("its values do not lie as their types say, or are no finite numbers".into()));
    };
    if parts.iter().flatten().flatten().any(|sums| sums.rows() == 0) {
        return Ok(Err("too few samples to hold some out".into()));
    }
    let [mut before, mut after, mut size] = [0.0; 3];
    for (maps, weights) in parts.iter().zip(&mut weights) {
        for ([most, held], map) in maps.iter().zip(&student.maps) {
            let found = fit(most, held, &weights.of_map(map, student.hidden), true, Rows::All);
            (before, after, size) = (before + found.before, after + found.after, size + found.size);
            if let Some(new) = found.weights {
                weights.set_map(map, student.hidden, &new);
            }
        }
    }
    let share = |error: f64| 100.0 * (error / size).sqrt();
    if after >= before {
        return Ok(Err(format!(
            "nothing found is nearer than the error of {:.1} % as it was cut",
            share(before)
        )));
    }
    if student.set(&mut model.graph, &weights).is_none() {
        return Ok(Err("the new weights do not fit its type of numbers".into()));
    }
    Ok(Ok(format!(
        "repaired: error {:.1} % -> {:.1} % of what goes into its gates",
        share(before),
        share(after)
    )))
}

/// What stays of the original's inputs and units.
fn kept(teacher: &Recurrent, stays: &Stays) -> Kept {
    let along = |weight: ValueId, all: usize| {
        stays.kept(weight, 2).map_or_else(|| (0..all).collect(), <[usize]>::to_vec)
    };
    Kept { inputs: along(teacher.w, teacher.inputs), units: along(teacher.r, teacher.hidden) }
}
