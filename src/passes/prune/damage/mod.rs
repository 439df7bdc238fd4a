//! What cutting costs, by data: for each group an order in which its positions go, and the error of the model's outputs
//! after so many have gone.
//!
//! The order and the shape of the curve come from the layers that read the group, by structured elimination (see
//! [`eliminate`]); groups that no linear layer reads keep the order of their weights. Its height comes from running the
//! model with some of the positions gone: an error in a layer does not tell how much of it arrives at the outputs. The
//! layers are adapted without the samples that are held out, and the error is that on these: a layer of as many weights as
//! there are samples makes up for anything on the samples it was adapted on.

mod ablate;
pub(super) mod depth;
mod eliminate;

use super::{
    Context,
    reader::{Layers, Reader},
    select::Candidate,
};
use crate::{error::Result, ir::Model, ops::axes::Flow, passes::linear::effect};
use eliminate::Moments;

/// Shares of a group's positions that are removed for a look at the outputs.
const LOOKS: [f64; 3] = [0.25, 0.5, 0.75];
/// The bytes of second moments that are held at a time, unless one group alone takes more.
const MOST_BYTES: usize = 512 << 20;

/// Scores the positions of all candidates by data and finds what cutting each costs.
pub(super) fn measure(
    model: &Model,
    flow: &Flow<'_>,
    candidates: &mut [Candidate],
    cx: &mut Context<'_>,
) -> Result<()> {
    let layers = Layers::of(model);
    let readers: Vec<Vec<Reader>> = candidates.iter().map(|c| layers.readers(flow, &c.group)).collect();
    let progress = cx.progress();
    progress.begin("judging groups", candidates.len() as u64);
    let mut first = 0;
    while first < candidates.len() {
        let n = fitting(&readers[first..], &layers);
        let together = &mut candidates[first..first + n];
        let done = judge(model, flow, &layers, together, &readers[first..first + n], cx);
        done.inspect_err(|_| progress.end())?;
        progress.advance(n as u64);
        first += n;
    }
    progress.end();
    Ok(())
}

/// How many groups, at least one, can be judged together.
fn fitting(readers: &[Vec<Reader>], layers: &Layers) -> usize {
    let sizes = readers.iter().scan(0usize, |sum, group| {
        *sum += group.iter().map(|reader| layers.bytes(reader.op)).sum::<usize>();
        Some(*sum)
    });
    sizes.take_while(|sum| *sum <= MOST_BYTES).count().max(1)
}

fn judge(
    model: &Model,
    flow: &Flow<'_>,
    layers: &Layers,
    candidates: &mut [Candidate],
    readers: &[Vec<Reader>],
    cx: &Context<'_>,
) -> Result<()> {
    let known = layers.read(model, readers, cx, Moments::of)?;
    let mut looks = Vec::new();
    for (k, (candidate, readers)) in candidates.iter_mut().zip(readers).enumerate() {
        let read: Vec<_> = readers.iter().filter_map(|r| Some((r, known.get(&(r.op, r.map))?))).collect();
        let size = candidate.group.size;
        let mut gone = vec![0.0; size + 1];
        if read.is_empty() {
            let mut order: Vec<usize> = (0..size).collect();
            order.sort_by(|a, b| candidate.scores[*a].total_cmp(&candidate.scores[*b]));
            for (k, p) in order.iter().enumerate() {
                gone[k + 1] = gone[k] + candidate.scores[*p].powi(2);
            }
        } else {
            let found = eliminate::eliminate(&read, size);
            for (rank, p) in found.order.iter().enumerate() {
                candidate.scores[*p] = rank as f64;
            }
            gone = found.error;
        }
        candidate.damage = Some(gone);
        for share in LOOKS {
            looks.push(ablate::Look::of(k, candidate, (size as f64 * share) as usize, &read));
        }
    }
    let errors = effect::Original::of(model.clone()).errors_held(
        &looks,
        |look| look.model(model, flow, layers),
        cx,
    )?;
    if errors.iter().all(|error| *error == 0.0) {
        // The outputs are no numbers, or none that say how near they are: the layers' own errors must do.
        return Ok(());
    }
    for (k, candidate) in candidates.iter_mut().enumerate() {
        let seen = looks.iter().zip(&errors).filter(|(look, _)| look.candidate == k);
        let seen: Vec<_> = seen.map(|(look, error)| (look.removed, *error)).collect();
        if let Some(curve) = &mut candidate.damage {
            scale(curve, &seen);
        }
    }
    Ok(())
}

/// Scales a curve so that it goes through what was seen: by factors that are straight lines in between.
fn scale(curve: &mut [f64], seen: &[(usize, f64)]) {
    let shape = |k: usize| if curve[k] > 0.0 { curve[k] } else { f64::MIN_POSITIVE };
    let factors: Vec<(usize, f64)> = seen.iter().map(|(k, error)| (*k, error / shape(*k))).collect();
    let at = |k: usize| {
        let after = factors.iter().position(|(seen, _)| *seen >= k);
        match after {
            Some(0) => factors[0].1,
            Some(n) => {
                let ((a, low), (b, high)) = (factors[n - 1], factors[n]);
                low + (high - low) * (k - a) as f64 / (b - a).max(1) as f64
            }
            None => factors.last().map_or(1.0, |f| f.1),
        }
    };
    let scaled: Vec<f64> = (0..curve.len()).map(|k| curve[k] * at(k)).collect();
    // What is cut does not come back: the error never falls.
    let mut most = 0.0;
    for (value, new) in curve.iter_mut().zip(scaled) {
        most = f64::max(most, new);
        *value = most;
    }
}

#[cfg(test)]
mod tests {
    use super::scale;

    #[test]
    fn curves_go_through_what_was_seen_and_never_fall() {
        let mut curve = vec![0.0, 1.0, 2.0, 3.0, 4.0];
        scale(&mut curve, &[(1, 10.0), (3, 12.0)]);
        assert_eq!(curve, [0.0, 10.0, 14.0, 14.0, 16.0]);
    }
}
