//! Targets that several passes are given: how far they can be met, and by the clock.

use super::Context;
use crate::{
    error::{Error, Result},
    ir::Model,
};

/// The bytes of weights of models that are timed side by side, unless one alone takes more.
const MOST_BYTES: usize = 512 << 20;
/// Models that are timed until the mildest change that is fast enough is found.
const TIMED: usize = 7;

/// That no more than down to `least` of something can be had, where `share` of it was wanted.
pub(super) fn unreachable(doing: &str, share: f64, what: &str, least: f64) -> Error {
    let (wanted, least) = (100.0 * share, 100.0 * least);
    Error::BelowBar(format!("{doing} cannot reach {wanted:.1} % of the {what}; the nearest is {least:.1} %"))
}

/// The mildest choice, by what it is thought to cost, whose model takes at most `share` of the time of `model`, on one
/// sample and on a batch. `strongest` leaves the share `least` of the cost; `at` finds the mildest choice for a share of
/// it, and `make` its model.
pub(super) fn in_time<T>(
    doing: &str,
    share: f64,
    (least, strongest): (f64, T),
    at: impl Fn(f64) -> Result<T>,
    make: impl Fn(&T) -> Result<Model>,
    model: &Model,
    cx: &Context<'_>,
) -> Result<T> {
    let fastest = slowest(model, &make(&strongest)?, cx)?;
    if fastest > share {
        return Err(unreachable(doing, share, "latency", fastest));
    }
    let (mut low, mut high, mut best) = (least, 1.0, strongest);
    for _ in 1..TIMED {
        cx.check_cancelled()?;
        let cost = f64::midpoint(low, high);
        match at(cost) {
            Ok(choice) if slowest(model, &make(&choice)?, cx)? <= share => (low, best) = (cost, choice),
            _ => high = cost,
        }
    }
    Ok(best)
}

/// The time of a changed model as a share of the whole one's, on the batch where that is larger.
fn slowest(model: &Model, changed: &Model, cx: &Context<'_>) -> Result<f64> {
    let timed = shares_of_time(model, &[changed], cx)?;
    timed.and_then(|timed| timed.shares.into_iter().flatten().reduce(f64::max)).ok_or_else(|| {
        Error::usage(
            "`latency` needs ONNX Runtime and inputs to time models on",
            "give some with `--calib`, or use `macs`",
        )
    })
}

/// How many changed models are timed side by side with the whole one.
pub(super) fn timed_together(model: &Model) -> usize {
    (MOST_BYTES / model.graph.initializer_bytes().max(1)).clamp(2, 16) - 1
}

/// Times of changed models.
pub(super) struct Shares {
    /// The samples of each batch.
    pub samples: Vec<usize>,
    /// For each model its time as a share of the whole one's, on each batch.
    pub shares: Vec<Vec<f64>>,
}

/// How long some changed models take, side by side with the whole one; nothing where there is no clock.
pub(super) fn shares_of_time(model: &Model, changed: &[&Model], cx: &Context<'_>) -> Result<Option<Shares>> {
    let timed = cx.latency(&[&[model], changed].concat())?;
    let of = |k: usize| timed.iter().map(|t| t.seconds[k + 1] / t.seconds[0]).collect();
    let samples: Vec<usize> = timed.iter().map(|t| t.samples).collect();
    Ok((!samples.is_empty()).then(|| Shares { samples, shares: (0..changed.len()).map(of).collect() }))
}

/// A clock by which a model takes a second for each multiply-accumulate, and so many for the start where there is but one sample.
#[cfg(test)]
pub(super) fn clock(start: f64) -> crate::measure::doubles::Double {
    let seconds = |model: &Model| crate::ops::cost::of_model(model).macs as f64;
    crate::measure::doubles::Double::default()
        .with_times(1, move |m| start + seconds(m))
        .with_times(8, seconds)
}
