//! Generates the ONNX message types from `proto/onnx.proto`, in Rust alone: no `protoc` has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use prost_types::FileDescriptorSet;
use protox::prost::Message;

/// Members of an attribute that are large and nearly always absent. Behind a box they take 8 bytes instead of
/// hundreds, which bounds what a small hostile file of empty attributes can make us allocate.
const BOXED: [&str; 4] = ["t", "g", "sparse_tensor", "tp"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/onnx.proto");
    let descriptors = protox::compile(["proto/onnx.proto"], ["proto"])?;
    // The tests hold these descriptors against the official ones.
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("onnx.fds"), descriptors.encode_to_vec())?;

    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("fields.rs"), field_numbers(&descriptors))?;

    let mut config = prost_build::Config::new();
    // `Bytes` fields are slices of the buffer they were decoded from: weights are not copied.
    config.bytes(["."]);
    for member in BOXED {
        config.boxed(format!(".onnx.AttributeProto.{member}"));
    }
    config.compile_fds(descriptors)?;
    Ok(())
}

/// A module of constants for each message, so that reading and writing by hand takes its numbers from the one
/// definition of the format.
fn field_numbers(descriptors: &FileDescriptorSet) -> String {
    let mut text = String::new();
    for message in descriptors.file.iter().flat_map(|file| &file.message_type) {
        text.push_str(&format!("pub mod {} {{\n", snake_case(message.name())));
        for field in &message.field {
            text.push_str(&format!(
                "    pub const {}: u32 = {};\n",
                field.name().to_uppercase(),
                field.number()
            ));
        }
        text.push_str("}\n");
    }
    text
}

/// `TensorProto` as `tensor_proto`.
fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for (at, letter) in name.char_indices() {
        if letter.is_uppercase() && at > 0 {
            text.push('_');
        }
        text.extend(letter.to_lowercase());
    }
    text
}
