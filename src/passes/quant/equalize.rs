//! Scales moved across values, for what is rounded on either side of them to lose less.
//!
//! Integers that span the largest channel of an activation, or the largest column of a weight, leave few steps to the small
//! ones. Wherever scales are free (see [`seams`]) some ways of choosing them are tried, with `a` the largest element of a
//! channel, `q` the root of its mean square, `w` the largest weight that reads it and `p` the largest that makes it:
//!
//! - `sqrt(p / w)`: both weights get equal ranges (cross-layer equalization, Nagel et al. 2019);
//! - `a^k / w^(1 - k)`: part of an activation's range goes over into the weights (SmoothQuant, Xiao et al. 2023);
//! - `q^k`: weights that much goes through get finer steps (AWQ, Lin et al. 2024).
//!
//! That one is taken whose predicted error is smallest, or none. For a layer of weights `W`, rounded `W'`, that reads channels
//! of mean square `m`, all of them scaled, with steps `d` where the activation is rounded too, it is
//!
//! ```text
//! (sum m[i] (W' - W)[i,k]^2 + d^2 / 12 sum W[i,k]^2) / sum m[i] W[i,k]^2
//! ```
//!
//! summed over the layers that read the channels, and those that make them where one scale is for a whole weight. Samples,
//! or made-up inputs where there are none, tell `a` and `q`, and the outputs on them decide in the end.

use super::{
    Equalize, activations, alone, learned,
    placement::{How, Placement},
    scales,
    seam::{Held, Meets, Seam, Touch, channels, ends, seams},
    weights::{Layers, Plan},
};
use crate::{
    error::Result,
    ir::{Grain, Graph, Model, Op, Tensor, ValueId},
    measure::Probe,
    ops::reduce,
    passes::{Context, RemarkKind, linear::effect::Original},
};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// `k` of what is taken from activations.
const SHARES: [f32; 6] = [0.25, 0.4, 0.5, 0.6, 0.75, 1.0];
/// A predicted error has to fall to this share, or nothing changes: it is predicted from little.
const WORTH: f64 = 0.9;
/// The outputs' error has to fall to this share: layers that are left float later, or keep more bits, also make up for what
/// single channels cost, and those that stay loud would no longer stand out.
const NEARER: f64 = 0.5;
/// No look is worth its runs unless the predicted errors fall to this share together: as powers, twice what the outputs' has to.
const LIKELY: f64 = 0.5;
/// That is so much that few samples tell it: as many as this many changes would be looked at with.
const LOOKS: usize = 16;
const LEAST_SAMPLES: usize = 16;
/// How far scales go.
const LARGEST: f32 = 1e3;
/// Elements of a weight by which scales are judged, unless so few outputs have more.
const MOST_ELEMENTS: usize = 1 << 13;
const LEAST_OUTPUTS: usize = 8;
/// Where seams meet in a layer that has one scale, each changes what is best for the other.
const ROUNDS: usize = 2;

/// What a channel of a value is like.
#[derive(Clone, Copy, Debug)]
struct Channel {
    /// The mean square.
    power: f32,
    low: f32,
    high: f32,
}

type Seen = BTreeMap<ValueId, Vec<Channel>>;

/// Moves scales to where rounding is predicted to cost less, and keeps that where it does on the inputs at hand. Weights have the schemes
/// that suit them then.
pub(super) fn equalized(
    plan: &Plan<'_>,
    model: &mut Model,
    layers: Layers,
    cx: &mut Context<'_>,
) -> Result<Layers> {
    // What is only predicted is no reason: the outputs have to agree.
    if plan.pass.options.equalize == Equalize::None || layers.weights.is_empty() || !cx.has_inputs() {
        return Ok(layers);
    }
    let float = Original::of(alone::float(model, &layers));
    let seams = seams(&float.model);
    if seams.is_empty() {
        return Ok(layers);
    }
    let placement = Placement::usual(&plan.pass.options, cx.has_samples());
    let mut seen = observed(&float, &seams, cx)?;
    let mut scaled = float.model.clone();
    let mut moved = vec![false; seams.len()];
    let mut predicted = vec![[0.0; 2]; seams.len()];
    let whole = layers.weights.iter().any(|v| plan.grain_of(&float.model.graph, *v) == Some(Grain::Tensor));
    for _ in 0..if whole { ROUNDS } else { 1 } {
        for ((seam, moved), predicted) in seams.iter().zip(&mut moved).zip(&mut predicted) {
            cx.check_cancelled()?;
            let judge = Judge { plan, g: &scaled.graph, layers: &layers, placement: &placement, seen: &seen };
            let Some((errors, scales)) = judge.best(seam) else { continue };
            *predicted = if *moved { [predicted[0], errors[1]] } else { errors };
            let Some(scales) = scales else { continue };
            let mut new = scaled.clone();
            if seam.scale(&mut new.graph, &scales).is_some() {
                (scaled, *moved) = (new, true);
                rescale(&mut seen, seam, &scales);
            }
        }
    }
    let count = moved.iter().filter(|moved| **moved).count();
    if count == 0 {
        return Ok(layers);
    }
    let [now, then] = [0, 1].map(|k| predicted.iter().map(|errors| errors[k]).sum::<f64>());
    if then > LIKELY * now {
        return Ok(layers);
    }
    let bits = vec![Some(plan.bits); layers.weights.len()];
    let new = layers.with_bits(plan, &mut scaled.graph, &bits);
    let both = [(&*model, &layers), (&scaled, &new)];
    let few = float.shared_out(LOOKS, LEAST_SAMPLES, cx)?;
    let [before, after] = both.map(|(model, layers)| rounded(plan, model, layers, &placement, few, cx));
    let errors = float.errors_on(few, &[before?, after?], |model| Ok(model.clone()), cx)?;
    let [before, after] = [0, 1].map(|k| errors.get(k).copied().unwrap_or_default().sqrt() * 100.0);
    if after > NEARER * before {
        return Ok(layers);
    }
    let text = format!(
        "scales moved across {count} of {} values where they are free; error of the outputs {before:.2} % -> {after:.2} %",
        seams.len()
    );
    cx.remark(RemarkKind::Note, (), text);
    *model = scaled;
    Ok(new)
}

/// The model as it would be written with everything rounded that may be, by the first `most` samples.
fn rounded(
    plan: &Plan<'_>,
    model: &Model,
    layers: &Layers,
    placement: &Placement,
    most: usize,
    cx: &Context<'_>,
) -> Result<Model> {
    let mut model = model.clone();
    learned::to_nearest(layers, &mut model.graph, &layers.weights);
    let rules = &plan.pass.options.rules()[..1];
    let schemes = match placement.is_static() {
        true => activations::schemes(plan.pass, rules, &model, layers, placement, most, cx)?.pop(),
        false => None,
    };
    plan.pass.place(&mut model, layers, placement, &schemes.unwrap_or_default());
    Ok(cx.written(&model)?.0)
}

/// What the layers at the seams read, without repetition.
fn read(g: &Graph, seams: &[Seam]) -> Vec<ValueId> {
    let touches = seams.iter().flat_map(|seam| &seam.touches);
    let linear = touches.filter(|t| matches!(t.meets, Meets::Reads | Meets::Makes));
    let mut read: Vec<ValueId> = linear.filter_map(|t| g.input(t.op, 0)).collect();
    read.sort_unstable();
    read.dedup();
    read
}

/// What the inputs tell of the channels that are read at the seams.
fn observed(float: &Original, seams: &[Seam], cx: &Context<'_>) -> Result<Seen> {
    let (mut probe, opset) = (float.model.clone(), float.model.opset());
    let g = &mut probe.graph;
    let mut of = Vec::new();
    let mut fetch = Vec::new();
    for v in read(g, seams) {
        let reader = g.uses(v).into_iter().map(|at| at.op()).find(|op| g.input(*op, 0) == Some(v));
        let (Some(rank), Some(reader)) = (g.rank(v), reader) else { continue };
        let kept = Some((channels(g.op(reader), rank), rank));
        let ty = g.value(v).ty.clone();
        let square = g.add_node(Op::new("Mul", ""), &[v, v], "square", ty);
        for (op, x) in [("ReduceMean", square), ("ReduceMin", v), ("ReduceMax", v)] {
            let reduced = reduce(g, opset, op, x, kept);
            fetch.push(g.name_of(reduced).to_owned());
        }
        of.push(v);
    }
    let most = float.affordable(1, cx)?.max(1);
    let mut all: Vec<(f32, Vec<Channel>)> = vec![(0.0, Vec::new()); of.len()];
    cx.sweep(&[Probe { model: &probe, fetch: &fetch }], 0..most, &mut |batch| {
        let values: Vec<_> = batch.values.iter().flatten().map(|t| t.to_f32().unwrap_or_default()).collect();
        for ((count, channels), found) in all.iter_mut().zip(values.chunks_exact(3)) {
            let none = Channel { power: 0.0, low: 0.0, high: 0.0 };
            channels.resize(found[0].len(), none);
            *count += 1.0;
            for (k, channel) in channels.iter_mut().enumerate() {
                channel.power += (found[0][k] - channel.power) / *count;
                (channel.low, channel.high) = (channel.low.min(found[1][k]), channel.high.max(found[2][k]));
            }
        }
        cx.check_cancelled()
    })?;
    Ok(of.into_iter().zip(all).map(|(v, (_, channels))| (v, channels)).collect())
}

/// What becomes of the channels where the scales of a seam are moved.
fn rescale(seen: &mut Seen, seam: &Seam, scales: &[f32]) {
    for Held { value, positions, .. } in &seam.values {
        let Some(channels) = seen.get_mut(value).filter(|c| c.len() == positions.len()) else { continue };
        for (channel, i) in channels.iter_mut().zip(positions) {
            *channel = i.map_or(*channel, |i| divided(*channel, scales[i]));
        }
    }
}

fn divided(c: Channel, by: f32) -> Channel {
    Channel { power: c.power / by / by, low: c.low / by, high: c.high / by }
}

/// Predicts what scales are worth.
struct Judge<'a> {
    plan: &'a Plan<'a>,
    g: &'a Graph,
    layers: &'a Layers,
    placement: &'a Placement,
    seen: &'a Seen,
}

impl Judge<'_> {
    /// The predicted error as it is and as it becomes, and the scales that make it the smallest; none where that is not worth it.
    fn best(&self, seam: &Seam) -> Option<([f64; 2], Option<Vec<f32>>)> {
        let candidates = self.candidates(seam);
        let layers: Vec<Weighed<'_>> = seam.touches.iter().filter_map(|touch| self.weighed(touch)).collect();
        let before = self.error(&layers, &vec![1.0; seam.size])?;
        let errors =
            candidates.into_par_iter().filter_map(|scales| Some((self.error(&layers, &scales)?, scales)));
        let errors: Vec<_> = errors.collect();
        let (error, scales) = errors.into_iter().min_by(|a, b| a.0.total_cmp(&b.0))?;
        let moves = error < WORTH * before;
        Some(([before, if moves { error } else { before }], moves.then_some(scales)))
    }
    fn candidates(&self, seam: &Seam) -> Vec<Vec<f32>> {
        let zeros = || vec![0f32; seam.size];
        let (mut a, mut q, mut w, mut p) = (zeros(), zeros(), zeros(), zeros());
        let read = seam.touches.iter().any(|touch| touch.meets == Meets::Reads && self.is_rounded(touch));
        for touch in &seam.touches {
            let largest = match touch.meets {
                Meets::Reads => &mut w,
                Meets::Makes => &mut p,
                _ => continue,
            };
            // What a layer in float reads by limits nothing, unless there is no other.
            if touch.meets == Meets::Reads && read && !self.is_rounded(touch) {
                continue;
            }
            let Some(tensor) = self.g.input(touch.op, touch.slot).and_then(|v| self.g.constant(v)) else {
                continue;
            };
            let (Some(position), Some(values)) = (touch.position(self.g, tensor), tensor.view::<f32>())
            else {
                continue;
            };
            for (at, x) in values.iter().enumerate() {
                if let Some(i) = position(at) {
                    largest[i] = largest[i].max(x.abs());
                }
            }
        }
        for Held { value, positions, .. } in &seam.values {
            let channels = self.seen.get(value).filter(|c| c.len() == positions.len());
            for (channel, i) in channels.into_iter().flatten().zip(positions) {
                if let Some(i) = *i {
                    a[i] = a[i].max(channel.high).max(-channel.low);
                    q[i] = q[i].max(channel.power.sqrt());
                }
            }
        }
        let of = |scale: &dyn Fn(usize) -> f32| normal((0..seam.size).map(scale).collect());
        let mut found = vec![of(&|i| (p[i] / w[i]).sqrt())];
        for k in SHARES {
            found.push(of(&|i| a[i].powf(k) / w[i].powf(1.0 - k)));
            found.push(of(&|i| q[i].powf(k)));
        }
        found
    }
    /// The predicted error of the layers at a seam; `None` where none is rounded.
    fn error(&self, layers: &[Weighed<'_>], scales: &[f32]) -> Option<f64> {
        layers.iter().filter_map(|layer| self.of_layer(layer, scales)).reduce(|a, b| a + b)
    }
    /// Whether the weight of a layer at a seam is rounded.
    fn is_rounded(&self, touch: &Touch) -> bool {
        self.g.input(touch.op, touch.slot).is_some_and(|v| self.layers.integers.contains_key(&v))
    }
    /// Which elements of its weight share a scale.
    fn grain(&self, touch: &Touch) -> Option<Grain> {
        self.plan.grain_of(self.g, self.g.input(touch.op, touch.slot)?)
    }
    /// What the layer at a touch is judged by; `None` where scales do not change how well it is rounded.
    fn weighed<'t>(&self, touch: &'t Touch) -> Option<Weighed<'t>> {
        let (g, v) = (self.g, self.g.input(touch.op, 1)?);
        match touch.meets {
            Meets::Reads => {}
            // Where each output has scales of its own, they follow.
            Meets::Makes if self.grain(touch) == Some(Grain::Tensor) => {}
            _ => return None,
        }
        let integers = scales::Integers { clip: false, ..*self.layers.integers.get(&v)? };
        let weight = g.constant(v)?;
        let all = weight.view::<f32>()?;
        let (position, ends) = (touch.position(g, weight)?, ends(g.op(touch.op), weight.shape())?);
        let (grain, outputs) = (self.grain(touch)?, Plan::outputs_of(g, v)?);
        let (shape, looked_at) = looked_at(weight.shape(), outputs, grain);
        let element = |at: &usize| Element {
            x: all[*at],
            scale: position(*at).map(|i| i as u32),
            read: ends(*at)[0] as u32,
        };
        Some(Weighed { touch, integers, grain, shape, elements: looked_at.iter().map(element).collect() })
    }
    fn of_layer(&self, layer: &Weighed<'_>, scales: &[f32]) -> Option<f64> {
        let (g, Weighed { touch, integers, .. }) = (self.g, layer);
        let reads = touch.meets == Meets::Reads;
        let by = |element: &Element| match element.scale {
            Some(i) if reads => scales[i as usize],
            Some(i) => scales[i as usize].recip(),
            None => 1.0,
        };
        let new: Vec<f32> = layer.elements.iter().map(|element| element.x * by(element)).collect();
        let new = Tensor::from_vec(layer.shape.clone(), new);
        let scheme = scales::fit(&new, layer.grain, *integers, |_| 1.0)?;
        let rounded = scales::rounded(&new, &scheme, *integers)?;
        let (rounded, new) = (rounded.view::<f32>()?, new.view::<f32>()?);
        let channels = self.seen.get(&g.input(touch.op, 0)?)?;
        // The channels as the layer reads them with these scales.
        let mut now = channels.clone();
        if reads {
            for (channel, i) in now.iter_mut().zip(&touch.positions) {
                *channel = i.map_or(*channel, |i| divided(*channel, scales[i]));
            }
        }
        let span = |end: fn(f32, f32) -> f32, of: fn(&Channel) -> f32| now.iter().map(of).fold(0.0, end);
        let steps = (1u64 << self.plan.pass.options.activation_dtype().bits()) - 1;
        let step = (span(f32::max, |c| c.high) - span(f32::min, |c| c.low)) / steps as f32;
        let rounds = self.layers.how(g, self.placement, touch.op) != How::Float;
        let noise = if rounds { f64::from(step).powi(2) / 12.0 } else { 0.0 };
        let (mut error, mut size) = (0f64, 0f64);
        for (element, (x, y)) in layer.elements.iter().zip(new.iter().zip(rounded.iter())) {
            let power = f64::from(now.get(element.read as usize)?.power);
            let back = if reads { 1.0 } else { f64::from(by(element)).powi(-2) };
            let square = f64::from(*x).powi(2);
            error += back * (power * f64::from(x - y).powi(2) + noise * square);
            size += back * power * square;
        }
        (size > 0.0).then_some(error / size)
    }
}

/// A layer by which scales of a seam are judged: what of it stays the same whatever the scales are.
struct Weighed<'t> {
    touch: &'t Touch,
    integers: scales::Integers,
    /// Which elements of the weight share a scale.
    grain: Grain,
    /// The shape of the part that is looked at, and its elements.
    shape: Vec<usize>,
    elements: Vec<Element>,
}

/// An element of a weight. There are many: no tensor has as many channels as to need more bytes.
struct Element {
    x: f32,
    /// The place of its scale in the seam.
    scale: Option<u32>,
    /// The channel that it reads.
    read: u32,
}

/// Of a weight of this shape, the elements by which scales are judged, and their shape: some of the outputs, spread evenly,
/// where each has scales of its own.
fn looked_at(shape: &[usize], outputs: usize, grain: Grain) -> (Vec<usize>, Vec<usize>) {
    let (all, inner) = (shape[outputs], shape[outputs + 1..].iter().product::<usize>());
    let outer: usize = shape[..outputs].iter().product();
    let most = (MOST_ELEMENTS / (outer * inner).max(1)).max(LEAST_OUTPUTS);
    let count = if grain == Grain::Tensor { all } else { all.min(most) };
    let picked = |k: usize| k * all / count;
    let elements = (0..outer).flat_map(|o| (0..count).map(move |k| (o * all + picked(k)) * inner));
    let mut some = shape.to_vec();
    some[outputs] = count;
    (some, elements.flat_map(|start| start..start + inner).collect())
}

/// Scales about 1, none of them extreme; where there is nothing to tell, 1.
fn normal(mut scales: Vec<f32>) -> Vec<f32> {
    let usable = |s: &f32| s.is_finite() && *s > 0.0;
    let logs: Vec<f32> = scales.iter().filter(|s| usable(s)).map(|s| s.ln()).collect();
    let mean = (logs.iter().sum::<f32>() / logs.len().max(1) as f32).exp();
    for s in &mut scales {
        *s = if usable(s) { (*s / mean).clamp(LARGEST.recip(), LARGEST) } else { 1.0 };
    }
    scales
}
