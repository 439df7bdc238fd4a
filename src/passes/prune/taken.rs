//! Branches of If as the samples take them. Where all of them take the same one, its layers can be looked at and repaired: in a
//! model that has the branch in the If's place. Layers of the other branch run on no sample, so nothing is known of them.

use super::{Context, repair, select::Candidate};
use crate::{
    error::Result,
    ir::{DType, Graph, Model, OpId, Origin, Tensor, ValueId},
    measure::{Probe, Seen},
    ops::{axes::Stays, infer_types},
    passes::{lift::readers, linear::Layer, simplify::inline_decided},
};
use std::collections::HashSet;

/// Ifs in Ifs are followed so deep.
const DEEPEST: usize = 8;

/// Which branches the samples take.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Taken {
    /// The names of the first outputs of Ifs, each after those around it, and whether the condition holds.
    decided: Vec<(String, bool)>,
}

impl Taken {
    /// `None` where there is no If that all samples decide alike.
    pub(super) fn of(model: &Model, cx: &Context<'_>) -> Result<Option<Taken>> {
        if !model.graph.ops().any(|op| model.graph.op(op).is("If")) {
            return Ok(None);
        }
        let mut taken = Taken { decided: Vec::new() };
        for _ in 0..DEEPEST {
            let flat = taken.flat(model)?;
            let more = decided(&flat, cx)?;
            let new =
                more.into_iter().filter(|(name, _)| taken.decided.iter().all(|(known, _)| known != name));
            let new: Vec<_> = new.collect();
            if new.is_empty() {
                break;
            }
            taken.decided.extend(new);
        }
        Ok(Some(taken).filter(|taken| !taken.decided.is_empty()))
    }
    /// The model with these branches in the place of the Ifs. Values of its main graph are the model's.
    pub(super) fn flat(&self, model: &Model) -> Result<Model> {
        let (mut flat, opset) = (model.clone(), model.opset());
        for (name, holds) in &self.decided {
            let g = &mut flat.graph;
            let Some((op, _)) = g.find(name).and_then(|v| g.producer(v)).filter(|(op, _)| g.op(*op).is("If"))
            else {
                continue;
            };
            let condition = Tensor::new(DType::Bool, [], vec![u8::from(*holds)])?;
            let condition = g.add_initializer("condition", condition);
            g.set_input(op, 0, Some(condition));
            inline_decided(g, opset);
        }
        infer_types(&mut flat)?;
        Ok(flat)
    }
    /// Takes over what was found out about the same groups in the flat model. Others go by their weights, and count as those
    /// in the middle do.
    pub(super) fn adopt(candidates: &mut [Candidate], flat: &[Candidate]) {
        let key = |c: &Candidate| {
            let first = c.group.members.first().map(|m| (m.value, m.axis));
            (first, c.group.members.len(), c.group.size)
        };
        let mut wholes: Vec<f64> = flat.iter().filter_map(|c| c.damage.as_ref()?.last().copied()).collect();
        wholes.sort_by(f64::total_cmp);
        let middle = wholes.get(wholes.len() / 2).copied();
        for candidate in candidates {
            match flat.iter().find(|c| key(c) == key(candidate)) {
                Some(found) => {
                    candidate.scores.clone_from(&found.scores);
                    candidate.damage.clone_from(&found.damage);
                }
                None => candidate.damage = middle.map(|whole| by_weights(&candidate.scores, whole)),
            }
        }
    }
    /// As [`repair::run`]: the layers of the branches that are taken. No op gets a bias that it lacks.
    pub(super) fn repair(
        &self,
        original: &Model,
        model: &mut Model,
        stays: &Stays,
        changed: &HashSet<ValueId>,
        cx: &mut Context<'_>,
    ) -> Result<()> {
        let (teacher, mut student) = (self.flat(original)?, self.flat(model)?);
        let g = &model.graph;
        let several = g.initializers().filter(|(v, _)| readers(g, *v).len() > 1);
        let shared: HashSet<ValueId> = several.map(|(v, _)| v).collect();
        let layer = |g: &Graph, op: OpId, opset: i64| {
            let layer = Layer::or_normalization(g, op, opset)?;
            let own = |layer: &Layer| layer.constants(g).iter().all(|v| !shared.contains(v));
            Some(layer.and_then(|layer| match own(&layer) {
                true => Ok(layer.without_new_bias(g)),
                false => Err("its weights are shared"),
            }))
        };
        repair::run(&teacher, &mut student, stays, changed, layer, cx)?;
        let constants: Vec<ValueId> = model.graph.initializers().map(|(v, _)| v).collect();
        for v in constants {
            let same = student.graph.find(model.graph.name_of(v));
            if let Some(tensor) = same.and_then(|v| student.graph.initializer(v)) {
                model.graph.value_mut(v).origin = Origin::Initializer(tensor.clone());
            }
        }
        Ok(())
    }
}

/// A curve that rises with the squares of scores to this height.
fn by_weights(scores: &[f64], whole: f64) -> Vec<f64> {
    let mut squares: Vec<f64> = scores.iter().map(|s| s * s).collect();
    squares.sort_by(f64::total_cmp);
    let all = squares.iter().sum::<f64>().max(f64::MIN_POSITIVE);
    let sums = squares.iter().scan(0.0, |sum, square| {
        *sum += square;
        Some(whole * *sum / all)
    });
    [0.0].into_iter().chain(sums).collect()
}

/// The Ifs of the main graph that all samples decide alike, and how.
fn decided(model: &Model, cx: &Context<'_>) -> Result<Vec<(String, bool)>> {
    let g = &model.graph;
    let open = |op: &OpId| g.op(*op).is("If") && g.input(*op, 0).is_some_and(|v| g.constant(v).is_none());
    let named = |op: OpId| {
        let output = g.outputs_of(op).into_iter().flatten().next()?;
        Some((g.name_of(output).to_owned(), g.name_of(g.input(op, 0)?).to_owned()))
    };
    let ifs: Vec<(String, String)> = g.order().into_iter().filter(open).filter_map(named).collect();
    if ifs.is_empty() {
        return Ok(Vec::new());
    }
    let fetch: Vec<String> = ifs.iter().map(|(_, condition)| condition.clone()).collect();
    let mut answers: Vec<HashSet<Option<bool>>> = vec![HashSet::new(); ifs.len()];
    cx.sweep(&[Probe { model, fetch: &fetch }], usize::MAX, &mut |seen: Seen<'_>| {
        for (answers, value) in answers.iter_mut().zip(seen.values.iter().flatten()) {
            answers.insert(value.scalar_i64().map(|n| n != 0));
        }
        cx.check_cancelled()
    })?;
    let alike = |(of, answers): ((String, String), HashSet<Option<bool>>)| match answers.len() {
        1 => answers.into_iter().next().flatten().map(|holds| (of.0, holds)),
        _ => None,
    };
    Ok(ifs.into_iter().zip(answers).filter_map(alike).collect())
}
