//! What a user may ask of quantization.

mod check;

use super::{
    layers::{LayerOptions, tables},
    placement::{How, Kind},
    rule::Rule,
    target::Target,
};
use crate::{
    error::Result,
    ir::{DType, Float8},
    passes::choices::{self, Repair},
};
use serde::{Deserialize, Serialize};

/// What activations become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activations {
    /// With calibration samples `static`, and `dynamic` where that is all a layer has a kernel for; otherwise `none`.
    #[default]
    Auto,
    /// Activations stay float: only weights get smaller.
    None,
    /// Integers from measured ranges, so that the runtime computes in these.
    Static,
    /// uint8 from the range of what is at hand as the model runs: no samples are needed.
    Dynamic,
}

/// The integers of activations whose ranges are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActivationType {
    /// Eight bits without a sign.
    Uint8,
    /// Eight bits.
    Int8,
    /// Sixteen bits without a sign.
    Uint16,
    /// Sixteen bits.
    Int16,
}

impl ActivationType {
    fn dtype(self) -> DType {
        match self {
            ActivationType::Uint8 => DType::U8,
            ActivationType::Int8 => DType::I8,
            ActivationType::Uint16 => DType::U16,
            ActivationType::Int16 => DType::I16,
        }
    }
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
    /// Operators that read and write integers themselves (QLinearConv and others), some of them ONNX Runtime's own;
    /// DequantizeLinear for weights whose layers compute in float.
    QOperator,
    /// Cast and Mul, which any runtime does once, when it loads the model; activations stay float.
    Folded,
    /// ONNX Runtime's own MatMulNBits and GatherBlockQuantized, which read four bits as they are stored; other ops have
    /// their weights `folded`.
    MatMulNBits,
}

/// How the range of a static activation follows from the samples. See `docs/quant.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Observer {
    /// From the smallest to the largest element.
    MinMax,
    /// From the mean of the batches' smallest elements to that of their largest.
    Average,
    /// Without the outermost elements on either side: `percentile`.
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

/// Whether layers may cost the outputs many times their share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Noise {
    /// No: they are found by running the model, and stay float or keep more bits.
    Guard,
    /// Yes: whatever may be rounded is.
    Any,
}

/// How weights are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// `gptq` with calibration samples, enough of them, and four bits or fewer or one scale for each weight of `target=qnn`;
    /// otherwise `rtn`.
    #[default]
    Auto,
    /// To the nearest.
    Rtn,
    /// One input of a layer after the other, by what it sees on calibration samples, later ones making up for earlier.
    Gptq,
}

/// Whether scales are moved between layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Equalize {
    /// Where rounding is predicted to cost less so, and the outputs on samples or made-up inputs agree.
    #[default]
    Auto,
    /// Never.
    None,
}

/// What the bits of weights have to meet together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Budget {
    /// The share of the file's bytes.
    Size(f64),
    /// The share of right answers that may be lost.
    Drop(f64),
}

/// Options of [`Quant`](super::Quant).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantOptions {
    /// Where the model will run: what is left at `auto`, and what is not given, follows from it. See `docs/quant.md`.
    pub target: Target,
    /// What activations become.
    pub activations: Activations,
    /// What static activations are; where it is not given, uint8, or what the target knows.
    pub activation_type: Option<ActivationType>,
    /// Which operators compute a weight back from its integers.
    pub form: Form,
    /// Bits of a weight's element: 16, 8, 4, 3 or 2. Three are stored in four; so are two, below operator set 25.
    pub bits: usize,
    /// Weights are floats of eight bits of this type, not integers.
    pub float8: Option<Float8>,
    /// The share of the bytes of the file that was given to keep, 0 to 1: weights get 8, 4 or, from operator set 25 on, 2
    /// bits, or stay float, as the outputs bear it.
    pub size: Option<f64>,
    /// The largest share of right answers to lose, 0 to 1: weights get `bits`, those that the outputs depend on most more
    /// or stay float. See `docs/quant.md`.
    pub max_drop: Option<f64>,
    /// Elements along the sum of a product that share a scale, 16 to 256; 0 for one scale for each output channel. Where
    /// it is not given, 32 with four bits or fewer, otherwise 0.
    pub block: Option<usize>,
    /// Whether the integer 0 stands for zero, or each group of elements has its own zero point. Where it is not given,
    /// eight bits and more are symmetric and fewer are not.
    pub symmetric: Option<bool>,
    /// Whether integers may make the model slower, on targets that are this machine.
    pub latency: Latency,
    /// Whether layers may cost the outputs many times their share; where it is not given, not but on targets that compute
    /// floats slowly.
    pub noise: Option<Noise>,
    /// How weights are rounded.
    pub method: Method,
    /// The rank of float factors beside each rounded layer, for what rounding took from it; 0 for none.
    pub compensate: usize,
    /// Whether scales are moved across values that leave them free. See `docs/quant.md`.
    pub equalize: Equalize,
    /// Whether biases make up for the mean error of rounding, as samples tell it.
    pub repair: Repair,
    /// How the range of a static activation follows from the samples. Where it is not given, the outputs decide; with 16 bits,
    /// whose steps are fine enough, it is half as far again as `minmax`.
    pub observer: Option<Observer>,
    /// The percentage of elements that `observer=percentile` keeps at either end, 50 to 100; where it is not given, 99.999.
    pub percentile: Option<f64>,
    /// Whether weights that integer kernels multiply keep to seven bits, for processors whose sums overflow with eight;
    /// where it is not given, as this processor needs it.
    pub reduce_range: Option<bool>,
    /// Whether what the model stores as integers already becomes floats first, to be quantized anew.
    pub requantize: bool,
    /// One scale for each output channel of a weight instead of one for all of it.
    pub per_channel: bool,
    /// Globs of node names to leave alone.
    pub exclude: Vec<String>,
    /// Options of single layers, later tables over earlier ones. See `docs/quant.md`.
    #[serde(with = "tables")]
    pub layers: Vec<LayerOptions>,
}

impl Default for QuantOptions {
    fn default() -> Self {
        QuantOptions {
            target: Target::Cpu,
            activations: Activations::Auto,
            activation_type: None,
            form: Form::Auto,
            bits: 8,
            float8: None,
            size: None,
            max_drop: None,
            block: None,
            symmetric: None,
            latency: Latency::Guard,
            noise: None,
            method: Method::Auto,
            compensate: 0,
            equalize: Equalize::Auto,
            repair: Repair::Auto,
            observer: None,
            percentile: None,
            reduce_range: None,
            requantize: false,
            per_channel: true,
            exclude: Vec::new(),
            layers: Vec::new(),
        }
    }
}

impl QuantOptions {
    /// Elements in a block of weights of so many bits; 0 for none.
    pub(super) fn block(&self, bits: usize) -> usize {
        self.block.unwrap_or(if bits <= 4 && self.per_channel { 32 } else { 0 })
    }
    /// Whether 0 stands for zero in weights of so many bits.
    pub(super) fn symmetric(&self, bits: usize) -> bool {
        self.symmetric.unwrap_or(bits >= 8)
    }
    /// The type of static activations.
    pub(super) fn activation_dtype(&self) -> DType {
        self.activation_type.unwrap_or(self.target.profile().activation_type).dtype()
    }
    /// Whether static activations are of 16 bits.
    pub(super) fn has_wide_activations(&self) -> bool {
        self.activation_dtype().bits() > 8
    }
    /// How the ranges of static activations may follow from the samples, what is usual first.
    pub(super) fn rules(&self) -> Vec<Rule> {
        match (self.observer, self.percentile) {
            (_, Some(kept)) => {
                vec![Rule { observer: Observer::Percentile, outermost: (100.0 - kept) / 100.0 }]
            }
            (Some(observer), None) => vec![observer.into()],
            (None, None) if self.has_wide_activations() || self.target.profile().whole => {
                vec![Observer::MinMax.into()]
            }
            (None, None) => Rule::USUAL.to_vec(),
        }
    }
    /// Whether static activations have room beyond what samples reach: steps are fine enough, and nobody said how far.
    pub(super) fn leaves_room(&self) -> bool {
        self.has_wide_activations() && self.observer.is_none() && self.percentile.is_none()
    }
    /// Whether layers that cost the outputs too much are looked for.
    pub(super) fn guards_noise(&self) -> bool {
        let usual = if self.target.profile().whole { Noise::Any } else { Noise::Guard };
        self.noise.unwrap_or(usual) == Noise::Guard
    }
    /// The oldest operator set that has what these options ask for: DequantizeLinear by blocks came with 21, with a scale per
    /// channel with 13; Mul that broadcasts with 7, Slice by inputs with 10; four bits, and DequantizeLinear of 16, with 21,
    /// floats of eight with 19.
    pub(super) fn opset(&self) -> i64 {
        let form = match (self.form(), self.block(self.bits)) {
            (Form::Folded, 0) => 7,
            (Form::Folded, _) => 10,
            (_, 0) => 13,
            _ => 21,
        };
        let integers = self.activations != Activations::None && self.suits_integer_kernels();
        let numbers = match self.least_bits(0) {
            _ if integers && self.has_wide_activations() => 21,
            ..=4 => 21,
            16 if self.dequantizes() => 21,
            8 if self.float8.is_some() => 19,
            _ => form,
        };
        form.max(numbers)
    }
    /// What the number of bits of each weight has to meet.
    pub(super) fn budget(&self) -> Result<Option<Budget>> {
        let shares = [("size", self.size), ("max_drop", self.max_drop)];
        Ok(choices::one_share(&shares)?.map(|given| match given {
            (0, share) => Budget::Size(share),
            (_, share) => Budget::Drop(share),
        }))
    }
    /// The least bits that a weight may get.
    pub(super) fn least_bits(&self, opset: i64) -> usize {
        match self.size {
            Some(_) if opset >= 25 => 2,
            Some(_) => 4,
            None => self.bits,
        }
    }
    /// The form of weights; `auto` where it is decided for each.
    pub(super) fn form(&self) -> Form {
        if self.form == Form::Auto { self.target.profile().form } else { self.form }
    }
    /// Whether DequantizeLinear makes the weights that no integer kernel reads.
    pub(super) fn dequantizes(&self) -> bool {
        matches!(self.form(), Form::Qdq | Form::QOperator)
    }
    /// Whether weights are what kernels that multiply integers take: int8, and int16 beside activations of 16 bits where the
    /// target multiplies these.
    pub(super) fn suits_integer_kernels(&self) -> bool {
        (self.bits == 8 || self.bits == 16 && self.multiplies_wide_weights())
            && self.float8.is_none()
            && self.block(self.bits) == 0
            && self.symmetric(self.bits)
            && self.form() != Form::Folded
    }
    /// Whether weights of 16 bits are multiplied by activations of 16.
    pub(super) fn multiplies_wide_weights(&self) -> bool {
        self.has_wide_activations() && self.target.profile().wide_integers
    }
    /// Whether what is written for products of two activations, ONNX Runtime's own operator, suits.
    pub(super) fn multiplies_pairs(&self) -> bool {
        self.form() == Form::Auto && self.activation_dtype() == DType::U8
    }
    /// Whether ranges are to be measured, and to lack samples is an error.
    fn needs_ranges(&self) -> bool {
        let asked = self.form == Form::QOperator && self.activations == Activations::Auto;
        asked || self.activations == Activations::Static
    }
    /// Whether layers of a kind may compute so unasked; `samples` tells whether ranges can be measured.
    pub(super) fn allows(&self, kind: Kind, how: How, samples: bool) -> bool {
        let auto = self.activations == Activations::Auto && samples && self.suits_integer_kernels();
        match how {
            How::Float => true,
            How::Static => auto || self.needs_ranges(),
            How::Dynamic if kind.is_convolution() => {
                self.activations == Activations::Dynamic && self.target.profile().dynamic_convolutions
            }
            // The standard form, or more bits, is what was asked for, so nothing takes its place unasked.
            How::Dynamic => {
                auto && !self.dequantizes() && !self.has_wide_activations()
                    || self.activations == Activations::Dynamic
            }
        }
    }
}
