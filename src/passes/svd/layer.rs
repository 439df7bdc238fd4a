//! Which layers can be split, by which forms, and what each costs.

use super::{
    Svd,
    first::Reach,
    form::{Form, Ranks},
};
use crate::{
    ir::{Graph, Model, OpId, ValueId},
    ops::{cost, quantized::dequantized},
    passes::{Context, linear::Layer},
};
use faer::Mat;

const QUANTIZED: &str = "left whole: its weights are quantized; factor first, then quantize";
const STATE: &str = "the matrix of its state stays whole: it works inside the operator, step by step";
const STORED: &str =
    "left whole: its weights are stored in fewer bits than it works in; factor first, then cast";
/// Ranks of the first kernel that are looked at where a second rank or a whole solution depends on them.
const STEPS: usize = 12;

/// What a layer makes of its matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Rows of outputs, which it can be fitted to.
    Solved,
    /// Something of the products of its inputs: a pointwise layer before it makes fewer of these.
    Fed,
    /// Rows of it.
    Lookup,
}

/// A layer that can be split.
pub(super) struct Candidate {
    pub(super) layer: Layer,
    /// Others with the same weights: they share the factors too.
    pub(super) others: Vec<Layer>,
    pub(super) kind: Kind,
    /// The extents of its kernel; none for matrices.
    pub(super) kernel: Vec<usize>,
    /// What it costs as it is.
    pub(super) whole: Price,
    /// How often each element of a kernel works, in all layers that share it: at each position of the input, of what lies
    /// between the two kernels of [`Form::Spatial`], and of the output.
    positions: [u64; 3],
}

/// What a layer or what it becomes costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Price {
    pub(super) macs: u64,
    /// Elements of weights, bias left out.
    pub(super) params: u64,
    /// Bytes of weights.
    pub(super) bytes: u64,
}

impl Price {
    /// Whether it is less in weights, and in work where there was any.
    fn saves(self, whole: Price) -> bool {
        (self.macs < whole.macs || whole.macs == 0) && self.params < whole.params
    }
}

/// Every layer that can be split, in the graph's order; why others cannot is remarked.
pub(super) fn find(pass: &Svd, model: &Model, cx: &mut Context<'_>) -> Vec<Candidate> {
    let g = &model.graph;
    let quantized = dequantized(g);
    let mut found = Vec::new();
    for op in g.order() {
        if g.input(op, 1).is_some_and(|w| quantized.contains(&w)) && linear(g, op) {
            cx.missed(g.place(op), QUANTIZED);
            continue;
        }
        if linear(g, op) && is_stored(g, op) {
            cx.missed(g.place(op), STORED);
            continue;
        }
        let of = |kind| move |layer: Result<Layer, _>| (kind, layer.map(|layer| vec![layer]));
        let layers = Layer::fed(g, op).map(of(Kind::Fed));
        let layers = layers.or_else(|| Layer::lookup(g, op).map(of(Kind::Lookup)));
        let layers = layers.or_else(|| Some((Kind::Solved, Layer::sharing(g, op, model.opset())?)));
        let layers = layers.or_else(|| Layer::of(g, op, model.opset()).map(of(Kind::Solved)));
        let Some((kind, layers)) = layers else { continue };
        if layers.as_ref().is_ok_and(|layers| layers[0].op != op) {
            // It was looked at with the first of those that it shares its weights with.
            continue;
        }
        match layers.map_err(str::to_owned).and_then(|layers| candidate(pass, g, kind, layers)) {
            Ok(candidate) => {
                if candidate.kind == Kind::Fed && !candidate.layer.is_convolution() {
                    cx.missed(g.place(op), STATE);
                }
                found.push(candidate);
            }
            Err(why) => cx.missed(g.place(op), format!("left whole: {why}")),
        }
    }
    found
}

fn linear(g: &Graph, op: OpId) -> bool {
    ["Conv", "Gemm", "MatMul"].iter().any(|name| g.op(op).is(name))
}

/// Whether its weights are a constant that is cast before it is used.
fn is_stored(g: &Graph, op: OpId) -> bool {
    let cast =
        g.input(op, 1).and_then(|w| g.producer(w)).map(|(cast, _)| cast).filter(|op| g.op(*op).is("Cast"));
    cast.and_then(|cast| g.constant(g.input(cast, 0)?)).is_some()
}

fn candidate(pass: &Svd, g: &Graph, kind: Kind, mut layers: Vec<Layer>) -> Result<Candidate, String> {
    let excluded = |layer: &Layer| pass.exclude.is_match(g.place(layer.op).name());
    if layers.iter().any(excluded) || pass.exclude.is_match(g.name_of(layers[0].weight)) {
        return Err("it is excluded by name".into());
    }
    let work: Vec<Work> = layers.iter().map(|layer| work(g, kind, layer)).collect();
    let others = layers.split_off(1);
    let layer = layers.remove(0);
    if layer.groups > 1 && layer.channels == 1 {
        return Err("each channel has a kernel of its own: they share nothing".into());
    }
    let shape = g.constant(layer.weight).map(|t| t.shape().to_vec()).unwrap_or_default();
    let solved = kind == Kind::Solved;
    let kernel = if solved && layer.is_convolution() { shape[2..].to_vec() } else { Vec::new() };
    let (params, bytes) = g.constant(layer.weight).map_or((0, 0), |t| (t.len() as u64, t.byte_len() as u64));
    if work.iter().any(|work| work.positions[2] == 0) {
        return Err("its multiply-accumulates are not known".into());
    }
    let macs = work.iter().map(|work| work.macs).sum();
    let positions = [0, 1, 2].map(|k| work.iter().map(|work| work.positions[k]).sum());
    let whole = Price { macs, params, bytes };
    let candidate = Candidate { layer, others, kind, kernel, whole, positions };
    match candidate.grid(1).is_empty() {
        true => Err("no rank saves both weights and multiply-accumulates".into()),
        false => Ok(candidate),
    }
}

/// What a layer does in a run.
struct Work {
    macs: u64,
    /// See [`Candidate::positions`].
    positions: [u64; 3],
}

fn work(g: &Graph, kind: Kind, layer: &Layer) -> Work {
    let params = g.constant(layer.weight).map_or(0, |t| t.len() as u64);
    // How many numbers come in, or how many rows of the table are looked up, and the rows that these are.
    let numbers: u64 =
        g.shape(layer.input).into_iter().flatten().map(|d| d.known().unwrap_or(1) as u64).product();
    let rows = numbers / if kind == Kind::Lookup { 1 } else { layer.channels.max(1) as u64 };
    let macs = match kind {
        Kind::Solved => cost::of_op(g, layer.op).macs,
        Kind::Fed => rows * params,
        Kind::Lookup => 0,
    };
    let solved = kind == Kind::Solved;
    let output = if solved { macs / params.max(1) } else { rows };
    // The first kernel of two leaves the width as it is.
    let width = |v: ValueId| extents(g, v).last().copied().unwrap_or(1).max(1);
    let between = output / width(layer.output) * width(layer.input);
    let has_kernel = solved && layer.is_convolution();
    let input = if has_kernel { extents(g, layer.input).iter().product() } else { output };
    Work { macs, positions: [input, between, output] }
}

/// The known extents of a value but that of its channels; others count as 1.
fn extents(g: &Graph, v: ValueId) -> Vec<u64> {
    let shape = g.shape(v);
    let all = shape.iter().flat_map(|s| s.iter().enumerate()).filter(|(axis, _)| *axis != 1);
    all.map(|(_, d)| d.known().unwrap_or(1) as u64).collect()
}

/// The step between ranks of a side so wide.
fn step(side: usize, round: usize) -> usize {
    if side >= 2 * round { round } else { 1 }
}

impl Candidate {
    /// All layers that it is, each with the same weights.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Layer> {
        std::iter::once(&self.layer).chain(&self.others)
    }
    /// Whether it can be fitted anew behind others: no least squares problem has several outputs to come near to.
    pub(super) fn is_fitted(&self) -> bool {
        self.kind == Kind::Solved && self.others.is_empty()
    }
    /// The weights of each part as they are now, a row for each input and a column for each output.
    pub(super) fn weights(&self, model: &Model) -> Option<Vec<Mat<f64>>> {
        let parts = self.layer.weights(&model.graph)?;
        Some(parts.iter().map(|part| self.layer.without_bias(part)).collect())
    }
    fn area(&self) -> usize {
        self.kernel.iter().product()
    }
    /// Inputs and outputs of each kernel that a part becomes, kernel positions among them.
    pub(super) fn kernels(&self, form: Form, [p, b]: Ranks) -> Vec<(usize, usize)> {
        let (channels, area, outputs) = (self.layer.channels, self.area(), self.layer.outputs);
        match form {
            Form::Outputs => vec![(channels * area, b), (b, outputs)],
            Form::Inputs => vec![(channels, p), (p * area, outputs)],
            Form::Spatial => {
                let width = self.kernel.last().copied().unwrap_or(1);
                vec![(channels * area / width, p), (p * width, outputs)]
            }
            Form::Tucker => vec![(channels, p), (p * area, b), (b, outputs)],
            Form::Depthwise => vec![(area, channels * p), (channels * p, outputs)],
        }
    }
    /// What it costs in a form.
    pub(super) fn price(&self, form: Form, ranks: Ranks) -> Price {
        let [at_input, between, at_output] = self.positions;
        let first = match form {
            _ if self.kind == Kind::Lookup => 0,
            Form::Outputs | Form::Depthwise => at_output,
            Form::Inputs | Form::Tucker => at_input,
            Form::Spatial => between,
        };
        let mut price = Price::default();
        for (k, (rows, columns)) in self.kernels(form, ranks).into_iter().enumerate() {
            let elements = (rows * columns * self.layer.groups) as u64;
            price.params += elements;
            price.macs += elements * if k == 0 { first } else { at_output };
        }
        price.bytes = price.params * self.whole.bytes / self.whole.params.max(1);
        price
    }
    /// For each form that saves something, the ranks that may: of the first kernel and of the last.
    pub(super) fn grid(&self, round: usize) -> Vec<(Form, Vec<usize>, Vec<usize>)> {
        let (inputs, outputs) = (self.layer.channels * self.area(), self.layer.outputs);
        let mut found = Vec::new();
        // What is split by what was known before is split by the directions of its outputs.
        for form in Form::of(&self.kernel).iter().filter(|form| self.is_fitted() || **form == Form::Outputs) {
            let inner = match form.first(&self.kernel) {
                Some(Reach::Across(free)) => spaced((inputs / free).min(free * outputs), round),
                Some(Reach::Within(area)) => few(area),
                None => vec![0],
            };
            let outer = match form.ends_pointwise() {
                true => ranks(inputs.min(outputs), round),
                false => vec![0],
            };
            let saves = |p: usize, b: usize| self.price(*form, [p, b]).saves(self.whole);
            let (least_p, least_b) = (inner[0], outer[0]);
            let inner: Vec<usize> = inner.into_iter().filter(|p| saves(*p, least_b)).collect();
            let outer: Vec<usize> = outer.into_iter().filter(|b| saves(least_p, *b)).collect();
            if !inner.is_empty() && !outer.is_empty() {
                found.push((*form, inner, outer));
            }
        }
        found
    }
    /// Whether a form saves something at these ranks.
    pub(super) fn saves(&self, form: Form, ranks: Ranks) -> bool {
        self.price(form, ranks).saves(self.whole)
    }
}

/// The ranks of a side so wide.
fn ranks(side: usize, round: usize) -> Vec<usize> {
    let step = step(side, round);
    (1..=(side / step).max(1)).map(|k| (k * step).min(side)).collect()
}

/// Some of them, evenly spread.
fn spaced(side: usize, round: usize) -> Vec<usize> {
    let all = ranks(side, round);
    let stride = all.len().div_ceil(STEPS);
    all.into_iter().skip(stride - 1).step_by(stride).collect()
}

/// Some numbers up to this one, each a third or half more than the one before.
fn few(most: usize) -> Vec<usize> {
    (1..=most).filter(|n| n.is_power_of_two() || n % 3 == 0 && (n / 3).is_power_of_two()).collect()
}
