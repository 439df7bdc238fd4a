//! What cutting costs: by the weights alone, by data, or as a file tells from an earlier run.

use super::{
    Context, Criterion, Prune, activity, branch,
    budget::Of,
    damage, expected, score,
    select::{Candidate, Droppable},
    sensitivity::Sensitivity,
    taken::Taken,
};
use crate::{
    error::{Error, Result},
    ir::Model,
    ops::axes::Flow,
};

impl Prune {
    /// Whether samples tell what goes.
    fn judges_by_data(&self, cx: &Context<'_>) -> bool {
        use Criterion::{Activation, Auto, Hessian, Variance};
        cx.has_samples() && matches!(self.options.criterion, Auto | Hessian | Activation | Variance)
    }
    /// Ranks positions, and finds the branches that may go where it is known what that costs. A file holds what is known of
    /// the model as it is, whichever branches of its Ifs were looked at.
    pub(super) fn judge(
        &self,
        model: &Model,
        flow: &Flow<'_>,
        candidates: &mut [Candidate],
        taken: Option<&Taken>,
        of: Of,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Droppable>> {
        let file = self.options.sensitivity.as_deref();
        let known = file.map(Sensitivity::read).transpose()?.flatten();
        match &known {
            Some(known) => known.put(model, candidates)?,
            None => match taken.filter(|_| self.judges_by_data(cx)) {
                Some(taken) => self.rank_taken(model, candidates, taken, cx)?,
                None => self.rank(model, flow, candidates, cx)?,
            },
        }
        // Branches have no positions, but a later run may ask for something else.
        let depth = self.options.depth && (of != Of::Positions || (file.is_some() && known.is_none()));
        let branches = match depth && candidates.iter().any(|c| c.damage.is_some()) {
            true => branch::open(model, &self.exclude),
            false => Vec::new(),
        };
        let damage = match &known {
            Some(known) => known.without(model, &branches)?,
            None => damage::depth::without(model, &branches, cx)?,
        };
        if let (Some(path), None) = (file, &known) {
            let branches = depth.then_some((&branches[..], &damage[..]));
            Sensitivity::of(model, candidates, branches).write(path)?;
        }
        Ok(match of {
            Of::Positions => Vec::new(),
            _ => branch::droppable(branches, damage, candidates),
        })
    }
    /// Ranks positions by data, those of layers in branches of If that all samples take too.
    fn rank_taken(
        &self,
        model: &Model,
        candidates: &mut [Candidate],
        taken: &Taken,
        cx: &mut Context<'_>,
    ) -> Result<()> {
        let flat = taken.flat(model)?;
        let flow = Flow::of(&flat);
        let (mut seen, _) = self.candidates(&flat, &flow, cx.seed);
        self.rank(&flat, &flow, &mut seen, cx)?;
        Taken::adopt(candidates, &seen);
        Ok(())
    }
    /// Ranks positions, where it is not their weights alone that do.
    fn rank(
        &self,
        model: &Model,
        flow: &Flow<'_>,
        candidates: &mut [Candidate],
        cx: &mut Context<'_>,
    ) -> Result<()> {
        let criterion = match self.options.criterion {
            Criterion::Auto if cx.has_samples() || self.options.sensitivity.is_some() => Criterion::Hessian,
            given => given,
        };
        let expected = criterion == Criterion::Variance && !cx.has_samples();
        if expected && expected::rank(model, flow, candidates) > 0 {
            return Ok(());
        }
        let by_data = matches!(criterion, Criterion::Hessian | Criterion::Activation | Criterion::Variance);
        if by_data && !cx.has_samples() {
            return Err(Error::usage(
                "this `criterion` needs samples",
                "give some with `--calib`, or use `l2`",
            ));
        }
        match criterion {
            Criterion::Hessian => damage::measure(model, flow, candidates, cx),
            Criterion::Activation => activity::measure(model, flow, candidates, false, cx),
            Criterion::Variance => activity::measure(model, flow, candidates, true, cx),
            Criterion::Bn
                if !candidates
                    .iter()
                    .any(|c| c.group.members.iter().any(|m| score::is_scale(&model.graph, m))) =>
            {
                Err(Error::usage(
                    "`criterion=bn` finds no BatchNormalization: those behind a layer became part of its weights",
                    "use `l2`",
                ))
            }
            _ => Ok(()),
        }
    }
}
