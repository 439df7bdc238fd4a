//! Layers whose integers cost the outputs more than their share: those keep more bits.
//!
//! Where all layers together leave the outputs less than so many dB above the noise, each is looked at alone, all else in
//! float. A layer that makes several times what it would if all made alike keeps more bits, the worst first, until the
//! others together are quiet enough: an outlier among a hundred thousand elements, or a sum that cancels, spoils few
//! layers but may spoil the outputs. Where all layers are alike, none is to blame.
//!
//! Weights are looked at first, with the activations float; without samples on inputs that are made up.

use super::{
    Quant,
    activations::Schemes,
    alone,
    placement::{How, Placement},
    weights::{Layers, Plan},
};
use crate::{
    error::Result,
    ir::{Model, OpId, Where},
    passes::{Context, RemarkKind, linear::effect},
};

/// With less noise than this nothing is left float.
const LEAST_SQNR: f64 = 30.0;
/// With less noise than this weights of fewer than eight bits stay so.
const LEAST_SQNR_OF_FEW_BITS: f64 = 15.0;
/// How many times its share of the noise a layer may make.
const SHARES: f64 = 4.0;

/// Where layers' activations cannot be looked at with so many samples in reasonable time, none is.
const LEAST_SAMPLES: usize = 64;
/// Weights are the same with every sample, so that fewer tell what they cost.
const LEAST_SAMPLES_OF_WEIGHTS: usize = 4;

/// The layers whose weights that make too much noise have eight bits instead of fewer, or are float instead of eight bits;
/// these are named.
pub(super) fn widened(
    plan: &Plan<'_>,
    model: &mut Model,
    layers: Layers,
    cx: &mut Context<'_>,
) -> Result<Layers> {
    if layers.weights.len() < 2 || !cx.has_inputs() {
        return Ok(layers);
    }
    let float = alone::float(model, &layers);
    let rounded = alone::rounded(plan, model, &layers, plan.bits)?;
    let all = alone::errors(&float, &[&rounded], cx)?;
    let most = power(if plan.bits < 8 { LEAST_SQNR_OF_FEW_BITS } else { LEAST_SQNR });
    if all.iter().sum::<f64>() <= most {
        return Ok(layers);
    }
    if effect::affordable(&float, rounded.len(), cx)? < LEAST_SAMPLES_OF_WEIGHTS {
        let why = "not looked into which weights cost most: each would take a run of this large model";
        cx.remark(RemarkKind::Note, (), why);
        return Ok(layers);
    }
    let noise = alone::errors(&float, &rounded.chunks(1).collect::<Vec<_>>(), cx)?;
    let sizes: Vec<usize> = rounded.iter().map(|r| r.weight.len()).collect();
    let loud = too_loud(&noise, &sizes, most);
    let wider = (plan.bits < 8).then_some(8);
    for k in &loud {
        let becomes = wider.map_or_else(|| "stays float".into(), |bits| format!("has {bits} bits"));
        let why = format!(
            "{becomes}: rounding it to {} bits alone costs the outputs {}",
            plan.bits,
            costs(&noise, *k)
        );
        cx.missed(Where::Value(model.graph.name_of(layers.weights[*k]).to_owned()), why);
    }
    let bits = |k| if loud.contains(&k) { wider } else { Some(plan.bits) };
    let bits: Vec<Option<usize>> = (0..rounded.len()).map(bits).collect();
    Ok(layers.with_bits(plan, &mut model.graph, &bits))
}

/// The layers without those whose integer activations make too much noise, which are named.
pub(super) fn left_out(
    pass: &Quant,
    model: &Model,
    layers: &Layers,
    placement: &Placement,
    schemes: &Schemes,
    cx: &mut Context<'_>,
) -> Result<Layers> {
    let placed = |ops: Vec<OpId>, placement: &Placement| {
        let mut model = model.clone();
        pass.place(&mut model, &Layers { ops, ..layers.clone() }, placement, schemes);
        Ok(cx.written(&model)?.0)
    };
    let float = placed(Vec::new(), &Placement::FLOAT)?;
    let (rounded, others): (Vec<OpId>, Vec<OpId>) =
        layers.ops.iter().partition(|op| placement.of(&model.graph, **op) == How::Static);
    let all =
        effect::errors(&float, std::slice::from_ref(&rounded), |ops| placed(ops.clone(), placement), cx)?;
    let most = power(LEAST_SQNR);
    if all.iter().sum::<f64>() <= most || rounded.len() < 2 {
        return Ok(layers.clone());
    }
    if effect::affordable(&float, rounded.len(), cx)? < LEAST_SAMPLES {
        let why = "not looked into which layers' integer activations cost most: each would take a run of this large model";
        cx.remark(RemarkKind::Note, (), why);
        return Ok(layers.clone());
    }
    let noise = effect::errors(&float, &rounded, |op| placed(vec![*op], placement), cx)?;
    let loud = too_loud(&noise, &vec![1; noise.len()], most);
    for k in &loud {
        let why = format!(
            "stays float: rounding what it reads and writes alone costs the outputs {}",
            costs(&noise, *k)
        );
        cx.missed(model.graph.place(rounded[*k]), why);
    }
    let quiet = rounded.iter().enumerate().filter(|(k, _)| !loud.contains(k)).map(|(_, op)| *op);
    let mut ops: Vec<OpId> = quiet.chain(others).collect();
    ops.sort_unstable();
    Ok(Layers { ops, ..layers.clone() })
}

/// The power of noise so many dB below that of the outputs.
fn power(sqnr: f64) -> f64 {
    10f64.powf(-sqnr / 10.0)
}

/// What one of these powers of noise is, in words.
fn costs(noise: &[f64], k: usize) -> String {
    let share = noise.iter().sum::<f64>() / noise.len() as f64;
    format!("{:.1} %, {:.0} times its share", 100.0 * noise[k].sqrt(), noise[k] / share)
}

/// Which of these powers of noise are to go, the largest first, so that those that are left sum up to at most `most`: none
/// that makes less than several times its share, be it that of all alike or that of its size.
fn too_loud(noise: &[f64], sizes: &[usize], most: f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..noise.len()).collect();
    order.sort_by(|a, b| noise[*b].total_cmp(&noise[*a]));
    let all: f64 = noise.iter().sum();
    let size: usize = sizes.iter().sum();
    let share = |k: usize| (1.0 / noise.len() as f64).max(sizes[k] as f64 / size as f64);
    let mut left = all;
    order.retain(|k| {
        let goes = left > most && noise[*k] > SHARES * share(*k) * all;
        left -= if goes { noise[*k] } else { 0.0 };
        goes
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_go_until_the_rest_is_quiet() {
        let alike = [1; 20];
        assert!(too_loud(&[0.01; 20], &alike, 0.001).is_empty(), "all are alike");
        let mut noise = vec![1e-5; 20];
        (noise[3], noise[7]) = (0.02, 0.01);
        assert_eq!(too_loud(&noise, &alike, 0.001), [3, 7]);
        assert_eq!(too_loud(&noise, &alike, 0.011), [3]);
        assert!(too_loud(&noise, &alike, 0.1).is_empty());
        let mut sizes = alike;
        sizes[3] = 5;
        assert_eq!(too_loud(&noise, &sizes, 0.001), [7], "a fifth of all may make most of the noise");
    }
}
