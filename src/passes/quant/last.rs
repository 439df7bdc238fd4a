//! Convolutions behind which no other layer comes.
//!
//! What integer kernels make of a convolution is rounded to 8 bits. Between layers that averages out, but at the end the outputs of
//! the model have those 256 values: that may be more noise than all layers before make together. Such a convolution is
//! mostly small, a classifier of few positions or a head of few channels, and costs no time in float.

use super::{
    Quant,
    placement::{How, Placement},
    weights::Layers,
};
use crate::{
    error::Result,
    ir::{Graph, Model, OpId, ValueId},
    ops::cost,
    passes::{Context, linear::effect},
};
use std::collections::HashSet;

/// The share of the layers' multiply-accumulates, as a divisor, that may stay float.
const FEW: u64 = 32;

/// The layers without small last convolutions, which are named.
pub(super) fn left_out(
    pass: &Quant,
    model: &Model,
    layers: &Layers,
    placement: &Placement,
    cx: &mut Context<'_>,
) -> Result<Layers> {
    let g = &model.graph;
    let is_rounded = |op: &&OpId| layers.how(g, placement, **op) == How::Static;
    let rounded: Vec<OpId> = layers.ops.iter().filter(is_rounded).copied().collect();
    let options = &pass.options;
    let few = options.target.profile().rounds_outputs && !options.has_wide_activations();
    if rounded.is_empty() || !few || !options.guards_noise() {
        return Ok(layers.clone());
    }
    let shaped = if cx.has_inputs() { effect::shaped_as_sampled(model, cx)? } else { model.clone() };
    let macs = |op: &OpId| cost::of_op(&shaped.graph, *op).macs;
    let mut last = ends(g, |op| macs(&op) > 0);
    last.retain(|op| g.op(*op).is("Conv") && rounded.contains(op));
    let most = rounded.iter().map(macs).fold(0, u64::saturating_add) / FEW;
    last.sort_by_key(|op| (macs(op), *op));
    let mut left = 0u64;
    let goes = |op: &OpId| {
        left = left.saturating_add(macs(op));
        left <= most
    };
    let float: Vec<OpId> = last.into_iter().take_while(goes).collect();
    for op in &float {
        let why = "stays float: no layer comes behind it, so the outputs would have no more than the 256 values of its integers";
        cx.missed(g.place(*op), why);
    }
    let ops = layers.ops.iter().copied().filter(|op| !float.contains(op)).collect();
    Ok(Layers { ops, ..layers.clone() })
}

/// The layers behind which none comes.
fn ends(g: &Graph, is_layer: impl Fn(OpId) -> bool) -> Vec<OpId> {
    let (mut leads, mut ends): (HashSet<ValueId>, _) = (HashSet::new(), Vec::new());
    for op in g.order().into_iter().rev() {
        let leads_on = g.outputs_of(op).iter().flatten().any(|y| leads.contains(y));
        let is_layer = is_layer(op);
        if is_layer && !leads_on {
            ends.push(op);
        }
        if is_layer || leads_on {
            leads.extend(g.inputs_of(op).into_iter().flatten());
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ir::text,
        passes::{
            Named,
            quant::{ActivationType, Activations, Noise, QuantOptions},
        },
    };

    /// Which convolutions read integers in a model of a large one and two heads, one of which is not small.
    fn integers(options: QuantOptions) -> Vec<String> {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]>
            g (float[1, 16, 32, 32] x) => (float[1, 4, 32, 32] y, float[1, 32, 32, 32] z)
            <float[64, 16, 3, 3] w0, float[4, 64, 1, 1] w1, float[32, 64, 1, 1] w2>
            {
              bounded = Sigmoid (x)
              [large] a = Conv <pads = [1, 1, 1, 1]> (bounded, w0)
              b = Sigmoid (a)
              [small] c = Conv (b, w1)
              y = Sigmoid (c)
              [wide] d = Conv (b, w2)
              z = Sigmoid (d)
            }"#;
        let mut model = text::parse(text).unwrap();
        crate::ops::infer_types(&mut model).unwrap();
        let options = QuantOptions { activations: Activations::Static, ..options };
        let pass = Quant::new(options).unwrap();
        let g = &model.graph;
        let ops: Vec<OpId> = g.ops().filter(|op| g.op(*op).is("Conv")).collect();
        let layers = Layers { ops, ..Layers::default() };
        let placement = Placement::usual(&pass.options, true);
        let left = left_out(&pass, &model, &layers, &placement, &mut Context::new()).unwrap();
        left.ops.iter().map(|op| g.op(*op).name.clone()).collect()
    }

    #[test]
    fn a_small_convolution_at_the_end_stays_float() {
        assert_eq!(integers(QuantOptions::default()), ["large", "wide"]);
        let all = ["large", "small", "wide"];
        assert_eq!(integers(QuantOptions { noise: Some(Noise::Any), ..QuantOptions::default() }), all);
        let wide = Some(ActivationType::Uint16);
        assert_eq!(
            integers(QuantOptions { activation_type: wide, ..QuantOptions::default() }),
            all,
            "65,536 values"
        );
    }
}
