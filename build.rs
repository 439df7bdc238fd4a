//! Generates the ONNX message types from `proto/onnx.proto`, in Rust alone: no `protoc` has to be installed.

use std::{env, error::Error, fs, path::PathBuf};

use protox::prost::Message;

/// Members of an attribute that are large and nearly always absent. Behind a box they take 8 bytes instead of
/// hundreds, which bounds what a small hostile file of empty attributes can make us allocate.
const BOXED: [&str; 4] = ["t", "g", "sparse_tensor", "tp"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/onnx.proto");
    let descriptors = protox::compile(["proto/onnx.proto"], ["proto"])?;
    // The tests hold these descriptors against the official ones.
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("onnx.fds"), descriptors.encode_to_vec())?;

    let mut config = prost_build::Config::new();
    // `Bytes` fields are slices of the buffer they were decoded from: weights are not copied.
    config.bytes(["."]);
    for member in BOXED {
        config.boxed(format!(".onnx.AttributeProto.{member}"));
    }
    config.compile_fds(descriptors)?;
    Ok(())
}
