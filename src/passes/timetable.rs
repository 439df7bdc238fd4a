//! What changes to a model save by the clock.
//!
//! The model is timed with some changes made, side by side with the whole one. From all that these save follows how much
//! time goes with each multiply-accumulate of each part of the model: the solution of a least squares problem that is held
//! to what all of them save in the mean, more so the noisier the clock. What the parts are is for a pass to say.

use super::{Context, targets};
use crate::{error::Result, ir::Model};
use faer::{Mat, Side, linalg::solvers::Llt, prelude::Solve};
use std::time::{Duration, Instant};

/// The time of the whole model.
pub(super) const WHOLE: u64 = 1_000_000_000;
/// Copies of the whole model that are timed among the changed ones: how far they are apart tells what the clock is worth.
const COPIES: usize = 3;
/// The standard deviation of shares of time on a quiet machine.
const NOISE: f64 = 0.01;
/// The standard deviation of the time of a multiply-accumulate among parts, as a share of its mean.
const SPREAD: f64 = 0.5;
/// After so long no more changes are looked at.
const MOST_TIME: Duration = Duration::from_secs(30);

/// The share of the whole model's time that goes with each multiply-accumulate of each part. `saved` tells for each
/// change how many it saves of each, the most telling changes first, and `make` makes one. `None` where there is no clock,
/// or where no change saves anything.
pub(super) fn rates(
    model: &Model,
    saved: &[Vec<f64>],
    make: impl Fn(usize) -> Result<Model>,
    cx: &Context<'_>,
) -> Result<Option<Vec<f64>>> {
    let started = Instant::now();
    let (mut gains, mut noise) = (Vec::new(), vec![NOISE.powi(2)]);
    let all: Vec<usize> = (0..saved.len()).collect();
    for looks in all.chunks(targets::timed_together(model).saturating_sub(COPIES).max(1)) {
        cx.check_cancelled()?;
        if started.elapsed() > MOST_TIME {
            break;
        }
        let models = looks.iter().map(|k| make(*k)).collect::<Result<Vec<_>>>()?;
        let models: Vec<&Model> = [model; COPIES].into_iter().chain(&models).collect();
        let Some(timed) = targets::shares_of_time(model, &models, cx)? else { return Ok(None) };
        let mean = |shares: &Vec<f64>| shares.iter().sum::<f64>() / shares.len() as f64;
        let shares: Vec<f64> = timed.shares.iter().map(mean).collect();
        let (copies, changed) = shares.split_at(COPIES);
        let copy = copies.iter().sum::<f64>() / COPIES as f64;
        let apart = copies.iter().map(|share| (share - copy).powi(2)).sum::<f64>();
        noise.push(apart / (COPIES - 1) as f64);
        gains.extend(changed.iter().map(|share| copy - share));
    }
    let noise = noise.iter().sum::<f64>() / noise.len() as f64;
    Ok(solved(&saved[..gains.len()], &gains, noise))
}

/// The rates of parts of which `gains` are seen where so many multiply-accumulates of each are `saved`: the best guess
/// where both they and what is seen are spread normally. `None` where nothing is gained.
fn solved(saved: &[Vec<f64>], gains: &[f64], noise: f64) -> Option<Vec<f64>> {
    let parts = saved.first()?.len();
    let all: f64 = saved.iter().flatten().sum();
    let mean = gains.iter().sum::<f64>() / all;
    (mean > 0.0 && mean.is_finite()).then_some(())?;
    // In units of the mean rate.
    let seen = Mat::from_fn(saved.len(), parts, |i, j| saved[i][j] * mean);
    let rest = Mat::from_fn(saved.len(), 1, |i, _| gains[i] - saved[i].iter().sum::<f64>() * mean);
    let mut square = seen.transpose() * &seen;
    (0..parts).for_each(|k| square[(k, k)] += noise / SPREAD.powi(2));
    let found = Llt::new(square.as_ref(), Side::Lower).ok()?.solve(seen.transpose() * rest);
    Some((0..parts).map(|k| f64::max(mean * (1.0 + found[(k, 0)]), 0.0)).collect())
}
