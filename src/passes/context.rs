//! What a pass may use besides the model: remarks, counts, the runtime, the seed, progress and cancellation.

use crate::{
    error::{Error, Result},
    ir::{Model, Tensor, Where},
    measure::{Batch, Measure, Need, Probe, Seen, Stats, Timed, no_runtime},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
};

/// What a remark says happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RemarkKind {
    /// Something was rewritten.
    Applied,
    /// Something could have been rewritten, and the text says why it was not.
    Missed,
    /// Something worth knowing.
    Note,
    /// Something the user should act on.
    Warning,
}

/// What a pass did or left alone, where, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remark {
    /// The pass that says so.
    pub pass: String,
    /// What kind of remark it is.
    pub kind: RemarkKind,
    /// The place it is about.
    pub at: Where,
    /// The reason, as a sentence.
    pub text: String,
}

/// Shows how far a long step is. The command line draws bars; the library default shows nothing.
pub trait Progress {
    /// A step of `total` units begins.
    fn begin(&self, what: &str, total: u64);
    /// So many units of it are done.
    fn advance(&self, units: u64);
    /// The step is over.
    fn end(&self);
}

struct Silent;
impl Progress for Silent {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn end(&self) {}
}

/// See [`Context::said`].
pub(crate) struct Said {
    remarks: usize,
    counts: BTreeMap<String, u64>,
}

/// What was taken back. See [`Context::unsay`].
pub(crate) struct Unsaid {
    remarks: Vec<Remark>,
    counts: Vec<(String, u64)>,
}

/// The surroundings of a pass.
pub struct Context<'a> {
    /// Everything said so far.
    pub remarks: Vec<Remark>,
    /// How often each named thing happened, by pass and rule: `"simplify/identity"`.
    pub counts: BTreeMap<String, u64>,
    /// The seed of every random choice.
    pub seed: u64,
    pass: String,
    given: Option<Model>,
    measure: Option<&'a dyn Measure>,
    progress: &'a dyn Progress,
    cancelled: Option<&'a AtomicBool>,
}

impl Default for Context<'_> {
    fn default() -> Self {
        Context {
            remarks: Vec::new(),
            counts: BTreeMap::new(),
            seed: 0,
            pass: String::new(),
            given: None,
            measure: None,
            progress: &Silent,
            cancelled: None,
        }
    }
}

impl<'a> Context<'a> {
    /// A context without a runtime.
    pub fn new() -> Self {
        Self::default()
    }
    /// The same with a runtime to measure on.
    pub fn with_measure(mut self, measure: &'a dyn Measure) -> Self {
        self.measure = Some(measure);
        self
    }
    /// The same with a seed for random choices.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }
    /// The same with progress shown.
    pub fn with_progress(mut self, progress: &'a dyn Progress) -> Self {
        self.progress = progress;
        self
    }
    /// The same with a flag that stops passes at their next [`Context::check_cancelled`].
    pub fn with_cancel(mut self, flag: &'a AtomicBool) -> Self {
        self.cancelled = Some(flag);
        self
    }
    /// Remembers the model as it came in, before any pass.
    pub(crate) fn give(&mut self, model: &Model) {
        self.given = Some(model.clone());
    }
    /// The model as it came in, where it is known.
    pub(crate) fn given(&self) -> Option<&Model> {
        self.given.as_ref()
    }
    /// What was said and counted so far, to go [back to](Self::unsay) after a trial.
    pub(crate) fn said(&self) -> Said {
        Said { remarks: self.remarks.len(), counts: self.counts.clone() }
    }
    /// Takes back what was said and counted since, and hands it over to be [said after all](Self::say_after_all).
    pub(crate) fn unsay(&mut self, since: Said) -> Unsaid {
        let remarks = self.remarks.split_off(since.remarks);
        let counted = std::mem::replace(&mut self.counts, since.counts);
        let more = |(what, n): (String, u64)| {
            let more = n - self.counts.get(&what).copied().unwrap_or_default();
            (what, more)
        };
        Unsaid { remarks, counts: counted.into_iter().map(more).collect() }
    }
    /// Says and counts what was taken back.
    pub(crate) fn say_after_all(&mut self, unsaid: Unsaid) {
        self.remarks.extend(unsaid.remarks);
        for (what, n) in unsaid.counts {
            *self.counts.entry(what).or_default() += n;
        }
    }
    /// Names the pass that the next remarks and counts belong to.
    pub(crate) fn enter(&mut self, pass: &str) {
        pass.clone_into(&mut self.pass);
    }
    /// Says something.
    pub fn remark(&mut self, kind: RemarkKind, at: impl Into<Where>, text: impl Into<String>) {
        self.remarks.push(Remark { pass: self.pass.clone(), kind, at: at.into(), text: text.into() });
    }
    /// Something was rewritten.
    pub fn applied(&mut self, at: impl Into<Where>, text: impl Into<String>) {
        self.remark(RemarkKind::Applied, at, text);
    }
    /// Something was left alone, and why.
    pub fn missed(&mut self, at: impl Into<Where>, why: impl Into<String>) {
        self.remark(RemarkKind::Missed, at, why);
    }
    /// The user should act on this.
    pub fn warning(&mut self, at: impl Into<Where>, text: impl Into<String>) {
        self.remark(RemarkKind::Warning, at, text);
    }
    /// Counts something that happened `n` times.
    pub fn count(&mut self, what: &str, n: u64) {
        if n > 0 {
            *self.counts.entry(format!("{}/{what}", self.pass)).or_default() += n;
        }
    }
    /// Whether a runtime is there.
    pub fn has_runtime(&self) -> bool {
        self.measure.is_some()
    }
    /// Whether there are real calibration samples.
    pub fn has_samples(&self) -> bool {
        self.measure.is_some_and(Measure::has_samples)
    }
    /// Whether there are inputs to run models on at all. See [`Measure::has_inputs`].
    pub fn has_inputs(&self) -> bool {
        self.measure.is_some_and(Measure::has_inputs)
    }
    /// The right class of each calibration sample, or nothing. See [`Measure::labels`].
    pub fn labels(&self) -> &'a [i64] {
        self.measure.map_or(&[], Measure::labels)
    }
    /// The model as it would be written, and the bytes of its file. See [`Measure::written`].
    pub fn written(&self, model: &Model) -> Result<(Model, u64)> {
        self.measure.ok_or_else(|| no_runtime("judging a model as it is written"))?.written(model)
    }
    /// Statistics over the calibration samples. See [`Measure::measure`].
    pub fn measure(&self, model: &Model, needs: &[Need]) -> Result<Stats> {
        self.measure.ok_or_else(|| no_runtime("measuring"))?.measure(model, needs)
    }
    /// Runs a model once. See [`Measure::run`].
    pub fn run(&self, model: &Model, batch: &Batch, fetch: &[String]) -> Result<Vec<Tensor>> {
        self.measure.ok_or_else(|| no_runtime("running a model"))?.run(model, batch, fetch)
    }
    /// Runs models side by side over the calibration samples. See [`Measure::sweep`].
    pub fn sweep(
        &self,
        probes: &[Probe<'_>],
        samples: Range<usize>,
        each: &mut dyn FnMut(Seen<'_>) -> Result<()>,
    ) -> Result<()> {
        self.measure.ok_or_else(|| no_runtime("running a model"))?.sweep(probes, samples, each)
    }
    /// The surroundings of a pass over a model that runs within this one; see [`Measure::within`], and the same without a
    /// runtime.
    pub(crate) fn within(
        &self,
        model: &Model,
        inputs: &[String],
        when: (&str, bool),
    ) -> Result<Option<Box<dyn Measure>>> {
        self.measure.map(|measure| measure.within(model, inputs, when)).transpose()
    }
    /// What `f` makes with another runtime, or none. What it says of the model as a whole is said of this place.
    pub(crate) fn on<T>(
        &mut self,
        measure: Option<&dyn Measure>,
        place: &Where,
        f: impl FnOnce(&mut Context<'_>) -> T,
    ) -> T {
        let mut inner = Context {
            remarks: Vec::new(),
            counts: std::mem::take(&mut self.counts),
            pass: self.pass.clone(),
            given: None,
            measure,
            ..*self
        };
        let made = f(&mut inner);
        let Context { remarks, counts, .. } = inner;
        let placed = |said: Remark| match said.at {
            Where::Model => Remark { at: place.clone(), ..said },
            _ => said,
        };
        self.remarks.extend(remarks.into_iter().map(placed));
        self.counts = counts;
        made
    }
    /// Times models side by side; nothing without a runtime. See [`Measure::latency`].
    pub fn latency(&self, models: &[&Model]) -> Result<Vec<Timed>> {
        self.measure.map_or_else(|| Ok(Vec::new()), |measure| measure.latency(models))
    }
    /// Where progress goes.
    pub fn progress(&self) -> &'a dyn Progress {
        self.progress
    }
    /// Fails if the user asked to stop.
    pub fn check_cancelled(&self) -> Result<()> {
        match self.cancelled {
            Some(flag) if flag.load(Ordering::Relaxed) => Err(Error::Cancelled),
            _ => Ok(()),
        }
    }
}
