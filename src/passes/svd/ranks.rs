//! Which form and which ranks each layer gets.
//!
//! A bound of each layer's own decides layer by layer: the split of fewest multiply-accumulates that keeps it. For a
//! share of the weights or of the multiply-accumulates all layers compete, see [`trade`].

use super::{
    form::{Form, Ranks},
    layer::Price,
};
use crate::passes::trade::{self, Point};

/// A split of a layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) form: Form,
    pub(super) ranks: Ranks,
    pub(super) price: Price,
    /// The share of the squares of the layer's outputs that it loses.
    pub(super) lost: f64,
}

/// The splits of a layer that save something, and what they are compared by.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) whole: Price,
    pub(super) choices: Vec<Choice>,
    /// What the loss of all of the layer's outputs counts beside that of others.
    pub(super) weight: f64,
}

/// The split of fewest multiply-accumulates that loses at most this share.
pub(super) fn alone(offer: &Offer, lost: f64) -> Option<Choice> {
    let kept = offer.choices.iter().filter(|c| c.lost <= lost);
    kept.min_by(|a, b| a.price.macs.cmp(&b.price.macs).then(a.lost.total_cmp(&b.lost))).copied()
}

/// The splits that bring what all cost, `before`, down to at most `target` with the least damage; else the least that
/// can be reached.
///
/// `cost` is that of an offer as it is, or of a choice of it.
pub(super) fn together(
    offers: &[Offer],
    cost: impl Fn(usize, Option<&Choice>) -> u64,
    before: u64,
    target: u64,
) -> Result<Vec<Option<Choice>>, u64> {
    let point = |k, c| Point { cost: cost(k, Some(c)), damage: offers[k].weight * c.lost };
    let traded: Vec<trade::Offer> = offers
        .iter()
        .enumerate()
        .map(|(k, o)| trade::Offer {
            whole: cost(k, None),
            points: o.choices.iter().map(|c| point(k, c)).collect(),
        })
        .collect();
    let taken = trade::together(&traded, before, target)?;
    Ok(offers.iter().zip(taken).map(|(offer, taken)| Some(offer.choices[taken?])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer(points: &[(u64, f64)]) -> Offer {
        let price = |n: u64| Price { macs: n, params: n, bytes: 4 * n };
        let choice = |k: usize, (n, lost): (u64, f64)| Choice {
            form: Form::Outputs,
            ranks: [0, k],
            price: price(n),
            lost,
        };
        let choices = points.iter().enumerate().map(|(k, p)| choice(k, *p)).collect();
        Offer { whole: price(100), choices, weight: 1.0 }
    }

    fn macs(offers: &[Offer]) -> impl Fn(usize, Option<&Choice>) -> u64 {
        |k, choice| choice.map_or(offers[k].whole, |c| c.price).macs
    }

    #[test]
    fn what_costs_least_is_taken_first() {
        let offers = [offer(&[(80, 0.0), (40, 0.5), (20, 0.9)]), offer(&[(50, 0.1), (20, 0.8)])];
        let chosen = |target| {
            let chosen = together(&offers, macs(&offers), 200, target).unwrap();
            chosen.iter().map(|c| c.map(|c| c.price.macs)).collect::<Vec<_>>()
        };
        assert_eq!(chosen(190), [Some(80), None]);
        assert_eq!(chosen(130), [Some(80), Some(50)]);
        assert_eq!(chosen(90), [Some(40), Some(50)]);
        assert_eq!(together(&offers, macs(&offers), 200, 30).unwrap_err(), 40);
        let weighty = [Offer { weight: 100.0, ..offers[0].clone() }, offers[1].clone()];
        let chosen = together(&weighty, macs(&weighty), 200, 100).unwrap();
        assert_eq!(chosen.iter().map(|c| c.unwrap().price.macs).collect::<Vec<_>>(), [80, 20]);
    }
    #[test]
    fn a_bound_is_kept_at_the_least_cost() {
        let offer = offer(&[(20, 0.9), (40, 0.5), (80, 0.0)]);
        assert_eq!(alone(&offer, 0.6).unwrap().price.macs, 40);
        assert_eq!(alone(&offer, 0.1).unwrap().price.macs, 80);
    }
    proptest! {
        #[test]
        fn targets_are_met_whatever_is_offered(
            points in prop::collection::vec(prop::collection::vec((1..100u64, 0.0..1.0f64), 0..6), 1..5),
            share in 0.0..1.0f64,
        ) {
            let offers: Vec<_> = points.iter().map(|p| offer(p)).collect();
            let before = 100 * offers.len() as u64;
            let target = (share * before as f64) as u64;
            let cost = |chosen: &[Option<Choice>]| chosen.iter().map(|c| c.map_or(100, |c| c.price.macs)).sum::<u64>();
            let least: u64 = offers.iter().map(|o| o.choices.iter().map(|c| c.price.macs).min().unwrap_or(100)).sum();
            match together(&offers, macs(&offers), before, target) {
                Ok(chosen) => prop_assert!(cost(&chosen) <= target),
                Err(reached) => {
                    prop_assert_eq!(reached, least);
                    prop_assert!(least > target);
                }
            }
        }
    }
}
