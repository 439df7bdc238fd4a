//! From weights that have schemes to a model in which all is decided: weights are rounded, ranges of activations chosen, biases
//! corrected, and layers placed in integers or in float.

use super::{
    Latency, Method, Quant,
    activations::{self, Schemes},
    alone, bias, compensate, form, guard, last, learned, noisy, pairs,
    placement::{How, Kind, Placement},
    ranges::Look,
    rule::Rule,
    trial::Trial,
    unseen,
    weights::{self, Layers},
    whole,
};
use crate::{
    error::Result,
    ir::{Model, OpId, ValueId},
    ops::infer_types,
    passes::{
        Context, RemarkKind, Repair,
        linear::{Rows, effect::Original},
    },
};
use std::cell::OnceCell;

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
        let all = &last::left_out(self, model, layers, &widest, cx)?;
        let rules = self.options.rules();
        let sets = match widest.is_static() {
            true => activations::schemes(self, &rules, model, all, &widest, usize::MAX, cx)?,
            false => vec![Schemes::new()],
        };
        // How long integers take does not depend on their ranges; so those follow from what is placed.
        let mut timed = match guarded && !all.ops.is_empty() {
            true => guard::choose(self, model, all, &sets[0], usual, cx)?,
            false => None,
        };
        let placement = timed.as_ref().map_or(usual, |timed| timed.placement);
        let choice = Choice {
            pass: self,
            float,
            rounded: &model.clone(),
            reals: OnceCell::new(),
            unlearned: &unlearned,
            rules: &rules,
            sets: &sets,
        };
        let mut chosen = choice.among(all, placement, 0, cx)?;
        if self.options.target.profile().whole {
            whole::advise(self, &chosen.model, float, all, &placement, &sets[chosen.set], cx)?;
        }
        let looks = placement != Placement::FLOAT && cx.has_inputs() && self.options.guards_noise();
        let layers = &match looks {
            true => {
                noisy::left_out(self, &chosen.model, all, &placement, &sets[chosen.set], chosen.noise, cx)?
            }
            false => all.clone(),
        };
        // Without the loudest layers fewer kinds may be worth it, and other ranges the best.
        if layers.ops != all.ops {
            timed = match timed {
                Some(timed) => Some(timed.of_fewer(self, model, layers, &sets[0], cx)?),
                None => None,
            };
            let placement = timed.as_ref().map_or(usual, |timed| timed.placement);
            chosen = choice.among(layers, placement, chosen.set, cx)?;
        }
        let Chosen { set, placement, text, .. } = chosen;
        text.into_iter().for_each(|text| cx.remark(RemarkKind::Note, (), text));
        match timed {
            Some(timed) => timed.tell(&model.graph, layers, cx),
            None => placement.tell(&model.graph, &layers.ops, cx),
        }
        let mut repair = chosen.repair;
        *model = chosen.model;
        if !samples && self.options.repair == Repair::Auto {
            repair = unseen::correct(model, &float.model, &unlearned, layers);
        }
        repair.into_iter().for_each(|text| cx.remark(RemarkKind::Note, (), text));
        let (activations, said) = self.place(model, layers, &placement, &sets[set]);
        said.into_iter().for_each(|(at, why)| cx.missed(at, why));
        cx.count("activations", activations);
        weights::tell(&mut model.graph, layers, &placement, cx);
        form::tell(self, &model.graph, layers, cx);
        Ok(())
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

/// A choice of ranges for the activations of a model whose weights are rounded.
struct Choice<'a> {
    pass: &'a Quant,
    /// The model before anything was rounded.
    float: &'a Original,
    /// With weights rounded.
    rounded: &'a Model,
    /// With weights the floats that their integers stand for.
    reals: OnceCell<Original>,
    /// Weights whose mean error biases may make up for.
    unlearned: &'a [ValueId],
    rules: &'a [Rule],
    /// The schemes by each of the rules.
    sets: &'a [Schemes],
}

/// What was chosen.
struct Chosen {
    /// The place of its schemes among the sets.
    set: usize,
    /// The placement that it was chosen for.
    placement: Placement,
    /// The power of the noise that it leaves, as far as that was looked at.
    noise: Option<f64>,
    /// What was looked at, in words.
    text: Option<String>,
    /// With biases corrected.
    model: Model,
    /// What biases make up for, in words.
    repair: Option<String>,
}

impl Choice<'_> {
    /// What is tried on these layers.
    fn trial<'b>(&'b self, layers: &'b Layers, placement: &'b Placement) -> Result<Trial<'b>> {
        let reals = match self.reals.get() {
            Some(reals) => reals,
            None => {
                let reals = Original::of(alone::dequantized(self.rounded, layers)?);
                self.reals.get_or_init(|| reals)
            }
        };
        Ok(Trial::of(self.pass, self.rounded, layers, placement, reals))
    }
    /// Chooses for these layers, placed so; the usual set stays unless another is clearly better.
    fn among(&self, layers: &Layers, placement: Placement, usual: usize, cx: &Context<'_>) -> Result<Chosen> {
        let measured = |op: &OpId| layers.how(&self.rounded.graph, &placement, *op) == How::Static;
        let differ = self.sets.iter().any(|set| *set != self.sets[0]) && layers.ops.iter().any(measured);
        let look = match differ {
            true => Look::at(&self.trial(layers, &placement)?, self.sets, usual, cx)?,
            false => Look::none(usual),
        };
        let left = look.left();
        let tried = left.iter().map(|k| self.repaired(layers, &placement, &self.sets[*k], cx));
        let mut tried = tried.collect::<Result<Vec<_>>>()?;
        let tries = tried.iter().zip(&left);
        let corrected: Vec<Model> =
            tries.map(|((model, _), k)| self.placed(model, layers, &placement, &self.sets[*k])).collect();
        let nearest = look.nearest(self.rules, self.float, &corrected, cx)?;
        let (model, repair) = tried.swap_remove(nearest.place);
        let (set, noise, text) = (left[nearest.place], nearest.noise, nearest.text);
        Ok(Chosen { set, placement, noise, text, model, repair })
    }
    /// The model with biases that make up for rounding weights, and activations to these schemes; what they make up for.
    fn repaired(
        &self,
        layers: &Layers,
        placement: &Placement,
        schemes: &Schemes,
        cx: &Context<'_>,
    ) -> Result<(Model, Option<String>)> {
        let mut model = self.rounded.clone();
        let placed = |model: &Model| self.placed(model, layers, placement, schemes);
        let text = match cx.has_samples() && self.pass.options.repair == Repair::Auto {
            true => bias::correct(&mut model, self.float, self.unlearned, layers, placed, cx)?,
            false => None,
        };
        Ok((model, text))
    }
    fn placed(&self, model: &Model, layers: &Layers, placement: &Placement, schemes: &Schemes) -> Model {
        let mut model = model.clone();
        self.pass.place(&mut model, layers, placement, schemes);
        model
    }
}
