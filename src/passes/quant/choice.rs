//! Which ranges activations have: those of several sets with which the outputs are nearest, biases corrected.

use super::{
    Quant,
    activations::Schemes,
    alone, bias,
    placement::{How, Placement},
    ranges::Look,
    rule::Rule,
    trial::Trial,
    weights::Layers,
};
use crate::{
    error::Result,
    ir::{Model, OpId, ValueId},
    passes::{Context, Repair, linear::effect::Original},
};
use std::cell::OnceCell;

/// A choice of ranges for the activations of a model whose weights are rounded.
pub(super) struct Choice<'a> {
    pub(super) pass: &'a Quant,
    /// The model before anything was rounded.
    pub(super) float: &'a Original,
    /// With weights rounded.
    pub(super) rounded: &'a Model,
    /// With weights the floats that their integers stand for.
    pub(super) reals: OnceCell<Original>,
    /// Weights whose mean error biases may make up for.
    pub(super) unlearned: &'a [ValueId],
    pub(super) rules: &'a [Rule],
    /// The schemes by each of the rules.
    pub(super) sets: &'a [Schemes],
}

/// What was chosen.
pub(super) struct Chosen {
    /// The place of its schemes among the sets.
    pub(super) set: usize,
    /// The placement that it was chosen for.
    pub(super) placement: Placement,
    /// The power of the noise that it leaves, as far as that was looked at.
    pub(super) noise: Option<f64>,
    /// What was looked at, in words.
    pub(super) text: Option<String>,
    /// With biases corrected.
    pub(super) model: Model,
    /// What biases make up for, in words.
    pub(super) repair: Option<String>,
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
    pub(super) fn among(
        &self,
        layers: &Layers,
        placement: Placement,
        usual: usize,
        cx: &Context<'_>,
    ) -> Result<Chosen> {
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
