//! Pipelines and their text: `prune(ratio=0.5,norm=l2),quant`.
//!
//! ```text
//! pipeline := pass (',' pass)*
//! pass     := name ('(' [key '=' value (',' key '=' value)*] ')')?
//! value    := JSON, or a bare word
//! ```

use super::{Changed, Context, PASSES, Pass, pass::did_you_mean};
use crate::{
    error::{Error, Result},
    ir::Model,
};
use serde_json::{Map, Value};
use std::{fmt, str::FromStr};

/// Passes to run, in order. Prints as the text it can be parsed from.
#[derive(Default)]
pub struct Pipeline {
    passes: Vec<Box<dyn Pass>>,
}

impl Pipeline {
    /// A pipeline without passes.
    pub fn new() -> Self {
        Self::default()
    }
    /// The pass of that name in [`PASSES`], with these options.
    pub fn named(name: &str, options: Map<String, Value>) -> Result<Box<dyn Pass>> {
        let known = PASSES.iter().map(|p| p.name);
        let info = PASSES.iter().find(|p| p.name == name);
        let unknown = || Error::Usage {
            what: format!("there is no pass `{name}`"),
            help: Some(did_you_mean(name, known)),
        };
        (info.ok_or_else(unknown)?.build)(options)
    }
    /// Adds a pass.
    pub fn push(&mut self, pass: Box<dyn Pass>) -> &mut Self {
        self.passes.push(pass);
        self
    }
    /// The passes in order.
    pub fn passes(&self) -> &[Box<dyn Pass>] {
        &self.passes
    }
    /// Runs every pass in order, and verifies the model after each.
    pub fn run(&self, model: &mut Model, cx: &mut Context<'_>) -> Result<Changed> {
        let mut changed = Changed::No;
        for pass in &self.passes {
            changed |= run_pass(&**pass, model, cx)?;
        }
        Ok(changed)
    }
}

/// Runs one pass and verifies what it left behind.
pub(crate) fn run_pass(pass: &dyn Pass, model: &mut Model, cx: &mut Context<'_>) -> Result<Changed> {
    cx.check_cancelled()?;
    cx.enter(pass.name());
    let changed = pass.run(model, cx).and_then(|changed| {
        model.verify()?;
        Ok(changed)
    });
    changed.map_err(|e| match e {
        Error::Cancelled => e,
        e => Error::Pass { pass: pass.name().to_owned(), source: Box::new(e) },
    })
}

impl fmt::Display for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (k, pass) in self.passes.iter().enumerate() {
            let comma = if k > 0 { "," } else { "" };
            write!(f, "{comma}{}", pass.name())?;
            let options = pass.options();
            if !options.is_empty() {
                let text: Vec<_> = options.iter().map(|(k, v)| format!("{k}={}", value_text(v))).collect();
                write!(f, "({})", text.join(","))?;
            }
        }
        Ok(())
    }
}

/// A value as pipeline text: strings bare where nothing could mistake them.
fn value_text(value: &Value) -> String {
    match value {
        Value::String(s)
            if !s.is_empty() && scalar(s) == *value && !s.contains([',', '(', ')', '[', ']', '=', '"']) =>
        {
            s.clone()
        }
        other => other.to_string(),
    }
}

impl FromStr for Pipeline {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let mut pipeline = Pipeline::new();
        for item in split(text)? {
            let (name, options) = parse_pass(item)?;
            pipeline.push(Pipeline::named(name, options)?);
        }
        Ok(pipeline)
    }
}

fn syntax(why: impl Into<String>) -> Error {
    Error::Usage {
        what: format!("pipeline: {}", why.into()),
        help: Some("write it like prune(ratio=0.3),quant".into()),
    }
}

fn parse_pass(item: &str) -> Result<(&str, Map<String, Value>)> {
    let Some((name, rest)) = item.split_once('(') else { return Ok((item, Map::new())) };
    let body = rest.strip_suffix(')').ok_or_else(|| syntax(format!("missing `)` after `{item}`")))?;
    let mut options = Map::new();
    for pair in split(body)? {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| syntax(format!("`{pair}` is not key=value")))?;
        if options.insert(key.trim().to_owned(), scalar(value.trim())).is_some() {
            return Err(syntax(format!("option `{}` is given twice", key.trim())));
        }
    }
    Ok((name.trim(), options))
}

/// JSON where it is JSON, else a string.
fn scalar(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// Splits on commas outside brackets and quotes; empty items are refused.
fn split(text: &str) -> Result<Vec<&str>> {
    let (mut depth, mut quoted, mut start, mut items) = (0i32, false, 0, Vec::new());
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                items.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
        if depth < 0 {
            return Err(syntax(format!("unmatched `{c}` at column {}", at + 1)));
        }
    }
    if depth != 0 || quoted {
        return Err(syntax(format!("a bracket or quote in `{text}` is not closed")));
    }
    items.push(text[start..].trim());
    if items == [""] {
        return Ok(Vec::new());
    }
    if items.contains(&"") {
        return Err(syntax(format!("an item of `{text}` is empty")));
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_split_outside_brackets_and_quotes() {
        let (name, options) = parse_pass(r#"prune(ratio=0.5,norm=l2,skip=["a,b","c"])"#).unwrap();
        assert_eq!(name, "prune");
        assert_eq!(
            Value::Object(options),
            serde_json::json!({"ratio": 0.5, "norm": "l2", "skip": ["a,b", "c"]})
        );
        assert_eq!(split("a,b(c=1,d=2)").unwrap(), ["a", "b(c=1,d=2)"]);
        for bad in ["a(", "a)", "a(b", "a,,b", "a(x=1,x=2)", "a(x)"] {
            let parsed =
                split(bad).and_then(|items| items.into_iter().map(parse_pass).collect::<Result<Vec<_>>>());
            assert_eq!(parsed.err().map(|e| e.exit_code()), Some(2), "{bad}");
        }
    }
    #[test]
    fn an_unknown_pass_is_refused() {
        let error = "prun".parse::<Pipeline>().err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().starts_with("there is no pass `prun`"));
    }
}
