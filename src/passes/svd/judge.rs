//! What can be made of each layer, at what cost and with what damage.
//!
//! The error in a layer's outputs does not tell how much of it arrives at the model's. With samples every layer is split
//! alone, to at most half of its weights where it can be, and what that does to the model's outputs says what its errors weigh.

use super::{
    form::{Form, Known, Part, Whole},
    layer::Candidate,
    lookups,
    metric::Metric,
    ranks::{Choice, Offer},
    replace::replace,
    spectrum::Spectrum,
};
use crate::{
    error::Result,
    ir::Model,
    passes::{
        Context,
        linear::{Found, Sight, Sums, collect, effect},
    },
};
use faer::Mat;

/// The bytes that the directions of layers may take from where they are found to where they are used.
const MOST_BYTES: usize = 512 << 20;

/// What can be made of each candidate, in their order.
pub(super) struct Judged {
    /// Without choices where it cannot be decomposed, which is remarked.
    pub(super) offers: Vec<Offer>,
    /// The directions of its outputs, where there is room for them.
    pub(super) known: Vec<Option<Vec<Spectrum>>>,
    /// What those take.
    bytes: usize,
}

impl Judged {
    /// Of candidates that are not looked at yet.
    fn of(candidates: &[Candidate]) -> Judged {
        let none = |c: &Candidate| Offer { whole: c.whole, choices: Vec::new(), weight: 1.0 };
        let offers = candidates.iter().map(none).collect();
        Judged { offers, known: candidates.iter().map(|_| None).collect(), bytes: 0 }
    }
    /// Puts a candidate's in its place.
    fn put(
        &mut self,
        k: usize,
        candidate: &Candidate,
        choices: Vec<Choice>,
        mut known: Option<Vec<Spectrum>>,
    ) {
        let most = choices.iter().filter(|c| c.form == Form::Outputs).map(|c| c.ranks[1]).max().unwrap_or(0);
        let bytes = known.iter_mut().flatten().map(|known| known.truncate(most)).sum::<usize>();
        // Layers that are not fitted are split by what is known of them now.
        let room = self.bytes + bytes <= MOST_BYTES || !candidate.is_fitted();
        self.bytes += if room { bytes } else { 0 };
        self.known[k] = known.filter(|_| room);
        self.offers[k].choices = choices;
    }
}

/// A layer split alone.
struct Look<'a> {
    candidate: &'a Candidate,
    choice: Choice,
    kernels: Vec<Vec<Mat<f64>>>,
}

/// Judges each candidate.
pub(super) fn judge(
    model: &Model,
    candidates: &[Candidate],
    round: usize,
    cx: &mut Context<'_>,
) -> Result<Judged> {
    let progress = cx.progress();
    progress.begin("decomposing weights", candidates.len() as u64);
    let done = match cx.has_samples() {
        true => by_outputs(model, candidates, round, cx),
        false => by_weights(model, candidates, round, cx),
    };
    progress.end();
    done
}

/// By the errors of their weights.
fn by_weights(model: &Model, candidates: &[Candidate], round: usize, cx: &mut Context<'_>) -> Result<Judged> {
    let mut judged = Judged::of(candidates);
    for (k, candidate) in candidates.iter().enumerate() {
        cx.check_cancelled()?;
        let metrics: Vec<_> = (0..candidate.layer.groups).map(|_| Metric::plain()).collect();
        let found = decomposed(model, candidate, &metrics, cx.seed, |whole| choices(candidate, whole, round));
        match found {
            Ok((choices, known)) => judged.put(k, candidate, choices, Some(known)),
            Err(why) => cx.missed(model.graph.place(candidate.layer.op), format!("left whole: {why}")),
        }
        cx.progress().advance(1);
    }
    Ok(judged)
}

/// By the errors of their outputs, and by how much of these arrives at the model's.
fn by_outputs(model: &Model, candidates: &[Candidate], round: usize, cx: &mut Context<'_>) -> Result<Judged> {
    let (mut judged, mut said, mut looks) = (Judged::of(candidates), Vec::new(), Vec::new());
    let mut add = |k: usize, metrics: &[Metric], unseen: Option<String>| {
        let candidate = &candidates[k];
        let ways = decomposed(model, candidate, metrics, cx.seed, |whole| {
            let choices = choices(candidate, whole, round)?;
            let look = look(candidate, whole, &choices)?;
            Ok((choices, look))
        });
        said.extend(unseen.map(|why| (k, format!("judged by its weights alone: {why}"))));
        match ways {
            Ok(((choices, look), known)) => {
                judged.put(k, candidate, choices, Some(known));
                looks.extend(look.map(|look| (k, look)));
            }
            Err(why) => said.push((k, format!("left whole: {why}"))),
        }
        cx.progress().advance(1);
    };
    let metrics = lookups::metrics(model, candidates, cx)?;
    let (mut order, mut sights) = (Vec::new(), Vec::new());
    for (k, (candidate, metric)) in candidates.iter().zip(&metrics).enumerate() {
        match metric {
            Some(metric) => add(k, std::slice::from_ref(metric), None),
            None => sights.extend(candidate.layers().map(|layer| {
                order.push(k);
                Sight { layer, target: None }
            })),
        }
    }
    // Sights come in order, those of layers that share their weights one behind the other.
    let mut before: Option<Found> = None;
    collect(model, model, &sights, cx, |at, sums| {
        let (k, layer) = (order[at], sights[at].layer);
        let sums = match before.take() {
            Some(before) => together(before, sums),
            None => sums,
        };
        if order.get(at + 1) == Some(&k) {
            before = Some(sums);
            return;
        }
        add(k, &Metric::found(&sums, layer.groups, layer.has_bias()), sums.err());
    })?;
    for (k, text) in said {
        cx.missed(model.graph.place(candidates[k].layer.op), text);
    }
    let alone = |(_, look): &(usize, Look<'_>)| {
        let mut model = model.clone();
        // Where the kernels do not fit, nothing changes and nothing is seen.
        let _ = replace(&mut model.graph, look.candidate, look.choice.form, &look.kernels);
        Ok(model)
    };
    let errors = effect::Original::of(model.clone()).errors(&looks, alone, cx)?;
    for ((k, look), error) in looks.iter().zip(errors) {
        if look.choice.lost > 0.0 && error > 0.0 {
            judged.offers[*k].weight = error / look.choice.lost;
        }
    }
    Ok(judged)
}

/// The sums of two layers with the same weights.
fn together(a: Found, b: Found) -> Found {
    let plus = |([a, a_held], [b, b_held]): ([Sums; 2], [Sums; 2])| [a.plus(&b), a_held.plus(&b_held)];
    Ok(a?.into_iter().zip(b?).map(plus).collect())
}

/// What is made of a candidate's weights once the directions of its outputs are known, and these.
fn decomposed<T>(
    model: &Model,
    candidate: &Candidate,
    metrics: &[Metric],
    seed: u64,
    make: impl FnOnce(&Whole<'_>) -> std::result::Result<T, String>,
) -> std::result::Result<(T, Vec<Spectrum>), String> {
    let weights = candidate.weights(model).ok_or("its weights cannot be read")?;
    let parts = || weights.iter().zip(metrics);
    let found = parts().map(|(weights, metric)| Spectrum::of(weights, metric, usize::MAX, seed));
    let found = found.collect::<std::result::Result<Vec<_>, _>>()?;
    let part = |((weights, metric), known)| {
        let (kernel, known) = (&*candidate.kernel, Known::These(known));
        Part { weights, metric, kernel, seed, known }
    };
    let made = make(&Whole(parts().zip(&found).map(part).collect()))?;
    Ok((made, found))
}

/// What can be made of a candidate.
fn choices(
    candidate: &Candidate,
    whole: &Whole<'_>,
    round: usize,
) -> std::result::Result<Vec<Choice>, String> {
    let mut choices = Vec::new();
    for (form, inner, outer) in candidate.grid(round) {
        let losses = whole.losses(form, &inner, &outer)?.into_iter();
        let saving = losses.filter(|(ranks, _)| candidate.saves(form, *ranks));
        choices.extend(saving.map(|(ranks, lost)| {
            let price = candidate.price(form, ranks);
            Choice { form, ranks, price, lost }
        }));
    }
    Ok(choices)
}

/// The best of the choices that take at most half of the weights, made; else the smallest.
fn look<'a>(
    candidate: &'a Candidate,
    whole: &Whole<'_>,
    choices: &[Choice],
) -> std::result::Result<Option<Look<'a>>, String> {
    let halved = choices.iter().filter(|c| 2 * c.price.params <= candidate.whole.params);
    let best = halved.min_by(|a, b| a.lost.total_cmp(&b.lost));
    let Some(choice) = best.or_else(|| choices.iter().min_by_key(|c| c.price.params)) else {
        return Ok(None);
    };
    let kernels = whole.split(choice.form, choice.ranks)?;
    Ok(Some(Look { candidate, choice: *choice, kernels }))
}
