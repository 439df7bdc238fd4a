//! Second moments of what recurrent layers see and what goes into their gates.

use super::{
    Map, Recurrent, Weights,
    unroll::{Unrolled, columns, put_out, seen},
};
use crate::{
    error::Result,
    ir::{Model, Tensor},
    measure::{ALL, Probe, Seen},
    passes::{
        Context,
        linear::{Sums, chosen},
    },
};
use faer::Mat;
use rand::{SeedableRng, rngs::ChaCha8Rng};

/// Positions that are laid out at a time.
const CHUNK: usize = 512;

/// Sums over most rows and over those held out, for each map of each direction.
pub(crate) type Moments = Vec<Vec<[Sums; 2]>>;

/// Which of a layer's inputs and units are looked at.
pub(crate) struct Kept {
    pub(crate) inputs: Vec<usize>,
    pub(crate) units: Vec<usize>,
}

impl Kept {
    /// All of them.
    pub(crate) fn all(layer: &Recurrent) -> Kept {
        Kept { inputs: (0..layer.inputs).collect(), units: (0..layer.hidden).collect() }
    }
    /// Sums for what a map sees and puts out.
    fn sums(&self, map: &Map) -> [Sums; 2] {
        let inputs = if map.input { self.inputs.len() } else { 0 };
        let states = if map.sees_state() { self.units.len() } else { 0 };
        [(); 2].map(|()| Sums::new(inputs + states + 1, map.gates.len() * self.units.len()))
    }
}

/// A model with all states of a layer as an output, and the names of its input, those states and the first ones.
fn probed(model: &Model, layer: &Recurrent) -> (Model, Vec<String>) {
    let mut probed = model.clone();
    let g = &mut probed.graph;
    let states = g.output(layer.op, 0).unwrap_or_else(|| {
        let added = g.add_value("states", None);
        let mut outputs = g.outputs_of(layer.op);
        outputs[0] = Some(added);
        g.set_outputs(layer.op, &outputs);
        added
    });
    let values = [Some(layer.input), Some(states), layer.initial];
    let names = values.into_iter().flatten().map(|v| g.name_of(v).to_owned()).collect();
    (probed, names)
}

/// For each direction and map the sums of what it sees, as far as it is kept, and of what goes into the gates that are
/// kept; `None` where the values do not lie as their types say, or are no finite numbers.
pub(crate) fn moments(
    model: &Model,
    layer: &Recurrent,
    weights: &[Weights],
    kept: &Kept,
    cx: &Context<'_>,
) -> Result<Option<Moments>> {
    let (model, names) = probed(model, layer);
    let maps = || layer.maps.iter().map(|map| kept.sums(map)).collect::<Vec<_>>();
    let mut parts: Vec<_> = weights.iter().map(|_| maps()).collect();
    let mut random = ChaCha8Rng::seed_from_u64(cx.seed);
    let mut fits = true;
    cx.sweep(&[Probe { model: &model, fetch: &names }], ALL, &mut |batch: Seen<'_>| {
        let Some(layout) = batch.values.first().and_then(|values| Layout::of(layer, values)) else {
            fits = false;
            return Ok(());
        };
        let run = layout.run(layer);
        let unknowns = kept.inputs.len() + kept.units.len() + 1;
        let positions = chosen(&mut random, unknowns, &batch, run.batch, run.time * run.batch);
        for (held, positions) in positions.iter().enumerate() {
            for positions in positions.chunks(CHUNK) {
                for (d, (maps, weights)) in parts.iter_mut().zip(weights).enumerate() {
                    add(&run, weights, kept, d, positions, maps.iter_mut().map(|sums| &mut sums[held]));
                }
            }
        }
        Ok(())
    })?;
    fits &= parts.iter().flatten().flatten().all(Sums::is_finite);
    Ok(fits.then_some(parts))
}

/// Values of a run, as numbers.
struct Layout {
    numbers: Vec<Vec<f32>>,
    time: usize,
    batch: usize,
}

impl Layout {
    fn of(layer: &Recurrent, values: &[Tensor]) -> Option<Layout> {
        let [input, states, ..] = values else { return None };
        let ([time, batch, inputs], directions) = (input.shape(), layer.backwards.len()) else { return None };
        let fits = *inputs == layer.inputs
            && states.shape() == [*time, directions, *batch, layer.hidden]
            && values.get(2).is_none_or(|t| t.shape() == [directions, *batch, layer.hidden]);
        fits.then_some(())?;
        let numbers = values.iter().map(|t| Some(t.to_f32()?.into_owned())).collect::<Option<_>>()?;
        Some(Layout { numbers, time: *time, batch: *batch })
    }
    fn run<'a>(&'a self, layer: &'a Recurrent) -> Unrolled<'a> {
        let initial = self.numbers.get(2).map(Vec::as_slice);
        let [input, states] = [&self.numbers[0], &self.numbers[1]];
        Unrolled { layer, input, states, initial, time: self.time, batch: self.batch }
    }
}

/// Adds steps of a run to the sums of a direction's maps.
fn add<'s>(
    run: &Unrolled<'_>,
    weights: &Weights,
    kept: &Kept,
    direction: usize,
    positions: &[usize],
    sums: impl Iterator<Item = &'s mut Sums>,
) {
    let (inputs, states, hidden) =
        (run.inputs(positions), run.states(direction, positions), run.layer.hidden);
    for (map, sums) in run.layer.maps.iter().zip(sums) {
        let seen = seen(map, weights, &inputs, &states);
        let aim = put_out(map, weights, &inputs, seen.as_ref());
        let gates = (0..map.gates.len()).flat_map(|gate| kept.units.iter().map(move |u| gate * hidden + u));
        let aim = columns(aim.as_ref(), &gates.collect::<Vec<_>>());
        let inputs = map.input.then(|| columns(inputs.as_ref(), &kept.inputs));
        let seen = seen.map(|states| columns(states.as_ref(), &kept.units));
        let mut rows =
            Vec::with_capacity(positions.len() * (kept.inputs.len() + kept.units.len() + 1 + aim.ncols()));
        for row in 0..positions.len() {
            let parts: [Option<&Mat<f64>>; 2] = [inputs.as_ref(), seen.as_ref()];
            parts.into_iter().flatten().for_each(|part| rows.extend(part.row(row).iter()));
            rows.push(1.0);
            rows.extend(aim.row(row).iter());
        }
        sums.add(&rows);
    }
}
