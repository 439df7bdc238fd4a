//! What a file says about the model as a whole, besides what it computes.

use super::proto::ModelProto;
use crate::{
    error::{Error, Result},
    ir::Model,
};
use prost::Message as _;
use std::collections::BTreeMap;

/// The model's producer, version, domain and description under the names of their fields, as far as they are given, and
/// each entry of `metadata_props` under `metadata_props.` and its key.
///
/// # Errors
/// [`Error::Malformed`] where the file's own fields are not what the format says.
pub fn metadata(model: &Model) -> Result<BTreeMap<String, String>> {
    let unreadable = |e: prost::DecodeError| Error::malformed((), format!("its metadata: {e}"));
    let proto = ModelProto::decode(model.carried.0.clone()).map_err(unreadable)?;
    let mut found = BTreeMap::new();
    let fields = [
        ("producer_name", proto.producer_name),
        ("producer_version", proto.producer_version),
        ("domain", proto.domain),
        ("model_version", proto.model_version.map(|n| n.to_string())),
        ("doc_string", proto.doc_string),
    ];
    for (name, value) in fields {
        found.extend(value.filter(|value| !value.is_empty()).map(|value| (name.to_owned(), value)));
    }
    for entry in proto.metadata_props {
        let key = format!("metadata_props.{}", entry.key.unwrap_or_default());
        found.insert(key, entry.value.unwrap_or_default());
    }
    let notes = model.notes.iter();
    found.extend(notes.map(|(key, value)| (format!("metadata_props.{}{key}", Model::NOTE), value.clone())));
    Ok(found)
}
