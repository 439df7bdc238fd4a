//! How many positions of each group stay where the damage of cutting is known: as little damage for what is saved as can
//! be had.
//!
//! Step by step, the cut is made that costs the least damage for each unit it saves, over all groups and all smaller
//! counts (so a curve that is not convex is jumped along its lower hull), until the target is met. What was saved in
//! excess is then given back where it undoes most damage.

use super::select::{Candidate, Plan};

/// A choice of counts.
type Kept = Vec<Option<usize>>;

impl Plan<'_> {
    /// The choice of least damage whose `cost` is at most `target`; else the least cost that can be had.
    pub(super) fn least_damage(
        &self,
        target: u64,
        cost: impl Fn(&[Option<usize>]) -> u64,
    ) -> Result<Kept, u64> {
        let counts: Vec<Vec<usize>> = self.candidates.iter().map(Candidate::counts).collect();
        let mut kept: Kept = vec![None; self.candidates.len()];
        let mut now = cost(&kept);
        while now > target {
            let mut best: Option<(f64, u64, usize, usize)> = None;
            for (k, candidate) in self.candidates.iter().enumerate() {
                let size = candidate.group.size;
                let current = kept[k].unwrap_or(size);
                for n in counts[k].iter().copied().filter(|n| *n < current) {
                    let saved = now.saturating_sub(cost(&with(&kept, k, Some(n))));
                    if saved == 0 {
                        continue;
                    }
                    let rate = (candidate.after(n) - candidate.after(current)).max(0.0) / saved as f64;
                    if best.is_none_or(|b| rate < b.0) {
                        best = Some((rate, saved, k, n));
                    }
                }
            }
            let Some((_, saved, k, n)) = best else { return Err(now) };
            kept[k] = Some(n);
            now -= saved;
        }
        self.give_back(&mut kept, &counts, target, cost);
        Ok(kept)
    }
    /// Undoes cuts as far as the target allows, those of most damage first.
    fn give_back(
        &self,
        kept: &mut Kept,
        counts: &[Vec<usize>],
        target: u64,
        cost: impl Fn(&[Option<usize>]) -> u64,
    ) {
        loop {
            let mut best: Option<(f64, usize, Option<usize>)> = None;
            for (k, candidate) in self.candidates.iter().enumerate() {
                let Some(current) = kept[k] else { continue };
                let size = candidate.group.size;
                let larger = counts[k].iter().copied().filter(|n| *n > current).map(Some).chain([None]);
                for n in larger {
                    let gain = candidate.after(current) - candidate.after(n.unwrap_or(size));
                    if best.is_none_or(|b| gain > b.0) && cost(&with(kept, k, n)) <= target {
                        best = Some((gain, k, n));
                    }
                }
            }
            match best {
                Some((_, k, n)) => kept[k] = n,
                None => return,
            }
        }
    }
}

fn with(kept: &[Option<usize>], k: usize, n: Option<usize>) -> Kept {
    let mut kept = kept.to_vec();
    kept[k] = n;
    kept
}

#[cfg(test)]
mod tests {
    use super::super::PruneOptions;
    use super::*;
    use crate::ops::axes::{Arena, Group};
    use proptest::prelude::*;

    fn candidate(arena: &mut Arena, damage: Vec<f64>) -> Candidate {
        let size = damage.len() - 1;
        let group = Group { factor: arena.leaf(Some(size)), size, members: Vec::new(), exact: true };
        Candidate { group, step: 1, scores: (0..size).map(|k| k as f64).collect(), damage: Some(damage) }
    }
    fn curve() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(0.0..1.0f64, 4..20).prop_map(|steps| {
            let sums = steps.iter().scan(0.0, |sum, step| {
                *sum += step;
                Some(*sum)
            });
            [0.0].into_iter().chain(sums).collect()
        })
    }

    proptest! {
        #[test]
        fn targets_are_met_and_nothing_is_cut_in_vain(curves in prop::collection::vec(curve(), 1..5), share in 0.4..0.95f64) {
            let mut arena = Arena::default();
            let candidates: Vec<_> = curves.into_iter().map(|c| candidate(&mut arena, c)).collect();
            let options = PruneOptions::default();
            let plan = Plan { arena: &arena, prices: &[], weights: &[], candidates: &candidates, options: &options };
            // Neighbours multiply, as channels in and out do.
            let cost = |kept: &[Option<usize>]| {
                let widths: Vec<_> = candidates.iter().zip(kept).map(|(c, n)| n.unwrap_or(c.group.size) as u64).collect();
                (0..widths.len()).map(|k| 10 * widths[k] * widths.get(k + 1).copied().unwrap_or(1)).sum()
            };
            let target = (share * cost(&vec![None; candidates.len()]) as f64) as u64;
            let kept = plan.least_damage(target, cost).unwrap();
            prop_assert!(cost(&kept) <= target);
            for (k, n) in kept.iter().enumerate().filter_map(|(k, n)| Some((k, (*n)?))) {
                let more = with(&kept, k, Some(n + 1).filter(|n| *n < candidates[k].group.size));
                prop_assert!(cost(&more) > target, "group {} could keep {}", k, n + 1);
            }
            prop_assert_eq!(plan.least_damage(0, cost).is_err(), true);
        }
    }
    #[test]
    fn what_does_no_damage_goes_first() {
        let mut arena = Arena::default();
        let candidates =
            [vec![0.0, 1.0, 2.0, 3.0, 4.0], vec![0.0, 0.0, 0.0, 5.0, 9.0]].map(|c| candidate(&mut arena, c));
        let options = PruneOptions::default();
        let plan =
            Plan { arena: &arena, prices: &[], weights: &[], candidates: &candidates, options: &options };
        let positions = |kept: &[Option<usize>]| plan.positions(kept);
        assert_eq!(plan.least_damage(6, positions).unwrap(), [None, Some(2)]);
        assert_eq!(plan.least_damage(5, positions).unwrap(), [Some(3), Some(2)]);
    }
}
