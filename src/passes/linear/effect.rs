//! What a change does to the model's outputs, seen by running it: an error in a layer does not tell how much of it arrives
//! there.

use super::super::{Context, interface::set_input_shapes};
use crate::{
    error::Result,
    ir::{Dim, Model, Shape, Tensor},
    measure::{Probe, Seen},
    ops::cost,
};
use std::cell::{OnceCell, RefCell};

/// Samples that are run at most.
const SAMPLES: usize = 256;
/// As many as hold so many back that were not used, at most.
const SAMPLES_HELD: usize = 2 * SAMPLES;
/// Multiply-accumulates that all runs together may take, some ten seconds of a processor: with larger models, or more
/// changes, fewer samples are run.
const MOST_WORK: u64 = 400_000_000_000;
/// Runs over all samples that many changes share.
const RUNS_SHARED: usize = 4;
/// A look at fewer changes than this takes no more samples: it is to be quick rather than exact.
const FEW: usize = 16;
/// The bytes of weights of models that are run side by side, unless one alone takes more.
const MOST_BYTES: usize = 256 << 20;
const MOST_MODELS: usize = 4;
/// The bytes of a model's outputs that are kept while others are compared with them; of larger ones it runs again.
const MOST_KEPT: usize = 64 << 20;

/// Which samples tell the effect of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// All that are run.
    All,
    /// Those that [`collect`](super::collect) holds out: a change that was found on the others is no better there than it is.
    HeldOut,
}

impl By {
    /// How many of the `rows` of what a batch puts out do not count, from the first. Where no batch of single samples is held
    /// out, all have to.
    fn skipped(self, seen: &Seen<'_>, rows: usize) -> usize {
        match (self, rows) {
            (By::All, _) => 0,
            (By::HeldOut, 1) if seen.batches < 4 || seen.batch % 4 == 3 => 0,
            (By::HeldOut, _) => (3 * rows).div_ceil(4),
        }
    }
}

/// How many samples there are, as far as the batches that hold the first `most` of them.
pub(crate) fn samples(model: &Model, most: usize, cx: &Context<'_>) -> Result<usize> {
    Ok(load(model, most, cx)?.all)
}

/// How many changes to a model can be looked at with all samples, where each takes so many runs.
pub(crate) fn affordable_changes(model: &Model, runs: u64, cx: &Context<'_>) -> Result<usize> {
    let Load { macs, batch, all } = load(model, usize::MAX, cx)?;
    let work = (macs / batch as u64).saturating_mul(all as u64).saturating_mul(runs).max(1);
    Ok(usize::try_from(MOST_WORK / work).unwrap_or(usize::MAX))
}

/// What a run of a model over samples is.
struct Load {
    /// The multiply-accumulates of a run on the first batch.
    macs: u64,
    /// The samples in that.
    batch: usize,
    /// The samples in all batches that were asked for.
    all: usize,
}

impl Load {
    /// How many samples so many changes can be looked at with.
    fn affordable(&self, changes: usize) -> usize {
        let work = self.macs.saturating_mul(changes as u64).max(1);
        usize::try_from(MOST_WORK.saturating_mul(self.batch as u64) / work).unwrap_or(usize::MAX)
    }
}

/// The load of the batches that hold the first `most` samples.
fn load(model: &Model, most: usize, cx: &Context<'_>) -> Result<Load> {
    let (shaped, sizes) = with_inputs(model, most, cx)?;
    let batch = sizes.first().copied().unwrap_or(1).max(1);
    Ok(Load { macs: cost::of_model(&shaped).macs, batch, all: sizes.iter().sum() })
}

/// The model with the shapes of the first batch where it leaves them open, as far as they tell.
pub(crate) fn shaped_as_sampled(model: &Model, cx: &Context<'_>) -> Result<Model> {
    Ok(with_inputs(model, 1, cx)?.0)
}

/// The model with the shapes of the first batch, and the sizes of the batches that hold the first `most` samples.
fn with_inputs(model: &Model, most: usize, cx: &Context<'_>) -> Result<(Model, Vec<usize>)> {
    let g = &model.graph;
    let inputs = g.inputs.iter().filter(|v| g.initializer(**v).is_none());
    let fetch: Vec<String> = inputs.map(|v| g.name_of(*v).to_owned()).collect();
    let mut shapes: Vec<(String, Shape)> = Vec::new();
    let mut sizes: Vec<usize> = Vec::new();
    cx.sweep(&[Probe { model, fetch: &fetch }], 0..most, &mut |seen: Seen<'_>| {
        let values = || seen.values.iter().flatten();
        sizes.push(values().find_map(|t| t.shape().first().copied()).unwrap_or(1));
        if shapes.is_empty() {
            let dims = |t: &Tensor| t.shape().iter().map(|n| Dim::Known(*n)).collect();
            shapes = fetch.iter().cloned().zip(values().map(dims)).collect();
        }
        Ok(())
    })?;
    let mut shaped = model.clone();
    // Where shapes contradict each other, what is declared has to do.
    let _ = set_input_shapes(&mut shaped, &shapes);
    Ok((shaped, sizes))
}

/// A model that changed ones are compared with. What it puts out is kept from look to look, as far as there is room.
pub(crate) struct Original {
    pub(crate) model: Model,
    load: OnceCell<Load>,
    kept: RefCell<Kept>,
}

/// What a model puts out.
#[derive(Default)]
struct Kept {
    /// For how many samples it is known.
    samples: usize,
    outputs: Vec<Vec<Tensor>>,
    bytes: usize,
}

impl Kept {
    /// Keeps the outputs of the next batch; of larger ones than there is room for none.
    fn add(&mut self, outputs: &[Tensor]) -> Result<()> {
        self.bytes += outputs.iter().map(Tensor::byte_len).sum::<usize>();
        if self.bytes > MOST_KEPT {
            self.outputs.clear();
            return Ok(());
        }
        // What ONNX Runtime lends would keep a session in memory.
        let own = |t: &Tensor| Tensor::new(t.dtype(), t.shape(), t.bytes().to_vec());
        self.outputs.push(outputs.iter().map(own).collect::<Result<_>>()?);
        Ok(())
    }
}

impl Original {
    pub(crate) fn of(model: Model) -> Original {
        Original { model, load: OnceCell::new(), kept: RefCell::default() }
    }
    fn load(&self, cx: &Context<'_>) -> Result<&Load> {
        if let Some(load) = self.load.get() {
            return Ok(load);
        }
        let load = load(&self.model, SAMPLES, cx)?;
        Ok(self.load.get_or_init(|| load))
    }
    /// How many samples each of so many changes can be looked at with.
    pub(crate) fn affordable(&self, changes: usize, cx: &Context<'_>) -> Result<usize> {
        Ok(self.load(cx)?.affordable(changes).min(SAMPLES))
    }
    /// How many samples each of so many changes is looked at with where the runs of all of them together are to be no more than
    /// a few over all samples, at least `least`: enough to tell the loud from the quiet.
    pub(crate) fn shared_out(&self, changes: usize, least: usize, cx: &Context<'_>) -> Result<usize> {
        let load = self.load(cx)?;
        let shared = (RUNS_SHARED * load.all / changes.max(1)).max(least);
        Ok(load.affordable(changes.max(FEW)).min(shared).max(1))
    }
    /// For each of `changes` the squared error of the outputs of what `make` makes of it, relative to the squares of those of
    /// the model, summed over the outputs.
    pub(crate) fn errors<T>(
        &self,
        changes: &[T],
        make: impl Fn(&T) -> Result<Model>,
        cx: &Context<'_>,
    ) -> Result<Vec<f64>> {
        let samples = self.affordable(changes.len().max(FEW), cx)?.max(1);
        self.errors_on(samples, changes, make, cx)
    }
    /// See [`Original::errors`]: on samples held out, for changes that were found on the others.
    pub(crate) fn errors_held<T>(
        &self,
        changes: &[T],
        make: impl Fn(&T) -> Result<Model>,
        cx: &Context<'_>,
    ) -> Result<Vec<f64>> {
        let samples = self.load(cx)?.affordable(changes.len()).clamp(1, SAMPLES_HELD);
        self.errors_by(By::HeldOut, samples, changes, make, cx)
    }
    /// See [`Original::errors`]: on the first so many samples.
    pub(crate) fn errors_on<T>(
        &self,
        samples: usize,
        changes: &[T],
        make: impl Fn(&T) -> Result<Model>,
        cx: &Context<'_>,
    ) -> Result<Vec<f64>> {
        self.errors_by(By::All, samples, changes, make, cx)
    }
    fn errors_by<T>(
        &self,
        by: By,
        samples: usize,
        changes: &[T],
        make: impl Fn(&T) -> Result<Model>,
        cx: &Context<'_>,
    ) -> Result<Vec<f64>> {
        let g = &self.model.graph;
        let fetch: Vec<String> = g.outputs.iter().map(|v| g.name_of(*v).to_owned()).collect();
        let together = (MOST_BYTES / g.initializer_bytes().max(1)).clamp(1, MOST_MODELS);
        let mut errors = Vec::with_capacity(changes.len());
        for changes in changes.chunks(together) {
            cx.check_cancelled()?;
            let models = changes.iter().map(&make).collect::<Result<Vec<_>>>()?;
            let mut kept = self.kept.borrow_mut();
            let known = samples <= kept.samples;
            if !known {
                *kept = Kept::default();
            }
            let run = (!known).then_some(&self.model).into_iter().chain(&models);
            let probes: Vec<_> = run.map(|model| Probe { model, fetch: &fetch }).collect();
            let mut sums = vec![vec![[0.0; 2]; fetch.len()]; changes.len()];
            let mut compare = |seen: &Seen<'_>, original: &[Tensor], changed: &[Vec<Tensor>]| {
                for (sums, changed) in sums.iter_mut().zip(changed) {
                    for ((sum, a), b) in sums.iter_mut().zip(original).zip(changed) {
                        add_from(by.skipped(seen, a.shape().first().copied().unwrap_or(1)), sum, a, b);
                    }
                }
            };
            cx.sweep(&probes, 0..samples, &mut |seen: Seen<'_>| {
                if known {
                    kept.outputs.get(seen.batch).into_iter().for_each(|own| compare(&seen, own, seen.values));
                } else if let Some((own, changed)) = seen.values.split_first() {
                    compare(&seen, own, changed);
                    kept.add(own)?;
                }
                Ok(())
            })?;
            if kept.bytes <= MOST_KEPT {
                kept.samples = kept.samples.max(samples);
            }
            let relative = |[error, size]: &[f64; 2]| if *size > 0.0 { error / size } else { 0.0 };
            errors.extend(sums.iter().map(|outputs| outputs.iter().map(relative).sum::<f64>()));
        }
        Ok(errors)
    }
}

/// Adds the squared difference and the squares of an output; other outputs than floating-point ones tell nothing.
pub(crate) fn add(sum: &mut [f64; 2], a: &Tensor, b: &Tensor) {
    add_from(0, sum, a, b);
}

/// See [`add`]: without the first so many rows.
fn add_from(row: usize, sum: &mut [f64; 2], a: &Tensor, b: &Tensor) {
    let start = row * a.shape().iter().skip(1).product::<usize>();
    let (Some(a), Some(b)) = (a.to_f32(), b.to_f32()) else { return };
    for (a, b) in a.iter().zip(b.iter()).skip(start).map(|(a, b)| (f64::from(*a), f64::from(*b))) {
        if a.is_finite() {
            sum[0] += if b.is_finite() { (a - b).powi(2) } else { a.powi(2) };
            sum[1] += a.powi(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ir::text, measure::doubles::Double};

    #[test]
    fn the_original_runs_again_only_for_more_samples_or_more_than_is_kept() {
        let text = r#"<ir_version: 8, opset_import: ["" : 17]> m (float[1, 1] x) => (float[1, 1] y) { y = Relu (x) }"#;
        let model = text::parse(text).unwrap();
        // The first model that runs puts out ones, the second one twos: where the original does not run, what is changed is first.
        let errors = |elements: usize, looks: &[usize]| {
            let double =
                Double::of_samples(move |k| Tensor::from_vec([1, elements], vec![1.0 + k as f32; elements]));
            let (cx, original) = (Context::new().with_measure(&double), Original::of(model.clone()));
            let look = |samples: &usize| original.errors_on(*samples, &[()], |()| Ok(model.clone()), &cx);
            looks.iter().map(|samples| look(samples).unwrap()[0]).collect::<Vec<f64>>()
        };
        assert_eq!(errors(1, &[4, 4, 2, 8, 8]), [1.0, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(errors(MOST_KEPT / 4 + 1, &[4, 4]), [1.0, 1.0]);
    }

    #[test]
    fn what_is_held_out_is_the_last_quarter_of_a_batch_or_every_fourth_sample() {
        let seen = |batch, batches| Seen { batch, batches, values: &[] };
        assert_eq!(By::All.skipped(&seen(0, 9), 8), 0);
        assert_eq!([8, 6, 3].map(|rows| By::HeldOut.skipped(&seen(0, 9), rows)), [6, 5, 3]);
        let of_single = |batches: usize| (0..batches).map(move |k| By::HeldOut.skipped(&seen(k, batches), 1));
        assert!(of_single(8).eq([1, 1, 1, 0, 1, 1, 1, 0]));
        assert!(of_single(3).eq([0; 3]), "too few to hold one out");
        let (a, b) = (Tensor::from_vec([4, 2], vec![1.0f32; 8]), Tensor::from_vec([4, 2], vec![3.0f32; 8]));
        let mut sum = [0.0; 2];
        add_from(3, &mut sum, &a, &b);
        assert_eq!(sum, [8.0, 2.0]);
    }
}
