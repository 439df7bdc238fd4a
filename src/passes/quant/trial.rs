//! A model in which activations alone are rounded, weights being the floats that their integers stand for: what ranges of
//! activations, and integers of single layers, do to the outputs.

use super::{
    Quant,
    activations::Schemes,
    placement::{How, Placement},
    weights::Layers,
};
use crate::{
    error::Result,
    ir::{Model, OpId},
    passes::{Context, linear::effect::Original},
};

/// What is tried with some schemes on some layers.
pub(super) struct Trial<'a> {
    pass: &'a Quant,
    model: &'a Model,
    layers: &'a Layers,
    placement: &'a Placement,
    /// With all activations in float.
    pub(super) float: &'a Original,
    /// The layers that round what they read.
    pub(super) rounded: Vec<OpId>,
    /// The other ones.
    pub(super) others: Vec<OpId>,
}

impl<'a> Trial<'a> {
    pub(super) fn of(
        pass: &'a Quant,
        model: &'a Model,
        layers: &'a Layers,
        placement: &'a Placement,
        float: &'a Original,
    ) -> Trial<'a> {
        // Of those that a table asks for nobody wants to know.
        let is_rounded = |op: &&OpId| {
            layers.how(&model.graph, placement, **op) != How::Float && !layers.dynamic.contains(op)
        };
        let (rounded, others) = layers.ops.iter().partition(is_rounded);
        Trial { pass, model, layers, placement, float, rounded, others }
    }
    /// The model as it is written where these layers round by these schemes.
    pub(super) fn with(&self, ops: &[OpId], schemes: &Schemes, cx: &Context<'_>) -> Result<Model> {
        let mut placed = self.float.model.clone();
        for v in ops.iter().flat_map(|op| self.model.graph.inputs_of(*op)).flatten() {
            placed.graph.value_mut(v).quant = self.model.graph.value(v).quant.clone();
        }
        let layers = Layers { ops: ops.to_vec(), ..self.layers.clone() };
        self.pass.place(&mut placed, &layers, self.placement, schemes);
        Ok(cx.written(&placed)?.0)
    }
}
