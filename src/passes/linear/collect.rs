//! Sums over what layers see on the calibration samples, and over what they should put out.

use super::{layer::Layer, sums::Sums, window::Run};
use crate::{
    error::Result,
    ir::{Model, Tensor, ValueId},
    measure::{ALL, Probe, Seen},
    passes::Context,
};
use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng};
use rayon::prelude::*;
use std::{borrow::Cow, ops::Range};

/// Rows (output positions) that are looked at in a layer: so many for each unknown, within bounds.
const ROWS_PER_UNKNOWN: usize = 32;
const ROWS: Range<usize> = 8_192..50_000;
/// A layer with more unknowns in each output takes too much memory and time: what is kept of it is their square.
const MOST_UNKNOWNS: usize = 6_144;
/// Rows that are laid out at a time.
const CHUNK: usize = 512;
/// The bytes that the sums of layers that are looked at together may take, unless one alone takes more.
const MOST_BYTES: usize = 512 << 20;

/// A layer to look at.
#[derive(Clone, Debug)]
pub(crate) struct Sight<'a> {
    pub(crate) layer: &'a Layer,
    /// What it should put out; without one the inputs alone are summed up.
    pub(crate) target: Option<Target>,
}

/// What a layer should put out, by another model, the teacher.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The teacher's value.
    pub(crate) value: ValueId,
    /// For each output of the layer, which of the value's channels it is.
    pub(crate) kept: Vec<usize>,
    /// What the model adds to the layer's output by itself: left to the layer is the target less this.
    pub(crate) beside: Option<ValueId>,
}

/// For each part of a layer the sums over most rows and over those held out, or why there are none.
pub(crate) type Found = std::result::Result<Vec<[Sums; 2]>, String>;

/// Looks at layers of `model` while it and `teacher` run over the calibration samples, and gives for each, in order, what
/// was found to `each`. The samples are read several times where the sums of all layers at once would take too much.
pub(crate) fn collect(
    model: &Model,
    teacher: &Model,
    sights: &[Sight<'_>],
    cx: &Context<'_>,
    mut each: impl FnMut(usize, Found),
) -> Result<()> {
    let mut first = 0;
    while first < sights.len() {
        cx.check_cancelled()?;
        let together = &sights[first..first + fitting(&sights[first..])];
        let mut collectors: Vec<_> = together.iter().map(|sight| Collector::new(sight, cx.seed)).collect();
        sweep(model, teacher, &mut collectors, cx)?;
        for (k, collector) in collectors.into_iter().enumerate() {
            each(first + k, collector.finish());
        }
        first += together.len();
    }
    Ok(())
}

/// How many of these layers, at least one, can be looked at together.
fn fitting(sights: &[Sight<'_>]) -> usize {
    let bytes = |sight: &Sight<'_>| {
        let layer = sight.layer;
        let outputs = if sight.target.is_some() { layer.outputs } else { 0 };
        2 * layer.groups * Sums::bytes(layer.unknowns(), outputs)
    };
    let sizes = sights.iter().scan(0usize, |sum, sight| {
        *sum = sum.saturating_add(bytes(sight));
        Some(*sum)
    });
    sizes.take_while(|sum| *sum <= MOST_BYTES).count().max(1)
}

fn sweep(model: &Model, teacher: &Model, collectors: &mut [Collector<'_>], cx: &Context<'_>) -> Result<()> {
    let mut open: Vec<_> = collectors.iter_mut().filter(|c| c.unfit.is_none()).collect();
    if open.is_empty() {
        return Ok(());
    }
    let (mut now, mut wanted) = (Vec::new(), Vec::new());
    for sight in open.iter().map(|c| c.sight) {
        let values = [Some(sight.layer.input), sight.target.as_ref().and_then(|t| t.beside)];
        now.extend(values.into_iter().flatten().map(|v| model.graph.name_of(v).to_owned()));
        wanted.extend(sight.target.iter().map(|t| teacher.graph.name_of(t.value).to_owned()));
    }
    let mut probes = vec![Probe { model, fetch: &now }];
    if !wanted.is_empty() {
        probes.push(Probe { model: teacher, fetch: &wanted });
    }
    cx.sweep(&probes, ALL, &mut |seen: Seen<'_>| {
        let mut values = seen.values.iter().map(|v| v.iter());
        let (mut now, mut wanted) =
            (values.next().into_iter().flatten(), values.next().into_iter().flatten());
        for collector in &mut open {
            let target = collector.sight.target.as_ref();
            let input = now.next();
            let beside = target.and_then(|t| t.beside).and_then(|_| now.next());
            let target = target.and_then(|t| Some((t, wanted.next()?)));
            if let Some(input) = input
                && collector.add(&seen, input, target, beside).is_none()
            {
                collector.unfit = Some("its values do not lie as their types say".into());
            }
        }
        Ok(())
    })
}

/// The sums of one layer as they grow.
struct Collector<'a> {
    sight: &'a Sight<'a>,
    /// For each part those over most rows and over those held out.
    sums: Vec<[Sums; 2]>,
    /// Chooses the rows.
    random: ChaCha8Rng,
    /// Why it cannot be done.
    unfit: Option<String>,
}

impl<'a> Collector<'a> {
    fn new(sight: &'a Sight<'a>, seed: u64) -> Collector<'a> {
        let layer = sight.layer;
        let outputs = if sight.target.is_some() { layer.outputs } else { 0 };
        let unknowns = layer.unknowns();
        let too_many = unknowns > MOST_UNKNOWNS;
        let unfit = too_many.then(|| format!("{unknowns} weights for each output are too many"));
        let parts = if too_many { 0 } else { layer.groups };
        let sums = (0..parts).map(|_| [Sums::new(unknowns, outputs), Sums::new(unknowns, outputs)]).collect();
        Collector { sight, sums, random: ChaCha8Rng::seed_from_u64(seed), unfit }
    }
    /// Adds a batch, or part of it where that is more than is needed. `None` where the values do not belong together.
    fn add(
        &mut self,
        seen: &Seen<'_>,
        input: &Tensor,
        target: Option<(&Target, &Tensor)>,
        beside: Option<&Tensor>,
    ) -> Option<()> {
        let layer = self.sight.layer;
        let numbers = input.to_f32()?;
        let run = Run::of(&layer.walk, &numbers, input.shape())?;
        let channel = if layer.is_convolution() { 1 } else { input.rank().checked_sub(1)? };
        (input.shape()[channel] == layer.channels * layer.groups).then_some(())?;
        let target = match target {
            Some((target, tensor)) => Some(Wanted::of(&run, target, tensor, channel, beside)?),
            None => None,
        };
        let samples = input.shape()[0];
        let [found, judged] = chosen(&mut self.random, layer.unknowns(), seen, samples, run.positions);
        self.sums.par_iter_mut().enumerate().for_each(|(part, sums)| {
            let row = |position: usize, rows: &mut Vec<f64>| {
                run.inputs(position, part * layer.channels, layer.channels, rows);
                rows.extend(layer.has_bias().then_some(1.0));
                if let Some(target) = &target {
                    target.outputs(&run, position, part * layer.outputs..(part + 1) * layer.outputs, rows);
                }
            };
            for (sums, positions) in sums.iter_mut().zip([&found, &judged]) {
                for chunk in positions.chunks(CHUNK) {
                    let mut rows = Vec::with_capacity(chunk.len() * (layer.unknowns() + layer.outputs));
                    chunk.iter().for_each(|position| row(*position, &mut rows));
                    sums.add(&rows);
                }
            }
        });
        Some(())
    }
    fn finish(self) -> Found {
        match self.unfit {
            Some(why) => Err(why),
            None if self.sums.iter().flatten().any(|sums| sums.rows() == 0) => {
                Err("too few samples to hold some out".into())
            }
            None if !self.sums.iter().flatten().all(Sums::is_finite) => {
                Err("the samples make it see or put out what is no finite number".into())
            }
            None => Ok(self.sums),
        }
    }
}

/// Which of a batch's `all` rows, sorted by sample, are looked at for a layer of so many unknowns, and which are held out.
pub(crate) fn chosen(
    random: &mut ChaCha8Rng,
    unknowns: usize,
    seen: &Seen<'_>,
    samples: usize,
    all: usize,
) -> [Vec<usize>; 2] {
    let wanted = (ROWS_PER_UNKNOWN * unknowns).clamp(ROWS.start, ROWS.end).div_ceil(seen.batches).min(all);
    // One of each of so many stretches: spread evenly, but in step with nothing in the data.
    let mut chosen = Vec::with_capacity(wanted);
    for k in 0..wanted {
        chosen.push(random.random_range(k * all / wanted..(k + 1) * all / wanted));
    }
    // The last quarter of a batch is held out, or every fourth batch where it is one sample.
    let first_held = match samples {
        1 if seen.batch % 4 == 3 => 0,
        1 => chosen.len(),
        _ => chosen.partition_point(|at| 4 * at < 3 * all),
    };
    let held = chosen.split_off(first_held);
    [chosen, held]
}

/// What a layer should put out in one batch.
struct Wanted<'a> {
    kept: &'a [usize],
    target: Cow<'a, [f32]>,
    /// How many channels the target has.
    whole: usize,
    beside: Option<Cow<'a, [f32]>>,
}

impl<'a> Wanted<'a> {
    /// `None` where the tensors are not what a run of the layer puts out. `channel` is their axis of channels.
    fn of(
        run: &Run<'_>,
        target: &'a Target,
        tensor: &'a Tensor,
        channel: usize,
        beside: Option<&'a Tensor>,
    ) -> Option<Wanted<'a>> {
        let whole = *tensor.shape().get(channel)?;
        let fits = run.puts_out(tensor.shape())
            && target.kept.iter().all(|k| *k < whole)
            && beside.is_none_or(|b| run.puts_out(b.shape()) && b.shape()[channel] == target.kept.len());
        fits.then_some(())?;
        let beside = match beside {
            Some(tensor) => Some(tensor.to_f32()?),
            None => None,
        };
        Some(Wanted { kept: &target.kept, target: tensor.to_f32()?, whole, beside })
    }
    /// Adds what these outputs of the layer should be at a position to a row.
    fn outputs(&self, run: &Run<'_>, position: usize, outputs: Range<usize>, row: &mut Vec<f64>) {
        let (start, step) = run.output(position, self.whole);
        let (start_now, step_now) = run.output(position, self.kept.len());
        for output in outputs {
            let aside = self.beside.as_ref().map_or(0.0, |b| f64::from(b[start_now + output * step_now]));
            row.push(f64::from(self.target[start + self.kept[output] * step]) - aside);
        }
    }
}
