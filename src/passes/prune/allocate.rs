//! What stays where the damage of cutting is known: as little damage for what is saved as can be had.
//!
//! Step by step, the cut is made that costs the least damage for each unit it saves, over all groups and all smaller
//! counts (so a curve that is not convex is jumped along its lower hull) and all branches, until the target is met. A
//! branch takes the groups in it along, and with them the damage that they have done by then. What was saved in
//! excess is then given back where it undoes most damage.

use super::select::{Candidate, Choice, Plan};

impl Plan<'_> {
    /// The choice of least damage whose `cost` is at most `target`; else the least cost that can be had.
    pub(super) fn least_damage(&self, target: u64, cost: impl Fn(&Choice) -> u64) -> Result<Choice, u64> {
        self.onwards(self.whole(), true, target, cost)
    }
    /// The same with this branch gone and all others there, or with all of them.
    pub(super) fn least_damage_without(
        &self,
        branch: Option<usize>,
        target: u64,
        cost: impl Fn(&Choice) -> u64,
    ) -> Result<Choice, u64> {
        let mut start = self.whole();
        branch.into_iter().for_each(|k| start.dropped[k] = true);
        self.onwards(start, false, target, cost)
    }
    /// From a choice on; with `depth`, branches may go and come back.
    fn onwards(
        &self,
        mut now: Choice,
        depth: bool,
        target: u64,
        cost: impl Fn(&Choice) -> u64,
    ) -> Result<Choice, u64> {
        let counts: Vec<Vec<usize>> = self.candidates.iter().map(Candidate::counts).collect();
        let mut left = cost(&now);
        while left > target {
            let damage = self.damage(&now);
            let mut best: Option<(f64, u64, Choice)> = None;
            for next in self.smaller(&now, &counts, depth) {
                let after = cost(&next);
                if after >= left {
                    continue;
                }
                let rate = (self.damage(&next) - damage).max(0.0) / (left - after) as f64;
                if best.as_ref().is_none_or(|b| rate < b.0) {
                    best = Some((rate, after, next));
                }
            }
            let Some((_, after, next)) = best else { return Err(left) };
            (left, now) = (after, next);
        }
        self.give_back(&mut now, &counts, depth, target, cost);
        Ok(now)
    }
    /// Undoes cuts as far as the target allows, those of most damage first.
    fn give_back(
        &self,
        now: &mut Choice,
        counts: &[Vec<usize>],
        depth: bool,
        target: u64,
        cost: impl Fn(&Choice) -> u64,
    ) {
        loop {
            let mut best: Option<(f64, Choice)> = None;
            let damage = self.damage(now);
            for next in self.larger(now, counts, depth) {
                let gain = damage - self.damage(&next);
                if best.as_ref().is_none_or(|b| gain > b.0) && cost(&next) <= target {
                    best = Some((gain, next));
                }
            }
            match best {
                Some((_, next)) => *now = next,
                None => return,
            }
        }
    }
    /// What all cuts of a choice do to the outputs together.
    pub(super) fn damage(&self, choice: &Choice) -> f64 {
        let cut = self.candidates.iter().zip(&choice.kept).filter_map(|(c, n)| Some(c.after((*n)?)));
        let gone = self.branches.iter().zip(&choice.dropped).filter(|(_, dropped)| **dropped);
        cut.sum::<f64>() + gone.map(|(branch, _)| branch.damage).sum::<f64>()
    }
    /// The choices with one more cut.
    fn smaller<'a>(
        &'a self,
        now: &'a Choice,
        counts: &'a [Vec<usize>],
        depth: bool,
    ) -> impl Iterator<Item = Choice> + 'a {
        let fewer = counts.iter().enumerate().flat_map(move |(k, counts)| {
            let current = now.kept[k].unwrap_or(self.candidates[k].group.size);
            counts.iter().filter(move |n| **n < current).map(move |n| now.with(k, Some(*n)))
        });
        // Of a sum one operand must stay.
        let stay = self
            .branches
            .iter()
            .enumerate()
            .filter(move |(_, b)| depth && self.dropped(now).all(|d| d.sum != b.branch.sum));
        fewer.chain(stay.map(|(k, branch)| {
            let mut next = now.clone();
            next.dropped[k] = true;
            branch.inside.iter().for_each(|k| next.kept[*k] = None);
            next
        }))
    }
    /// The choices with one cut less, or a milder one.
    fn larger<'a>(
        &'a self,
        now: &'a Choice,
        counts: &'a [Vec<usize>],
        depth: bool,
    ) -> impl Iterator<Item = Choice> + 'a {
        let more = counts.iter().enumerate().filter_map(move |(k, counts)| {
            let current = now.kept[k]?;
            let counts = counts.iter().filter(move |n| **n > current).copied().map(Some).chain([None]);
            Some(counts.map(move |n| now.with(k, n)))
        });
        let gone = now.dropped.iter().enumerate().filter(move |(_, dropped)| depth && **dropped);
        more.flatten().chain(gone.map(|(k, _)| {
            let mut next = now.clone();
            next.dropped[k] = false;
            next
        }))
    }
}

impl Choice {
    fn with(&self, k: usize, n: Option<usize>) -> Choice {
        let mut next = self.clone();
        next.kept[k] = n;
        next
    }
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
        Candidate {
            group,
            step: 1,
            least: 1,
            scores: (0..size).map(|k| k as f64).collect(),
            damage: Some(damage),
        }
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
            let plan = Plan { arena: &arena, prices: &[], weights: &[], candidates: &candidates, branches: &[], options: &options };
            // Neighbours multiply, as channels in and out do.
            let cost = |choice: &Choice| {
                let widths: Vec<_> = candidates.iter().zip(&choice.kept).map(|(c, n)| n.unwrap_or(c.group.size) as u64).collect();
                (0..widths.len()).map(|k| 10 * widths[k] * widths.get(k + 1).copied().unwrap_or(1)).sum()
            };
            let target = (share * cost(&plan.whole()) as f64) as u64;
            let choice = plan.least_damage(target, cost).unwrap();
            prop_assert!(cost(&choice) <= target);
            for (k, n) in choice.kept.iter().enumerate().filter_map(|(k, n)| Some((k, (*n)?))) {
                let more = choice.with(k, Some(n + 1).filter(|n| *n < candidates[k].group.size));
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
        let plan = Plan {
            arena: &arena,
            prices: &[],
            weights: &[],
            candidates: &candidates,
            branches: &[],
            options: &options,
        };
        let kept = |target| plan.least_damage(target, |choice| plan.positions(choice)).unwrap().kept;
        assert_eq!(kept(6), [None, Some(2)]);
        assert_eq!(kept(5), [Some(3), Some(2)]);
    }
}
