//! What splits save by the clock.
//!
//! Layers of one shape that are split by one form, to about half of their multiply-accumulates, are timed together: the
//! whole model with none but them split. What that saves goes with the multiply-accumulates that such splits save.

use super::{
    budget::{Chosen, stand_in},
    form::Form,
    guard::{Likeness, likeness},
    layer::Candidate,
    ranks::{Choice, Offer},
};
use crate::{
    error::Result,
    ir::Model,
    passes::{
        Context,
        timetable::{self, WHOLE},
    },
};
use std::{cmp::Reverse, collections::BTreeMap};

/// The share of the whole model's time that goes with each multiply-accumulate that a split saves: for each candidate by
/// form.
pub(super) struct Timetable(Vec<BTreeMap<Form, f64>>);

impl Timetable {
    /// `None` where there is no clock, or where no split saves anything.
    pub(super) fn measure(
        model: &Model,
        candidates: &[Candidate],
        offers: &[Offer],
        cx: &Context<'_>,
    ) -> Result<Option<Timetable>> {
        let alike = |k: usize, form| likeness(&model.graph, &candidates[k], form);
        let mut kinds: BTreeMap<Likeness, Chosen> = BTreeMap::new();
        for (k, offer) in offers.iter().enumerate() {
            for form in Form::of(&candidates[k].kernel) {
                if let Some(choice) = halved(offer, *form) {
                    let kind = kinds.entry(alike(k, *form)).or_insert_with(|| vec![None; offers.len()]);
                    kind[k] = Some(choice);
                }
            }
        }
        let gain = |kind: &Chosen| -> u64 {
            kind.iter().zip(offers).map(|(choice, offer)| choice.map_or(0, |c| saved(offer, &c))).sum()
        };
        let mut kinds: Vec<(Likeness, Chosen)> = kinds.into_iter().collect();
        kinds.sort_by_cached_key(|(_, kind)| Reverse(gain(kind)));
        let of_each = |k: usize| (0..kinds.len()).map(move |other| (other == k, other));
        let saved: Vec<Vec<f64>> = (0..kinds.len())
            .map(|k| of_each(k).map(|(is, k)| if is { gain(&kinds[k].1) as f64 } else { 0.0 }).collect())
            .collect();
        let rates = timetable::rates(model, &saved, |k| stand_in(model, candidates, &kinds[k].1), cx)?;
        Ok(rates.map(|rates| {
            let mut table = Timetable(vec![BTreeMap::new(); offers.len()]);
            for (((form, ..), kind), rate) in kinds.iter().zip(rates) {
                for (rates, _) in table.0.iter_mut().zip(kind).filter(|(_, choice)| choice.is_some()) {
                    rates.insert(*form, rate);
                }
            }
            table
        }))
    }
    /// The time of a candidate as it is, or with a choice made, in units of which the whole model takes [`WHOLE`].
    pub(super) fn time(&self, k: usize, offer: &Offer, choice: Option<&Choice>) -> u64 {
        let rates = &self.0[k];
        let most = rates.values().copied().fold(0.0, f64::max) * offer.whole.macs as f64;
        let rate = |c: &Choice| rates.get(&c.form).copied().unwrap_or(0.0);
        let saved = choice.map_or(0.0, |c| rate(c) * saved(offer, c) as f64);
        (WHOLE as f64 * (most - saved)) as u64
    }
}

fn saved(offer: &Offer, choice: &Choice) -> u64 {
    offer.whole.macs.saturating_sub(choice.price.macs)
}

/// The choice of a form that comes nearest to half of the multiply-accumulates, of those that save any.
fn halved(offer: &Offer, form: Form) -> Option<Choice> {
    let these = offer.choices.iter().filter(|c| c.form == form && saved(offer, c) > 0);
    these.min_by_key(|c| (2 * c.price.macs).abs_diff(offer.whole.macs)).copied()
}

#[cfg(test)]
mod tests {
    use crate::{
        ir::{Model, text},
        measure::doubles::Double,
        ops::{cost, infer_types},
        passes::{Context, Pipeline},
    };

    /// A multiply-accumulate of the second layer, or of what it becomes, takes four times as long as another.
    fn seconds(model: &Model) -> f64 {
        let g = &model.graph;
        let of = |op| if g.op(op).name.starts_with("two") { 4.0 } else { 1.0 };
        g.ops().map(|op| of(op) * cost::of_op(g, op).macs as f64).sum()
    }

    #[test]
    fn what_takes_longest_is_split_most() {
        let mut model = text::parse(
            "# weights: seed 3
             <ir_version: 8, opset_import: [\"\" : 17]>
             m (float[N, 64] x) => (float[N, 60] y) <float[64, 64] w1, float[64, 60] w2>
             { [one] a = MatMul (x, w1) r = Relu (a) [two] y = MatMul (r, w2) }",
        )
        .unwrap();
        infer_types(&mut model).unwrap();
        let before = seconds(&model);
        let clock = Double::default().with_times(1, seconds);
        let mut cx = Context::new().with_measure(&clock);
        let pipeline: Pipeline = "svd(latency=0.6,round=1)".parse().unwrap();
        let _ = pipeline.run(&mut model, &mut cx).unwrap();
        let share = seconds(&model) / before;
        assert!(share <= 0.6 && share > 0.55, "{share}");
        let g = &model.graph;
        let whole = |name| g.find(name).is_some_and(|v| g.initializer(v).is_some());
        assert!(whole("w1") && !whole("w2"), "the first layer, which takes a fifth of the time, stays whole");
    }
}
