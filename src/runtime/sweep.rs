//! Models over samples, batch after batch.
//!
//! Threads within an operator wait for each other after each one, which small operators are not worth. So models side by side take
//! a processor each, and a single one is loaded once for each processor, where it and its values are small, to run a batch on each.
//! Where the number of threads is given, it is no matter of ours.

use super::{Optimize, Provider, Runtime, Session, SessionOptions, fetch::Fetch, rows::rows_of};
use crate::{
    error::Result,
    ir::Tensor,
    measure::{Batch, Probe, Seen},
};
use rayon::prelude::*;
use std::{sync::mpsc, thread};

/// Bytes of weights (24 MiB) from which a model is held once, in the layout that it has, rather than be a few percent faster.
const HEAVY: usize = 24 << 20;
/// Bytes of values (16 MiB) that batches which run at once may hold, where more than one does. Of more than the processor has near
/// it, several take no less time than one.
const AT_ONCE: usize = 16 << 20;
/// Batches whose values each of several runners holds: one that waits to be looked at, and the one that runs.
const HELD: usize = 2;
/// A model is not loaded once more for fewer batches than this, or fewer samples.
const LEAST_BATCHES: usize = 8;
const LEAST_SAMPLES: usize = 32;
/// A model is not loaded more often than this.
const MOST_RUNNERS: usize = 4;

/// See [`Measure::sweep`](crate::measure::Measure::sweep).
pub(super) fn sweep(
    runtime: &Runtime,
    options: &SessionOptions,
    probes: &[Probe<'_>],
    batches: &[Batch],
    each: &mut dyn FnMut(Seen<'_>) -> Result<()>,
) -> Result<()> {
    if batches.is_empty() {
        return Ok(());
    }
    let fetches = probes.iter().map(|probe| Fetch::of(probe.model, probe.fetch));
    let fetches = fetches.collect::<Result<Vec<_>>>()?;
    let computed = fetches.iter().filter(|fetch| fetch.model.is_some()).count();
    let heavy = probes.iter().any(|probe| probe.model.graph.initializer_bytes() >= HEAVY);
    let optimize = match options.optimize {
        Optimize::All if heavy => Optimize::Fused,
        given => given,
    };
    // Threads that wait for the next run would take the processors from other models, and from what is made of values.
    let options = SessionOptions { yielding: true, optimize, ..options.clone() };
    let runner = |threads: Option<usize>| Runner::new(runtime, &fetches, &options, threads);
    let processors = rayon::current_num_threads();
    let each_own = options.threads.is_none() && computed > 1;
    let alone = options.threads.is_none() && options.provider == Provider::Cpu && computed == 1 && !heavy;
    let samples: usize = batches.iter().map(rows_of).sum();
    let worth = (batches.len() / LEAST_BATCHES).min(samples / LEAST_SAMPLES);
    let most = worth.min(processors).min(MOST_RUNNERS);
    let fit = |bytes: usize| most.min(AT_ONCE / HELD / bytes.max(1)).max(1);
    let several = |many: usize, start: usize, each: &mut dyn FnMut(Seen<'_>) -> Result<()>| {
        let runners = (0..many).into_par_iter().map(|_| runner(Some((processors / many).max(1))));
        run(&runners.collect::<Result<Vec<_>>>()?, batches, start, each)
    };
    let told = fetches.iter().map(Fetch::bytes).try_fold(0usize, |all, bytes| all.checked_add(bytes?));
    if alone
        && let Some(bytes) = told
        && fit(bytes) > 1
    {
        return several(fit(bytes), 0, each);
    }
    let first = runner(each_own.then(|| (processors / computed).max(1)))?;
    if !alone || most < 2 || told.is_some() {
        return run(&[first], batches, 0, each);
    }
    let values = first.run(&batches[0])?;
    let bytes: usize = values.iter().flatten().map(Tensor::byte_len).sum();
    each(Seen { batch: 0, batches: batches.len(), values: &values })?;
    drop(values);
    match fit(bytes) {
        1 => run(&[first], batches, 1, each),
        many => {
            drop(first);
            several(many, 1, each)
        }
    }
}

/// The batches from this one on, by turns of the runners; they run while what came of those before is looked at. Where there are
/// several, none waits for its turn to hand on a batch before it runs the next.
fn run(
    runners: &[Runner<'_>],
    batches: &[Batch],
    start: usize,
    each: &mut dyn FnMut(Seen<'_>) -> Result<()>,
) -> Result<()> {
    let ahead = if runners.len() > 1 { HELD - 1 } else { 0 };
    thread::scope(|scope| {
        let turns = runners.iter().enumerate().map(|(turn, runner)| {
            let (sender, receiver) = mpsc::sync_channel(ahead);
            let mut own = batches.iter().skip(start + turn).step_by(runners.len());
            // Nobody takes more where looking failed.
            scope.spawn(move || own.try_for_each(|batch| sender.send(runner.run(batch))));
            receiver
        });
        let turns: Vec<_> = turns.collect();
        let received = turns.iter().cycle().map_while(|turn| turn.recv().ok());
        let mut seen = (start..).zip(received);
        seen.try_for_each(|(batch, values)| each(Seen { batch, batches: batches.len(), values: &values? }))
    })
}

/// Models that are loaded, to run one batch after the other.
struct Runner<'a> {
    loaded: Vec<(&'a Fetch, Option<Session>)>,
    /// Whether they run side by side.
    aside: bool,
}

impl<'a> Runner<'a> {
    fn new(
        runtime: &Runtime,
        fetches: &'a [Fetch],
        options: &SessionOptions,
        threads: Option<usize>,
    ) -> Result<Runner<'a>> {
        let aside = fetches.len() > 1 && threads.is_some() && options.threads.is_none();
        let options = SessionOptions { threads: threads.or(options.threads), ..options.clone() };
        let load =
            |fetch: &Fetch| fetch.model.as_ref().map(|m| Session::new(runtime, m, &options)).transpose();
        let sessions = each_of(aside, fetches, load)?;
        Ok(Runner { loaded: fetches.iter().zip(sessions).collect(), aside })
    }
    fn run(&self, batch: &Batch) -> Result<Vec<Vec<Tensor>>> {
        each_of(self.aside, &self.loaded, |(fetch, session)| {
            let computed = session.as_ref().map(|session| session.run(batch)).transpose()?;
            fetch.take(batch, computed.unwrap_or_default())
        })
    }
}

/// What `of` makes of each item, in order; side by side, or one after the other.
fn each_of<T: Sync, U: Send>(
    aside: bool,
    items: &[T],
    of: impl Fn(&T) -> Result<U> + Send + Sync,
) -> Result<Vec<U>> {
    if aside { items.par_iter().map(of).collect() } else { items.iter().map(of).collect() }
}
