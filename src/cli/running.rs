//! From arguments to a runtime, its samples and the comparison's options.

use super::args::{ProviderArg, RunArgs};
use crate::{
    error::Result,
    ir::Model,
    runtime::{
        Provider, Runtime, Samples, SessionOptions, Synthesis, Tolerance, ValidateOptions, read_labels,
    },
};

/// Samples in a batch when data are read: large enough to fill vector units, small enough for any model.
const BATCH: usize = 32;
/// Batches of made-up inputs: enough for a comparison, few enough to be quick.
const SYNTHETIC_BATCHES: usize = 4;

impl RunArgs {
    pub(super) fn provider(&self) -> Provider {
        match self.provider {
            ProviderArg::Cpu => Provider::Cpu,
            ProviderArg::Cuda => Provider::Cuda,
        }
    }
    pub(super) fn runtime(&self) -> Result<Runtime> {
        Runtime::find(self.ort.as_deref())
    }
    pub(super) fn session_options(&self) -> SessionOptions {
        SessionOptions { provider: self.provider(), ..SessionOptions::default() }
    }
    /// The user's data, or inputs made up from the model's types.
    pub(super) fn samples(&self, runtime: &Runtime, model: &Model) -> Result<Samples> {
        match &self.calib {
            Some(path) => Samples::load(path, model, BATCH, None),
            None => {
                let what = Synthesis { dims: Vec::new(), seed: self.seed, batches: SYNTHETIC_BATCHES };
                Samples::synthesize(runtime, model, &what)
            }
        }
    }
    /// The right class of each sample, where they are given.
    pub(super) fn labels(&self, samples: &Samples) -> Result<Option<Vec<i64>>> {
        self.labels.as_ref().map(|path| samples.labels_of(&read_labels(path)?)).transpose()
    }
    /// How to compare: every output's signal-to-noise ratio at least `least_sqnr` dB, where there is a bar at all.
    pub(super) fn validate_options(
        &self,
        samples: &Samples,
        least_sqnr: Option<f64>,
    ) -> Result<ValidateOptions> {
        let labels = self.labels(samples)?;
        let tolerance = Tolerance {
            min_cosine: None,
            min_sqnr_db: least_sqnr,
            max_abs: None,
            min_top1: None,
            max_drop: self.max_drop,
        };
        Ok(ValidateOptions {
            batches: None,
            provider: self.provider(),
            threads: Some(self.threads),
            latency: true,
            labels,
            tolerance,
        })
    }
}
