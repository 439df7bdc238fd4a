//! Loads a model and writes it again, unchanged: `resave IN OUT [--external]`. With `--external`, large tensors go
//! into a file beside the model.

use onnx_compress::{
    Error,
    lower::{self, ExternalData, SaveOptions},
};
use std::path::Path;

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (from, to, external_data) = match &args[..] {
        [from, to] => (from, to, ExternalData::Auto),
        [from, to, flag] if flag == "--external" => (from, to, ExternalData::Always),
        _ => return Err(Error::usage("two paths are needed", "resave IN OUT [--external]")),
    };
    let model = lower::load(Path::new(from))?;
    lower::save(&model, Path::new(to), &SaveOptions { external_data })?;
    Ok(())
}
