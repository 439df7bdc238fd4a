//! Layers whose integers cost the outputs more than their share: those keep more bits.
//!
//! Where all layers together leave the outputs less than so many dB above the noise, each is looked at alone, all else in
//! float. A layer that makes several times what it would if all made alike keeps more bits, the worst first, until the
//! others together are quiet enough: an outlier among a hundred thousand elements, or a sum that cancels, spoils few
//! layers but may spoil the outputs. Where all layers are alike, none is to blame, unless the outputs would be too far off: then the
//! loudest go until they are not. For weights, which cost bytes, that is further than is taken for working, for activations less.
//!
//! To save runs, layers are looked at in groups first: where a group makes less noise than one of its layers alone may, none
//! of them is looked at by itself. The more of them there are, the fewer samples each is looked at with.
//!
//! Weights are looked at first, with the activations float; without samples on inputs that are made up.
//!
//! Where all that is float becomes integers, nothing is left out.

use super::{
    Quant,
    activations::Schemes,
    alone,
    placement::Placement,
    trial::Trial,
    weights::{Layers, Plan},
};
use crate::{
    error::Result,
    ir::{Model, OpId, Where},
    passes::{Context, Pass, RemarkKind, linear::effect::Original},
};
use std::ops::Range;

/// With less noise than this nothing is left float.
const LEAST_SQNR: f64 = 30.0;
/// With less noise than this weights of fewer than eight bits stay so.
const LEAST_SQNR_OF_FEW_BITS: f64 = 15.0;
/// The share of the noise that may be, below which a few samples tell that it is less.
const CLEARLY: f64 = 0.5;
/// How many times its share of the noise a layer may make.
const SHARES: f64 = 4.0;
/// With more noise than this, outputs off by more than a tenth, activations stay float that make no more than others.
const LEAST_SQNR_OF_OUTPUTS: f64 = 20.0;
/// The share of the noise of the outputs that weights alone may make, and activations.
const HALF: f64 = 0.5;

/// Where groups of layers cannot be looked at with so many samples in reasonable time, none is.
const LEAST_SAMPLES: usize = 4;
/// Where they have to share samples, so many are left to each: with fewer, the one that an error shows on may not be among them.
const LEAST_SHARED: usize = 8;

/// The layers whose weights that make too much noise have eight bits instead of fewer, or are float instead of eight bits;
/// these are named.
pub(super) fn widened(
    plan: &Plan<'_>,
    model: &mut Model,
    float: &Original,
    layers: Layers,
    cx: &mut Context<'_>,
) -> Result<Layers> {
    if layers.weights.len() < 2 || !cx.has_inputs() || !plan.pass.options.guards_noise() {
        return Ok(layers);
    }
    let rounded = alone::rounded(plan, model, &layers, plan.bits)?;
    let most = power(if plan.bits < 8 { LEAST_SQNR_OF_FEW_BITS } else { LEAST_SQNR });
    let all = together(float, || Ok(alone::with(&float.model, &rounded)), most, cx)?;
    if all <= most {
        return Ok(layers);
    }
    if float.affordable(rounded.len().div_ceil(GROUP), cx)? < LEAST_SAMPLES {
        let why = "not looked into which weights cost most: each would take a run of this large model";
        cx.remark(RemarkKind::Note, (), why);
        return Ok(layers);
    }
    let sizes: Vec<usize> = rounded.iter().map(|r| r.weight.len()).collect();
    let of = |groups: &[Range<usize>]| {
        let samples = float.shared_out(groups.len(), LEAST_SHARED, cx)?;
        let with = |group: &Range<usize>| Ok(alone::with(&float.model, &rounded[group.clone()]));
        float.errors_on(samples, groups, with, cx)
    };
    let mut limits = Limits { loud: most, any: half(plan.pass.least_sqnr()) };
    let samples = cx.has_samples();
    if layers.weights.iter().any(|v| plan.pass.learns(&layers.integers[v], samples)) {
        // Several times less noise comes of rounding them so.
        limits.any = f64::INFINITY;
    }
    let noise = noise(&sizes, all, limits.any, of)?;
    let mut loud = too_loud(&noise, &sizes, all, limits);
    loud.retain(|k| !plan.pass.fixes_bits(&model.graph, layers.weights[*k]));
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

/// The layers without those whose integer activations make too much noise, which are named; `seen` is how much all of them
/// make on fewer samples, where that is known.
pub(super) fn left_out(
    pass: &Quant,
    model: &Model,
    layers: &Layers,
    placement: &Placement,
    schemes: &Schemes,
    seen: Option<f64>,
    cx: &mut Context<'_>,
) -> Result<Layers> {
    let most = power(LEAST_SQNR);
    if seen.is_some_and(|noise| noise <= CLEARLY * most) {
        return Ok(layers.clone());
    }
    let float = &Original::of(alone::dequantized(model, layers)?);
    let trial = Trial::of(pass, model, layers, placement, float);
    let Trial { rounded, others, .. } = &trial;
    let placed = |ops: &[OpId]| trial.with(ops, schemes, cx);
    let all = together(float, || placed(rounded), most, cx)?;
    if all <= most || rounded.len() < 2 {
        return Ok(layers.clone());
    }
    if float.affordable(rounded.len().div_ceil(GROUP), cx)? < LEAST_SAMPLES {
        let why = "not looked into which layers' integer activations cost most: each would take a run of this large model";
        cx.remark(RemarkKind::Note, (), why);
        return Ok(layers.clone());
    }
    let of = |groups: &[Range<usize>]| {
        let samples = float.shared_out(groups.len(), LEAST_SHARED, cx)?;
        float.errors_on(samples, groups, |group| placed(&rounded[group.clone()]), cx)
    };
    let alike = vec![1; rounded.len()];
    let any = pass.least_sqnr().map(|sqnr| sqnr.max(LEAST_SQNR_OF_OUTPUTS));
    let limits = Limits { loud: most, any: half(any) };
    let noise = noise(&alike, all, limits.any, of)?;
    let loud = too_loud(&noise, &alike, all, limits);
    for k in &loud {
        let why = format!(
            "stays float: rounding what it reads and writes alone costs the outputs {}",
            costs(&noise, *k)
        );
        cx.missed(model.graph.place(rounded[*k]), why);
    }
    let quiet = rounded.iter().enumerate().filter(|(k, _)| !loud.contains(k)).map(|(_, op)| *op);
    let mut ops: Vec<OpId> = quiet.chain(others.iter().copied()).collect();
    ops.sort_unstable();
    Ok(Layers { ops, ..layers.clone() })
}

/// How much noise this change makes: on few samples, where they tell that it is clearly less than so much.
fn together(float: &Original, make: impl Fn() -> Result<Model>, most: f64, cx: &Context<'_>) -> Result<f64> {
    let few = float.errors_on(LEAST_SHARED, &[()], |()| make(), cx)?[0];
    if few <= CLEARLY * most { Ok(few) } else { Ok(float.errors(&[()], |()| make(), cx)?[0]) }
}

/// The power of noise so many dB below that of the outputs.
fn power(sqnr: f64) -> f64 {
    10f64.powf(-sqnr / 10.0)
}

/// What one of these powers of noise is, in words.
fn costs(noise: &[f64], k: usize) -> String {
    let times = noise[k] * noise.len() as f64 / noise.iter().sum::<f64>();
    let alone = 100.0 * noise[k].sqrt();
    match times >= 2.0 {
        true => format!("{alone:.1} %, {times:.0} times its share"),
        false => format!("{alone:.1} %, and the others cost as much: together they would be too far off"),
    }
}

/// Layers that are looked at together first.
const GROUP: usize = 4;

/// The noise of layers of these sizes that together make `all`, by that of groups of them; in a quiet group each makes as
/// much as the others. Where more than `any` of all may not be left, no group is quiet that makes more than its part of that.
fn noise(
    sizes: &[usize],
    all: f64,
    any: f64,
    of: impl Fn(&[Range<usize>]) -> Result<Vec<f64>>,
) -> Result<Vec<f64>> {
    let starts = (0..sizes.len()).step_by(GROUP);
    let groups: Vec<Range<usize>> = starts.map(|k| k..(k + GROUP).min(sizes.len())).collect();
    let (mut noise, mut open) = (vec![0.0; sizes.len()], Vec::new());
    let found = of(&groups)?;
    let all = all.min(found.iter().sum());
    for (group, together) in groups.iter().zip(found) {
        let loud = group.clone().any(|k| together > SHARES * share(sizes, k) * all);
        if loud || all > any && together > any * group.len() as f64 / sizes.len() as f64 {
            open.extend(group.clone().map(|k| k..k + 1));
        } else {
            noise[group.clone()].fill(together / group.len() as f64);
        }
    }
    for (one, alone) in open.iter().zip(of(&open)?) {
        noise[one.start] = alone;
    }
    Ok(noise)
}

/// The share of the noise that a layer may be expected to make: that of all alike, or that of its size.
fn share(sizes: &[usize], k: usize) -> f64 {
    (1.0 / sizes.len() as f64).max(sizes[k] as f64 / sizes.iter().sum::<usize>() as f64)
}

/// The power of noise that may be left.
#[derive(Clone, Copy)]
struct Limits {
    /// By layers that make several times their share.
    loud: f64,
    /// By any.
    any: f64,
}

/// Half of the noise that outputs so many dB above it have; any where that is not said.
fn half(sqnr: Option<f64>) -> f64 {
    sqnr.map_or(f64::INFINITY, |sqnr| HALF * power(sqnr))
}

/// Which of these powers of noise are to go, the largest first, so that those that are left sum up to no more than the limits:
/// as far as `any` each, as far as `loud` those that make several times their share of what all make together, be it that of all
/// alike or that of their size.
fn too_loud(noise: &[f64], sizes: &[usize], together: f64, limits: Limits) -> Vec<usize> {
    let mut order: Vec<usize> = (0..noise.len()).collect();
    order.sort_by(|a, b| noise[*b].total_cmp(&noise[*a]));
    let mut left: f64 = noise.iter().sum();
    let all = left.min(together);
    order.retain(|k| {
        let loud = noise[*k] > SHARES * share(sizes, *k) * all;
        let goes = left > if loud { limits.loud } else { limits.any };
        left -= if goes { noise[*k] } else { 0.0 };
        goes
    });
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ir::{Tensor, text},
        measure::doubles::Double,
    };
    use std::{
        cell::{Cell, RefCell},
        rc::Rc,
    };

    #[test]
    fn few_samples_do_where_they_tell_clearly() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]> m (float[1, 1] x) => (float[1, 1] y) { y = Relu (x) }"#;
        let model = text::parse(text).unwrap();
        // How often the changed model runs, which makes a noise of 1.
        let looks = |most: f64| {
            let runs = Rc::new(Cell::new(0));
            let counted = runs.clone();
            let double = Double::of_samples(move |k| {
                counted.set(counted.get() + usize::from(k == 1));
                Tensor::from_vec([1, 1], vec![1.0 + k as f32])
            });
            let (cx, float) = (Context::new().with_measure(&double), Original::of(model.clone()));
            together(&float, || Ok(model.clone()), most, &cx).unwrap();
            runs.get()
        };
        assert_eq!([0.1, 0.9, 1.1, 3.0].map(looks), [2, 2, 2, 1]);
    }

    #[test]
    fn only_groups_that_may_hold_an_outlier_are_looked_into() {
        let mut each = vec![1e-5; 20];
        each[6] = 0.5;
        let looked = RefCell::new(Vec::new());
        let of = |groups: &[Range<usize>]| {
            looked.borrow_mut().extend(groups.iter().cloned());
            Ok(groups.iter().map(|group| each[group.clone()].iter().sum()).collect())
        };
        let found = noise(&[1; 20], each.iter().sum(), 1.0, of).unwrap();
        let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-12;
        assert!(found.iter().zip(&each).all(close), "{found:?}");
        assert_eq!(looked.take(), [0..4, 4..8, 8..12, 12..16, 16..20, 4..5, 5..6, 6..7, 7..8]);
        // The second group makes a third of all, which does not make it loud, but too much for anything to work.
        let each = [[0.1f64; 4], [0.2; 4], [0.1; 4]].concat();
        let of = |groups: &[Range<usize>]| {
            looked.borrow_mut().extend(groups.iter().cloned());
            Ok(groups.iter().map(|group| each[group.clone()].iter().sum()).collect())
        };
        noise(&[1; 12], 1.6, 1.5, of).unwrap();
        assert_eq!(looked.take(), [0..4, 4..8, 8..12, 4..5, 5..6, 6..7, 7..8]);
    }
    #[test]
    fn outliers_go_until_the_rest_is_quiet() {
        let alike = [1; 20];
        let goes = |noise: &[f64], sizes: &[usize], all: f64, loud: f64| {
            too_loud(noise, sizes, all, Limits { loud, any: 0.25 })
        };
        assert!(goes(&[0.01; 20], &alike, 0.2, 0.001).is_empty(), "all are alike");
        assert_eq!(goes(&[0.02; 20], &alike, 0.4, 0.001).len(), 8, "nothing would work");
        let mut noise = vec![1e-5; 20];
        (noise[3], noise[7]) = (0.02, 0.01);
        assert_eq!(goes(&noise, &alike, 0.03, 0.001), [3, 7]);
        assert_eq!(goes(&noise, &alike, 0.03, 0.011), [3]);
        assert!(goes(&noise, &alike, 0.03, 0.1).is_empty());
        let mut sizes = alike;
        sizes[3] = 5;
        assert_eq!(goes(&noise, &sizes, 0.03, 0.001), [7], "a fifth of all may make most of the noise");
    }
}
