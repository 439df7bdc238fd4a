//! Structured pruning: channels, features, heads and whatever else the axis algebra finds to shrink together are
//! ranked by the size of their weights, and the least are cut out of the model.
//!
//! What is cut is gone physically: weights, `group` attributes and shape constants shrink. For exact groups the model
//! computes what the original computes with those weights at zero; see [`crate::ops::axes`]. With calibration samples
//! the weights behind the cut are then found anew, to make up for what is gone.

mod activity;
mod allocate;
mod branch;
mod budget;
mod chosen;
mod contenders;
mod damage;
mod expected;
mod lift;
mod options;
mod rank;
mod reader;
mod reasons;
mod record;
mod repair;
mod rounding;
mod score;
mod select;
mod sensitivity;
mod survey;
mod taken;
mod timetable;
mod unprune;
mod work;

pub use branch::Branch;
pub use options::{Criterion, PruneOptions};
pub use survey::{GroupSummary, MemberSummary, Standing, Survey, survey};
pub use unprune::unprune;

use super::{
    Changed, Context, Named, Needs, Options, Pass, RemarkKind, Repair,
    lift::{put_back, readers},
    pass::changed_options,
};
use crate::{
    error::{Error, Result},
    ir::{Graph, Model, ValueId, Where},
    ops::{
        axes::{Flow, Group, Keep},
        infer_types,
        quantized::{is_narrow, is_readable},
    },
};
use budget::{Budget, Of};
use chosen::Chosen;
use globset::GlobSet;
pub use lift::lift;
use rand::{SeedableRng, rngs::ChaCha8Rng};
use record::Record;
use select::{Candidate, Plan, weights};
use taken::Taken;
use work::{Origin, Work};

const UNREPAIRED: &str =
    "not repaired: with samples of its inputs (`--calib`) the weights that stay are fitted anew";

/// What is to go.
#[derive(Clone, Debug)]
pub struct Selection {
    /// The positions that stay of groups that lose some.
    pub keep: Keep,
    /// The branches that go as a whole, once positions are cut.
    pub branches: Vec<Branch>,
}

/// The pass.
pub struct Prune {
    options: PruneOptions,
    budget: Budget,
    exclude: GlobSet,
}

impl Named for Prune {
    const NAME: &'static str = "prune";
    const ABOUT: &'static str = "Cut the channels, features and heads whose weights matter least";
    type Options = PruneOptions;
    fn new(options: PruneOptions) -> Result<Self> {
        let (budget, exclude) = (options.budget()?, options.check()?);
        Ok(Prune { options, budget, exclude })
    }
}

impl Pass for Prune {
    fn name(&self) -> &str {
        Self::NAME
    }
    fn needs(&self) -> Needs {
        Needs { simplified: true, ..Needs::default() }
    }
    fn least_sqnr(&self) -> Option<f64> {
        None
    }
    fn options(&self) -> Options {
        changed_options(&self.options, Some(&PruneOptions::default()))
    }
    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<Changed> {
        infer_types(model)?;
        let mut original = model.clone();
        lift(&mut original);
        infer_types(&mut original)?;
        let taken = Taken::of(&original, cx)?;
        let origin = Origin { model: &original, taken: taken.as_ref(), repair: self.options.repair };
        let mut work = Work::new(original.clone(), Record::of(model)?.unwrap_or_default());
        for step in 1..=self.options.steps {
            // Steps take off equal shares of what is left; what one took in excess, the next leave.
            let wanted = self.budget.share.powf(step as f64 / self.options.steps as f64);
            let budget = Budget { share: wanted / work.left, ..self.budget };
            if wanted >= work.left && step > 1 {
                continue;
            }
            let flow = Flow::of(&work.model);
            match self.choose(&work.model, &flow, budget, taken.as_ref(), cx) {
                // A step too small for any count to change.
                Err(Error::BelowBar(_)) if step < self.options.steps => {}
                chosen => work = work.best(&origin, &flow, chosen?, cx)?,
            }
        }
        if self.options.repair == Repair::Auto && !cx.has_samples() {
            cx.remark(RemarkKind::Note, (), UNREPAIRED);
        }
        // A body takes time for what is handed to it.
        let (mut pruned, around) = (work.model, &model.graph);
        let constants = pruned.graph.initializers().map(|(v, _)| pruned.graph.name_of(v));
        let own: Vec<String> =
            constants.filter(|name| around.find(name).is_none()).map(str::to_owned).collect();
        own.iter().for_each(|name| put_back(&mut pruned.graph, name));
        *model = pruned;
        Ok(Changed::Yes)
    }
}

impl Prune {
    /// Chooses what goes, without changing the model, and says so through remarks. Fails with
    /// [`Error::BelowBar`] where nothing can be cut or the target cannot be reached.
    pub fn select(&self, model: &Model, flow: &Flow<'_>, cx: &mut Context<'_>) -> Result<Selection> {
        let taken = Taken::of(model, cx)?;
        let chosen = self.choose(model, flow, self.budget, taken.as_ref(), cx)?.swap_remove(0);
        chosen.say(cx);
        Ok(chosen.selection)
    }
    /// What may go, one or several choices, the best to all appearances first.
    fn choose(
        &self,
        model: &Model,
        flow: &Flow<'_>,
        budget: Budget,
        taken: Option<&Taken>,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Chosen>> {
        let (mut open, left_alone) = self.candidates(model, flow, cx.seed);
        let branches = self.judge(model, flow, &mut open, taken, budget.of, cx)?;
        for (group, why) in &left_alone {
            cx.missed(place(model, group), *why);
        }
        let locked = reasons::locked(model, flow, &open);
        for (at, why) in &locked {
            cx.missed(at.clone(), why.clone());
        }
        cx.check_cancelled()?;
        let prices = flow.prices();
        let weights = weights(model, flow);
        let (arena, prices, weights) = (&flow.arena, &prices[..], &weights[..]);
        let (candidates, branches, options) = (&open[..], &branches[..], &self.options);
        let plan = Plan { arena, prices, weights, candidates, branches, options };
        let chosen = match budget.of {
            _ if open.is_empty() => Err(Error::BelowBar("nothing can be pruned".into())),
            Of::Latency => budget::in_time(&plan, budget.share, model, flow, cx),
            _ => budget::choose(&plan, budget).map(|choice| vec![choice]),
        };
        let mut choices = chosen.map_err(|e| reasons::explain(e, &left_alone, &locked))?;
        let contenders = match budget.of {
            Of::Latency => contenders::first(&plan, choices, model, cx)?,
            _ => contenders::of(&plan, budget, choices.swap_remove(0), model, flow, cx)?,
        };
        Ok(contenders.iter().map(|contender| Chosen::of(contender, &plan, budget, model)).collect())
    }
    /// Groups to choose from, scored by their weights, and those left alone with the reason.
    fn candidates(
        &self,
        model: &Model,
        flow: &Flow<'_>,
        seed: u64,
    ) -> (Vec<Candidate>, Vec<(Group, &'static str)>) {
        let (mut open, mut left_alone) = (Vec::new(), Vec::new());
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        for group in flow.groups() {
            if self.excluded(model, &group) {
                left_alone.push((group, "excluded by name"));
            } else if !group.exact && !self.options.lossy {
                left_alone.push((group, "a statistic runs over these positions; `lossy=true` cuts them too"));
            } else if let Some(why) = reasons::refusal(&model.graph, &group) {
                left_alone.push((group, why));
            } else if let Some(scores) =
                score::of_group(&model.graph, &flow.arena, &group, self.options.criterion, &mut random)
            {
                let step = rounding::multiple(&model.graph, &group, self.options.round);
                let least = select::least(self.options.min, group.size, step);
                open.push(Candidate { group, step, least, scores, damage: None });
            } else {
                left_alone.push((group, "its weights are no floating-point numbers"));
            }
        }
        (open, left_alone)
    }
    /// Whether the name of a weight of the group, or of an op that reads one, is excluded.
    fn excluded(&self, model: &Model, group: &Group) -> bool {
        let g = &model.graph;
        !self.exclude.is_empty()
            && group.members.iter().any(|m| {
                self.exclude.is_match(g.name_of(m.value))
                    || readers(g, m.value).iter().any(|(g, op, _)| self.exclude.is_match(g.place(*op).name()))
            })
    }
}

/// Whether a weight will be integers when the model is written, or is of which nobody here knows what they stand for.
fn is_quantized(g: &Graph, v: ValueId) -> bool {
    let narrow = g.initializer(v).is_some_and(|t| is_narrow(t.dtype()));
    g.value(v).quant.is_some() || narrow && !is_readable(g, v)
}

/// The op that reads the group's first weight of two or more axes, else the first member.
fn place(model: &Model, group: &Group) -> Where {
    let g = &model.graph;
    let weight = group.members.iter().find(|m| g.initializer(m.value).is_some_and(|t| t.rank() > 1));
    let Some(member) = weight.or(group.members.first()) else { return Where::Model };
    match readers(g, member.value).first() {
        Some((g, op, _)) => g.place(*op),
        None => Where::Value(g.name_of(member.value).to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Dim, Op, OpsetImport, Tensor, Type};

    /// Two linear layers around a hidden axis of 32 features, of which feature `k` has weights of size `k + 1`.
    fn mlp() -> Model {
        let mut g = Graph::new("mlp");
        let ty = |n: usize| Type::tensor(DType::F32, [Dim::from("N"), Dim::from(n)]);
        let x = g.add_input("x", ty(4));
        let first: Vec<f32> = (0..4 * 32).map(|k| (k % 32 + 1) as f32).collect();
        let w1 = g.add_initializer("w1", Tensor::from_vec([4, 32], first));
        let second: Vec<f32> = (0..32 * 3).map(|k| (k / 3 + 1) as f32).collect();
        let w2 = g.add_initializer("w2", Tensor::from_vec([32, 3], second));
        let h = g.add_node(Op::new("MatMul", "fc1"), &[x, w1], "h", Some(ty(32)));
        let y = g.add_node(Op::new("MatMul", "fc2"), &[h, w2], "y", Some(ty(3)));
        g.outputs.push(y);
        let opsets = vec![OpsetImport { version: 17, ..OpsetImport::default() }];
        Model { ir_version: 8, opsets, graph: g, ..Model::default() }
    }
    fn run(text: &str, model: &mut Model) -> Result<Vec<String>> {
        let mut cx = Context::new();
        let _ = text.parse::<crate::passes::Pipeline>()?.run(model, &mut cx)?;
        Ok(cx.remarks.into_iter().map(|r| r.text).collect())
    }
    fn weight(model: &Model, name: &str) -> Tensor {
        model.graph.initializer(model.graph.find(name).unwrap()).unwrap().clone()
    }

    #[test]
    fn the_weakest_positions_go() {
        for text in [
            "prune(ratio=0.5)",
            "prune(macs=0.5)",
            "prune(params=0.5)",
            "prune(size=0.5)",
            "prune(macs=0.5,steps=2,round=4)",
            "prune(ratio=0.5,scope=layer,criterion=l1)",
            "prune(ratio=0.5,criterion=lamp)",
        ] {
            let mut model = mlp();
            let remarks = run(text, &mut model).unwrap();
            if !text.contains("steps") {
                assert_eq!(remarks[0], "32 -> 16 positions, in w1, w2", "{text}");
                assert_eq!(remarks[1], "50.0 % of the multiply-accumulates are left", "{text}");
            }
            assert_eq!(weight(&model, "w1").shape(), [4, 16]);
            let w2 = weight(&model, "w2");
            assert_eq!((w2.shape(), w2.view::<f32>().unwrap()[0]), (&[16, 3][..], 17.0));
        }
    }
    #[test]
    fn counts_are_rounded_but_never_to_nothing() {
        for (text, expected) in [
            ("prune(ratio=0.45)", 16),
            ("prune(ratio=0.99)", 8),
            ("prune(ratio=0.45,round=1)", 18),
            ("prune(ratio=0.99,round=1)", 4),
            ("prune(ratio=0.99,round=1,min=2)", 2),
            ("prune(ratio=0.99,min=18)", 24),
        ] {
            let mut model = mlp();
            run(text, &mut model).unwrap();
            assert_eq!(weight(&model, "w1").shape(), [4, expected], "{text}");
        }
    }
    #[test]
    fn what_needs_gradients_is_refused_with_an_alternative() {
        for criterion in ["taylor", "fisher"] {
            let error = run(&format!("prune(criterion={criterion})"), &mut mlp()).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(
                error.to_string().contains("gradients") && error.to_string().contains("`hessian`"),
                "{error}"
            );
        }
    }
    #[test]
    fn what_cannot_be_reached_says_what_can() {
        let mut model = mlp();
        let error = run("prune(macs=0.1)", &mut model).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("the nearest is 25.0 %"), "{error}");
        let error = run("prune(exclude=[\"fc*\"])", &mut model).unwrap_err();
        assert!(error.to_string().contains("excluded by name"), "{error}");
        assert_eq!(model, mlp(), "a failed pass changes nothing");
        for text in [
            "prune(ratio=0.5,macs=0.5)",
            "prune(ratio=2)",
            "prune(round=0)",
            "prune(min=0)",
            "prune(exclude=[\"[\"])",
        ] {
            assert_eq!(run(text, &mut model).unwrap_err().exit_code(), 2, "{text}");
        }
    }
}
