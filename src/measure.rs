//! What a pass may ask about a model in use. The runtime answers; passes know only this page.

use crate::{
    error::{Error, Result},
    ir::{Model, Tensor},
};
use std::{collections::HashMap, ops::Range};

/// A statistic of one value over the calibration samples.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Need {
    /// The value's name in the main graph.
    pub value: String,
    /// What to find out about it.
    pub stat: Stat,
}

/// A kind of statistic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stat {
    /// Smallest and largest element, over everything (`None`) or for each index of one axis.
    Range {
        /// The axis kept apart.
        axis: Option<usize>,
    },
}

/// The answer to one [`Need`].
#[derive(Clone, Debug, PartialEq)]
pub enum Measured {
    /// One entry, or one for each index of the axis.
    Range {
        /// Smallest elements.
        min: Vec<f32>,
        /// Largest elements.
        max: Vec<f32>,
    },
}

/// Answers by need.
#[derive(Clone, Debug, Default)]
pub struct Stats(pub HashMap<Need, Measured>);

impl Stats {
    /// The overall range of a value, where it was asked for and is finite.
    pub fn range(&self, value: &str) -> Option<(f32, f32)> {
        let need = Need { value: value.to_owned(), stat: Stat::Range { axis: None } };
        match self.0.get(&need)? {
            Measured::Range { min, max } => {
                let (lo, hi) = (*min.first()?, *max.first()?);
                (lo.is_finite() && hi.is_finite() && lo <= hi).then_some((lo, hi))
            }
        }
    }
}

/// All samples that there are.
pub const ALL: Range<usize> = 0..usize::MAX;

/// Named tensors: a model's inputs or outputs for one run.
pub type Batch = Vec<(String, Tensor)>;

/// A model to run and the values to take from it.
#[derive(Clone, Copy)]
pub struct Probe<'a> {
    /// The model.
    pub model: &'a Model,
    /// Names of values in its main graph: outputs, inner values, inputs or initializers.
    pub fetch: &'a [String],
}

/// What [`Measure::sweep`] found in one batch.
pub struct Seen<'a> {
    /// Which of these batches, from 0.
    pub batch: usize,
    /// How many there are.
    pub batches: usize,
    /// For each probe its values, in the order asked for.
    pub values: &'a [Vec<Tensor>],
}

/// How long models take on one batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// Samples in the batch.
    pub samples: usize,
    /// For each model the least seconds of several runs, taken in turns; infinite where it does not run.
    pub seconds: Vec<f64>,
}

/// Runs models. Implemented over ONNX Runtime; absent where no runtime library is installed. What an implementation does
/// not offer is refused as if there were none.
pub trait Measure {
    /// Whether there are real calibration samples (not synthesized ones).
    fn has_samples(&self) -> bool {
        false
    }
    /// Whether there are inputs to run models on at all, calibration samples or synthesized ones.
    fn has_inputs(&self) -> bool {
        self.has_samples()
    }
    /// The right class of each sample, in order, where it is known; otherwise nothing.
    fn labels(&self) -> &[i64] {
        &[]
    }
    /// The model as it would be written, schemes turned into operators, and the bytes of its file.
    fn written(&self, _model: &Model) -> Result<(Model, u64)> {
        Err(no_runtime("judging a model as it is written"))
    }
    /// The statistics asked for, over all calibration samples, in one sweep.
    fn measure(&self, _model: &Model, _needs: &[Need]) -> Result<Stats> {
        Err(no_runtime("measuring"))
    }
    /// Runs the model once on a batch and returns the values named in `fetch` (outputs or inner values), in that order.
    /// An empty `fetch` returns all graph outputs.
    fn run(&self, _model: &Model, _batch: &Batch, _fetch: &[String]) -> Result<Vec<Tensor>> {
        Err(no_runtime("running a model"))
    }
    /// Runs models side by side over these of the calibration samples, in the batches that hold them without those that hold
    /// samples before them, and hands the values asked for to `each`, in order: no more than two batches of them are held at a
    /// time, one of which is run while the other is looked at; of a single small model a few, where each holds little.
    fn sweep(
        &self,
        _probes: &[Probe<'_>],
        _samples: Range<usize>,
        _each: &mut dyn FnMut(Seen<'_>) -> Result<()>,
    ) -> Result<()> {
        Err(no_runtime("running a model"))
    }
    /// The same for a model that runs within this one, as a branch does: its inputs are these values of the main graph, as
    /// they are in the batches in which the condition, a value of the main graph too, is as told; in the first of them where they
    /// take much memory. There may be none.
    fn within(&self, _model: &Model, _inputs: &[String], _when: (&str, bool)) -> Result<Box<dyn Measure>> {
        Err(no_runtime("running a branch"))
    }
    /// Times models side by side, as they would be written: on one sample and on a batch of them, where the model takes
    /// both. Nothing where there is no clock to ask.
    fn latency(&self, _models: &[&Model]) -> Result<Vec<Timed>> {
        Ok(Vec::new())
    }
}

/// The error of a pass that needs the runtime where there is none.
pub fn no_runtime(what: &str) -> Error {
    Error::Runtime(format!("{what} needs ONNX Runtime, and no library was found"))
}

#[cfg(test)]
pub(crate) mod doubles;
