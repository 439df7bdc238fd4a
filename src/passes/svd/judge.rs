//! What can be made of each layer, at what cost and with what damage.
//!
//! The error in a layer's outputs does not tell how much of it arrives at the model's. With samples every layer is split
//! alone, to at most half of its weights where it can be, and what that does to the model's outputs says what its errors weigh.

use super::{
    form::Whole,
    layer::Candidate,
    metric::Metric,
    ranks::{Choice, Offer},
    replace::replace,
};
use crate::{
    error::Result,
    ir::Model,
    passes::{
        Context,
        linear::{Sight, collect, effect},
    },
};
use faer::Mat;

/// A layer split alone.
struct Look<'a> {
    candidate: &'a Candidate,
    choice: Choice,
    kernels: Vec<Mat<f64>>,
}

/// What is offered for each candidate; nothing where it cannot be decomposed, which is remarked.
pub(super) fn offers(
    model: &Model,
    candidates: &[Candidate],
    round: usize,
    cx: &mut Context<'_>,
) -> Result<Vec<Offer>> {
    let progress = cx.progress();
    progress.begin("decomposing weights", candidates.len() as u64);
    let mut found = Vec::with_capacity(candidates.len());
    let done = if cx.has_samples() {
        let sights: Vec<_> = candidates.iter().map(|c| Sight { layer: &c.layer, target: None }).collect();
        collect(model, model, &sights, cx, |k, sums| {
            let candidate = &candidates[k];
            let metric = Metric::found(&sums, candidate.layer.has_bias());
            found.push((choices(model, candidate, &metric, round, true, cx.seed), sums.err()));
            progress.advance(1);
        })
    } else {
        candidates.iter().try_for_each(|candidate| {
            cx.check_cancelled()?;
            found.push((choices(model, candidate, &Metric::plain(), round, false, cx.seed), None));
            progress.advance(1);
            Ok(())
        })
    };
    progress.end();
    done?;
    let (mut offers, mut looks) = (Vec::with_capacity(found.len()), Vec::new());
    for (candidate, (found, unseen)) in candidates.iter().zip(found) {
        let at = model.graph.place(candidate.layer.op);
        if let Some(why) = unseen {
            cx.missed(at.clone(), format!("judged by its weights alone: {why}"));
        }
        let (choices, look) = found.unwrap_or_else(|why| {
            cx.missed(at, format!("left whole: {why}"));
            (Vec::new(), None)
        });
        looks.extend(look.map(|look| (offers.len(), look)));
        offers.push(Offer { whole: candidate.whole, choices, weight: 1.0 });
    }
    let alone = |(_, look): &(usize, Look<'_>)| {
        let mut model = model.clone();
        // Where the kernels do not fit, nothing changes and nothing is seen.
        let _ = replace(&mut model.graph, &look.candidate.layer, look.choice.form, &look.kernels);
        Ok(model)
    };
    let errors = effect::errors(model, &looks, alone, cx)?;
    for ((k, look), error) in looks.iter().zip(errors) {
        if look.choice.lost > 0.0 && error > 0.0 {
            offers[*k].weight = error / look.choice.lost;
        }
    }
    Ok(offers)
}

/// What can be made of a candidate, and with `look` one of it made.
fn choices<'a>(
    model: &Model,
    candidate: &'a Candidate,
    metric: &Metric,
    round: usize,
    look: bool,
    seed: u64,
) -> std::result::Result<(Vec<Choice>, Option<Look<'a>>), String> {
    let weights = candidate.weights(model).ok_or("its weights cannot be read")?;
    let whole = Whole { weights: &weights, metric, kernel: &candidate.kernel, seed };
    let mut choices = Vec::new();
    for (form, inner, outer) in candidate.grid(round) {
        let losses = whole.losses(form, &inner, &outer)?.into_iter();
        let saving = losses.filter(|(ranks, _)| candidate.saves(form, *ranks));
        choices.extend(saving.map(|(ranks, lost)| {
            let price = candidate.price(form, ranks);
            Choice { form, ranks, price, lost }
        }));
    }
    let halved = choices.iter().filter(|c| 2 * c.price.params <= candidate.whole.params);
    let best = halved.min_by(|a, b| a.lost.total_cmp(&b.lost));
    let best = best.or_else(|| choices.iter().min_by_key(|c| c.price.params)).filter(|_| look);
    let look = best.map(|choice| {
        let kernels = whole.split(choice.form, choice.ranks)?;
        Ok::<_, String>(Look { candidate, choice: *choice, kernels })
    });
    Ok((choices, look.transpose()?))
}
