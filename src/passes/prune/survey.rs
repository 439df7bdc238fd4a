//! What there is to prune in a model, without pruning it.

use super::{lift::lift, place, reasons};
use crate::{
    error::Result,
    ir::{DType, Model},
    ops::{
        axes::{Factor, Flow, Group, Member, WORKED_ALONG},
        infer_types,
    },
};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};

/// Whether positions can be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// As if their weights were zero.
    Exact,
    /// Only with `lossy=true`: a statistic runs over them.
    Lossy,
    /// Not at all.
    Refused,
}

/// An axis of a weight that a group runs through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberSummary {
    /// The weight's name.
    pub weight: String,
    /// The axis, counted from the left.
    pub axis: usize,
}

/// Positions that go together or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupSummary {
    /// The op that reads the first weight, or that weight.
    pub layer: String,
    /// How many there are.
    pub positions: usize,
    /// Whether they can be cut.
    pub standing: Standing,
    /// Why they cannot.
    pub reason: Option<String>,
    /// The weights they are positions of.
    pub members: Vec<MemberSummary>,
    /// Elements of weights that would be gone with all positions.
    pub parameters: u64,
    /// Multiply-accumulates that would be gone with all positions.
    pub macs: u64,
}

impl GroupSummary {
    /// How many weights they are positions of.
    pub fn weights(&self) -> usize {
        self.members.iter().map(|m| &m.weight).collect::<HashSet<_>>().len()
    }
}

/// What there is to prune.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// Every group, those that cannot be cut included.
    pub groups: Vec<GroupSummary>,
    /// The multiply-accumulates of the model.
    pub macs: u64,
    /// Those of the layers that a cut of exact groups makes smaller.
    pub cuttable: u64,
}

/// Every group of a model in the order of its weights, those that cannot be cut included; weights of control-flow bodies
/// are moved to the main graph for it. Axes that an
/// operator works along (space, steps, gates) are none. Run `simplify` first, as the pass asks for too: weights that
/// are computed from constants are not seen. Infers the model's types.
pub fn survey(model: &mut Model) -> Result<Survey> {
    lift(model);
    infer_types(model)?;
    let flow = Flow::of(model);
    let prices = flow.prices();
    let macs = |gone: Option<Factor>| -> u64 {
        let kept = |f: Factor| (Some(f) == gone).then_some(0);
        prices.iter().map(|p| p.macs(&flow.arena, &kept)).fold(0, u64::saturating_add)
    };
    let whole = macs(None);
    let mut groups = Vec::new();
    for (factor, members) in flow.initializer_leaves() {
        let size = flow.arena.size(factor).unwrap_or(0);
        let reason = flow.arena.frozen(factor).map(ToString::to_string);
        if size < 2 || reason.as_deref() == Some(WORKED_ALONG) || !members.iter().any(|m| weighs(model, m)) {
            continue;
        }
        let exact = !flow.arena.is_statistic(factor);
        let group = Group { factor, size, members, exact };
        let reason = reason.or_else(|| reasons::refusal(&model.graph, &group).map(str::to_owned));
        groups.push(GroupSummary {
            layer: place(model, &group).name().to_owned(),
            positions: size,
            standing: match exact {
                _ if reason.is_some() => Standing::Refused,
                true => Standing::Exact,
                false => Standing::Lossy,
            },
            reason,
            parameters: parameters(model, &flow, &group),
            macs: whole.saturating_sub(macs(Some(factor))),
            members: group.members.iter().map(|m| named(model, m)).collect(),
        });
    }
    let open = |g: &&Group| g.exact && reasons::refusal(&model.graph, g).is_none();
    let exact: HashSet<Factor> = flow.groups().iter().filter(open).map(|g| g.factor).collect();
    let none = |f: Factor| exact.contains(&f).then_some(0);
    let cuttable = prices.iter().map(|p| p.touched(&flow.arena, &none)).fold(0, u64::saturating_add);
    Ok(Survey { groups, macs: whole, cuttable })
}

/// Whether a member holds numbers to compute with, not a shape, indices or a mask.
fn weighs(model: &Model, member: &Member) -> bool {
    let tensor = model.graph.initializer(member.value);
    tensor.is_some_and(|t| !matches!(t.dtype(), DType::I64 | DType::Bool | DType::String))
}

fn named(model: &Model, member: &Member) -> MemberSummary {
    MemberSummary { weight: model.graph.name_of(member.value).to_owned(), axis: member.axis }
}

/// The elements of all members that would be gone with the group.
fn parameters(model: &Model, flow: &Flow<'_>, group: &Group) -> u64 {
    let kept = |f: Factor| (f == group.factor).then_some(0);
    let mut gone = BTreeMap::new();
    for member in &group.members {
        let Some(tensor) = model.graph.initializer(member.value) else { continue };
        let left = flow.known_dims(member.value).iter().map(|f| flow.arena.extent(*f, &kept));
        gone.insert(member.value, tensor.len().saturating_sub(left.product()) as u64);
    }
    gone.values().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text;

    #[test]
    fn every_group_says_what_it_is_worth_or_why_it_stays() {
        let mut model = text::parse(
            "<ir_version: 8, opset_import: [\"\" : 17]>
             m (float[N, 4] x) => (float[N, 3] y)
             <float[4, 16] w1, float[16] b1, float[16, 8] w2, float[8] scale, float[8] shift, float[8, 3] w3>
             {
               [one] a = Gemm (x, w1, b1)
               [two] b = MatMul (a, w2)
               [norm] c = LayerNormalization (b, scale, shift)
               [three] y = MatMul (c, w3)
             }",
        )
        .unwrap();
        let Survey { groups, macs, cuttable } = survey(&mut model).unwrap();
        assert_eq!((macs, cuttable), (64 + 128 + 24, 64 + 128), "the last layer's axes are lossy or frozen");
        let told: Vec<_> = groups
            .iter()
            .map(|g| (&*g.layer, g.positions, g.standing, g.reason.as_deref(), g.parameters, g.macs))
            .collect();
        assert_eq!(
            told,
            [
                ("one", 4, Standing::Refused, Some("graph input"), 64, 64),
                ("one", 16, Standing::Exact, None, 64 + 16 + 128, 64 + 128),
                ("two", 8, Standing::Lossy, None, 128 + 8 + 8 + 24, 128 + 24),
                ("three", 3, Standing::Refused, Some("graph output"), 24, 24),
            ]
        );
        let members: Vec<_> = groups[1].members.iter().map(|m| (&*m.weight, m.axis)).collect();
        assert_eq!(members, [("w1", 1), ("b1", 0), ("w2", 0)]);
    }
}
