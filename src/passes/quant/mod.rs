//! Quantization: weights in eight bits or fewer always, activations in eight where calibration samples tell their ranges.
//!
//! The pass only annotates values with a [`QuantScheme`](crate::ir::QuantScheme); writing the model turns that into
//! operators.

mod activations;
mod dynamic;
mod form;
mod gptq;
mod guard;
mod histogram;
mod learned;
mod observe;
mod placement;
mod saturation;
mod scales;
mod target;
mod weights;

use super::{Changed, Context, Named, Needs, Options, Pass, globs, pass::changed_options};
use crate::{
    error::{Error, Result},
    ir::{Graph, Model, OpId, ValueId, Where},
};
use activations::Schemes;
use globset::GlobSet;
use placement::{How, Kind, Placement};
use scales::Integers;
use serde::{Deserialize, Serialize};
use weights::Layers;

pub use target::Target;

/// What activations become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// With calibration samples `static`, and `dynamic` where that is all a layer has a kernel for; otherwise `none`.
    #[default]
    Auto,
    /// Activations stay float: only weights get smaller.
    None,
    /// uint8 from measured ranges, so that the runtime computes in integers.
    Static,
    /// uint8 from the range of what is at hand as the model runs: no samples are needed.
    Dynamic,
}

/// Which operators compute a weight back from its integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// What the target asks for; on the processor, for each weight what ONNX Runtime is fastest with.
    #[default]
    Auto,
    /// DequantizeLinear, which runtimes that compute in integers look for.
    Qdq,
    /// Cast and Mul, which any runtime does once, when it loads the model; activations stay float.
    Folded,
    /// ONNX Runtime's own MatMulNBits and GatherBlockQuantized, which read four bits as they are stored; other ops have
    /// their weights `folded`.
    MatMulNBits,
}

/// How the range of a static activation follows from the samples. See `docs/quant.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Observer {
    /// From the smallest to the largest element.
    MinMax,
    /// Without the outermost elements, 1 in 100,000 on either side.
    #[default]
    Percentile,
    /// The least squared error.
    Mse,
    /// The least loss of information (Kullback-Leibler divergence).
    Entropy,
}

/// Whether integers may make the model slower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Latency {
    /// No: layers are timed on this machine, and compute in integers where that is fastest.
    #[default]
    Guard,
    /// Yes: nothing is timed.
    Any,
}

/// How weights are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// `gptq` with calibration samples and four bits or fewer, otherwise `rtn`.
    #[default]
    Auto,
    /// To the nearest.
    Rtn,
    /// One input of a layer after the other, by what it sees on calibration samples, later ones making up for earlier.
    Gptq,
}

/// Options of [`Quant`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantOptions {
    /// Where the model will run: what is left at `auto`, and what is not given, follows from it. See `docs/quant.md`.
    pub target: Target,
    /// What activations become.
    pub activations: Activations,
    /// Which operators compute a weight back from its integers.
    pub form: Form,
    /// Bits of a weight's element: 8, 4, 3 or 2. Three are stored in four; so are two, below operator set 25.
    pub bits: usize,
    /// Elements along the sum of a product that share a scale, 16 to 256; 0 for one scale for each output channel. Where
    /// it is not given, 32 with four bits or fewer, otherwise 0.
    pub block: Option<usize>,
    /// Whether the integer 0 stands for zero, or each group of elements has its own zero point. Where it is not given,
    /// eight bits are symmetric and fewer are not.
    pub symmetric: Option<bool>,
    /// Whether integers may make the model slower, on targets that are this machine.
    pub latency: Latency,
    /// How weights are rounded.
    pub method: Method,
    /// How the range of a static activation follows from the samples.
    pub observer: Observer,
    /// Whether weights that integer kernels multiply keep to seven bits, for processors whose sums overflow with eight;
    /// where it is not given, as this processor needs it.
    pub reduce_range: Option<bool>,
    /// One scale for each output channel of a weight instead of one for all of it.
    pub per_channel: bool,
    /// Globs of node names to leave alone.
    pub exclude: Vec<String>,
}

impl Default for QuantOptions {
    fn default() -> Self {
        QuantOptions {
            target: Target::Cpu,
            activations: Activations::Auto,
            form: Form::Auto,
            bits: 8,
            block: None,
            symmetric: None,
            latency: Latency::Guard,
            method: Method::Auto,
            observer: Observer::Percentile,
            reduce_range: None,
            per_channel: true,
            exclude: Vec::new(),
        }
    }
}

impl QuantOptions {
    /// Elements in a block; 0 for none.
    fn block(&self) -> usize {
        self.block.unwrap_or(if self.bits <= 4 && self.per_channel { 32 } else { 0 })
    }
    /// The form of weights; `auto` where it is decided for each.
    fn form(&self) -> Form {
        if self.form == Form::Auto { self.target.profile().form } else { self.form }
    }
    fn symmetric(&self) -> bool {
        self.symmetric.unwrap_or(self.bits == 8)
    }
    /// Whether weights are what kernels that multiply integers take.
    fn suits_integer_kernels(&self) -> bool {
        self.bits == 8 && self.block() == 0 && self.symmetric() && self.form() != Form::Folded
    }
    fn check(&self) -> Result<()> {
        let wrong = |what: &str, help: &str| Err(Error::usage(format!("pass `quant`: {what}"), help));
        if !matches!(self.bits, 2 | 3 | 4 | 8) {
            return wrong(
                &format!("weights of {} bits cannot be stored", self.bits),
                "`bits` is 8, 4, 3 or 2",
            );
        }
        let block = self.block();
        if self.form == Form::MatMulNBits && !(self.bits == 4 && block >= 16 && block.is_power_of_two()) {
            return wrong(
                "`form=matmulnbits` is for four bits",
                "give `bits=4`, and as `block` a power of two",
            );
        }
        if !matches!(block, 0 | 16..=256) {
            return wrong(&format!("blocks of {block} elements"), "`block` is 0 or from 16 to 256");
        }
        if block > 0 && !self.per_channel {
            return wrong(
                "one scale for a weight excludes blocks",
                "leave out `block` or `per_channel=false`",
            );
        }
        let integers = matches!(self.activations, Activations::Static | Activations::Dynamic);
        if integers && !self.suits_integer_kernels() {
            let help =
                "leave out `activations`, or `target=cuda`, `form=folded`, `bits`, `block` and `symmetric`";
            return wrong(
                "integer kernels need weights of symmetric int8 in the form `qdq`, without blocks",
                help,
            );
        }
        Ok(())
    }
    /// Whether layers may compute so; `samples` tells whether ranges can be measured.
    fn allows(&self, how: How, samples: bool) -> bool {
        let auto = self.activations == Activations::Auto && samples && self.suits_integer_kernels();
        match how {
            How::Float => true,
            How::Static => auto || self.activations == Activations::Static,
            // The standard form is what was asked for, so nothing takes its place unasked.
            How::Dynamic => auto && self.form() != Form::Qdq || self.activations == Activations::Dynamic,
        }
    }
}

/// Quantizes weights to integers of few bits, and activations to uint8 where samples are at hand.
pub struct Quant {
    options: QuantOptions,
    exclude: GlobSet,
}

impl Quant {
    fn excludes(&self, graph: &Graph, op: OpId) -> bool {
        self.exclude.is_match(graph.place(op).name())
    }
    /// How layers of a kind may compute.
    fn ways(&self, kind: Kind, samples: bool) -> Vec<How> {
        let integers = kind.ways().iter().filter(|how| self.options.allows(**how, samples));
        [How::Float].into_iter().chain(integers.copied()).collect()
    }
    /// Every kind in integers.
    fn widest(&self, samples: bool) -> Placement {
        let first = |kind| self.ways(kind, samples).get(1).map(|how| (kind, *how));
        Kind::ALL.into_iter().filter_map(first).fold(Placement::FLOAT, |all, (kind, how)| all.with(kind, how))
    }
    /// Gives weights their forms and activations their schemes. Returns how many activations are integers, and what of
    /// them is left alone and why.
    fn place(
        &self,
        model: &mut Model,
        layers: &Layers,
        placement: &Placement,
        schemes: &Schemes,
    ) -> (u64, Vec<(Where, String)>) {
        let (graph, mut said) = (&mut model.graph, Vec::new());
        dynamic::annotate(graph, layers, placement);
        let profile = self.options.target.profile();
        let seven_bits = self.options.reduce_range.or(profile.reduce_range);
        if seven_bits.unwrap_or_else(saturation::here) {
            saturation::avoid(graph, layers, placement);
        }
        let activations = activations::annotate(self, graph, layers, placement, schemes, &mut said);
        form::choose(self.options.form(), graph, layers);
        (activations, said)
    }
}

impl Named for Quant {
    const NAME: &'static str = "quant";
    const ABOUT: &'static str =
        "Store weights as int8, and compute in integers where samples tell the ranges";
    type Options = QuantOptions;

    fn new(options: QuantOptions) -> Result<Self> {
        options.check()?;
        Ok(Quant { exclude: globs::excluded(&options.exclude)?, options })
    }
}

impl Pass for Quant {
    fn name(&self) -> &str {
        Self::NAME
    }
    fn needs(&self) -> Needs {
        // Four bits and DequantizeLinear by blocks came with 21, with a scale per channel with 13; Mul that broadcasts
        // with 7, Slice by inputs with 10.
        let opset = match (self.options.form(), self.options.block()) {
            _ if self.options.bits <= 4 => 21,
            (Form::Folded, 0) => 7,
            (Form::Folded, _) => 10,
            (_, 0) => 13,
            _ => 21,
        };
        Needs { simplified: true, opset: Some(opset) }
    }
    /// Eight bits leave 20 to 45 dB, four 10 to 30; below, only the task can tell.
    fn least_sqnr(&self) -> Option<f64> {
        match self.options.bits {
            8 => Some(10.0),
            4 => Some(5.0),
            _ => None,
        }
    }
    fn options(&self) -> Options {
        changed_options(&self.options, Some(&QuantOptions::default()))
    }
    fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<Changed> {
        let samples = cx.has_samples();
        let mut placement = Placement::usual(&self.options, samples);
        let plan = weights::Plan {
            pass: self,
            integers: Integers::of(self.options.bits, self.options.symmetric(), model.opset()),
            block: self.options.block(),
            activations: placement != Placement::FLOAT,
        };
        let layers = weights::annotate(&plan, &mut model.graph, cx);
        cx.check_cancelled()?;
        let learn = match self.options.method {
            Method::Auto => self.options.bits <= 4 && samples,
            Method::Rtn => false,
            Method::Gptq => true,
        };
        if learn {
            learned::round(&plan, model, &layers, cx)?;
        } else if plan.integers.saturate_early() {
            learned::to_nearest(&plan, &mut model.graph, &layers.weights);
        }
        let mut schemes = Schemes::new();
        let timed = self.options.target.profile().timed && self.options.latency == Latency::Guard;
        let guarded = timed && placement != Placement::FLOAT;
        // What is timed may place more than what is usual does.
        let widest = if guarded { self.widest(samples) } else { placement };
        if widest.is_static() {
            schemes = activations::schemes(self, model, &layers, &widest, cx)?;
        }
        let timed = match guarded {
            true => guard::choose(self, model, &layers, &schemes, placement, cx)?,
            false => None,
        };
        match timed {
            Some(fastest) => placement = fastest,
            None => placement.tell(&model.graph, &layers.ops, cx),
        }
        let (activations, said) = self.place(model, &layers, &placement, &schemes);
        said.into_iter().for_each(|(at, why)| cx.missed(at, why));
        cx.count("activations", activations);
        weights::tell(&mut model.graph, &layers, &placement, cx);
        let stored = |v: &ValueId| model.graph.value(*v).quant.is_some();
        Ok(Changed::from(layers.weights.iter().any(stored)))
    }
}

#[cfg(test)]
mod tests;
