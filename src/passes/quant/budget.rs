//! How many bits each weight gets where all of them have a target to meet.
//!
//! Every weight offers widths: the bytes that it takes with so many bits, and the damage that it does when it alone is
//! rounded so: the squared error of the outputs on calibration samples, relative to their squares. Without samples it is
//! that of the weight, as if every layer passed on what share of noise it gets. [`trade`] takes what does least damage for
//! the bytes that it saves. What is chosen is carried out, and what comes out is judged as it would be written.

use super::{
    Latency,
    activations::Schemes,
    alone::{self, Rounded},
    lost::lost,
    placement::Placement,
    weights::{Layers, Plan},
};
use crate::{
    error::{Error, Result},
    ir::{Model, QuantScheme, Tensor, ValueId, Where},
    passes::{
        Context, RemarkKind,
        linear::effect::{self, Original},
        targets,
        trade::{self, Offer, Point},
    },
};

/// What a target that cannot be met is told of.
const DOING: &str = "quantizing";
/// Widths that a weight may have, with which it runs on ONNX Runtime and takes less of the file than with the one before.
const WIDTHS: [usize; 3] = [8, 4, 2];
/// Models that are written to find what a target leaves to the weights: the first tells all but a few bytes.
const WRITTEN: usize = 6;
/// Models that are judged to find the least bits that lose little enough.
const JUDGED: usize = 8;

/// Bits for each weight; `None` leaves it float.
type Bits = Vec<Option<usize>>;

/// What the weights may become.
struct Choices<'a> {
    plan: &'a Plan<'a>,
    model: &'a Model,
    layers: &'a Layers,
    /// Many bits first.
    widths: Vec<usize>,
    /// For each weight its bytes as it is, and its bytes and damage with each width.
    offers: Vec<Offer>,
}

impl<'a> Choices<'a> {
    fn of(plan: &'a Plan<'a>, model: &'a Model, layers: &'a Layers, cx: &Context<'_>) -> Result<Choices<'a>> {
        let least = plan.pass.options.least_bits(plan.opset);
        let mut widths: Vec<usize> = WIDTHS.into_iter().filter(|bits| *bits > least).collect();
        widths.push(least);
        let float = alone::float(model, layers);
        let mut rounded: Vec<Rounded> = Vec::new();
        for bits in &widths {
            rounded.extend(alone::rounded(plan, model, layers, *bits)?);
        }
        let costs: Vec<u64> = rounded.iter().map(|r| bytes(&r.scheme, r.weight.len())).collect();
        let damages = match cx.has_samples() {
            true => {
                let with = |one: &Rounded| Ok(alone::with(&float, std::slice::from_ref(one)));
                Original::of(float.clone()).errors(&rounded, with, cx)?
            }
            false => rounded.iter().map(|r| error(float.graph.constant(r.of), &r.weight)).collect(),
        };
        let count = layers.weights.len();
        let points = |k| (0..widths.len()).map(move |width| width * count + k);
        let offers = (0..count).map(|k| Offer {
            whole: float.graph.constant(layers.weights[k]).map_or(0, |t| t.byte_len() as u64),
            points: points(k).map(|at| Point { cost: costs[at], damage: damages[at] }).collect(),
        });
        let offers = offers.collect();
        Ok(Choices { plan, model, layers, widths, offers })
    }
    /// The bits with which the weights take at most so many bytes, or the least they can take.
    fn within(&self, bytes: u64) -> std::result::Result<Bits, u64> {
        let all = self.offers.iter().map(|offer| offer.whole).sum();
        let chosen = trade::together(&self.offers, all, bytes)?;
        Ok(chosen.into_iter().map(|point| Some(self.widths[point?])).collect())
    }
    /// What the weights take with these bits.
    fn bytes(&self, bits: &[Option<usize>]) -> u64 {
        let of = |(offer, bits): (&Offer, &Option<usize>)| {
            let point = bits.and_then(|bits| self.widths.iter().position(|width| *width == bits));
            point.map_or(offer.whole, |point| offer.points[point].cost)
        };
        self.offers.iter().zip(bits).map(of).sum()
    }
    /// The model with these bits, nothing rounded yet.
    fn annotated(&self, bits: &[Option<usize>]) -> (Model, Layers) {
        let mut model = self.model.clone();
        let layers = self.layers.with_bits(self.plan, &mut model.graph, bits);
        (model, layers)
    }
}

/// Says how many weights have how many bits in a model, and which were left float.
fn tell(model: &Model, layers: &Layers, chosen: &Layers, cx: &mut Context<'_>) {
    let g = &model.graph;
    let stored = |v: &ValueId| g.value(*v).quant.as_ref().map(|scheme| scheme.dtype.bits());
    let of = |bits| layers.weights.iter().filter(|v| stored(v) == bits).count();
    let mut counts: Vec<String> =
        WIDTHS.iter().map(|bits| format!("{} of {bits} bits", of(Some(*bits)))).collect();
    counts.push(format!("{} float", of(None)));
    cx.remark(RemarkKind::Note, (), format!("weights: {}", counts.join(", ")));
    for v in layers.weights.iter().filter(|v| !chosen.integers.contains_key(v)) {
        let why = "stays float: of all weights it would cost the outputs most for what it saves";
        cx.missed(Where::Value(g.name_of(*v).to_owned()), why);
    }
}

/// Makes the model take at most this share of the bytes of the file that was given.
pub(super) fn within_size(
    plan: &Plan<'_>,
    share: f64,
    model: &mut Model,
    layers: &Layers,
    cx: &mut Context<'_>,
) -> Result<()> {
    let choices = Choices::of(plan, model, layers, cx)?;
    let none = vec![None; layers.weights.len()];
    let (float, _) = choices.annotated(&none);
    let whole = cx.written(&float)?.1;
    let before = cx.given().map_or(Ok(whole), |given| Ok(cx.written(given)?.1))?;
    let target = (share * before as f64) as u64;
    // What of the file is no weight: names and nodes too, whose number the weights' forms decide.
    let mut rest = whole.saturating_sub(choices.bytes(&none));
    for _ in 0..WRITTEN {
        let Ok(bits) = choices.within(target.saturating_sub(rest)) else { break };
        // Rounding is the long part, and no byte depends on it.
        let (mut done, integers) = choices.annotated(&bits);
        let mut bytes = written(plan, done.clone(), &integers, cx)?;
        if bytes <= target {
            let said = cx.said();
            cx.check_cancelled()?;
            let float = Original::of(alone::float(&done, &integers));
            plan.pass.finish(&mut done, &float, &integers, plan.pass.options.latency, cx)?;
            bytes = cx.written(&done)?.1;
            if bytes <= target {
                *model = done;
                tell(model, layers, &integers, cx);
                return Ok(());
            }
            cx.unsay(said);
        }
        rest = bytes.saturating_sub(choices.bytes(&bits)).max(rest + 1);
    }
    let narrowest = vec![choices.widths.last().copied(); layers.weights.len()];
    let (narrow, integers) = choices.annotated(&narrowest);
    let least = written(plan, narrow, &integers, cx)?;
    Err(targets::unreachable(DOING, share, "bytes", least as f64 / before as f64))
}

/// The bytes of the model with these weights, activations in float.
fn written(plan: &Plan<'_>, mut model: Model, layers: &Layers, cx: &Context<'_>) -> Result<u64> {
    plan.pass.place(&mut model, layers, &Placement::FLOAT, &Schemes::new());
    Ok(cx.written(&model)?.1)
}

/// Gives weights the least bits with which the model loses no larger share of its right answers.
pub(super) fn within_drop(
    plan: &Plan<'_>,
    most: f64,
    model: &mut Model,
    layers: &Layers,
    cx: &mut Context<'_>,
) -> Result<()> {
    if !cx.has_samples() {
        let help = "give some with `--calib`, and their right classes with `--labels` where they are known";
        return Err(Error::usage("`max_drop` needs samples to judge by", help));
    }
    let float = Original::of(alone::float(model, layers));
    let judged = |model: &Model, layers: &Layers, latency, cx: &mut Context<'_>| {
        cx.check_cancelled()?;
        let mut done = model.clone();
        plan.pass.finish(&mut done, &float, layers, latency, cx)?;
        let lost = lost(&float.model, &done, cx)?;
        Ok((done, lost))
    };
    let quietly = |model: &Model, layers: &Layers, cx: &mut Context<'_>| {
        let said = cx.said();
        let lost = judged(model, layers, Latency::Any, cx).map(|(_, lost)| lost);
        cx.unsay(said);
        lost
    };
    let mut nearest = quietly(model, layers, cx)?;
    let mut best = (nearest <= most).then(|| (model.clone(), layers.clone()));
    if best.is_none() {
        let choices = Choices::of(plan, model, layers, cx)?;
        let width = |bits| choices.bytes(&vec![bits; layers.weights.len()]);
        let (mut low, mut high) = (width(choices.widths.last().copied()), width(None));
        for _ in 0..JUDGED {
            let middle = u64::midpoint(low, high);
            let Ok(bits) = choices.within(middle) else { break };
            let (model, layers) = choices.annotated(&bits);
            if layers.weights.is_empty() {
                break;
            }
            let lost = quietly(&model, &layers, cx)?;
            nearest = nearest.min(lost);
            if lost <= most {
                (high, best) = (choices.bytes(&bits), Some((model, layers)));
            } else {
                low = middle;
            }
        }
    }
    let Some((chosen, integers)) = best else {
        let [most, nearest] = [most, nearest].map(|share| 100.0 * share);
        return Err(Error::BelowBar(format!(
            "{DOING} cannot keep what is lost to {most:.2} % of the answers; the nearest is {nearest:.2} %"
        )));
    };
    let said = cx.said();
    let (mut done, mut lost) = judged(&chosen, &integers, plan.pass.options.latency, cx)?;
    // What is fastest may round more than what is usual, with which the bits were chosen.
    if lost > most {
        cx.unsay(said);
        (done, lost) = judged(&chosen, &integers, Latency::Any, cx)?;
    }
    *model = done;
    tell(model, layers, &integers, cx);
    cx.remark(RemarkKind::Note, (), format!("{:.2} % of the answers on the samples are lost", 100.0 * lost));
    Ok(())
}

/// What a weight takes of the file, but for what is the same for all: names and nodes.
fn bytes(scheme: &QuantScheme, elements: usize) -> u64 {
    let bits = scheme.dtype.bits() as u64;
    let zeros = if scheme.is_symmetric() { 0 } else { bits };
    (elements as u64 * bits + scheme.scales.len() as u64 * (32 + zeros)).div_ceil(8)
}

/// The squared error of a weight relative to its squares.
fn error(weight: Option<&Tensor>, rounded: &Tensor) -> f64 {
    let mut sums = [0.0; 2];
    if let Some(weight) = weight {
        effect::add(&mut sums, weight, rounded);
    }
    sums[0] / sums[1].max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::super::{Activations, Quant, QuantOptions};
    use crate::{
        error::{Error, Result},
        ir::{Model, Origin, Tensor, text},
        measure::doubles::Double,
        passes::{Changed, Context, Named, Pass},
    };

    /// Files of weights alone.
    fn bytes(model: &Model) -> u64 {
        let g = &model.graph;
        let bytes = g.initializers().map(|(v, weight)| match &g.value(v).quant {
            Some(scheme) => super::bytes(scheme, weight.len()),
            None => weight.byte_len() as u64,
        });
        bytes.sum()
    }

    /// A model loses a twentieth of its only output, which is no scores, with any change.
    fn touchy() -> Double {
        let image = |y: f32| Tensor::from_vec([1, 1, 1, 2], vec![0.0, y]);
        Double::of_samples(move |k| image(if k == 0 { 1.0 } else { 0.95 })).with_files(bytes)
    }

    /// Two products: the weights of one are alike, those of the other differ in size within every block.
    fn products() -> Result<Model> {
        let text = r#"<ir_version: 10, opset_import: ["" : 21]>
            g (float[N, 64] x) => (float[N, 64] y)
            <float[64, 64] even, float[64, 64] uneven>
            {
              h = MatMul (x, even)
              y = MatMul (h, uneven)
            }"#;
        let mut model = text::parse(text)?;
        let wave = |k: usize| ((k as f32 * 12.9898).sin() * 43_758.547).fract();
        for (name, power) in [("even", 0), ("uneven", 6)] {
            let v = model.graph.find(name).unwrap();
            let values = (0..64 * 64).map(|k| (1.0 + wave(k)) * wave(k + 7).powi(power)).collect();
            model.graph.value_mut(v).origin = Origin::Initializer(Tensor::from_vec([64, 64], values));
        }
        Ok(model)
    }
    fn quantized(size: f64) -> Result<(Model, Vec<String>)> {
        let mut model = products()?;
        let options = QuantOptions { size: Some(size), ..QuantOptions::default() };
        let files = Double::default().with_files(bytes);
        let mut cx = Context::new().with_measure(&files);
        let _ = Quant::new(options)?.run(&mut model, &mut cx)?;
        model.verify()?;
        let share = bytes(&model) as f64 / f64::from(2 * 64 * 64 * 4);
        assert!(share <= size, "{share}");
        Ok((model, cx.remarks.into_iter().map(|r| r.text).collect()))
    }
    fn bits(model: &Model, name: &str) -> Option<usize> {
        let scheme = model.graph.value(model.graph.find(name)?).quant.clone()?;
        Some(scheme.dtype.bits())
    }

    #[test]
    fn what_suffers_most_keeps_most_bits() {
        let (model, said) = quantized(0.65).unwrap();
        assert_eq!((bits(&model, "even"), bits(&model, "uneven")), (Some(8), None));
        assert!(said.iter().any(|s| s.starts_with("stays float: of all weights")), "{said:?}");
        let (model, said) = quantized(0.22).unwrap();
        assert_eq!((bits(&model, "even"), bits(&model, "uneven")), (Some(4), Some(8)));
        assert!(
            said.contains(&"weights: 1 of 8 bits, 1 of 4 bits, 0 of 2 bits, 0 float".to_owned()),
            "{said:?}"
        );
        let (model, _) = quantized(0.17).unwrap();
        assert_eq!((bits(&model, "even"), bits(&model, "uneven")), (Some(4), Some(4)));
    }
    #[test]
    fn a_size_out_of_reach_names_the_nearest() {
        let error = quantized(0.1).unwrap_err();
        assert!(matches!(&error, Error::BelowBar(_)), "{error}");
        assert_eq!(error.to_string(), "quantizing cannot reach 10.0 % of the bytes; the nearest is 15.6 %");
    }
    #[test]
    fn a_loss_that_no_bits_keep_names_the_nearest() {
        let of = |max_drop| {
            let activations = Activations::None;
            let options = QuantOptions { max_drop: Some(max_drop), activations, ..QuantOptions::default() };
            let mut model = products()?;
            Quant::new(options)?.run(&mut model, &mut Context::new().with_measure(&touchy()))
        };
        let error = of(0.001).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let text = "quantizing cannot keep what is lost to 0.10 % of the answers; the nearest is 5.00 %";
        assert_eq!(error.to_string(), text);
        assert_eq!(of(0.06).unwrap(), Changed::Yes);
    }
    #[test]
    fn targets_that_make_no_sense_are_refused() {
        let refused = |options: QuantOptions| Quant::new(options).err().map(|error| error.exit_code());
        let size = |size| QuantOptions { size: Some(size), ..QuantOptions::default() };
        assert_eq!(refused(size(1.5)), Some(2));
        assert_eq!(refused(QuantOptions { bits: 4, ..size(0.2) }), Some(2));
        assert_eq!(refused(QuantOptions { max_drop: Some(0.01), ..size(0.2) }), Some(2));
        let drop = QuantOptions { max_drop: Some(0.01), ..QuantOptions::default() };
        let mut model = text::parse(
            "<ir_version: 8, opset_import: [\"\" : 13]> g (float[N] x) => (float[N] y) { y = Relu (x) }",
        )
        .unwrap();
        let error =
            Quant::new(drop).unwrap().run(&mut model, &mut Context::new()).err().map(|e| e.exit_code());
        assert_eq!(error, Some(2), "there are no samples to judge by");
    }
}
