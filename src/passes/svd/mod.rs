//! Low-rank factorization: a layer becomes two or three thinner ones that compute nearly the same.
//!
//! With calibration samples the error is that of a layer's outputs on what it sees, without them that of its weights.
//! See `form` for the ways to split a layer, `spectrum` for the mathematics and `ranks` for what decides the rank.

mod alternate;
mod budget;
mod first;
mod form;
mod guard;
mod judge;
mod layer;
mod lookups;
mod metric;
mod options;
mod ranks;
mod replace;
mod sequence;
mod spectrum;
mod timetable;

pub use options::SvdOptions;

use super::{
    Changed, Context, Guard, Named, Needs, Options, Pass, RemarkKind, Repair, globs, pass::changed_options,
};
use crate::{
    error::{Error, Result},
    ir::{Model, Where},
    ops::{cost, infer_types},
};
use form::{Form, Known, Part, Whole};
use globset::GlobSet;
use judge::Judged;
use layer::{Candidate, Kind};
use metric::Metric;
use options::Target;
use ranks::{Choice, Offer};
use spectrum::Spectrum;
use std::{collections::BTreeMap, fmt};
use timetable::Timetable;

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
        let Judged { offers, known, .. } = judge::judge(model, &candidates, self.options.round, cx)?;
        let chosen = self.choose(model, &candidates, offers, cx)?;
        if chosen.iter().all(Option::is_none) {
            let why = cx.remarks[said..].iter().find(|r| r.kind == RemarkKind::Missed);
            let why = why.map(|r| format!(" (`{}`: {})", r.at.name(), r.text)).unwrap_or_default();
            return Err(Error::BelowBar(format!("no layer can be split{why}")));
        }
        let planned: Vec<Planned<'_>> = candidates
            .iter()
            .zip(chosen)
            .zip(known)
            .filter_map(|((candidate, choice), known)| Some(Planned { candidate, choice: choice?, known }))
            .collect();
        if cx.has_samples() {
            sequence::run(model, &planned, self.options.repair == Repair::Auto, cx)?;
        } else {
            planned.iter().for_each(|planned| planned.split(model, cx));
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

impl Svd {
    /// A choice for each candidate; `None` leaves it whole.
    fn choose(
        &self,
        model: &Model,
        candidates: &[Candidate],
        mut offers: Vec<Offer>,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Option<Choice>>> {
        let timetable = match self.target {
            Target::Latency(_) => Timetable::measure(model, candidates, &offers, cx)?,
            _ => None,
        };
        let timetable = timetable.as_ref();
        let mut chosen = budget::choose(self.target, model, candidates, &offers, timetable, cx)?;
        let mut slower = BTreeMap::new();
        let timed = |chosen: &_, cx: &Context<'_>| match self.options.guard {
            Guard::Auto => guard::slower(model, candidates, chosen, cx),
            Guard::None => Ok(Vec::new()),
        };
        loop {
            let found = timed(&chosen, cx)?;
            if found.is_empty() {
                break;
            }
            for (k, share) in found {
                let form = chosen[k].map(|c| c.form);
                offers[k].choices.retain(|c| Some(c.form) != form);
                slower.insert(k, share);
            }
            let found = budget::choose(self.target, model, candidates, &offers, timetable, cx);
            chosen = found.map_err(guard::hint)?;
        }
        let place = |k: usize| model.graph.place(candidates[k].layer.op);
        for (k, offer) in offers.iter().enumerate().filter(|(k, _)| chosen[*k].is_none()) {
            if let Some(share) = slower.get(&k) {
                cx.missed(
                    place(k),
                    format!("left whole: split, the model takes {share:.2} of its time here"),
                );
            } else if !offer.choices.is_empty() {
                cx.missed(place(k), "left whole: no split that pays is good enough");
            }
        }
        Ok(chosen)
    }
}

/// A layer and what it is to become.
struct Planned<'a> {
    candidate: &'a Candidate,
    choice: Choice,
    /// The directions of its outputs as it was judged, where they were kept.
    known: Option<Vec<Spectrum>>,
}

impl Planned<'_> {
    /// What is known of a part.
    fn known(&self, part: usize) -> Option<&Spectrum> {
        self.known.as_ref()?.get(part)
    }
    /// Splits the layer by its weights alone.
    fn split(&self, model: &mut Model, cx: &mut Context<'_>) {
        let (candidate, at) = (self.candidate, model.graph.place(self.candidate.layer.op));
        let done = candidate.weights(model).ok_or_else(|| "its weights cannot be read".to_owned());
        let done = done.and_then(|weights| {
            let metric = Metric::plain();
            let part = |(k, weights)| {
                let known = self.known(k).map_or(Known::Nothing, Known::These);
                Part { weights, metric: &metric, kernel: &candidate.kernel, seed: cx.seed, known }
            };
            let whole = Whole(weights.iter().enumerate().map(part).collect());
            let kernels = whole.split(self.choice.form, self.choice.ranks)?;
            replace::replace(&mut model.graph, candidate, self.choice.form, &kernels)
                .ok_or_else(|| "its factors do not fit its type of numbers".into())
        });
        self.say(at, done, cx);
    }
    fn say(&self, at: Where, done: std::result::Result<(), String>, cx: &mut Context<'_>) {
        match done {
            Ok(()) => {
                cx.count("layers", 1);
                cx.applied(at, self.to_string());
            }
            Err(why) => cx.missed(at, format!("left whole: {why}")),
        }
    }
}

impl fmt::Display for Planned<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Choice { form, ranks: [p, b], price, lost } = self.choice;
        let Candidate { layer, kind, whole, .. } = self.candidate;
        let share = |n: u64, of: u64| 100.0 * n as f64 / of as f64;
        let (macs, params) = (share(price.macs, whole.macs), share(price.params, whole.params));
        write!(f, "split: ")?;
        match form {
            Form::Outputs if *kind == Kind::Fed => write!(f, "{b} of {} inputs", layer.channels)?,
            Form::Outputs => write!(f, "{b} of {} outputs", layer.outputs)?,
            Form::Inputs => write!(f, "{p} of {} inputs", layer.channels)?,
            Form::Spatial => write!(f, "height and width with {p} channels between")?,
            Form::Tucker => write!(f, "{p} of {} inputs, {b} of {} outputs", layer.channels, layer.outputs)?,
            Form::Depthwise if p == 1 => write!(f, "a kernel for each of {} inputs", layer.channels)?,
            Form::Depthwise => write!(f, "{p} kernels for each of {} inputs", layer.channels)?,
        }
        if whole.macs > 0 {
            write!(f, ", {macs:.0} % of its multiply-accumulates")?;
        }
        write!(f, ", {params:.0} % of its weights")?;
        write!(f, "; error {:.1} %", 100.0 * lost.sqrt())
    }
}

#[cfg(test)]
mod tests;
