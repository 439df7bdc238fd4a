//! What passes ask of a model in use, answered by running it.
//!
//! For statistics the model is instrumented: reductions are put into the graph, so they run where the model runs and
//! only their small results come back, whatever the number of samples.

use super::{
    Runtime, Samples, Session, SessionOptions,
    fetch::Fetch,
    find::locked,
    latency::least_seconds,
    rows::{rows_of, single},
    sweep::sweep,
    within,
};
use crate::{
    error::{Error, Result},
    ir::{Graph, Model, Origin, Tensor, ValueId, Where},
    lower,
    measure::{ALL, Batch, Measure, Measured, Need, Probe, Seen, Stat, Stats, Timed},
    ops::ends,
};
use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    ops::Range,
    sync::{Arc, Mutex},
};

/// Runs models over calibration samples.
pub struct Measurer {
    runtime: Runtime,
    samples: Samples,
    options: SessionOptions,
    /// Threads within an operator where models are timed.
    threads: Option<usize>,
    /// The right class of each sample, where it is known.
    labels: Vec<i64>,
    /// Statistics by model version.
    known: Mutex<HashMap<u64, Stats>>,
    /// The last model that ran, by version: passes often run one model many times.
    last: Mutex<Option<(u64, Arc<Session>)>>,
}

impl Measurer {
    /// Measures over these samples.
    pub fn new(runtime: Runtime, samples: Samples, options: SessionOptions) -> Measurer {
        let threads = options.threads.or(Some(1));
        let (labels, known, last) = (Vec::new(), Mutex::default(), Mutex::default());
        Measurer { runtime, samples, options, threads, labels, known, last }
    }
    /// Knows the right class of each sample.
    pub fn with_labels(self, labels: Vec<i64>) -> Measurer {
        Measurer { labels, ..self }
    }
    /// Times models on so many threads within an operator, instead of on one; `None` leaves the choice to ONNX Runtime.
    pub fn timing_on(self, threads: Option<usize>) -> Measurer {
        Measurer { threads, ..self }
    }
    /// The samples.
    pub fn samples(&self) -> &Samples {
        &self.samples
    }
    fn session(&self, model: &Model) -> Result<Arc<Session>> {
        let version = version(model)?;
        if let Some((_, session)) = locked(&self.last).as_ref().filter(|(known, _)| *known == version) {
            return Ok(session.clone());
        }
        let session = Arc::new(Session::new(&self.runtime, model, &self.options)?);
        *locked(&self.last) = Some((version, session.clone()));
        Ok(session)
    }
    /// The ranks of values whose types do not tell: found by running one batch.
    fn ranks(&self, model: &Model, needs: &[&Need]) -> Result<HashMap<String, usize>> {
        let mut unknown = Vec::new();
        for need in needs.iter().filter(|need| need.stat != Stat::Range { axis: None }) {
            let value = value_of(&model.graph, &need.value)?;
            if model.graph.rank(value).is_none() {
                unknown.push(need.value.clone());
            }
        }
        if unknown.is_empty() {
            return Ok(HashMap::new());
        }
        let batch = self.samples.batches().first().ok_or_else(no_samples)?;
        let found = self.run(model, batch, &unknown)?;
        Ok(unknown.into_iter().zip(found.iter().map(Tensor::rank)).collect())
    }
}

/// A digest of everything in a model. Weights are read where they lie, never copied.
fn version(model: &Model) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    let mut light = model.clone();
    for (value, tensor) in model.graph.initializers().filter(|(_, tensor)| tensor.data().is_some()) {
        (model.graph.name_of(value), tensor.dtype(), tensor.shape(), tensor.bytes()).hash(&mut hasher);
        light.graph.value_mut(value).origin = Origin::Initializer(Tensor::ints([]));
    }
    lower::to_bytes(&light)?.hash(&mut hasher);
    Ok(hasher.finish())
}

fn no_samples() -> Error {
    Error::usage("there are no samples to measure over", "give some with --calib")
}

pub(super) fn value_of(graph: &Graph, name: &str) -> Result<ValueId> {
    let why = "there is no value of this name in the main graph";
    graph.find(name).ok_or_else(|| Error::unsupported(Where::Value(name.to_owned()), why))
}

impl Measure for Measurer {
    fn has_samples(&self) -> bool {
        !self.samples.is_empty() && !self.samples.is_synthetic()
    }

    fn has_inputs(&self) -> bool {
        !self.samples.is_empty()
    }

    fn labels(&self) -> &[i64] {
        &self.labels
    }

    fn written(&self, model: &Model) -> Result<(Model, u64)> {
        let mut model = model.clone();
        lower::schemes::materialize(&mut model)?;
        let bytes = lower::byte_len(&model);
        Ok((model, bytes))
    }

    fn measure(&self, model: &Model, needs: &[Need]) -> Result<Stats> {
        let version = version(model)?;
        let mut stats = Stats::default();
        let mut open: Vec<&Need> = Vec::new();
        {
            let known = locked(&self.known);
            let known = known.get(&version);
            for need in needs {
                match known.and_then(|stats| stats.0.get(need)) {
                    Some(answer) => drop(stats.0.insert(need.clone(), answer.clone())),
                    None if open.contains(&need) => {}
                    None => open.push(need),
                }
            }
        }
        if open.is_empty() {
            return Ok(stats);
        }
        let ranks = self.ranks(model, &open)?;
        let mut instrumented = model.clone();
        let (graph, opset) = (&mut instrumented.graph, model.opset());
        let mut reductions = Vec::with_capacity(2 * open.len());
        for need in &open {
            let value = value_of(graph, &need.value)?;
            let Stat::Range { axis } = need.stat;
            let kept = match axis {
                None => None,
                Some(axis) => {
                    let rank = graph.rank(value).or_else(|| ranks.get(&need.value).copied()).unwrap_or(0);
                    if axis >= rank {
                        let why = format!("it has {rank} axes, so no axis {axis}");
                        return Err(Error::unsupported(Where::Value(need.value.clone()), why));
                    }
                    Some((axis, rank))
                }
            };
            let [low, high] = ends(graph, opset, value, kept);
            reductions.extend([low, high].map(|v| graph.name_of(v).to_owned()));
        }
        let mut merged: Vec<Option<(Vec<f32>, Vec<f32>)>> = vec![None; open.len()];
        self.sweep(&[Probe { model: &instrumented, fetch: &reductions }], ALL, &mut |seen| {
            let mut numbers =
                seen.values.iter().flatten().map(|t| t.to_f32().unwrap_or_default().into_owned());
            for (need, merged) in open.iter().zip(&mut merged) {
                let (low, high) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
                merge(need, merged, low, high)?;
            }
            Ok(())
        })?;
        let mut known = locked(&self.known);
        let known = known.entry(version).or_default();
        for (need, range) in open.into_iter().zip(merged) {
            let (min, max) = range.unwrap_or_default();
            known.0.insert(need.clone(), Measured::Range { min: min.clone(), max: max.clone() });
            stats.0.insert(need.clone(), Measured::Range { min, max });
        }
        Ok(stats)
    }

    fn run(&self, model: &Model, batch: &Batch, fetch: &[String]) -> Result<Vec<Tensor>> {
        if fetch.is_empty() {
            return Ok(self.session(model)?.run(batch)?.into_iter().map(|(_, tensor)| tensor).collect());
        }
        let fetch = Fetch::of(model, fetch)?;
        let computed = match &fetch.model {
            Some(model) => self.session(model)?.run(batch)?,
            None => Batch::new(),
        };
        fetch.take(batch, computed)
    }

    fn sweep(
        &self,
        probes: &[Probe<'_>],
        samples: Range<usize>,
        each: &mut dyn FnMut(Seen<'_>) -> Result<()>,
    ) -> Result<()> {
        if self.samples.is_empty() {
            return Err(no_samples());
        }
        sweep(&self.runtime, &self.options, probes, self.samples.holding(samples), each)
    }

    fn within(&self, model: &Model, inputs: &[String], when: (&str, bool)) -> Result<Box<dyn Measure>> {
        let samples = within::samples(self, model, inputs, when)?;
        let measurer = Measurer::new(self.runtime.clone(), samples, self.options.clone());
        Ok(Box::new(measurer.timing_on(self.threads)))
    }

    fn latency(&self, models: &[&Model]) -> Result<Vec<Timed>> {
        let Some((batch, first)) = self.samples.batches().first().zip(models.first()) else {
            return Ok(Vec::new());
        };
        let options = SessionOptions { threads: self.threads, ..self.options.clone() };
        let mut sessions = Vec::with_capacity(models.len());
        for model in models {
            let mut model = (*model).clone();
            lower::schemes::materialize(&mut model)?;
            sessions.push(Session::new(&self.runtime, &model, &options).ok());
        }
        let rows = rows_of(batch);
        let mut timed = Vec::new();
        for (samples, batch) in
            single(batch, first).map(|one| (1, one)).into_iter().chain([(rows, batch.clone())])
        {
            let seconds = least_seconds(&sessions, &batch);
            let long = seconds.iter().any(|s| s.is_finite() && *s > LONG_SECONDS);
            timed.push(Timed { samples, seconds });
            if long {
                break;
            }
        }
        Ok(timed)
    }
}

/// A single run that takes longer than this tells enough; a batch of such would take too long.
const LONG_SECONDS: f64 = 0.3;

/// Widens a range by a batch's. Numbers that are not finite stay: they tell that the range is not usable.
fn merge(need: &Need, into: &mut Option<(Vec<f32>, Vec<f32>)>, low: Vec<f32>, high: Vec<f32>) -> Result<()> {
    let Some((min, max)) = into else {
        *into = Some((low, high));
        return Ok(());
    };
    if min.len() != low.len() || max.len() != high.len() {
        let why = format!("its axis has {} indices in one batch and {} in another", min.len(), low.len());
        return Err(Error::unsupported(Where::Value(need.value.clone()), why));
    }
    let keep = |a: &mut f32, b: f32, better: bool| {
        if better || b.is_nan() {
            *a = b;
        }
    };
    for (a, b) in min.iter_mut().zip(low) {
        let better = b < *a;
        keep(a, b, better);
    }
    for (a, b) in max.iter_mut().zip(high) {
        let better = b > *a;
        keep(a, b, better);
    }
    Ok(())
}
