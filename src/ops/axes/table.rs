//! Axis rules that fit one line (the syntax is described in [`super::rule`]).

/// An operator's rule: the text, and the attribute bound to one of its names with its default value.
pub(super) struct Line {
    ops: &'static [&'static str],
    /// The first opset this line is right for.
    since: i64,
    pub(super) text: &'static str,
    pub(super) bound: Option<(&'static str, &'static str, i64)>,
}

const fn line(ops: &'static [&'static str], text: &'static str) -> Line {
    Line { ops, since: 1, text, bound: None }
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
    line(&["MatMul"], "a* m k, a* k n -> a* m n"),
];

/// The line for an operator of ONNX's own domain at an opset.
pub(super) fn find(op_type: &str, opset: i64) -> Option<&'static Line> {
    TABLE.iter().filter(|l| l.since <= opset && l.ops.contains(&op_type)).max_by_key(|l| l.since)
}
