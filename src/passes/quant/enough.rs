//! Whether samples are enough to round by what layers see: with few of them, rounding makes up for errors on these alone, and
//! the largest inputs, which a few samples have, take the steps of all others.
//!
//! Layers alone do not tell: an error in their largest outputs may be nothing to the layers behind, and the other way around. So
//! weights rounded by most samples are compared with ones rounded to the nearest at the outputs of the model, on those held out.

use super::{Quant, alone, bias, learned, weights::Layers};
use crate::{
    error::Result,
    ir::{Model, ValueId},
    passes::{
        Context, RemarkKind, Repair,
        linear::{
            Rows,
            effect::{self, Original},
        },
    },
};

/// So many samples are enough, whatever the model: a sentence model is nearer by rounding to the nearest with 128 texts still.
const ENOUGH: usize = 512;

impl Quant {
    /// Whether to round these weights by what their layers see; a remark says why where not.
    pub(super) fn sees_enough(
        &self,
        weights: &[ValueId],
        model: &Model,
        float: &Original,
        layers: &Layers,
        cx: &mut Context<'_>,
    ) -> Result<bool> {
        if effect::samples(&float.model, ENOUGH, cx)? >= ENOUGH {
            return Ok(true);
        }
        let [mut nearest, mut seen] = [(); 2].map(|()| model.clone());
        learned::to_nearest(layers, &mut nearest.graph, weights);
        if self.options.repair == Repair::Auto {
            bias::correct(&mut nearest, float, weights, layers, Model::clone, cx)?;
        }
        let said = cx.said();
        learned::round(weights, 0, Rows::Most, &mut seen, layers, cx)?;
        cx.unsay(said);
        let reals = |model: &Model| alone::dequantized(model, layers);
        let errors = float.errors_held(&[nearest, seen], reals, cx)?;
        let [nearest, seen] = [0, 1].map(|k| errors.get(k).copied().unwrap_or_default().sqrt() * 100.0);
        let enough = seen <= nearest;
        if !enough {
            let text = format!(
                "weights are rounded to the nearest: error {nearest:.2} % of the outputs held out, {seen:.2} % by what layers see"
            );
            cx.remark(RemarkKind::Note, (), text);
        }
        Ok(enough)
    }
}
