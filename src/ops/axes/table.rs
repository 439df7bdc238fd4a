//! Axis rules that fit one line (the syntax is described in [`super::rule`]).

use crate::ir::Op;

/// An operator's rule: the text, and the attribute bound to one of its names with its default value.
pub(super) struct Line {
    ops: &'static [&'static str],
    /// The first opset this line is right for.
    since: i64,
    /// The value of the attribute `layout` it is right for; 0 where an op has none.
    layout: i64,
    pub(super) text: &'static str,
    pub(super) bound: Option<(&'static str, &'static str, i64)>,
}

const fn line(ops: &'static [&'static str], text: &'static str) -> Line {
    Line { ops, since: 1, layout: 0, text, bound: None }
}

const TABLE: &[Line] = &[
    Line {
        bound: Some(("g", "group", 1)),
        ..line(&["Conv"], "b (g i) s!*, (g o) i t!*, (g o)? -> b (g o) u!*")
    },
    Line {
        bound: Some(("g", "group", 1)),
        ..line(&["ConvTranspose"], "b (g i) s!*, (g i) o t!*, (g o)? -> b (g o) u!*")
    },
    line(&["BatchNormalization"], "b c s*, c, c, c, c -> b c s*"),
    line(&["InstanceNormalization"], "b c s~*, c, c -> b c s*"),
    Line {
        since: 18,
        bound: Some(("g", "num_groups", 1)),
        ..line(&["GroupNormalization"], "b (g i~) s~*, g, g -> b (g i) s*")
    },
    Line {
        since: 21,
        bound: Some(("g", "num_groups", 1)),
        ..line(&["GroupNormalization"], "b (g i~) s~*, (g i), (g i) -> b (g i) s*")
    },
    line(&["LRN"], "b c~ s* -> b c s*"),
    line(
        &["MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"],
        "b c s!* -> b c u!*",
    ),
    line(&["GridSample"], "b c s!*, b p!* -> b c u!*"),
    line(&["RoiAlign"], "n! c s!*, r f!, r -> r c u!*"),
    line(&["MaxRoiPool"], "n! c s!*, r f! -> r c u!*"),
    line(&["MatMul"], "a* m k, a* k n -> a* m n"),
    recurrent(
        0,
        &["LSTM"],
        "t! b k, d! (q! h) k, d (q h) h, d (e! h)?, b?, d b h?, d b h?, d (p! h)? -> t d b h?, d b h?, d b h?",
    ),
    recurrent(
        1,
        &["LSTM"],
        "b t! k, d! (q! h) k, d (q h) h, d (e! h)?, b?, b d h?, b d h?, d (p! h)? -> b t d h?, b d h?, b d h?",
    ),
    recurrent(
        0,
        &["GRU", "RNN"],
        "t! b k, d! (q! h) k, d (q h) h, d (e! h)?, b?, d b h? -> t d b h?, d b h?",
    ),
    recurrent(
        1,
        &["GRU", "RNN"],
        "b t! k, d! (q! h) k, d (q h) h, d (e! h)?, b?, b d h? -> b t d h?, b d h?",
    ),
];

/// Both directions have as many units, and every gate holds all of them. Steps are `t`, directions `d`.
const fn recurrent(layout: i64, ops: &'static [&'static str], text: &'static str) -> Line {
    Line { layout, bound: Some(("h", "hidden_size", 0)), ..line(ops, text) }
}

/// The line for an op of ONNX's own domain at an opset.
pub(super) fn find(op: &Op, opset: i64) -> Option<&'static Line> {
    let layout = op.int("layout").unwrap_or(0);
    let fits = |l: &&Line| l.since <= opset && l.layout == layout && l.ops.contains(&op.op_type.as_str());
    TABLE.iter().filter(fits).max_by_key(|l| l.since)
}
