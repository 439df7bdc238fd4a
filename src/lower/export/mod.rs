//! From the IR to protobuf: the model and its functions.

mod file;
mod graph;
mod node;
mod tensor;

use super::{
    proto::{
        field::function_proto, field::model_proto, field::operator_set_id_proto,
        field::string_string_entry_proto,
    },
    rope::Rope,
};
use crate::{
    error::{Error, Result},
    ir::{Attr, Function, Model, Op, OpsetImport, Origin, Tensor},
};
pub use file::{ExternalData, SaveOptions, save};
use std::collections::HashMap;
use tensor::DataFile;

/// Protobuf's own limit on a message, which ONNX Runtime and Python keep to.
const MAX_MESSAGE: usize = i32::MAX as usize;

/// The whole model as one message, weights inside.
///
/// # Errors
/// [`Error::Unsupported`] above 2 GiB, which protobuf cannot hold: [`save`] with external data can.
pub fn to_bytes(model: &Model) -> Result<Vec<u8>> {
    let rope = Writer::default().model(model);
    check_size(&rope)?;
    Ok(rope.to_vec())
}

/// The model as one message for a runtime, without the data of those tensors of the main graph that `apart` numbers: it is given
/// them as files of that name. With `ends_early`, it will compute the ends of the graph as soon as it can; see [`Graph::order_of_early_ends`].
///
/// [`Graph::order_of_early_ends`]: crate::ir::Graph::order_of_early_ends
pub(crate) fn to_bytes_without(
    model: &Model,
    apart: &HashMap<String, usize>,
    ends_early: bool,
) -> Result<Vec<u8>> {
    let rope = Writer { apart: Some(apart), ends_early, ..Writer::default() }.model(model);
    check_size(&rope)?;
    Ok(rope.to_vec())
}

/// The bytes that the whole model takes as one message, weights inside, without encoding any.
pub fn byte_len(model: &Model) -> u64 {
    Writer::default().model(model).len() as u64
}

/// The encoded `TensorProto` of a tensor, as the `.pb` files of ONNX's test data are.
pub fn tensor_to_proto(name: &str, tensor: &Tensor) -> Vec<u8> {
    Writer::default().tensor(tensor, Some(name), false).to_vec()
}

fn check_size(rope: &Rope) -> Result<()> {
    if rope.len() <= MAX_MESSAGE {
        return Ok(());
    }
    let why = format!(
        "the model takes {:.2} GiB and one protobuf message holds less than 2; write it with external data",
        rope.len() as f64 / f64::from(1 << 30)
    );
    Err(Error::unsupported((), why))
}

/// What all writers of one model share: the file that takes large tensors, if they do not go into the model.
#[derive(Default)]
struct Writer<'a> {
    data_file: Option<DataFile>,
    /// What stands for those constants of the main graph that are left out.
    apart: Option<&'a HashMap<String, usize>>,
    /// Whether nodes are in the order that makes ONNX Runtime compute ends early.
    ends_early: bool,
}

impl Writer<'_> {
    fn model(&mut self, model: &Model) -> Rope {
        let mut out = Rope::default();
        out.carried(&model.carried);
        if model.ir_version != 0 {
            out.int(model_proto::IR_VERSION, model.ir_version);
        }
        for (key, value) in &model.notes {
            let mut entry = Rope::default();
            entry.bytes(string_string_entry_proto::KEY, [Model::NOTE, key].concat().as_bytes());
            entry.bytes(string_string_entry_proto::VALUE, value.as_bytes());
            out.message(model_proto::METADATA_PROPS, entry);
        }
        for import in &model.opsets {
            out.message(model_proto::OPSET_IMPORT, opset(import));
        }
        out.message(model_proto::GRAPH, self.graph(&model.graph));
        for function in &model.functions {
            out.message(model_proto::FUNCTIONS, self.function(function));
        }
        out
    }

    fn function(&mut self, function: &Function) -> Rope {
        let body = &function.body;
        let mut out = Rope::default();
        out.carried(&function.carried);
        out.text(function_proto::NAME, &function.name);
        for v in &body.inputs {
            out.bytes(function_proto::INPUT, body.name_of(*v).as_bytes());
        }
        for v in &body.outputs {
            out.bytes(function_proto::OUTPUT, body.name_of(*v).as_bytes());
        }
        for name in &function.attributes {
            out.bytes(function_proto::ATTRIBUTE, name.as_bytes());
        }
        // A function has no initializers: constants that passes made come from Constant nodes.
        for v in body.values() {
            let constant = match &body.value(v).origin {
                Origin::Initializer(tensor) => Op::new("Constant", "").with("value", tensor.clone()),
                Origin::SparseInitializer(tensor) => {
                    let mut op = Op::new("Constant", "");
                    op.set("sparse_value", Attr::SparseTensor(Box::new(tensor.clone())));
                    op
                }
                Origin::Computed | Origin::Captured => continue,
            };
            out.message(function_proto::NODE, self.node(&constant, &[], &[body.name_of(v)]));
        }
        self.nodes(&mut out, function_proto::NODE, body);
        for import in &function.opsets {
            out.message(function_proto::OPSET_IMPORT, opset(import));
        }
        out.text(function_proto::DOMAIN, &function.domain);
        for default in &function.defaults {
            out.message(function_proto::ATTRIBUTE_PROTO, self.attribute(default, false));
        }
        graph::value_infos(&mut out, function_proto::VALUE_INFO, body, &Default::default());
        out.text(function_proto::OVERLOAD, &function.overload);
        out
    }
}

fn opset(import: &OpsetImport) -> Rope {
    let mut out = Rope::default();
    out.carried(&import.carried);
    out.text(operator_set_id_proto::DOMAIN, &import.domain);
    if import.version != 0 {
        out.int(operator_set_id_proto::VERSION, import.version);
    }
    out
}
