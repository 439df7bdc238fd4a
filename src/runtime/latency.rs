//! How long each model takes.

use super::Session;
use crate::{error::Result, measure::Batch};
use serde::Serialize;
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Run times of one batch in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Timing {
    /// The median.
    pub p50_ms: f64,
    /// The 95th percentile.
    pub p95_ms: f64,
}

/// Run times of both models on the same batch, taken in turns after a warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Of the original.
    pub original: Timing,
    /// Of the compressed model.
    pub compressed: Timing,
    /// Timed runs of each.
    pub runs: usize,
    /// Runs of which the compressed model's took longer than the original's just before it.
    pub longer: usize,
    /// Samples in the batch.
    pub batch: usize,
    /// Threads within an operator; `None` where ONNX Runtime chose.
    pub threads: Option<usize>,
}

/// Medians closer than this tell nothing: clocks and caches drift by as much.
const NOISE: f64 = 1.05;

impl Latency {
    /// The compressed model's median as a multiple of the original's.
    pub fn ratio(&self) -> f64 {
        self.compressed.p50_ms / self.original.p50_ms
    }
    /// Whether the compressed model is slower beyond noise: by its median, and in more pairs of runs than a fair coin
    /// would give, by three standard deviations.
    pub fn is_slower(&self) -> bool {
        let runs = self.runs as f64;
        self.ratio() > NOISE && self.longer as f64 > runs / 2.0 + 1.5 * runs.sqrt()
    }
}

const WARM_UP: usize = 3;
const MOST_RUNS: usize = 200;
const LEAST_RUNS: usize = 10;
const TIME_BUDGET: Duration = Duration::from_secs(2);

/// Times both in turns, each on its batch, so that what else the machine does meets both alike.
pub(super) fn time(
    before: (&Session, &Batch),
    after: (&Session, &Batch),
    rows: usize,
    threads: Option<usize>,
) -> Result<Latency> {
    for _ in 0..WARM_UP {
        before.0.run(before.1)?;
        after.0.run(after.1)?;
    }
    let started = Instant::now();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    while a.len() < LEAST_RUNS || (a.len() < MOST_RUNS && started.elapsed() < TIME_BUDGET) {
        for ((session, batch), times) in [(before, &mut a), (after, &mut b)] {
            let start = Instant::now();
            session.run(batch)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let (runs, longer) = (a.len(), a.iter().zip(&b).filter(|(a, b)| b > a).count());
    Ok(Latency { original: timing(a), compressed: timing(b), runs, longer, batch: rows, threads })
}

/// Runs of each, at least, where many are compared: a run that something else slowed down must not decide.
const LEAST_ROUNDS: usize = 5;
const ROUND_BUDGET: Duration = Duration::from_millis(700);

/// The least seconds of several runs of each session, in turns; infinite for one that cannot run.
pub(super) fn least_seconds(sessions: &[Option<Session>], batch: &Batch) -> Vec<f64> {
    let mut least = vec![f64::INFINITY; sessions.len()];
    let mut running: VecDeque<usize> = (0..sessions.len()).filter(|k| sessions[*k].is_some()).collect();
    // The first round sets up buffers.
    let run = |k: usize| sessions[k].as_ref().is_some_and(|session| session.run(batch).is_ok());
    running.retain(|k| run(*k));
    let started = Instant::now();
    let mut rounds = 0;
    while rounds < LEAST_ROUNDS || rounds < MOST_RUNS && started.elapsed() < ROUND_BUDGET {
        for k in &running {
            let start = Instant::now();
            run(*k);
            least[*k] = least[*k].min(start.elapsed().as_secs_f64());
        }
        // Each begins some rounds: what runs right after the last one finds other caches.
        if let Some(first) = running.pop_front() {
            running.push_back(first);
        }
        rounds += 1;
    }
    least
}

fn timing(mut times: Vec<f64>) -> Timing {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    Timing { p50_ms: at(0.5), p95_ms: at(0.95) }
}
