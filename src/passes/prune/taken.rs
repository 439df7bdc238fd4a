//! Branches of If as the samples take them. Where all of them take the same one, its layers can be looked at and repaired: in a
//! model that has the branch in the If's place. Layers of the other branch run on no sample, so nothing is known of them.

use super::{Context, RemarkKind, lift::lift, repair, select::Candidate};
use crate::{
    error::Result,
    ir::{DType, Graph, Model, OpId, Origin, Tensor, ValueId, Where},
    measure::{ALL, Probe, Seen},
    ops::{axes::Stays, infer::Conflict, infer_types},
    passes::{
        lift::{add_bias, readers},
        linear::Layer,
        simplify::inline_decided,
    },
};
use std::collections::{HashMap, HashSet};

/// Ifs in Ifs are followed so deep.
const DEEPEST: usize = 8;

/// Which branches the samples take.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Taken {
    /// The names of the first outputs of Ifs, each after those around it, and whether the condition holds.
    decided: Vec<(String, bool)>,
}

impl Taken {
    /// `None` where there is no If that all samples decide alike. A branch that contradicts what the model declares of its
    /// values is not looked at.
    pub(super) fn of(model: &Model, cx: &mut Context<'_>) -> Result<Option<Taken>> {
        if !cx.has_samples() || !model.graph.ops().any(|op| model.graph.op(op).is("If")) {
            return Ok(None);
        }
        let mut taken = Taken { decided: Vec::new() };
        let (mut flat, declared) = taken.inlined(model)?;
        let mut asked = HashSet::new();
        for _ in 0..DEEPEST {
            let more = decided(&flat, cx)?;
            let new: Vec<_> = more.into_iter().filter(|(name, _)| asked.insert(name.clone())).collect();
            if new.is_empty() {
                break;
            }
            for decision in new {
                let at = Where::Value(decision.0.clone());
                taken.decided.push(decision);
                let (with, conflicts) = taken.inlined(model)?;
                match conflicts.into_iter().find(|conflict| !declared.contains(conflict)) {
                    Some(conflict) => {
                        taken.decided.pop();
                        cx.remark(RemarkKind::Note, at, contradiction(&conflict));
                    }
                    None => flat = with,
                }
            }
        }
        Ok(Some(taken).filter(|taken| !taken.decided.is_empty()))
    }
    /// The model with these branches in the place of the Ifs. Values of its main graph are the model's.
    pub(super) fn flat(&self, model: &Model) -> Result<Model> {
        Ok(self.inlined(model)?.0)
    }
    /// The same, and where what the model declares is not what follows from the branches.
    fn inlined(&self, model: &Model) -> Result<(Model, Vec<Conflict>)> {
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
        let conflicts = infer_types(&mut flat)?;
        Ok((flat, conflicts))
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
    /// As [`repair::run`]: the layers of the branches that are taken, too.
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
        let read = g.initializers().map(|(v, _)| (g.name_of(v).to_owned(), readers(g, v).len()));
        let read: HashMap<String, usize> = read.collect();
        let layer = |g: &Graph, op: OpId, opset: i64| {
            let layer = Layer::or_normalization(g, op, opset)?;
            Some(layer.and_then(|layer| {
                let times = layer.constants(g).into_iter().map(|v| read.get(g.name_of(v)).copied());
                match times.collect::<Option<Vec<_>>>() {
                    None => Err("its weights have a name that others have in other branches"),
                    Some(times) if times.iter().any(|n| *n > 1) => Err("its weights are shared"),
                    Some(_) => Ok(layer),
                }
            }))
        };
        let before: HashSet<ValueId> = student.graph.initializers().map(|(v, _)| v).collect();
        repair::run(&teacher, &mut student, stays, changed, layer, cx)?;
        let mut biased = false;
        for (v, tensor) in student.graph.initializers() {
            let (name, own) = (student.graph.name_of(v), before.contains(&v));
            match model.graph.find(name).filter(|v| own && model.graph.initializer(*v).is_some()) {
                Some(same) => model.graph.value_mut(same).origin = Origin::Initializer(tensor.clone()),
                None if own => {}
                None => {
                    let weight = student.graph.sole_use(v).and_then(|at| student.graph.input(at.op(), 1));
                    let weight = weight.map(|v| student.graph.name_of(v));
                    biased |= weight.is_some_and(|weight| add_bias(&mut model.graph, weight, tensor));
                }
            }
        }
        if biased {
            // A later cut finds them where it finds the weights.
            lift(model);
            infer_types(model)?;
        }
        Ok(())
    }
}

fn contradiction(Conflict { at, declared, inferred }: &Conflict) -> String {
    format!(
        "in the branch that all samples take, `{}` is {inferred}, which the model declares to be {declared}: its layers go by \
         their weights and are not repaired",
        at.name()
    )
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
    cx.sweep(&[Probe { model, fetch: &fetch }], ALL, &mut |seen: Seen<'_>| {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ir::text, measure::doubles::Double};

    /// What is known of a model whose output is declared as so long, and the remarks.
    fn taken(declared: usize) -> (Option<Taken>, Vec<String>) {
        let mut model = text::parse(&format!(
            "<ir_version: 8, opset_import: [\"\" : 17]>
             m (float[2, 4] x, bool go) => (float[2, {declared}] y)
             <float[4, 5] w, float[4, 3] v> {{
               z = If (go) <
                 then_branch = a () => (float[2, 4] p) {{ [deep] p = Relu (x) }},
                 else_branch = b () => (float[2, 4] q) {{ q = Neg (x) }}>
               y = If (go) <
                 then_branch = c () => (float[2, 5] r) {{ [five] r = MatMul (z, w) }},
                 else_branch = d () => (float[2, 3] s) {{ [three] s = MatMul (z, v) }}>
             }}",
        ))
        .unwrap();
        infer_types(&mut model).unwrap();
        // Every condition holds.
        let holds = Double::of_samples(|_| Tensor::new(DType::Bool, [], vec![1]).unwrap());
        let mut cx = Context::new().with_measure(&holds);
        let taken = Taken::of(&model, &mut cx).unwrap();
        (taken, cx.remarks.into_iter().map(|r| r.text).collect())
    }

    #[test]
    fn branches_that_contradict_the_model_go_by_their_weights() {
        let decided = |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), true)).collect::<Vec<_>>();
        let (known, remarks) = taken(5);
        assert_eq!((known.unwrap().decided, remarks.len()), (decided(&["z", "y"]), 0));
        let (known, remarks) = taken(3);
        assert_eq!(known.unwrap().decided, decided(&["z"]));
        assert!(remarks[0].contains("`y` is float[2,5]"), "{remarks:?}");
        assert!(remarks[0].contains("declares to be float[2,3]"), "{remarks:?}");
    }
}
