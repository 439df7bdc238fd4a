//! Options of single layers, over those of the pass.

use super::{Activations, Form, QuantOptions};
use crate::{
    error::{Error, Result},
    ir::{Float8, Graph},
    passes::pass::did_you_mean,
};
use globset::{Glob, GlobMatcher};
use serde::{Deserialize, Serialize};

/// Options of the layers whose names match a glob; what is not given is as the tables before, or else the pass, have it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayerOptions {
    /// A glob of node names.
    pub name: String,
    /// Bits of a weight's element. What is given here is never widened.
    pub bits: Option<usize>,
    /// Floats of eight bits instead of integers; never widened either.
    pub float8: Option<Float8>,
    /// Elements along the sum of a product that share a scale.
    pub block: Option<usize>,
    /// Whether the integer 0 stands for zero.
    pub symmetric: Option<bool>,
    /// One scale for each output channel of a weight instead of one for all of it.
    pub per_channel: Option<bool>,
    /// `none`: the layer computes in float; `dynamic`: it rounds what it reads as the model runs, though that be slower;
    /// `auto`: as the pass has it.
    pub activations: Option<Activations>,
    /// Which operators compute the weight back from its integers.
    pub form: Option<Form>,
}

/// The tables of a pass, with their globs compiled.
pub(super) struct Tables(Vec<(GlobMatcher, LayerOptions)>);

impl Tables {
    pub(super) fn new(options: &QuantOptions) -> Result<Self> {
        let table = |table: &LayerOptions| {
            let wrong = |what: &str, help: &str| Error::usage(format!("`layers`: {what}"), help);
            if table.name.is_empty() {
                return Err(wrong("a table names no layers", "give `name`, a glob like `layer4*`"));
            }
            if table.fixes_bits() && (options.size.is_some() || options.max_drop.is_some()) {
                let help = "leave out `bits` and `float8` of layers, or `size` and `max_drop`";
                return Err(wrong("`size` and `max_drop` decide how many bits each weight gets", help));
            }
            if table.activations == Some(Activations::Static) {
                let help = "give `activations` to the pass, and `none` or `dynamic` to layers that differ";
                return Err(wrong("which ranges are measured is decided for all layers", help));
            }
            let glob =
                Glob::new(&table.name).map_err(|e| wrong(&e.to_string(), "write it like `layer4*`"))?;
            Ok((glob.compile_matcher(), table.clone()))
        };
        options.layers.iter().map(table).collect::<Result<_>>().map(Tables)
    }
    /// The options of a layer that is the ops of these names: those of each table that matches one of them over those before it.
    pub(super) fn over(&self, options: &QuantOptions, ops: &[&str]) -> QuantOptions {
        let merged = self.merged(options, ops);
        let form = if lacks_operators(&merged) { Form::Qdq } else { merged.form };
        QuantOptions { form, ..merged }
    }
    /// Whether a layer has no operator that reads integers itself, though its form asks for one: a table has it compute in
    /// float.
    pub(super) fn lack_operators(&self, options: &QuantOptions, ops: &[&str]) -> bool {
        lacks_operators(&self.merged(options, ops))
    }
    fn merged(&self, options: &QuantOptions, ops: &[&str]) -> QuantOptions {
        let mut merged = options.clone();
        for (_, table) in self.0.iter().filter(|(glob, _)| matches(glob, ops)) {
            merged = table.over(merged, options.activations);
        }
        if !merged.suits_integer_kernels() {
            merged.activations = Activations::None;
        }
        merged
    }
    /// What tables have the activations of a layer become; `None` where none says.
    pub(super) fn activations(&self, ops: &[&str]) -> Option<Activations> {
        let tables = self.0.iter().filter(|(glob, _)| matches(glob, ops));
        tables.filter_map(|(_, table)| table.activations).next_back()
    }
    /// Whether a table gives the bits of a layer.
    pub(super) fn fix_bits(&self, ops: &[&str]) -> bool {
        self.0.iter().any(|(glob, table)| table.fixes_bits() && matches(glob, ops))
    }
    /// Refuses tables that match nothing, or that make no sense together.
    pub(super) fn check(&self, options: &QuantOptions, graph: &Graph) -> Result<()> {
        let mut names = Vec::new();
        graph.for_each_nested(&mut |g| names.extend(g.order().into_iter().map(|op| g.op(op).name.as_str())));
        for (glob, table) in &self.0 {
            if !matches(glob, &names) {
                let what = format!("`layers`: no node is called `{}`", table.name);
                let named = names.iter().copied().filter(|name| !name.is_empty());
                return Err(Error::usage(what, did_you_mean(&table.name, named)));
            }
        }
        let touched = |op: &&&str| self.0.iter().any(|(glob, _)| matches(glob, &[**op]));
        // What others read that are measured is no matter to a layer whose activations are not.
        let own = |op: &&str| {
            let own = self.over(options, &[*op]);
            let measured = matches!(own.activations, Activations::Auto | Activations::Static);
            QuantOptions { activation_type: own.activation_type.filter(|_| measured), ..own }
        };
        names.iter().filter(touched).try_for_each(|op| own(op).check())
    }
    /// All that layers may come to need: what that is depends on two options at most.
    pub(super) fn combined(&self, options: &QuantOptions) -> Vec<QuantOptions> {
        let mut all = vec![options.clone()];
        for (_, first) in &self.0 {
            let one = first.over(options.clone(), options.activations);
            all.extend(self.0.iter().map(|(_, second)| second.over(one.clone(), options.activations)));
        }
        all
    }
}

impl LayerOptions {
    fn fixes_bits(&self) -> bool {
        self.bits.is_some() || self.float8.is_some()
    }
    fn over(&self, below: QuantOptions, usual: Activations) -> QuantOptions {
        QuantOptions {
            bits: self.bits.unwrap_or(if self.float8.is_some() { 8 } else { below.bits }),
            float8: self.float8.or(below.float8.filter(|_| self.bits.is_none())),
            block: self.block.or(below.block),
            symmetric: self.symmetric.or(below.symmetric),
            per_channel: self.per_channel.unwrap_or(below.per_channel),
            form: self.form.unwrap_or(below.form),
            activations: match self.activations {
                Some(Activations::Auto) => usual,
                given => given.unwrap_or(below.activations),
            },
            ..below
        }
    }
}

fn lacks_operators(merged: &QuantOptions) -> bool {
    merged.form == Form::QOperator && merged.activations == Activations::None
}

fn matches(glob: &GlobMatcher, ops: &[&str]) -> bool {
    ops.iter().any(|op| glob.is_match(op))
}

/// Tables as JSON that holds only what was given; keys that are none are refused with the nearest one.
pub(super) mod tables {
    use super::LayerOptions;
    use crate::passes::{
        Options,
        pass::{changed_options, did_you_mean},
    };
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(in super::super) fn serialize<S: Serializer>(
        tables: &[LayerOptions],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let given = |table| changed_options(table, Some(&LayerOptions::default()));
        tables.iter().map(given).collect::<Vec<Options>>().serialize(to)
    }
    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<LayerOptions>, D::Error> {
        let known = changed_options(&LayerOptions::default(), None);
        let table = |table: Options| {
            if let Some(key) = table.keys().find(|key| !known.contains_key(*key)) {
                let near = did_you_mean(key, known.keys().map(String::as_str));
                return Err(D::Error::custom(format!("`layers` have no option `{key}`; {near}")));
            }
            serde_json::from_value(table.into()).map_err(|e| D::Error::custom(format!("`layers`: {e}")))
        };
        Vec::<Options>::deserialize(from)?.into_iter().map(table).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> LayerOptions {
        LayerOptions { name: name.into(), ..LayerOptions::default() }
    }

    #[test]
    fn tables_merge_in_order_over_the_options_of_the_pass() {
        let tables = vec![
            LayerOptions { bits: Some(4), block: Some(64), ..table("layer*") },
            LayerOptions { bits: Some(3), ..table("layer1.*") },
            LayerOptions { activations: Some(Activations::None), ..table("head") },
        ];
        let options = QuantOptions { layers: tables, ..QuantOptions::default() };
        let tables = Tables::new(&options).unwrap();
        let of = |name| {
            let o = tables.over(&options, &[name]);
            (o.bits, o.block, o.activations, tables.fix_bits(&[name]))
        };
        assert_eq!(of("stem"), (8, None, Activations::Auto, false));
        assert_eq!(of("layer2.conv"), (4, Some(64), Activations::None, true), "no kernel takes four bits");
        assert_eq!(of("layer1.conv"), (3, Some(64), Activations::None, true));
        assert_eq!(of("head"), (8, None, Activations::None, false));
        let both = tables.over(&options, &["stem", "layer1.conv"]);
        assert_eq!(both.bits, 3, "a weight that two layers read takes the tables of both");
        let mut combined: Vec<_> = tables.combined(&options).into_iter().map(|o| o.bits).collect();
        combined.sort_unstable();
        combined.dedup();
        assert_eq!(combined, [3, 4, 8]);
    }
    #[test]
    fn tables_that_make_no_sense_are_refused() {
        let bits = || LayerOptions { bits: Some(4), ..table("a") };
        for (layer, size, max_drop) in [
            (bits(), Some(0.3), None),
            (bits(), None, Some(0.01)),
            (table(""), None, None),
            (table("["), None, None),
            (LayerOptions { activations: Some(Activations::Static), ..table("a") }, None, None),
        ] {
            let options =
                QuantOptions { size, max_drop, layers: vec![layer.clone()], ..QuantOptions::default() };
            assert_eq!(Tables::new(&options).err().map(|e| e.exit_code()), Some(2), "{layer:?}");
        }
    }
}
