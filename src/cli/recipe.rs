//! Recipe files: a pipeline in TOML, as text or as one table a pass.

use crate::{
    error::{Error, Result},
    passes::{Options, Pipeline},
};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    pipeline: Option<String>,
    #[serde(default)]
    pass: Vec<PassTable>,
}

#[derive(Deserialize)]
struct PassTable {
    name: String,
    #[serde(flatten)]
    options: Options,
}

/// Reads a recipe: `pipeline = "simplify,quant"`, or `[[pass]]` tables with a `name` and the pass's options.
pub(crate) fn read(path: &Path) -> Result<Pipeline> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("cannot read", path, e))?;
    parse(&text).map_err(|e| match e {
        Error::Usage { what, help } => Error::Usage { what: format!("{}: {what}", path.display()), help },
        e => e,
    })
}

fn parse(text: &str) -> Result<Pipeline> {
    let recipe: Recipe =
        toml::from_str(text).map_err(|e| Error::Usage { what: e.to_string(), help: None })?;
    match recipe.pipeline {
        Some(text) if recipe.pass.is_empty() => text.parse(),
        Some(_) => Err(Error::usage("both `pipeline` and [[pass]] are given", "keep one of them")),
        None => {
            let mut pipeline = Pipeline::new();
            for table in recipe.pass {
                pipeline.push(Pipeline::named(&table.name, table.options)?);
            }
            Ok(pipeline)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_tables_say_the_same() {
        let text = parse("pipeline = \"simplify\"").unwrap().to_string();
        assert_eq!(text, parse("[[pass]]\nname = \"simplify\"").unwrap().to_string());
        assert_eq!(parse("[[pass]]\nname = \"simplfy\"").err().unwrap().exit_code(), 2);
        assert_eq!(parse("pipelin = \"simplify\"").err().unwrap().exit_code(), 2);
    }
}
