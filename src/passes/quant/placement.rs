//! Which kinds of layers compute in integers, and how.

use super::{
    QuantOptions,
    chains::{self, Follows},
    weights::gathers_more_than_it_multiplies,
};
use crate::{
    ir::{Graph, OpId},
    passes::Context,
};

/// What a kernel's worth depends on: layers of one kind are placed alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Conv.
    Convolution,
    /// Conv that reads few channels.
    FirstConvolution,
    /// MatMul and Gemm by a constant.
    Product,
    /// MatMul of two activations.
    Pair,
    /// LSTM.
    Recurrence,
    /// What computes between layers, element by element or over whole planes.
    Join,
    /// Means over windows.
    Window,
}

/// How a layer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// In float32.
    Float,
    /// In integers whose scales are known beforehand.
    Static,
    /// In integers whose scales follow from the values at hand.
    Dynamic,
}

impl Kind {
    pub(super) const ALL: [Kind; 7] = [
        Kind::Convolution,
        Kind::FirstConvolution,
        Kind::Product,
        Kind::Pair,
        Kind::Recurrence,
        Kind::Join,
        Kind::Window,
    ];

    /// The kind of an op; `None` where the runtime has no integer kernel for it.
    pub(super) fn of(graph: &Graph, op: OpId) -> Option<Kind> {
        let node = graph.op(op);
        let is = |names: &[&str]| names.iter().any(|name| node.is(name));
        Some(match () {
            () if is(&["Conv"]) && gathers_more_than_it_multiplies(graph, op) => Kind::FirstConvolution,
            () if is(&["Conv"]) => Kind::Convolution,
            () if is(&["MatMul"]) && multiplies_activations(graph, op) => Kind::Pair,
            () if is(&["MatMul", "Gemm"]) => Kind::Product,
            () if is(&["LSTM"]) => Kind::Recurrence,
            () => match chains::follows(graph, op)? {
                Follows::Own(kind) | Follows::Shared(kind) => kind,
                Follows::Moved | Follows::Picked | Follows::Fixed => return None,
            },
        })
    }
    /// Whether integer kernels of ONNX Runtime are mostly slower than float ones with conversions around.
    fn is_slow(self) -> bool {
        matches!(self, Kind::FirstConvolution | Kind::Window)
    }
    pub(super) fn is_convolution(self) -> bool {
        matches!(self, Kind::Convolution | Kind::FirstConvolution)
    }
    /// What there are kernels for.
    pub(super) fn ways(self) -> &'static [How] {
        match self {
            Kind::Product | Kind::Convolution | Kind::FirstConvolution => &[How::Static, How::Dynamic],
            Kind::Recurrence => &[How::Dynamic],
            Kind::Pair | Kind::Join | Kind::Window => &[How::Static],
        }
    }
}

/// How the layers of each kind compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement([How; Kind::ALL.len()]);

impl Placement {
    /// Everything in float.
    pub(super) const FLOAT: Placement = Placement([How::Float; Kind::ALL.len()]);

    /// What is fastest on most processors, whatever the sizes; `samples` tells whether ranges can be measured.
    pub(super) fn usual(options: &QuantOptions, samples: bool) -> Placement {
        let mut placement = Placement::FLOAT;
        let slow = options.target.profile().slow_kinds;
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Pair && (slow || !kind.is_slow())) {
            if let Some(how) = kind.ways().iter().find(|how| options.allows(kind, **how, samples)) {
                placement = placement.with(kind, *how);
            }
        }
        placement
    }
    /// The same with another way for one kind.
    pub(super) fn with(mut self, kind: Kind, how: How) -> Placement {
        self.0[kind as usize] = how;
        self
    }
    /// Whether the ranges of activations are needed.
    pub(super) fn is_static(&self) -> bool {
        self.0.contains(&How::Static)
    }
    /// How the layers of a kind compute.
    pub(super) fn of_kind(&self, kind: Kind) -> How {
        self.0[kind as usize]
    }
    /// How an op computes.
    pub(super) fn of(&self, graph: &Graph, op: OpId) -> How {
        Kind::of(graph, op).map_or(How::Float, |kind| self.of_kind(kind))
    }
    /// Says of which layers it is known, though not timed, that they are slower in integers.
    pub(super) fn tell(&self, graph: &Graph, layers: &[OpId], cx: &mut Context<'_>) {
        let slower = |op: &&OpId| Kind::of(graph, **op) == Some(Kind::FirstConvolution);
        for op in layers.iter().filter(slower).filter(|_| *self != Placement::FLOAT) {
            let why = "it reads few channels, of which integer kernels make less than float ones";
            cx.missed(graph.place(*op), why);
        }
    }
}

fn multiplies_activations(graph: &Graph, op: OpId) -> bool {
    graph.inputs_of(op).into_iter().flatten().all(|v| graph.constant(v).is_none())
}
