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
    ir::{Model, ValueId},
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
        let mut placement = Placement::usual(&self.options, samples);
        let timed = self.options.target.profile().timed && latency == Latency::Guard;
        let guarded = timed && placement != Placement::FLOAT;
        // What is timed may place more than what is usual does.
        let widest = if guarded { self.widest(samples) } else { placement };
        let layers = &match widest.of_kind(Kind::Pair) {
            How::Float => layers.clone(),
            _ => pairs::with(self, model, layers),
        };
        let layers = &last::left_out(self, model, layers, &widest, cx)?;
        let rules = self.options.rules();
        let sets = match widest.is_static() {
            true => activations::schemes(self, &rules, model, layers, &widest, usize::MAX, cx)?,
            false => vec![Schemes::new()],
        };
        let choice = Choice {
            pass: self,
            float,
            rounded: &model.clone(),
            reals: OnceCell::new(),
            unlearned: &unlearned,
            widest: &widest,
            rules: &rules,
            sets: &sets,
        };
        let mut chosen = choice.among(layers, 0, cx)?;
        if self.options.target.profile().whole {
            whole::advise(self, &chosen.model, float, layers, &widest, &sets[chosen.set], cx)?;
        }
        let mut all = &layers.ops;
        let layers = &match widest.is_static() && cx.has_inputs() && self.options.guards_noise() {
            true => {
                noisy::left_out(self, &chosen.model, layers, &widest, &sets[chosen.set], chosen.noise, cx)?
            }
            false => layers.clone(),
        };
        // Without the loudest layers other ranges may be the best.
        if sets.len() > 1 && layers.ops != *all {
            chosen = choice.among(layers, chosen.set, cx)?;
            all = &layers.ops;
        }
        chosen.text.iter().for_each(|text| cx.remark(RemarkKind::Note, (), text.clone()));
        let schemes = &sets[chosen.set];
        let timed = match guarded {
            true => guard::choose(self, &chosen.model, layers, schemes, placement, cx)?,
            false => None,
        };
        match timed {
            Some(fastest) => placement = fastest,
            None => placement.tell(&chosen.model.graph, &layers.ops, cx),
        }
        let mut repair;
        (*model, repair) = match placement != widest || layers.ops != *all {
            true => choice.repaired(layers, &placement, schemes, cx)?,
            false => (chosen.model, chosen.repair),
        };
        if !samples && self.options.repair == Repair::Auto {
            repair = unseen::correct(model, &float.model, &unlearned, layers);
        }
        repair.into_iter().for_each(|text| cx.remark(RemarkKind::Note, (), text));
        let (activations, said) = self.place(model, layers, &placement, schemes);
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
            let rounds = |v: &&ValueId| match (self.options.method, &layers.integers[v]) {
                (Method::Gptq, _) => learn,
                (Method::Auto, integers) if samples && integers.clip => learn,
                (_, integers) => !learn && integers.saturate_early(),
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
    /// The placement that is looked at: the one with the most integers.
    widest: &'a Placement,
    rules: &'a [Rule],
    /// The schemes by each of the rules.
    sets: &'a [Schemes],
}

/// What was chosen.
struct Chosen {
    /// The place of its schemes among the sets.
    set: usize,
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
    fn trial<'b>(&'b self, layers: &'b Layers) -> Result<Trial<'b>> {
        let reals = match self.reals.get() {
            Some(reals) => reals,
            None => {
                let reals = Original::of(alone::dequantized(self.rounded, layers)?);
                self.reals.get_or_init(|| reals)
            }
        };
        Ok(Trial::of(self.pass, self.rounded, layers, self.widest, reals))
    }
    /// Chooses for these layers; the usual set stays unless another is clearly better.
    fn among(&self, layers: &Layers, usual: usize, cx: &Context<'_>) -> Result<Chosen> {
        let look = match self.sets.iter().all(|set| *set == self.sets[0]) {
            true => Look::none(usual),
            false => Look::at(&self.trial(layers)?, self.sets, usual, cx)?,
        };
        let left = look.left();
        let tried = left.iter().map(|k| self.repaired(layers, self.widest, &self.sets[*k], cx));
        let mut tried = tried.collect::<Result<Vec<_>>>()?;
        let tries = tried.iter().zip(&left);
        let corrected: Vec<Model> =
            tries.map(|((model, _), k)| self.placed(model, layers, self.widest, &self.sets[*k])).collect();
        let nearest = look.nearest(self.rules, self.float, &corrected, cx)?;
        let (model, repair) = tried.swap_remove(nearest.place);
        Ok(Chosen { set: left[nearest.place], noise: nearest.noise, text: nearest.text, model, repair })
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
