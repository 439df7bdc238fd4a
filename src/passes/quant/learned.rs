//! Weights rounded by what their layers see on the calibration samples, front to back: every layer sees what the rounded
//! ones before it put out, and is brought near what the float model puts out there before it is rounded itself.

use super::{
    compensate, descent, gptq,
    scales::{self, Integers},
    weights::Layers,
};
use crate::{
    error::Result,
    ir::{Graph, Model, Origin, QuantScheme, ValueId},
    passes::{
        Context,
        linear::{Found, Layer, Rows, System, Task, collect, fit, is_sparse, refit_nonzero, steps},
    },
};
use std::collections::HashMap;

/// Rounds these weights: those of linear layers by what these see, with float factors of this `rank` beside them,
/// others to the nearest. `rows` tells which of them are seen.
pub(super) fn round(
    weights: &[ValueId],
    rank: usize,
    rows: Rows,
    model: &mut Model,
    layers: &Layers,
    cx: &mut Context<'_>,
) -> Result<()> {
    let float = model.clone();
    let g = &mut model.graph;
    // A layer whose weight has a scheme counts as solved.
    let open = weights.iter().filter_map(|v| Some((*v, g.value_mut(*v).quant.take()?)));
    let mut open: HashMap<ValueId, QuantScheme> = open.collect();
    let steps = steps(model, |v| open.contains_key(&v));
    let learned: Vec<ValueId> = steps.iter().flatten().map(|task| task.layer.weight).collect();
    let (learned, others): (Vec<ValueId>, _) = weights.iter().partition(|v| learned.contains(v));
    others.iter().for_each(|v| model.graph.value_mut(*v).quant = open.remove(v));
    to_nearest(layers, &mut model.graph, &others);
    cx.progress().begin("rounding", learned.len() as u64);
    for tasks in steps {
        let sights: Vec<_> = tasks.iter().map(Task::sight).collect();
        let mut found = Vec::with_capacity(tasks.len());
        collect(model, &float, &sights, cx, |_, sums| {
            found.push(sums);
            cx.progress().advance(1);
        })?;
        for (task, found) in tasks.iter().zip(found) {
            let weight = task.layer.weight;
            let Some((scheme, integers)) = open.remove(&weight).zip(layers.integers.get(&weight)) else {
                continue;
            };
            let at = model.graph.place(task.layer.op);
            match by_what_it_sees(*integers, rank, rows, model, &task.layer, &scheme, found) {
                Ok((text, factors)) => {
                    cx.applied(at, text);
                    if let Some(factors) = factors {
                        compensate::add(&mut model.graph, &task.layer, factors, cx);
                    }
                }
                Err(why) => {
                    cx.missed(at, format!("rounded to the nearest: {why}"));
                    model.graph.value_mut(weight).quant = Some(scheme);
                    to_nearest(layers, &mut model.graph, &[weight]);
                }
            }
        }
    }
    cx.progress().end();
    Ok(())
}

/// Makes every weight that has a scheme the reals that its integers stand for: what other layers see then, and where the
/// type has more integers than are used, what the type alone would not keep to.
pub(super) fn to_nearest(layers: &Layers, graph: &mut Graph, weights: &[ValueId]) {
    for v in weights {
        let value = graph.value(*v);
        let (Origin::Initializer(weight), Some(scheme)) = (&value.origin, &value.quant) else { continue };
        let Some(integers) = layers.integers.get(v) else { continue };
        if let Some(rounded) = scales::rounded(weight, scheme, *integers) {
            graph.value_mut(*v).origin = Origin::Initializer(rounded);
        }
    }
}

/// Rounds a layer's weight, and finds factors of this rank to stand beside it; says how near it comes, or why it stays as it was.
fn by_what_it_sees(
    integers: Integers,
    rank: usize,
    rows: Rows,
    model: &mut Model,
    layer: &Layer,
    nearest: &QuantScheme,
    found: Found,
) -> std::result::Result<(String, Option<compensate::Found>), String> {
    let parts = found?;
    let g = &mut model.graph;
    let unread = || "its weights cannot be read".to_owned();
    let old = layer.weights(g).ok_or_else(unread)?;
    let original = g.constant(layer.weight).cloned().ok_or_else(unread)?;
    // Towards the float model, as far as samples held out agree. Zeros that make a layer sparse stay.
    let sparse = is_sparse(&old, layer.has_bias());
    let mut near = Vec::with_capacity(parts.len());
    let mut grams = Vec::with_capacity(parts.len());
    for (sums @ [most, held], old) in parts.iter().zip(&old) {
        near.push(match sparse {
            true => refit_nonzero(old.clone(), sums, layer.has_bias()),
            false => fit(most, held, old, layer.has_bias(), rows).weights.unwrap_or_else(|| old.clone()),
        });
        grams.push(match rows {
            Rows::All => System::of(&most.clone().plus(held)),
            Rows::Most => System::of(most),
        });
    }
    let inputs = layer.channels * layer.area;
    let mut counts = vec![0f32; original.len()];
    for (part, system) in grams.iter().enumerate() {
        for row in 0..inputs {
            for k in 0..layer.outputs {
                counts[layer.index(row, part * layer.outputs + k)] = system.gram[(row, row)] as f32;
            }
        }
    }
    let unset = || "the new weights do not fit its type of numbers".to_owned();
    layer.set(g, &near).ok_or_else(unset)?;
    let weight = g.constant(layer.weight).ok_or_else(unread)?;
    let scheme = scales::fit(weight, nearest.grain, integers, |at| counts[at]).ok_or_else(unread)?;
    let lay = scheme.grain.lay(weight.shape()).ok_or_else(unread)?;
    let (mut rounded, mut error, mut size) = (Vec::with_capacity(parts.len()), 0.0, 0.0);
    for (part, (near, system)) in near.iter().zip(&grams).enumerate() {
        let grid = |row: usize, k: usize, x: f64| {
            if sparse && near[(row, k)] == 0.0 {
                return 0.0;
            }
            let at = lay.scale_of(layer.index(row, part * layer.outputs + k));
            integers.round(x, scheme.scales[at], scheme.zero_points[at])
        };
        let new = gptq::round(near, &system.gram, layer.has_bias(), grid);
        let new = new.ok_or("its inputs are all nothing on the samples")?;
        let new = descent::refined(&new, near, &system.gram, layer.has_bias(), grid);
        error += system.error(&new);
        size += system.squares;
        rounded.push(new);
    }
    layer.set(g, &rounded).ok_or_else(unset)?;
    g.value_mut(layer.weight).quant = Some(scheme);
    let text = format!("rounded by what it sees: error {:.1} % of its output", 100.0 * (error / size).sqrt());
    let factors = || match (&parts[..], &rounded[..]) {
        ([sums], [now]) => compensate::learned(rank, layer, sums, now),
        _ => Err(compensate::in_groups()),
    };
    Ok((text, (rank > 0).then(factors)))
}
