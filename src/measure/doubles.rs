//! What stands in for a runtime in tests of what passes make of its answers.

use super::{Measure, Probe, Seen, Timed, no_runtime};
use crate::{
    error::Result,
    ir::{Model, Tensor},
};
use std::ops::Range;

/// Answers that are known beforehand. What is not given is refused, as where there is no runtime.
#[derive(Default)]
pub(crate) struct Double {
    value: Option<Box<dyn Fn(usize) -> Tensor>>,
    bytes: Option<fn(&Model) -> u64>,
    clocks: Vec<Clock>,
}

/// How long a model takes for a batch of so many samples.
struct Clock {
    samples: usize,
    seconds: Box<dyn Fn(&Model) -> f64>,
}

impl Double {
    /// The samples are one batch, in which all that is asked of the model of this number, from 0, is the same.
    pub(crate) fn of_samples(value: impl Fn(usize) -> Tensor + 'static) -> Double {
        Double { value: Some(Box::new(value)), ..Double::default() }
    }
    /// Models are written as they are, in so many bytes.
    pub(crate) fn with_files(self, bytes: fn(&Model) -> u64) -> Double {
        Double { bytes: Some(bytes), ..self }
    }
    /// A model takes so many seconds for a batch of so many samples.
    pub(crate) fn with_times(mut self, samples: usize, seconds: impl Fn(&Model) -> f64 + 'static) -> Double {
        self.clocks.push(Clock { samples, seconds: Box::new(seconds) });
        self
    }
}

impl Measure for Double {
    fn has_samples(&self) -> bool {
        self.value.is_some()
    }
    fn written(&self, model: &Model) -> Result<(Model, u64)> {
        let bytes = self.bytes.ok_or_else(|| no_runtime("judging a model as it is written"))?;
        Ok((model.clone(), bytes(model)))
    }
    fn sweep(
        &self,
        probes: &[Probe<'_>],
        _: Range<usize>,
        each: &mut dyn FnMut(Seen<'_>) -> Result<()>,
    ) -> Result<()> {
        let value = self.value.as_ref().ok_or_else(|| no_runtime("running a model"))?;
        let asked = probes.iter().enumerate();
        let values: Vec<_> = asked.map(|(k, probe)| vec![value(k); probe.fetch.len()]).collect();
        each(Seen { batch: 0, batches: 1, values: &values })
    }
    fn latency(&self, models: &[&Model]) -> Result<Vec<Timed>> {
        let timed = |clock: &Clock| Timed {
            samples: clock.samples,
            seconds: models.iter().map(|model| (clock.seconds)(model)).collect(),
        };
        Ok(self.clocks.iter().map(timed).collect())
    }
}
