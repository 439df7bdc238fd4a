//! Low-rank factorization: a layer becomes two or three thinner ones that compute nearly the same.
//!
//! With calibration samples the error is that of a layer's outputs on what it sees, without them that of its weights.
//! See [`form`] for the ways to split a layer, [`spectrum`] for the mathematics and [`ranks`] for what decides the rank.

mod form;
mod layer;
mod metric;
mod options;
mod ranks;
mod replace;
mod spectrum;

pub use options::SvdOptions;

use super::{
    Changed, Context, Named, Needs, Options, Pass, RemarkKind, globs,
    linear::{Sight, collect},
    pass::changed_options,
};
use crate::{
    error::{Error, Result},
    ir::Model,
    ops::{cost, infer_types},
};
use faer::Mat;
use form::{Form, Whole};
use globset::GlobSet;
use layer::{Candidate, Price};
use metric::Metric;
use options::Target;
use ranks::{Choice, Offer};

const UNSEEN: &str =
    "errors are those of the weights: with samples of its inputs (`--calib`) they are those of the outputs";

/// The pass.
pub struct Svd {
    options: SvdOptions,
    target: Target,
    exclude: GlobSet,
}

impl Named for Svd {
    const NAME: &'static str = "svd";
    const ABOUT: &'static str = "Split layers into thinner ones of low rank that compute nearly the same";
    type Options = SvdOptions;
    fn new(options: SvdOptions) -> Result<Self> {
        let (target, exclude) = (options.target()?, globs::excluded(&options.exclude)?);
        Ok(Svd { options, target, exclude })
    }
}

impl Pass for Svd {
    fn name(&self) -> &str {
        Self::NAME
    }
    fn needs(&self) -> Needs {
        Needs { simplified: true, ..Needs::default() }
    }
    fn least_sqnr(&self) -> Option<f64> {
        None
    }
    fn options(&self) -> Options {
        changed_options(&self.options, Some(&SvdOptions::default()))
    }
    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<Changed> {
        infer_types(model)?;
        let (before, said) = (cost::of_model(model), cx.remarks.len());
        let candidates = layer::find(self, model, cx);
        let judged = self.judge(model, &candidates, cx)?;
        let chosen = self.choose(model, &candidates, &judged, before.macs, cx)?;
        if chosen.iter().all(Option::is_none) {
            let why = cx.remarks[said..].iter().find(|r| r.kind == RemarkKind::Missed);
            let why = why.map(|r| format!(" (`{}`: {})", r.at.name(), r.text)).unwrap_or_default();
            return Err(Error::BelowBar(format!("no layer can be split{why}")));
        }
        for ((candidate, judged), choice) in candidates.iter().zip(&judged).zip(&chosen) {
            if let (Some(choice), Ok(judged)) = (choice, judged) {
                split(model, candidate, judged, choice, cx);
            }
        }
        infer_types(model)?;
        let after = cost::of_model(model);
        let share = |after: u64, before: u64| 100.0 * after as f64 / before.max(1) as f64;
        let text = format!(
            "{:.1} % of the multiply-accumulates and {:.1} % of the weights are left",
            share(after.macs, before.macs),
            share(after.params, before.params)
        );
        cx.remark(RemarkKind::Note, (), text);
        if !cx.has_samples() {
            cx.remark(RemarkKind::Note, (), UNSEEN);
        }
        Ok(Changed::Yes)
    }
}

/// A layer's weights, what their errors are measured in, and what can be made of them.
struct Judged {
    weights: Mat<f64>,
    metric: Metric,
    offer: Offer,
}

impl Svd {
    /// What can be made of each candidate, or why nothing can.
    fn judge(
        &self,
        model: &Model,
        candidates: &[Candidate],
        cx: &mut Context<'_>,
    ) -> Result<Vec<std::result::Result<Judged, String>>> {
        let progress = cx.progress();
        progress.begin("decomposing weights", candidates.len() as u64);
        let mut judged = Vec::with_capacity(candidates.len());
        if cx.has_samples() {
            let sights: Vec<_> = candidates.iter().map(|c| Sight { layer: &c.layer, target: None }).collect();
            collect(model, model, &sights, cx, |k, found| {
                let metric = found.map(|parts| {
                    let [train, held] = &parts[0];
                    Metric::of(&train.clone().plus(held), candidates[k].layer.has_bias())
                });
                judged.push(metric.and_then(|metric| self.offer(model, &candidates[k], metric, cx.seed)));
                progress.advance(1);
            })?;
        } else {
            for candidate in candidates {
                cx.check_cancelled()?;
                judged.push(self.offer(model, candidate, Metric::plain(), cx.seed));
                progress.advance(1);
            }
        }
        progress.end();
        Ok(judged)
    }
    fn offer(
        &self,
        model: &Model,
        candidate: &Candidate,
        metric: Metric,
        seed: u64,
    ) -> std::result::Result<Judged, String> {
        let parts = candidate.layer.weights(&model.graph).ok_or("its weights cannot be read")?;
        let inputs = candidate.layer.unknowns() - usize::from(candidate.layer.has_bias());
        let weights = parts[0].subrows(0, inputs).to_owned();
        let whole = Whole { weights: &weights, metric: &metric, kernel: &candidate.kernel, seed };
        let mut choices = Vec::new();
        for (form, inner, outer) in candidate.grid(self.options.round) {
            let losses = whole.losses(form, &inner, &outer)?.into_iter();
            let saving = losses.filter(|(ranks, _)| candidate.saves(form, *ranks));
            choices.extend(saving.map(|(ranks, lost)| {
                let price = candidate.price(form, ranks);
                Choice { form, ranks, price, lost }
            }));
        }
        let offer = Offer { whole: candidate.whole, choices, weight: 1.0 };
        Ok(Judged { weights, metric, offer })
    }
    /// A choice for each candidate; `None` leaves it whole.
    fn choose(
        &self,
        model: &Model,
        candidates: &[Candidate],
        judged: &[std::result::Result<Judged, String>],
        macs: u64,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Option<Choice>>> {
        let place = |k: usize| model.graph.place(candidates[k].layer.op);
        for (k, judged) in judged.iter().enumerate() {
            if let Err(why) = judged {
                cx.missed(place(k), format!("left whole: {why}"));
            }
        }
        let offers: Vec<Offer> = judged
            .iter()
            .zip(candidates)
            .map(|(judged, c)| match judged {
                Ok(judged) => judged.offer.clone(),
                Err(_) => Offer { whole: c.whole, choices: Vec::new(), weight: 0.0 },
            })
            .collect();
        let chosen = match self.target {
            Target::Lost(lost) => offers.iter().map(|offer| ranks::alone(offer, lost)).collect(),
            Target::Macs(share) => within(&offers, |p| p.macs, macs, share, "of the multiply-accumulates")?,
            Target::Params(share) => {
                let all = offers.iter().map(|o| o.whole.params).sum();
                within(&offers, |p| p.params, all, share, "of the weights of layers that can be split")?
            }
        };
        for (k, offer) in offers.iter().enumerate().filter(|(k, _)| chosen[*k].is_none()) {
            if !offer.choices.is_empty() {
                cx.missed(place(k), "left whole: no split that pays is good enough");
            }
        }
        Ok(chosen)
    }
}

fn within(
    offers: &[Offer],
    unit: impl Fn(Price) -> u64 + Copy,
    before: u64,
    share: f64,
    of_what: &str,
) -> Result<Vec<Option<Choice>>> {
    ranks::together(offers, unit, before, (share * before as f64) as u64).map_err(|least| {
        let (wanted, least) = (100.0 * share, 100.0 * least as f64 / before.max(1) as f64);
        Error::BelowBar(format!(
            "splitting cannot reach {wanted:.1} % {of_what}; the nearest is {least:.1} %"
        ))
    })
}

/// Splits a layer as chosen.
fn split(model: &mut Model, candidate: &Candidate, judged: &Judged, choice: &Choice, cx: &mut Context<'_>) {
    let at = model.graph.place(candidate.layer.op);
    let whole =
        Whole { weights: &judged.weights, metric: &judged.metric, kernel: &candidate.kernel, seed: cx.seed };
    let kernels = whole.split(choice.form, choice.ranks);
    let done = kernels.and_then(|kernels| {
        replace::replace(&mut model.graph, &candidate.layer, choice.form, &kernels)
            .ok_or_else(|| "its factors do not fit its type of numbers".to_owned())
    });
    match done {
        Ok(()) => {
            cx.count("layers", 1);
            cx.applied(at, described(candidate, choice));
        }
        Err(why) => cx.missed(at, format!("left whole: {why}")),
    }
}

/// What became of a layer.
fn described(candidate: &Candidate, choice: &Choice) -> String {
    let Choice { ranks: [p, b], price, .. } = *choice;
    let form = match choice.form {
        Form::Outputs => format!("{b} of {} outputs", candidate.layer.outputs),
        Form::Inputs => format!("{p} of {} inputs", candidate.layer.channels),
        Form::Spatial => format!("height and width with {p} channels between"),
        Form::Tucker => {
            format!("{p} of {} inputs, {b} of {} outputs", candidate.layer.channels, candidate.layer.outputs)
        }
    };
    let share = |n: u64, of: u64| 100.0 * n as f64 / of as f64;
    format!(
        "split: {form}; error {:.1} %, {:.0} % of its multiply-accumulates, {:.0} % of its weights",
        100.0 * choice.lost.sqrt(),
        share(price.macs, candidate.whole.macs),
        share(price.params, candidate.whole.params)
    )
}

#[cfg(test)]
mod tests;
