//! Branches of If, each as a model of its own: its inputs are what it captures. So a pass may look at its values and measure
//! what it does, which it may not where a graph is within another one.

use super::Context;
use crate::{
    error::Result,
    ir::{Graph, Model, OpId, Origin, Type, ValueId, Where},
    measure::Measure,
    ops::infer_types,
};

/// A branch of an If of the main graph.
pub(super) struct Branch {
    op: OpId,
    /// Which of the bodies of the op it is.
    which: usize,
    /// The name of the condition,
    condition: String,
    /// and what it is where the branch is taken.
    holds: bool,
    /// What it computes, given what it captures.
    pub model: Model,
}

impl Branch {
    /// Every branch of a model whose types have been inferred; those are left out that capture what is no tensor.
    pub(super) fn all(model: &Model) -> Result<Vec<Branch>> {
        let g = &model.graph;
        let ifs = g.order().into_iter().filter(|op| g.op(*op).is("If"));
        let places = ifs.flat_map(|op| [(op, 0), (op, 1)]);
        let branches: Vec<Branch> = places.filter_map(|(op, which)| Branch::of(model, op, which)).collect();
        let typed = branches.into_iter().map(|mut branch| {
            infer_types(&mut branch.model)?;
            Ok(branch)
        });
        typed.collect()
    }
    fn of(outer: &Model, op: OpId, which: usize) -> Option<Branch> {
        let g = &outer.graph;
        let condition = g.name_of(g.input(op, 0)?).to_owned();
        let attribute = g.op(op).attrs.iter().filter(|a| a.name.ends_with("_branch")).nth(which)?;
        let holds = attribute.name == "then_branch";
        let mut graph = g.op(op).bodies().nth(which)?.clone();
        let captured = |v: &ValueId| graph.value(*v).origin == Origin::Captured;
        let mut captured: Vec<(ValueId, ValueId)> = graph
            .values()
            .filter(captured)
            .map(|v| Some((g.find(graph.name_of(v))?, v)))
            .collect::<Option<_>>()?;
        // Inputs of the model first: their first axis tells how many samples there are.
        captured
            .sort_by_key(|(v, _)| (g.inputs.iter().position(|input| input == v).unwrap_or(usize::MAX), *v));
        for (from, v) in captured {
            let origin = match (g.constant(from), &g.value(from).origin) {
                (Some(tensor), _) => Origin::Initializer(tensor.clone()),
                (None, Origin::Computed | Origin::Initializer(_)) => {
                    let ty = Type::Tensor(g.tensor_type(from).filter(|ty| ty.dtype.is_some())?);
                    graph.value_mut(v).ty = Some(ty);
                    graph.inputs.push(v);
                    Origin::Computed
                }
                (None, Origin::SparseInitializer(_) | Origin::Captured) => return None,
            };
            graph.value_mut(v).origin = origin;
        }
        graph.own_names();
        let model = Model {
            ir_version: outer.ir_version,
            opsets: outer.opsets.clone(),
            functions: outer.functions.clone(),
            graph,
            ..Model::default()
        };
        Some(Branch { op, which, condition, holds, model })
    }
    /// The attribute that it is.
    pub(super) fn name(&self) -> &'static str {
        if self.holds { "then_branch" } else { "else_branch" }
    }
    /// The op that it is a branch of.
    pub(super) fn place(&self, outer: &Model) -> Where {
        outer.graph.place(self.op)
    }
    /// What runs it over the samples that take it; without a runtime nothing does.
    pub(super) fn measure(&self, outer: &Model, cx: &Context<'_>) -> Result<Option<Box<dyn Measure>>> {
        let own = &self.model.graph;
        let inputs: Vec<String> = own.inputs.iter().map(|v| own.name_of(*v).to_owned()).collect();
        cx.within(outer, &inputs, (&self.condition, self.holds))
    }
    /// Whether it, or a body in it, has a value of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        let mut has = false;
        self.model.graph.for_each_nested(&mut |g| has |= g.find(name).is_some());
        has
    }
    /// Whether others read such constants too.
    pub(super) fn shares(&self, outer: &Model, wanted: impl Fn(&Graph, ValueId) -> bool) -> bool {
        let own = &self.model.graph;
        let others = |v: &ValueId| match outer.graph.find(own.name_of(*v)) {
            Some(from) => outer.graph.sole_body(from) != Some((self.op, self.which)),
            None => false,
        };
        own.initializers().any(|(v, _)| others(&v) && wanted(own, v))
    }
    /// Moves the constants that it alone reads into the body that it was made of.
    pub(super) fn take_constants(&self, outer: &mut Model) {
        for name in self.model.graph.initializers().map(|(v, _)| self.model.graph.name_of(v)) {
            let from = outer.graph.find(name);
            let from = from.filter(|v| outer.graph.sole_body(*v) == Some((self.op, self.which)));
            from.and_then(|v| outer.graph.sink(v));
        }
    }
    /// Puts it back as it is now.
    pub(super) fn put_back(self, outer: &mut Model) {
        let mut body = self.model.graph;
        for v in std::mem::take(&mut body.inputs) {
            body.value_mut(v).origin = Origin::Captured;
        }
        for (v, tensor) in body.initializers().map(|(v, t)| (v, t.clone())).collect::<Vec<_>>() {
            let Some(from) = outer.graph.find(body.name_of(v)) else { continue };
            match body.value(v).quant.is_none() && outer.graph.constant(from) == Some(&tensor) {
                true => body.value_mut(v).origin = Origin::Captured,
                false => body.make_unique(v),
            }
        }
        outer.graph.replace_body(self.op, self.which, body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{QuantScheme, Tensor, text};

    const TEXT: &str = r#"<ir_version: 8, opset_import: ["" : 17]>
        m (float[n, 2] x, bool go) => (float[n, 2] y, float[n, 2] z)
        <float[2] own = {1, 2}, float[2] both = {3, 4}> {
          a = Neg (x)
          y, z = If (go) <
            then_branch = t () => (float[n, 2] p, float[n, 2] a) { b = Mul (a, own)  c = Add (b, both)  p = Sub (c, x) },
            else_branch = e () => (float[n, 2] q, float[n, 2] r) <float[2] k = {5, 6}> { q = Div (a, k)  r = Add (q, both) }>
        }"#;

    fn names(g: &Graph, values: &[ValueId]) -> Vec<String> {
        values.iter().map(|v| g.name_of(*v).to_owned()).collect()
    }

    #[test]
    fn a_branch_takes_in_what_it_captures_and_goes_back_as_it_was() {
        let mut model = text::parse(TEXT).unwrap();
        infer_types(&mut model).unwrap();
        let before = text::print(&model);
        let branches = Branch::all(&model).unwrap();
        let found: Vec<_> = branches
            .iter()
            .map(|b| {
                (
                    b.name(),
                    names(&b.model.graph, &b.model.graph.inputs),
                    names(&b.model.graph, &b.model.graph.outputs),
                )
            })
            .collect();
        let list = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            found,
            [
                ("then_branch", list(&["x", "a"]), list(&["p", "a"])),
                ("else_branch", list(&["a"]), list(&["q", "r"]))
            ]
        );
        for branch in branches {
            branch.model.verify().unwrap();
            branch.put_back(&mut model);
        }
        model.verify().unwrap();
        assert_eq!(text::print(&model), before);
    }

    #[test]
    fn constants_that_change_are_the_branchs_own() {
        let mut model = text::parse(TEXT).unwrap();
        infer_types(&mut model).unwrap();
        let mut then = Branch::all(&model).unwrap().remove(0);
        let called = |name: &'static str| move |g: &Graph, v: ValueId| g.name_of(v) == name;
        assert!(then.shares(&model, called("both")) && !then.shares(&model, called("own")));
        then.take_constants(&mut model);
        assert_eq!(model.graph.initializers().count(), 1, "the other branch reads `both` too");
        let g = &mut then.model.graph;
        for name in ["own", "both", "a"] {
            let v = g.find(name).unwrap();
            g.value_mut(v).quant = QuantScheme::symmetric_int8(&Tensor::from_vec([2], vec![3f32, 4.0]), None);
        }
        then.put_back(&mut model);
        model.verify().unwrap();
        let (then, other) = {
            let mut bodies = model.graph.ops().flat_map(|op| model.graph.op(op).bodies());
            (bodies.next().unwrap(), bodies.next().unwrap())
        };
        let constants: Vec<_> = then.initializers().map(|(v, _)| then.name_of(v)).collect();
        assert_eq!(constants, ["own", "both_1"]);
        assert_eq!(other.value(other.find("both").unwrap()).origin, Origin::Captured);
        let captured = then.value(then.find("a").unwrap());
        assert!(
            captured.origin == Origin::Captured && captured.quant.is_some(),
            "rounded anew in the branch"
        );
    }
}
