//! What costs least damage for what it saves: each of several things offers ways to cost less, all have to cost no more
//! than a target together.
//!
//! Each offers the lower convex hull of its (cost, damage) points, from what it is downwards, and the steps that do least
//! damage for each unit that they save are taken until the target is met. The last one may save far more than was missing; what
//! that leaves over goes back where it undoes most damage.

/// A way to cost less.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) cost: u64,
    /// Comparable among all offers.
    pub(super) damage: f64,
}

/// Something as it is, which does no damage, and what it could be instead.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) whole: u64,
    pub(super) points: Vec<Point>,
}

/// For each offer the point taken (`None`: as it is) that bring what all cost, `before`, down to at most `target` with the
/// least damage; else the least that can be reached.
pub(super) fn together(offers: &[Offer], before: u64, target: u64) -> Result<Vec<Option<usize>>, u64> {
    let mut steps: Vec<(f64, usize, usize)> = Vec::new();
    for (k, offer) in offers.iter().enumerate() {
        steps.extend(hull(offer).into_iter().map(|(slope, point)| (slope, k, point)));
    }
    // Stable, and slopes only grow along a hull: the steps of an offer stay in order.
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut chosen: Vec<Option<usize>> = vec![None; offers.len()];
    let mut now = before;
    for (_, k, point) in steps {
        if now <= target {
            break;
        }
        let Offer { whole, points } = &offers[k];
        let others = now - chosen[k].map_or(*whole, |c| points[c].cost);
        // The last step may be shorter than the hull has it.
        let enough = (0..points.len())
            .filter(|c| others + points[*c].cost <= target && points[*c].damage <= points[point].damage);
        let mildest = enough.min_by(|a, b| points[*a].damage.total_cmp(&points[*b].damage));
        let point = mildest.unwrap_or(point);
        chosen[k] = Some(point);
        now = others + points[point].cost;
    }
    if now > target {
        return Err(now);
    }
    give_back(offers, &mut chosen, target - now);
    Ok(chosen)
}

/// Spends so much at most on points that do less damage, those first that undo most of it for what they cost.
fn give_back(offers: &[Offer], chosen: &mut [Option<usize>], mut left: u64) {
    let nothing = |offer: &Offer| Point { cost: offer.whole, damage: 0.0 };
    loop {
        let mut best: Option<(f64, usize, Option<usize>, u64)> = None;
        for (k, offer) in offers.iter().enumerate() {
            let now = chosen[k].map_or_else(|| nothing(offer), |c| offer.points[c]);
            let points = offer.points.iter().copied().enumerate().map(|(at, point)| (Some(at), point));
            for (at, point) in points.chain([(None, nothing(offer))]) {
                let more = point.cost.saturating_sub(now.cost);
                let worth = (now.damage - point.damage) / more.max(1) as f64;
                if point.damage < now.damage && more <= left && best.is_none_or(|(most, ..)| worth > most) {
                    best = Some((worth, k, at, more));
                }
            }
        }
        let Some((_, k, at, more)) = best else { return };
        chosen[k] = at;
        left -= more;
    }
}

/// The lower convex hull of an offer below what it is: from the highest cost to the lowest, each with the damage that a
/// unit saved does on the way to it.
fn hull(offer: &Offer) -> Vec<(f64, usize)> {
    let (mut cost, mut damage, mut hull) = (offer.whole, 0.0, Vec::new());
    loop {
        let slope = |p: &Point| (p.damage - damage).max(0.0) / (cost - p.cost) as f64;
        let below = offer.points.iter().enumerate().filter(|(_, p)| p.cost < cost);
        // Of equally good ones the one that saves most.
        let next = below
            .map(|(k, p)| (slope(p), k))
            .min_by(|(a, j), (b, k)| a.total_cmp(b).then(offer.points[*j].cost.cmp(&offer.points[*k].cost)));
        let Some((slope, k)) = next else { return hull };
        (cost, damage) = (offer.points[k].cost, offer.points[k].damage);
        hull.push((slope, k));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(whole: u64, points: &[(u64, f64)]) -> Offer {
        Offer {
            whole,
            points: points.iter().map(|(cost, damage)| Point { cost: *cost, damage: *damage }).collect(),
        }
    }

    #[test]
    fn what_the_last_step_saves_in_excess_goes_back() {
        // Small things give up a little each; then a large one gives up more than is missing, and what is over pays for one of them.
        let offers = [offer(10, &[(4, 0.5)]), offer(10, &[(6, 1.0), (2, 8.0)]), offer(100, &[(50, 30.0)])];
        let cost = |chosen: &[Option<usize>]| -> u64 {
            offers.iter().zip(chosen).map(|(o, c)| c.map_or(o.whole, |c| o.points[c].cost)).sum()
        };
        assert_eq!(together(&offers, 120, 110), Ok(vec![Some(0), Some(0), None]));
        let chosen = together(&offers, 120, 68).unwrap();
        assert_eq!((chosen.clone(), cost(&chosen)), (vec![Some(0), None, Some(0)], 64));
        assert_eq!(together(&offers, 120, 70), Ok(vec![None, None, Some(0)]));
        assert_eq!(together(&offers, 120, 56), Ok(vec![Some(0), Some(1), Some(0)]));
        assert_eq!(together(&offers, 120, 55), Err(56));
    }
}
