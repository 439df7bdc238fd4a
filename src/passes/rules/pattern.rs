//! The text of a rule's sides: `h = MatMul(x, $w)  y = Add(h, b?) | Sub(h, 0.5)`, ONNX syntax with a few marks.

/// One op of a pattern. Lines of one output are alternatives.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) out: String,
    /// Whether others may read the output too, marked `h* = ...`.
    pub(super) shared: bool,
    pub(super) op_type: String,
    /// Attributes that must equal (left side) or are set (right side).
    pub(super) attrs: Vec<(String, i64)>,
    pub(super) args: Vec<Arg>,
}

/// One input of an op in a pattern: `x`, `$x` (a constant), `x?` (may be left out), `$x?`, `0.5` (a constant of this
/// one number).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Arg {
    pub(super) name: String,
    pub(super) constant: bool,
    pub(super) optional: bool,
    pub(super) number: Option<f64>,
}

/// Reads lines; the error names the part that is not one.
pub(super) fn parse(text: &str) -> Result<Vec<Line>, String> {
    let mut lines: Vec<Line> = Vec::new();
    for part in text.split_inclusive(')').map(str::trim).filter(|t| !t.is_empty()) {
        let read = match (part.strip_prefix('|'), lines.last()) {
            (Some(alternative), Some(last)) => line(&last.out, last.shared, alternative),
            _ => part.split_once('=').and_then(|(out, call)| {
                let out = out.trim();
                line(out.trim_end_matches('*'), out.ends_with('*'), call)
            }),
        };
        lines.push(read.ok_or_else(|| format!("`{part}` is not `y = Op<axis=1>(x, $w, b?)`"))?);
    }
    Ok(lines)
}

fn line(out: &str, shared: bool, call: &str) -> Option<Line> {
    let (head, args) = call.strip_suffix(')')?.split_once('(')?;
    let (op_type, attrs) = match head.trim().split_once('<') {
        Some((op_type, attrs)) => (op_type, attrs.strip_suffix('>')?),
        None => (head.trim(), ""),
    };
    let attrs = attrs.split(',').filter(|a| !a.trim().is_empty()).map(|a| {
        let (key, value) = a.split_once('=')?;
        Some((key.trim().to_owned(), value.trim().parse().ok()?))
    });
    let args = args.split(',').map(str::trim).filter(|a| !a.is_empty()).map(|a| Arg {
        name: a.trim_start_matches('$').trim_end_matches('?').to_owned(),
        constant: a.starts_with('$'),
        optional: a.ends_with('?'),
        number: a.parse().ok(),
    });
    Some(Line {
        out: out.to_owned(),
        shared,
        op_type: op_type.trim().to_owned(),
        attrs: attrs.collect::<Option<_>>()?,
        args: args.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_attributes_are_read() {
        let lines = parse("h* = Concat<axis=1>(x)  y = Conv(h, $w, $b?)").unwrap();
        assert_eq!(lines[0].attrs, [("axis".to_owned(), 1)]);
        assert!(lines[0].shared && !lines[1].shared && lines[0].out == lines[1].args[0].name);
        assert_eq!(lines[1].args[2], Arg { name: "b".into(), constant: true, optional: true, number: None });
        assert!(parse("y = Conv(x) z").is_err());
    }
    #[test]
    fn alternatives_give_one_value_and_numbers_are_read() {
        let lines = parse("h* = Mul(x, 0.5) | Div(x, 2)  y = Relu(h)").unwrap();
        assert!(lines[1].out == "h" && lines[1].shared && lines[1].op_type == "Div");
        assert_eq!((lines[0].args[1].number, lines[1].args[1].number), (Some(0.5), Some(2.0)));
        assert_eq!(lines[0].args[0].number, None);
    }
}
