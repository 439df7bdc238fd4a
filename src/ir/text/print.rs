//! Models to text.

use super::{is_identifier, is_type_word, literal};
use crate::ir::{
    Attr, Attribute, Dim, Function, Graph, Model, Op, OpId, OpsetImport, Origin, SparseTensor, Tensor,
    TensorType, Type, ValueId,
};
use std::fmt::Write;

/// The model in ONNX's textual syntax; see the [module](super) for what is shown and what is not. Two prints of equal
/// models are equal.
pub fn print(model: &Model) -> String {
    let mut p = Printer::default();
    let header = format!("ir_version: {}, opset_import: {}", model.ir_version, opsets(&model.opsets));
    p.line(&format!("<{header}>"));
    let head = signature(&name(&model.graph.name), &model.graph);
    p.line(&head);
    p.graph(&model.graph, "");
    for f in &model.functions {
        p.function(f);
    }
    p.text
}

#[derive(Default)]
struct Printer {
    text: String,
    depth: usize,
    /// Digests of tensors not shown in the op being printed, for the comment at the end of its line.
    digests: Vec<u32>,
}

impl Printer {
    fn line(&mut self, line: &str) {
        let indent = self.depth * 2;
        // writing to a String cannot fail
        let _ = writeln!(self.text, "{:indent$}{line}", "");
    }

    /// A graph after its signature: its constants and ops. `after` follows the closing brace.
    fn graph(&mut self, g: &Graph, after: &str) {
        self.constants(g);
        self.line("{");
        self.depth += 1;
        for op in g.order() {
            self.op(g, op);
        }
        self.depth -= 1;
        self.line(&format!("}}{after}"));
    }

    fn constants(&mut self, g: &Graph) {
        let is_constant =
            |v: &ValueId| matches!(g.value(*v).origin, Origin::Initializer(_) | Origin::SparseInitializer(_));
        let defaults = g.inputs.iter().copied().filter(is_constant);
        let others = g.values().filter(|v| is_constant(v) && !g.is_input(*v));
        let all: Vec<_> = defaults.chain(others).collect();
        let Some(last) = all.last().copied() else { return };
        self.line("<");
        self.depth += 1;
        for v in all {
            let comma = if v == last { "" } else { "," };
            let name = name(g.name_of(v));
            let line = match &g.value(v).origin {
                Origin::SparseInitializer(s) => format!("{} {name}{comma}", sparse_type(s)),
                Origin::Initializer(t) => match literal::show(t) {
                    Some(values) => format!("{} {name} = {{{values}}}{comma}", tensor_type(&t.ty())),
                    None => format!("{} {name}{comma} # {:08x}", tensor_type(&t.ty()), t.digest()),
                },
                _ => continue,
            };
            self.line(&line);
        }
        self.depth -= 1;
        self.line(">");
    }

    fn op(&mut self, g: &Graph, id: OpId) {
        let op = g.op(id);
        let slots = |slots: &[Option<ValueId>]| {
            let names = slots.iter().map(|v| v.map_or_else(|| "\"\"".to_owned(), |v| name(g.name_of(v))));
            names.collect::<Vec<_>>().join(", ")
        };
        let mut line = String::new();
        if !op.name.is_empty() {
            line = format!("[{}] ", name(&op.name));
        }
        let outputs = slots(&g.outputs_of(id));
        line += &format!("{outputs}{}= {} ", if outputs.is_empty() { "" } else { " " }, op_type(op));
        let outer = std::mem::take(&mut self.digests);
        if !op.attrs.is_empty() {
            let attrs: Vec<_> = op.attrs.iter().map(|a| self.attribute(a)).collect();
            line += &format!("<{}> ", attrs.join(", "));
        }
        line += &format!("({})", slots(&g.inputs_of(id)));
        let digests = std::mem::replace(&mut self.digests, outer);
        if !digests.is_empty() {
            let texts: Vec<_> = digests.iter().map(|d| format!("{d:08x}")).collect();
            line += &format!(" # {}", texts.join(" "));
        }
        self.line(&line);
    }

    fn attribute(&mut self, a: &Attribute) -> String {
        let name = name(&a.name);
        if let Attr::Reference(to, kind) = &a.value {
            let kind = attribute_kind(*kind).map_or_else(String::new, |k| format!(": {k}"));
            return format!("{name}{kind} = @{}", self::name(to));
        }
        let (kind, value) = self.attribute_value(&a.value);
        match value.as_str() {
            "[]" => format!("{name}: {kind} = []"),
            _ => format!("{name} = {value}"),
        }
    }

    /// The kind of an attribute's value, and its text.
    fn attribute_value(&mut self, value: &Attr) -> (&'static str, String) {
        fn list<T>(items: &[T], f: impl FnMut(&T) -> String) -> String {
            format!("[{}]", items.iter().map(f).collect::<Vec<_>>().join(", "))
        }
        let string = |s: &bytes::Bytes| literal::quote(&String::from_utf8_lossy(s));
        match value {
            Attr::Float(x) => ("float", format!("{x:?}")),
            Attr::Int(x) => ("int", x.to_string()),
            Attr::String(s) => ("string", string(s)),
            Attr::Tensor(t) => ("tensor", self.tensor(t)),
            Attr::Graph(g) => ("graph", self.body(g)),
            Attr::SparseTensor(s) => ("sparse_tensor", self.sparse(s)),
            Attr::Type(t) => ("type_proto", type_text(t)),
            Attr::Floats(xs) => ("floats", list(xs, |x| format!("{x:?}"))),
            Attr::Ints(xs) => ("ints", list(xs, i64::to_string)),
            Attr::Strings(xs) => ("strings", list(xs, string)),
            Attr::Tensors(xs) => ("tensors", list(xs, |t| self.tensor(t))),
            Attr::Graphs(xs) => ("graphs", list(xs, |g| self.body(g))),
            Attr::SparseTensors(xs) => ("sparse_tensors", list(xs, |s| self.sparse(s))),
            Attr::Types(xs) => ("type_protos", list(xs, type_text)),
            Attr::Reference(to, _) => ("", format!("@{}", name(to))),
        }
    }

    fn tensor(&mut self, t: &Tensor) -> String {
        let values = literal::show(t).unwrap_or_else(|| {
            self.digests.push(t.digest());
            String::new()
        });
        format!("{} {{{values}}}", tensor_type(&t.ty()))
    }

    fn sparse(&mut self, s: &SparseTensor) -> String {
        format!("{} {{{}, {}}}", sparse_type(s), self.tensor(&s.values), self.tensor(&s.indices))
    }

    /// A body, printed one level deeper than the op it belongs to; the syntax wants a bare word as its name.
    fn body(&mut self, g: &Graph) -> String {
        let mut word: String =
            g.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let number = ["inf", "infinity", "nan"].contains(&word.to_ascii_lowercase().as_str());
        if !is_identifier(&word) || is_type_word(&word) || number {
            word.insert(0, '_');
        }
        let mut inner = Printer { depth: self.depth + 1, ..Printer::default() };
        inner.graph(g, "");
        format!("{}\n{}", signature(&word, g), inner.text.trim_end())
    }

    fn function(&mut self, f: &Function) {
        let overload = match f.overload.as_str() {
            "" => String::new(),
            text => format!(", overload: {}", literal::quote(text)),
        };
        let domain = literal::quote(&f.domain);
        self.line(&format!("<domain: {domain}{overload}, opset_import: {}>", opsets(&f.opsets)));
        let required = f.attributes.iter().map(|a| name(a)).collect::<Vec<_>>();
        let defaults = f.defaults.iter().map(|a| self.attribute(a)).collect::<Vec<_>>();
        let attributes = [required, defaults].concat().join(", ");
        let attributes = if attributes.is_empty() { attributes } else { format!(" <{attributes}>") };
        let digests = std::mem::take(&mut self.digests);
        let head = signature(&format!("{}{attributes}", name(&f.name)), &f.body);
        let comment: String = digests.iter().map(|d| format!(" # {d:08x}")).collect();
        self.line(&format!("{head}{comment}"));
        self.graph(&f.body, "");
    }
}

/// `name (inputs) => (outputs)`
fn signature(name: &str, g: &Graph) -> String {
    let typed = |v: &ValueId| {
        let value = g.value(*v);
        let declared = value.ty.clone().or_else(|| g.initializer(*v).map(|t| Type::Tensor(t.ty())));
        let text = declared.as_ref().filter(|t| **t != Type::Opaque).map(type_text).unwrap_or_default();
        let known = !text.is_empty() && text != UNKNOWN;
        if known { format!("{text} {}", self::name(value.name())) } else { self::name(value.name()) }
    };
    let list = |vs: &[ValueId]| vs.iter().map(typed).collect::<Vec<_>>().join(", ");
    format!("{name} ({}) => ({})", list(&g.inputs), list(&g.outputs))
}

/// How a type is written of which not even the element type is known.
const UNKNOWN: &str = "opaque()";

fn type_text(ty: &Type) -> String {
    match ty {
        Type::Tensor(t) => tensor_type(t),
        Type::SparseTensor(t) => format!("sparse_tensor({})", tensor_type(t)),
        Type::Sequence(t) => format!("seq({})", type_text(t)),
        Type::Optional(t) => format!("optional({})", type_text(t)),
        Type::Map(key, value) => format!("map({key}, {})", type_text(value)),
        Type::Opaque => UNKNOWN.to_owned(),
    }
}

fn tensor_type(ty: &TensorType) -> String {
    let Some(dtype) = ty.dtype else { return UNKNOWN.to_owned() };
    let dim = |d: &Dim| match d {
        Dim::Symbol(s) if !is_identifier(s) => literal::quote(s),
        d => d.to_string(),
    };
    match &ty.shape {
        None => format!("{dtype}[]"),
        Some(shape) if shape.is_empty() => dtype.to_string(),
        Some(shape) => format!("{dtype}[{}]", shape.iter().map(dim).collect::<Vec<_>>().join(", ")),
    }
}

fn sparse_type(s: &SparseTensor) -> String {
    let dims = s.dims.iter().map(|d| Dim::Known(*d));
    type_text(&Type::SparseTensor(TensorType::new(s.values.dtype(), dims)))
}

fn opsets(opsets: &[OpsetImport]) -> String {
    let one = |o: &OpsetImport| format!("{} : {}", literal::quote(&o.domain), o.version);
    format!("[{}]", opsets.iter().map(one).collect::<Vec<_>>().join(", "))
}

/// A name, quoted where it is no bare word.
fn name(text: &str) -> String {
    if is_identifier(text) && !is_type_word(text) { text.to_owned() } else { literal::quote(text) }
}

/// `domain.Type:overload`, quoted as a whole part where it is no chain of bare words.
fn op_type(op: &Op) -> String {
    let part = |text: &str| if is_identifier(text) { text.to_owned() } else { literal::quote(text) };
    let mut text = String::new();
    if op.domain.split('.').all(is_identifier) {
        text = format!("{}.", op.domain);
    } else if !op.domain.is_empty() {
        text = format!("{}.", literal::quote(&op.domain));
    }
    text += &part(&op.op_type);
    if !op.overload.is_empty() {
        text += &format!(":{}", part(&op.overload));
    }
    text
}

/// The word for a number of `AttributeProto.AttributeType`.
fn attribute_kind(number: i32) -> Option<&'static str> {
    ATTRIBUTE_KINDS.iter().find(|(_, n)| *n == number).map(|(word, _)| *word)
}

/// Words for kinds of attributes, with their numbers (`AttributeProto.AttributeType`).
pub(super) const ATTRIBUTE_KINDS: [(&str, i32); 14] = [
    ("float", 1),
    ("int", 2),
    ("string", 3),
    ("tensor", 4),
    ("graph", 5),
    ("floats", 6),
    ("ints", 7),
    ("strings", 8),
    ("tensors", 9),
    ("graphs", 10),
    ("sparse_tensor", 11),
    ("sparse_tensors", 12),
    ("type_proto", 13),
    ("type_protos", 14),
];
