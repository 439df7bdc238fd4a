//! What costs least damage for what it saves: each of several things offers ways to cost less, all have to cost no more
//! than a target together.
//!
//! Each offers the lower convex hull of its (cost, damage) points, from what it is downwards, and the steps that do least
//! damage for each unit that they save are taken until the target is met.

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
    if now > target { Err(now) } else { Ok(chosen) }
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
