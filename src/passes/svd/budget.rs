//! Choosing splits so that what is left meets a target.

use super::{
    layer::{Candidate, Price},
    options::Target,
    ranks::{self, Choice, Offer},
    replace::replace,
    timetable::Timetable,
};
use crate::{
    error::{Error, Result},
    ir::Model,
    ops::{cost, infer_types},
    passes::{Context, targets},
};
use faer::Mat;

/// What a target that cannot be met is told of.
const DOING: &str = "splitting";

/// A choice for each candidate; `None` leaves it whole.
pub(super) type Chosen = Vec<Option<Choice>>;

/// The mildest choice that meets the target, or why there is none. Where it is known what splits save by the clock, a
/// target of time has two to choose from: splits that do least damage for each multiply-accumulate, and those that do for
/// the time that they save.
pub(super) fn choose(
    target: Target,
    model: &Model,
    candidates: &[Candidate],
    offers: &[Offer],
    timetable: Option<&Timetable>,
    cx: &Context<'_>,
) -> Result<Chosen> {
    let all = cost::of_model(model);
    let priced = |unit: fn(Price) -> u64, before, share, what| {
        let cost = |k: usize, choice: Option<&Choice>| unit(choice.map_or(offers[k].whole, |c| c.price));
        within(offers, cost, before, share, what)
    };
    let within_macs = |share| priced(|p| p.macs, all.macs, share, "multiply-accumulates");
    match target {
        Target::Lost(lost) => Ok(offers.iter().map(|offer| ranks::alone(offer, lost)).collect()),
        Target::Macs(share) => within_macs(share),
        Target::Params(share) => priced(|p| p.params, all.params, share, "parameters"),
        Target::Split(share) => {
            let all = offers.iter().map(|o| o.whole.params).sum();
            priced(|p| p.params, all, share, "weights of layers that can be split")
        }
        Target::Size(share) => {
            let all = model.graph.initializers().map(|(_, t)| t.byte_len() as u64).sum();
            priced(|p| p.bytes, all, share, "bytes of weights")
        }
        Target::Latency(share) => {
            let in_time = |cost: &dyn Fn(usize, Option<&Choice>) -> u64, before: u64| {
                in_time(share, model, candidates, offers, cost, before, cx)
            };
            let macs = |k: usize, choice: Option<&Choice>| choice.map_or(offers[k].whole, |c| c.price).macs;
            let by_work = in_time(&macs, all.macs);
            let Some(timetable) = timetable else { return by_work };
            let time = |k: usize, choice: Option<&Choice>| timetable.time(k, &offers[k], choice);
            let by_time = in_time(&time, (0..offers.len()).map(|k| time(k, None)).sum());
            // Where no split is seen to save time, nothing is split, and nothing was timed.
            let splits = |chosen: &Chosen| chosen.iter().any(Option::is_some);
            match (by_work, by_time) {
                (Err(Error::Cancelled), _) | (_, Err(Error::Cancelled)) => Err(Error::Cancelled),
                (Ok(work), Ok(time)) if splits(&time) && damage(offers, &time) < damage(offers, &work) => {
                    Ok(time)
                }
                (Err(_), Ok(time)) if splits(&time) => Ok(time),
                (by_work, _) => by_work,
            }
        }
    }
}

/// What a choice does to the model's outputs, as far as layers' errors add up.
fn damage(offers: &[Offer], chosen: &Chosen) -> f64 {
    offers.iter().zip(chosen).map(|(offer, choice)| choice.map_or(0.0, |c| offer.weight * c.lost)).sum()
}

/// The mildest choice by `cost`, of which the model takes `before`, that takes at most this share of the time.
fn in_time(
    share: f64,
    model: &Model,
    candidates: &[Candidate],
    offers: &[Offer],
    cost: &dyn Fn(usize, Option<&Choice>) -> u64,
    before: u64,
    cx: &Context<'_>,
) -> Result<Chosen> {
    let strongest: Chosen = (0..offers.len())
        .map(|k| {
            let less = offers[k].choices.iter().filter(|c| cost(k, Some(c)) < cost(k, None));
            less.min_by_key(|c| cost(k, Some(c))).copied()
        })
        .collect();
    if strongest.iter().all(Option::is_none) {
        return Ok(strongest);
    }
    let saved = |(k, choice): (usize, &Option<Choice>)| {
        choice.map_or(0, |choice| cost(k, None) - cost(k, Some(&choice)))
    };
    let least = before - strongest.iter().enumerate().map(saved).sum::<u64>();
    let least = least as f64 / before.max(1) as f64;
    let at = |share| within(offers, cost, before, share, "latency");
    targets::in_time(
        DOING,
        share,
        (least, strongest),
        at,
        |chosen| stand_in(model, candidates, chosen),
        model,
        cx,
    )
}

/// The mildest choice that leaves at most this share of `before`, of which all layers of the model have their part.
fn within(
    offers: &[Offer],
    cost: impl Fn(usize, Option<&Choice>) -> u64,
    before: u64,
    share: f64,
    what: &str,
) -> Result<Chosen> {
    let found = ranks::together(offers, cost, before, (share * before as f64) as u64);
    found.map_err(|least| targets::unreachable(DOING, share, what, least as f64 / before.max(1) as f64))
}

/// The model with layers split as chosen, but with zeros for weights: it takes as long.
pub(super) fn stand_in(model: &Model, candidates: &[Candidate], chosen: &[Option<Choice>]) -> Result<Model> {
    let mut model = model.clone();
    for (candidate, choice) in candidates.iter().zip(chosen) {
        let Some(choice) = choice else { continue };
        let kernels = candidate.kernels(choice.form, choice.ranks);
        let part = || kernels.iter().map(|(rows, columns)| Mat::zeros(*rows, *columns)).collect();
        let kernels: Vec<_> = (0..candidate.layer.groups).map(|_| part()).collect();
        // Zeros fit every type of numbers.
        let _ = replace(&mut model.graph, candidate, choice.form, &kernels);
    }
    infer_types(&mut model)?;
    Ok(model)
}

#[cfg(test)]
mod tests {
    use crate::{
        error::Result,
        ir::{Model, text},
        ops::{cost, infer_types},
        passes::{Context, Pipeline, targets},
    };

    fn model() -> Model {
        let mut model = text::parse(
            "# weights: seed 3
             <ir_version: 8, opset_import: [\"\" : 17]>
             m (float[N, 64] x) => (float[N, 64] y) <float[64, 64] w1, float[64, 64] w2>
             { [one] a = MatMul (x, w1) r = Relu (a) [two] y = MatMul (r, w2) }",
        )
        .unwrap();
        infer_types(&mut model).unwrap();
        model
    }
    /// The model after the pipeline.
    fn split(pipeline: &str) -> Result<Model> {
        let mut model = model();
        let clock = targets::clock(1024.0);
        let mut cx = Context::new().with_measure(&clock);
        let _ = pipeline.parse::<Pipeline>()?.run(&mut model, &mut cx)?;
        Ok(model)
    }

    #[test]
    fn shares_of_parameters_bytes_and_time_are_met() {
        let before = cost::of_model(&model());
        let bytes = |m: &Model| m.graph.initializer_bytes() as f64;
        for share in [0.4, 0.7] {
            let params = cost::of_model(&split(&format!("svd(params={share})")).unwrap()).params as f64;
            assert!(params <= share * before.params as f64 && params > (share - 0.15) * before.params as f64);
            let size = bytes(&split(&format!("svd(size={share})")).unwrap()) / bytes(&model());
            assert!(size <= share && size > share - 0.15, "{size}");
        }
        // Half of the 9216 seconds for one sample leaves 3584 multiply-accumulates for both layers.
        let macs = cost::of_model(&split("svd(latency=0.5,round=1)").unwrap()).macs;
        assert!(macs <= 3584 && macs > 3000, "{macs}");
    }
    #[test]
    fn what_cannot_be_reached_says_what_can() {
        // Ranks of 8 for both leave 2 * 8 * 128 = 2048 of 8192: 3072 of 9216 seconds.
        for (pipeline, nearest) in [
            ("svd(latency=0.3)", "cannot reach 30.0 % of the latency; the nearest is 33.3 %"),
            ("svd(size=0.2)", "cannot reach 20.0 % of the bytes of weights; the nearest is 25.0 %"),
            ("svd(params=0.2)", "cannot reach 20.0 % of the parameters; the nearest is 25.0 %"),
        ] {
            let error = split(pipeline).unwrap_err();
            assert_eq!(error.exit_code(), 3);
            assert!(error.to_string().contains(nearest), "{error}");
        }
    }
}
