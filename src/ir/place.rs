//! Where in a model an error or a remark applies.

use serde::Serialize;

/// Names the op, value or tensor that an error or remark is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Where {
    /// The model as a whole.
    #[default]
    Model,
    /// An op: its name, or its first output where it has none.
    Op(String),
    /// A value, by name.
    Value(String),
}

impl Where {
    /// The text appended to a message: empty, or ` at op "name"`.
    pub fn suffix(&self) -> String {
        match self {
            Where::Model => String::new(),
            Where::Op(name) => format!(" at op `{name}`"),
            Where::Value(name) => format!(" at value `{name}`"),
        }
    }
    /// The bare name, empty for the model.
    pub fn name(&self) -> &str {
        match self {
            Where::Model => "",
            Where::Op(name) | Where::Value(name) => name,
        }
    }
}

impl From<()> for Where {
    fn from((): ()) -> Self {
        Where::Model
    }
}
