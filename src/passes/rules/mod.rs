//! Declarative rewrites: a pattern, what stands in its place, and a function that computes new constants or says
//! why the rule does not apply.
//!
//! The left side is ONNX text, the last line its root. `$w` must be a constant, `0.5` a constant of that number, `b?`
//! may be left out, `<axis=1>` must equal; `y = Mul(x, 0.5) | Div(x, 2)` are alternatives; commutative operators match
//! in either order; a value computed inside the match must have no reader outside it, unless its line says so
//! (`h* = ...`): then its op stays where others need it.
//!
//! The right side is one op, which inherits the attributes of the matched op of its type, or the name of a value
//! (matched or newly computed) that replaces the root's. The new op takes the name of the matched op of its type, by which
//! users know a layer, where that op goes; otherwise the root's. Its output keeps the root's output name.

mod matching;
mod pattern;
#[cfg(test)]
mod tests;

pub use matching::Match;

use super::Context;
use crate::ir::{Attr, Graph, Op, OpId, Origin, Tensor, ValueId};
use pattern::Line;
use std::collections::{BTreeSet, HashMap, VecDeque};

/// Why a rule does not apply: an empty text where nobody would have expected it to.
pub type Miss = &'static str;

/// What a rule computes for its right side.
#[derive(Default)]
pub struct Bindings {
    tensors: Vec<(&'static str, Tensor)>,
    attrs: Vec<(&'static str, Attr)>,
}

impl Bindings {
    /// A constant that the right side names.
    pub fn tensor(mut self, name: &'static str, tensor: Tensor) -> Self {
        self.tensors.push((name, tensor));
        self
    }
    /// An attribute of the new op.
    pub fn attr(mut self, name: &'static str, value: impl Into<Attr>) -> Self {
        self.attrs.push((name, value.into()));
        self
    }
}

/// A rewrite.
pub struct Rule {
    /// Its name in counts and remarks.
    pub name: &'static str,
    /// What to look for.
    pub lhs: &'static str,
    /// What to put there: a value, or ops, of which the last takes the place of the root.
    pub rhs: &'static str,
    /// Preconditions and new constants.
    pub bind: fn(&Match<'_>) -> Result<Bindings, Miss>,
}

#[derive(Clone)]
enum Replacement {
    Value(String),
    Ops(Vec<Line>),
}

#[derive(Clone)]
struct Compiled {
    rule: &'static Rule,
    lhs: Vec<Line>,
    rhs: Replacement,
}

/// Rules, parsed once and found by the type of their root.
pub struct RuleSet {
    by_root: HashMap<String, Vec<Compiled>>,
}

/// Places and reasons of misses, each once.
pub type Misses = BTreeSet<(String, String)>;

impl RuleSet {
    /// Parses rules.
    ///
    /// # Panics
    /// Where a rule's text is malformed: a defect of the rule.
    pub fn new(rules: impl IntoIterator<Item = &'static Rule>) -> RuleSet {
        let mut by_root: HashMap<String, Vec<Compiled>> = HashMap::new();
        for rule in rules {
            let read = |text| pattern::parse(text).unwrap_or_else(|e| panic!("rule {}: {e}", rule.name));
            let lhs = read(rule.lhs);
            let rhs = match rule.rhs.contains('(') {
                true => Replacement::Ops(read(rule.rhs)),
                false => Replacement::Value(rule.rhs.trim().to_owned()),
            };
            let roots = lhs.iter().filter(|l| Some(&l.out) == lhs.last().map(|root| &root.out));
            let roots: BTreeSet<String> = roots.map(|l| l.op_type.clone()).collect();
            let compiled = Compiled { rule, lhs, rhs };
            for root in roots {
                by_root.entry(root).or_default().push(compiled.clone());
            }
        }
        RuleSet { by_root }
    }

    /// Applies every rule in the graph and its bodies until none matches; counts by rule, and returns how many did.
    pub fn apply(&self, g: &mut Graph, opset: i64, cx: &mut Context<'_>, misses: &mut Misses) -> usize {
        let mut applied = 0;
        let mut todo: VecDeque<OpId> = g.order().into();
        let mut waiting: BTreeSet<OpId> = todo.iter().copied().collect();
        while let Some(root) = todo.pop_front() {
            waiting.remove(&root);
            if !g.has_op(root) {
                continue;
            }
            g.edit_bodies(root, |body| {
                let inner = self.apply(body, opset, cx, misses);
                applied += inner;
                inner > 0
            });
            if !g.op(root).is_standard() {
                continue;
            }
            for c in self.by_root.get(&g.op(root).op_type).into_iter().flatten() {
                let Some(near) = c.try_at(g, root, opset, misses) else { continue };
                applied += 1;
                cx.count(c.rule.name, 1);
                for op in near.into_iter().filter(|op| g.has_op(*op)) {
                    if waiting.insert(op) {
                        todo.push_back(op);
                    }
                }
                break;
            }
        }
        applied
    }
}

impl Compiled {
    /// Applies the rule at one op; returns the ops around the change, which may match now.
    fn try_at(&self, g: &mut Graph, root: OpId, opset: i64, misses: &mut Misses) -> Option<Vec<OpId>> {
        let m = Match::find(g, &self.lhs, root, opset)?;
        let out = g.output(root, 0)?;
        if let Replacement::Value(name) = &self.rhs {
            let fixed = |to| g.is_input(to) || g.is_output(to) || g.value(to).origin != Origin::Computed;
            if g.is_output(out) && m.value(name).is_none_or(fixed) {
                return None; // the graph's interface needs an op here
            }
        }
        let found = match (self.rule.bind)(&m) {
            Ok(found) => found,
            Err("") => return None,
            Err(why) => {
                misses.insert((g.place(root).name().to_owned(), format!("{}: {why}", self.rule.name)));
                return None;
            }
        };
        let (ops, values) = m.into_parts();
        Some(match &self.rhs {
            Replacement::Value(name) => {
                let made = found.tensors.into_iter().find(|(key, _)| *key == name);
                let to = match made {
                    Some((key, tensor)) => g.add_initializer(&format!("{}_{key}", g.name_of(out)), tensor),
                    None => *values.get(name)?,
                };
                let mut near: Vec<OpId> = g.uses(out).into_iter().map(|u| u.op()).collect();
                near.extend(g.producer(to).map(|p| p.0));
                g.replace_value(out, to);
                drop_dead(g, ops);
                near
            }
            Replacement::Ops(lines) => {
                let new = build(g, lines, root, &ops, values, found, out);
                let mut near: Vec<OpId> = g.uses(out).into_iter().map(|u| u.op()).collect();
                for op in new {
                    near.push(op);
                    near.extend(g.inputs_of(op).into_iter().flatten().filter_map(|v| Some(g.producer(v)?.0)));
                }
                near
            }
        })
    }
}

/// Puts ops in the place of matched ones; returns them.
fn build(
    g: &mut Graph,
    lines: &[Line],
    root: OpId,
    ops: &[OpId],
    mut values: HashMap<String, ValueId>,
    found: Bindings,
    out: ValueId,
) -> Vec<OpId> {
    let (name, hint) = (g.op(root).name.clone(), g.name_of(out).to_owned());
    let named = |key| lines.iter().flat_map(|line| &line.args).any(|a| a.name == key);
    for (key, tensor) in found.tensors.into_iter().filter(|(key, _)| named(*key)) {
        // A constant that the rule takes over as it is keeps its name.
        let old = values.values().copied().find(|v| g.constant(*v).is_some_and(|t| t.is_same(&tensor)));
        let value = old.unwrap_or_else(|| g.add_initializer(&format!("{hint}_{key}"), tensor));
        values.insert(key.to_owned(), value);
    }
    g.set_outputs(root, &[]);
    let mut new = Vec::with_capacity(lines.len());
    let mut known = None;
    for (k, line) in lines.iter().enumerate() {
        let last = k + 1 == lines.len();
        let like = ops.iter().find(|o| g.op(**o).op_type == line.op_type);
        let mut op = like.map_or_else(|| Op::new(&line.op_type, ""), |o| g.op(*o).clone());
        known = like.map(|o| (*o, op.name.clone()));
        // Two ops of one name are refused by runtimes.
        op.name = if last { name.clone() } else { format!("{name}_{}", line.out) };
        for (key, value) in &line.attrs {
            op.set(key, *value);
        }
        for (key, value) in found.attrs.iter().filter(|_| last) {
            op.set(key, value.clone());
        }
        let mut inputs: Vec<Option<ValueId>> =
            line.args.iter().map(|a| values.get(&a.name).copied()).collect();
        while inputs.last() == Some(&None) {
            inputs.pop();
        }
        let output = if last { out } else { g.add_value(&format!("{hint}_{}", line.out), None) };
        values.insert(line.out.clone(), output);
        new.push(g.add_op(op, &inputs, &[Some(output)]));
    }
    drop_dead(g, ops.to_vec());
    if let (Some((like, name)), Some(last)) = (known, new.last())
        && !g.has_op(like)
        && !name.is_empty()
    {
        g.op_mut(*last).name = name;
    }
    new
}

/// From this size on (64 KiB) a constant that a rule replaces goes at once: until the next sweep it would take up memory
/// beside its successor. Smaller ones stay that long, as a constant that a rule makes may turn out to equal one.
const LARGE: usize = 64 << 10;

/// Removes matched ops whose outputs nothing needs, until each that is left is needed, and the large constants that
/// only they read.
fn drop_dead(g: &mut Graph, mut ops: Vec<OpId>) {
    let needed = |g: &Graph, op: OpId| {
        g.outputs_of(op).iter().flatten().any(|v| g.is_output(*v) || !g.uses(*v).is_empty())
    };
    while let Some(at) = ops.iter().position(|op| !needed(g, *op)) {
        let op = ops.remove(at);
        let (inputs, outputs) = (g.inputs_of(op), g.outputs_of(op));
        g.remove_op(op);
        let large = |v: &ValueId| g.initializer(*v).is_some_and(|t| t.byte_len() >= LARGE);
        let large: BTreeSet<ValueId> = inputs.into_iter().flatten().filter(large).collect();
        for v in outputs.into_iter().flatten().chain(large) {
            g.remove_value_if_unused(v);
        }
    }
}
