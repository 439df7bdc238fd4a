//! From weights that have schemes to a model in which all is decided: weights are rounded, ranges of activations chosen, biases
//! corrected, and layers placed in integers or in float.

use super::{
    Latency, Method, Quant,
    activations::{self, Schemes},
    choice::{Choice, Chosen},
    compensate, form,
    guard::{Candidates, Fastest},
    last, learned, noisy, pairs,
    placement::{How, Kind, Placement},
    unseen,
    weights::{self, Layers},
    whole,
};
use crate::{
    error::Result,
    ir::{Model, ValueId},
    ops::infer_types,
    passes::{
        Context, RemarkKind, Repair,
        linear::{Rows, effect::Original},
    },
};
use std::cell::OnceCell;

/// Layers that leave the outputs quiet enough, how fast they are, where that was timed, and the ranges that suit them.
struct Quiet {
    layers: Layers,
    timed: Option<Fastest>,
    chosen: Chosen,
}

impl Quant {
    /// Rounds the weights that have schemes, places integer activations and says what became of all.
    pub(super) fn finish(
        &self,
        model: &mut Model,
        float: &Original,
        layers: &Layers,
        latency: Latency,
        cx: &mut Context<'_>,
    ) -> Result<()> {
        let samples = cx.has_samples();
        let unlearned = self.round(model, float, layers, cx)?;
        let usual = Placement::usual(&self.options, samples);
        let timed = self.options.target.profile().timed && latency == Latency::Guard;
        let guarded = timed && usual != Placement::FLOAT;
        // What is timed may place more than what is usual does.
        let widest = if guarded { self.widest(samples) } else { usual };
        let layers = &match widest.of_kind(Kind::Pair) {
            How::Float => layers.clone(),
            _ => pairs::with(self, model, layers),
        };
        let all = last::left_out(self, model, layers, &widest, cx)?;
        let rules = self.options.rules();
        let sets = match widest.is_static() {
            true => activations::schemes(self, &rules, model, &all, &widest, usize::MAX, cx)?,
            false => vec![Schemes::new()],
        };
        // How long integers take does not depend on their ranges; so those follow from what is placed.
        let timed = match guarded && !all.ops.is_empty() {
            true => Candidates { pass: self, model, layers: &all, schemes: &sets[0] }.fastest(usual, cx)?,
            false => None,
        };
        let choice = Choice {
            pass: self,
            float,
            rounded: &model.clone(),
            reals: OnceCell::new(),
            unlearned: &unlearned,
            rules: &rules,
            sets: &sets,
        };
        let Quiet { layers, timed, chosen } = self.quiet(choice, all, timed, usual, cx)?;
        let Chosen { set, placement, text, mut repair, model: corrected, .. } = chosen;
        text.into_iter().for_each(|text| cx.remark(RemarkKind::Note, (), text));
        match timed {
            Some(timed) => timed.tell(&model.graph, &layers, cx),
            None => placement.tell(&model.graph, &layers.ops, cx),
        }
        *model = corrected;
        if !samples && self.options.repair == Repair::Auto {
            repair = unseen::correct(model, &float.model, &unlearned, &layers);
        }
        repair.into_iter().for_each(|text| cx.remark(RemarkKind::Note, (), text));
        let (activations, said) = self.place(model, &layers, &placement, &sets[set]);
        said.into_iter().for_each(|(at, why)| cx.missed(at, why));
        cx.count("activations", activations);
        weights::tell(&mut model.graph, &layers, &placement, cx);
        form::tell(self, &model.graph, &layers, cx);
        Ok(())
    }
    /// Chooses ranges for these layers, as they were placed or are `usual`, and leaves out those whose integer activations make too
    /// much noise.
    fn quiet(
        &self,
        choice: Choice<'_>,
        all: Layers,
        mut timed: Option<Fastest>,
        usual: Placement,
        cx: &mut Context<'_>,
    ) -> Result<Quiet> {
        let (model, sets) = (choice.rounded, choice.sets);
        let placement = timed.as_ref().map_or(usual, |timed| timed.placement);
        let mut chosen = choice.among(&all, placement, 0, cx)?;
        if self.options.target.profile().whole {
            whole::advise(self, &chosen.model, choice.float, &all, &placement, &sets[chosen.set], cx)?;
        }
        if placement == Placement::FLOAT || !cx.has_inputs() || !self.options.guards_noise() {
            return Ok(Quiet { layers: all, timed, chosen });
        }
        let set = &sets[chosen.set];
        let layers = noisy::left_out(self, &chosen.model, &all, &placement, set, chosen.noise, cx)?;
        // Without the loudest layers fewer kinds may be worth it, and other ranges the best.
        if layers.ops != all.ops {
            let candidates = Candidates { pass: self, model, layers: &layers, schemes: &sets[0] };
            timed = timed.map(|timed| candidates.again(timed, cx)).transpose()?;
            let placement = timed.as_ref().map_or(usual, |timed| timed.placement);
            chosen = choice.among(&layers, placement, chosen.set, cx)?;
        }
        Ok(Quiet { layers, timed, chosen })
    }
    /// Rounds the weights that have schemes; returns those whose mean error biases may make up for.
    fn round(
        &self,
        model: &mut Model,
        float: &Original,
        layers: &Layers,
        cx: &mut Context<'_>,
    ) -> Result<Vec<ValueId>> {
        let samples = cx.has_samples();
        let rounded = |learn: bool| -> Vec<ValueId> {
            let rounds = |v: &&ValueId| match &layers.integers[v] {
                integers if self.learns(integers, samples) => learn,
                integers => !learn && integers.saturate_early(),
            };
            layers.weights.iter().filter(rounds).copied().collect()
        };
        let [mut learned, nearest] = [true, false].map(rounded);
        learned::to_nearest(layers, &mut model.graph, &nearest);
        let rank = self.options.compensate;
        let sure = learned.is_empty() || self.options.method == Method::Gptq;
        if !sure && !self.sees_enough(&learned, model, float, layers, cx)? {
            let early = |v: &ValueId| layers.integers[v].saturate_early();
            let early: Vec<ValueId> = learned.drain(..).filter(early).collect();
            learned::to_nearest(layers, &mut model.graph, &early);
        }
        if !learned.is_empty() {
            learned::round(&learned, rank, Rows::All, model, layers, cx)?;
        }
        let mut unlearned: Vec<ValueId> =
            layers.weights.iter().filter(|v| !learned.contains(v)).copied().collect();
        if rank > 0 {
            let compensated = compensate::beside(rank, &unlearned, model, &float.model, layers, cx)?;
            // What factors make up for, a bias would make up for twice.
            unlearned.retain(|v| !compensated.contains(v));
            infer_types(model)?;
        }
        Ok(unlearned)
    }
}
