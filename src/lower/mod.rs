//! ONNX protobuf in and out.

pub mod proto;
pub mod schemes;
