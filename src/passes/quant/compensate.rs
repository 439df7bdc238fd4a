//! Few numbers of float beside a rounded layer, for what rounding took from it: `y = x Q + (x L) R`.
//!
//! Let `Y` be what the float model's layer puts out and `X` what the rounded one sees. With `B` the ridge solution of `X B = Y - X
//! Q` and `V` the directions of outputs in which `X B` is largest, `L = B V` and `R = V'` are the best factors of their rank
//! (reduced-rank regression, Izenman 1975). Without samples `B` is what rounding took from the weights. As in ZeroQuant-V2
//! (Yao et al. 2023) and LQER (Zhang et al. 2024), few directions hold much of the error where weights have few bits.

use super::{scales, weights::Layers};
use crate::{
    error::Result,
    ir::{Graph, Model, Op, OpId, Origin, QuantScheme, Tensor, ValueId},
    passes::{
        Context,
        linear::{Layer, Sums, System, Task, collect, damped, steps},
    },
};
use faer::{Mat, Side};
use std::collections::BTreeMap;

/// How much the ridge solution is held back, as a share of the mean diagonal.
const RIDGE: f64 = 1e-2;

/// Puts factors of this rank beside the layers of these weights, rounded to the nearest; returns those that have them.
pub(super) fn beside(
    rank: usize,
    weights: &[ValueId],
    model: &mut Model,
    float: &Model,
    layers: &Layers,
    cx: &mut Context<'_>,
) -> Result<Vec<ValueId>> {
    let schemes = take_schemes(weights, model, layers);
    let (steps, mut done) = (steps(model, |v| schemes.contains_key(&v)), Vec::new());
    for tasks in steps {
        for (task, factors) in tasks.iter().zip(factors(rank, model, float, &tasks, cx)?) {
            if add(&mut model.graph, &task.layer, factors, cx) {
                done.push(task.layer.weight);
            }
        }
    }
    schemes.into_iter().for_each(|(v, scheme)| model.graph.value_mut(v).quant = Some(scheme));
    Ok(done)
}

/// Makes weights the reals that their integers stand for, and returns their schemes.
fn take_schemes(weights: &[ValueId], model: &mut Model, layers: &Layers) -> BTreeMap<ValueId, QuantScheme> {
    let mut schemes = BTreeMap::new();
    for v in weights {
        let value = model.graph.value_mut(*v);
        let (Origin::Initializer(weight), Some(scheme)) = (&value.origin, value.quant.clone()) else {
            continue;
        };
        if let Some(rounded) = layers.integers.get(v).and_then(|i| scales::rounded(weight, &scheme, *i)) {
            value.origin = Origin::Initializer(rounded);
            value.quant = None;
            schemes.insert(*v, scheme);
        }
    }
    schemes
}

type Factors = [Mat<f64>; 2];
/// Factors and what they are worth, or why there are none.
pub(super) type Found = std::result::Result<(Factors, String), String>;

/// The factors for each task.
fn factors(
    rank: usize,
    model: &Model,
    float: &Model,
    tasks: &[Task],
    cx: &Context<'_>,
) -> Result<Vec<Found>> {
    let weights = |model: &Model, layer: &Layer| match layer.weights(&model.graph) {
        Some(parts) if layer.groups == 1 => parts.into_iter().next().ok_or_else(unread),
        Some(_) => Err(in_groups()),
        None => Err(unread()),
    };
    if !cx.has_samples() {
        let taken = |task: &Task| {
            let (now, was) = (weights(model, &task.layer)?, weights(float, &task.layer)?);
            let n = task.layer.channels * task.layer.area;
            let taken = (was - now).subrows(0, n).to_owned();
            let text = format!("factors of rank {rank} beside it, for what rounding took from its weights");
            Ok((best(&taken, &Mat::identity(n, n), rank)?, text))
        };
        return Ok(tasks.iter().map(taken).collect());
    }
    let sights: Vec<_> = tasks.iter().map(Task::sight).collect();
    let mut all = Vec::with_capacity(tasks.len());
    collect(model, float, &sights, cx, |k, found| {
        let layer = &tasks[k].layer;
        let found = || {
            let (now, sums) = (weights(model, layer)?, found?.into_iter().next().ok_or_else(unread)?);
            learned(rank, layer, &sums, &now)
        };
        all.push(found());
    })?;
    Ok(all)
}

pub(super) fn in_groups() -> String {
    "its channels are in groups".to_owned()
}
fn unread() -> String {
    "its weights cannot be read".to_owned()
}

/// Factors beside weights that are `now`, by what the layer sees and should put out, where samples held out find them better.
pub(super) fn learned(rank: usize, layer: &Layer, [most, held]: &[Sums; 2], now: &Mat<f64>) -> Found {
    let (train, judge) = (System::of(most), System::of(held));
    let n = layer.channels * layer.area;
    let wanted = train.find(now, Some(RIDGE), layer.has_bias()).ok_or_else(unsolved)?;
    let taken = (wanted - now).subrows(0, n).to_owned();
    let seen = damped(&train.gram, layer.has_bias()).submatrix(0, 0, n, n).to_owned();
    let [first, second] = best(&taken, &seen, rank)?;
    let mut with = now.clone();
    let mut rows = with.subrows_mut(0, n);
    rows += &first * &second;
    let share = |weights: &Mat<f64>| 100.0 * (judge.error(weights) / judge.squares).sqrt();
    let (before, after) = (share(now), share(&with));
    if after >= before {
        return Err(format!("with them samples held out are no nearer than {before:.1} % of its output"));
    }
    let text = format!("factors of rank {rank} beside it: error {before:.1} % -> {after:.1} % of its output");
    Ok(([first, second], text))
}

fn unsolved() -> String {
    "what rounding took from it has no solution".to_owned()
}

/// The best factors of weights, by the second moments of what they read.
fn best(weights: &Mat<f64>, seen: &Mat<f64>, rank: usize) -> std::result::Result<Factors, String> {
    let (inputs, outputs) = (weights.nrows(), weights.ncols());
    if rank >= inputs.min(outputs) {
        return Err(format!("its {inputs} inputs and {outputs} outputs have no more directions"));
    }
    let squares = weights.transpose() * (seen * weights);
    // Eigenvalues rise.
    let eigen = squares.self_adjoint_eigen(Side::Lower).map_err(|_| unsolved())?;
    let directions = eigen.U().subcols(outputs - rank, rank).to_owned();
    let first = weights * &directions;
    match first.is_all_finite() {
        true => Ok([first, directions.transpose().to_owned()]),
        false => Err(unsolved()),
    }
}

/// Puts what was found beside a layer, and says so, or why nothing is there.
pub(super) fn add(g: &mut Graph, layer: &Layer, found: Found, cx: &mut Context<'_>) -> bool {
    let added = found.and_then(|(factors, text)| {
        let unfit = || "the factors do not fit its type of numbers".to_owned();
        insert(g, layer, &factors).map(|_| text).ok_or_else(unfit)
    });
    let (at, done) = (g.place(layer.op), added.is_ok());
    match added {
        Ok(text) => cx.applied(at, text),
        Err(why) => cx.missed(at, format!("no factors beside it: {why}")),
    }
    done
}

/// Adds what the factors make of a layer's input to its output.
fn insert(g: &mut Graph, layer: &Layer, [first, second]: &Factors) -> Option<OpId> {
    let (op, y) = (layer.op, g.output(layer.op, 0)?);
    let (name, ty) = (g.name_of(y).to_owned(), g.value(y).ty.clone());
    let dtype = g.dtype(layer.weight)?;
    let (inputs, outputs, rank) = (first.nrows(), second.ncols(), first.ncols());
    let rows = |m: &Mat<f64>| -> Vec<f32> {
        (0..m.nrows()).flat_map(|i| m.row(i).iter().map(|x| *x as f32).collect::<Vec<_>>()).collect()
    };
    let branch = |op| Op { name: String::new(), carried: Default::default(), ..op };
    let (a, b, first_op, second_op) = if layer.is_convolution() {
        let shape = g.constant(layer.weight)?.shape().to_vec();
        let kernel = [&[rank][..], &shape[1..]].concat();
        let pointwise = [&[outputs, rank][..], &vec![1; shape.len() - 2]].concat();
        let a = Tensor::from_f32(dtype, kernel, rows(&first.transpose().to_owned()))?;
        let b = Tensor::from_f32(dtype, pointwise, rows(&second.transpose().to_owned()))?;
        (a, b, branch(g.op(op).clone()), Op::new("Conv", ""))
    } else {
        let a = Tensor::from_f32(dtype, [inputs, rank], rows(first))?;
        let b = Tensor::from_f32(dtype, [rank, outputs], rows(second))?;
        (a, b, Op::new("MatMul", ""), Op::new("MatMul", ""))
    };
    let weight = g.name_of(layer.weight).to_owned();
    let [a, b] = [(a, "in"), (b, "out")].map(|(t, end)| g.add_initializer(&format!("{weight}_{end}"), t));
    let inner = g.add_node(first_op, &[layer.input, a], &format!("{name}_in"), None);
    let added = g.add_node(second_op, &[inner, b], &format!("{name}_added"), ty.clone());
    let own = g.add_value(&format!("{name}_rounded"), ty);
    let mut outs = g.outputs_of(op);
    outs[0] = Some(own);
    g.set_outputs(op, &outs);
    Some(g.add_op(Op::new("Add", ""), &[Some(own), Some(added)], &[Some(y)]))
}
