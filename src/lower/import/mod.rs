//! From protobuf to the IR: the model and its functions.

mod graph;
mod node;
pub(super) mod tensor;
pub(super) mod types;

use super::{
    external::ExternalFiles,
    proto::{
        field::function_proto, field::model_proto, field::operator_set_id_proto,
        field::string_string_entry_proto,
    },
    wire::{Field, Message, Source},
};
use crate::{
    error::{Error, Result},
    ir::{Function, Graph, MappedFile, Model, OpsetImport, Tensor},
};
use bytes::Bytes;
use graph::{Parts, Scope};
use std::path::Path;

/// Bodies may nest this deep. Real models stay below 10; the limit keeps hostile ones from exhausting the stack.
const MAX_DEPTH: usize = 64;

/// Reads a model file. Weights stay in the mapped file (and its external data files) until they are used.
///
/// # Errors
/// [`Error::Io`] where the file cannot be opened, [`Error::Malformed`] where it is no valid model; the message names
/// the node or tensor and the file.
pub fn load(path: &Path) -> Result<Model> {
    let kind = std::fs::metadata(path).map_err(|source| Error::io("cannot read", path, source))?;
    if !kind.is_file() {
        return Err(Error::malformed((), format!("{} is no regular file", path.display())));
    }
    let file = MappedFile::open(path).map_err(|source| Error::io("cannot map", path, source))?;
    let folder = path.parent();
    let model = read(&Source::mapped(file.clone()), folder).map_err(|error| match error {
        Error::Malformed { at, why } => Error::malformed(at, format!("{why} (in {})", path.display())),
        other => other,
    });
    // Between the headers lie weights, which the system mapped with them.
    file.release_all();
    model
}

/// Reads a model from memory. `folder` is where its external data lies, if it has any.
///
/// # Errors
/// [`Error::Malformed`] where the bytes are no valid model; the message names the node or tensor.
pub fn parse(bytes: Bytes, folder: Option<&Path>) -> Result<Model> {
    read(&Source::new(bytes), folder)
}

/// Reads an encoded `TensorProto`, as the `.pb` files of ONNX's test data are, with the tensor's name.
///
/// # Errors
/// [`Error::Malformed`] where the bytes are no tensor, or one with external data.
pub fn tensor_from_proto(bytes: Bytes) -> Result<(String, Tensor)> {
    tensor::named(&ExternalFiles::new(None), &Source::new(bytes).message())
}

fn read(source: &Source, folder: Option<&Path>) -> Result<Model> {
    let message = source.message();
    if message.bytes().is_empty() {
        return Err(Error::malformed((), "the file is empty"));
    }
    let cx = Reader { files: ExternalFiles::new(folder) };
    let model = cx.model(&message)?;
    model.verify().map_err(|error| match error {
        Error::Invalid { at, why } => Error::malformed(at, why),
        other => other,
    })?;
    Ok(model)
}

/// The key and text of a note of this program; `None` for any other entry of `metadata_props`.
fn note(entry: &Field<'_>) -> Option<(String, String)> {
    let (mut key, mut value) = (String::new(), String::new());
    for f in entry.message().ok()?.fields() {
        let f = f.ok()?;
        match f.number {
            string_string_entry_proto::KEY => key = f.text().ok()?,
            string_string_entry_proto::VALUE => value = f.text().ok()?,
            _ => return None,
        }
    }
    Some((key.strip_prefix(Model::NOTE)?.to_owned(), value))
}

/// What all readers of one model share.
struct Reader {
    files: ExternalFiles,
}

impl Reader {
    fn model(&self, message: &Message<'_>) -> Result<Model> {
        let mut kept = message.residue();
        let mut model = Model::default();
        let mut graph = None;
        for f in message.fields() {
            let f = f?;
            match f.number {
                model_proto::IR_VERSION => kept.int(&f, &mut model.ir_version)?,
                model_proto::OPSET_IMPORT => model.opsets.push(opset(&f.message()?)?),
                model_proto::GRAPH => set_once(&mut graph, f.message()?, "the model has two graphs")?,
                model_proto::FUNCTIONS => model.functions.push(self.function(&f.message()?)?),
                model_proto::METADATA_PROPS => match note(&f) {
                    Some((key, value)) => drop(model.notes.insert(key, value)),
                    None => kept.keep(&f),
                },
                _ => kept.keep(&f),
            }
        }
        let graph =
            graph.ok_or_else(|| Error::malformed((), "there is no graph in it; is it an ONNX model?"))?;
        model.graph = self.graph(&graph, Graph::default(), Scope::Main, 0)?;
        model.carried = kept.finish();
        Ok(model)
    }

    fn function(&self, message: &Message<'_>) -> Result<Function> {
        let mut kept = message.residue();
        let mut function = Function::default();
        let mut parts = Parts::default();
        let (mut inputs, mut outputs, mut defaults) = (Vec::new(), Vec::new(), Vec::new());
        for f in message.fields() {
            let f = f?;
            match f.number {
                function_proto::NAME => kept.text(&f, &mut function.name)?,
                function_proto::DOMAIN => kept.text(&f, &mut function.domain)?,
                function_proto::OVERLOAD => kept.text(&f, &mut function.overload)?,
                function_proto::INPUT => inputs.push(f.text()?),
                function_proto::OUTPUT => outputs.push(f.text()?),
                function_proto::ATTRIBUTE => function.attributes.push(f.text()?),
                function_proto::ATTRIBUTE_PROTO => defaults.push(f.message()?),
                function_proto::OPSET_IMPORT => function.opsets.push(opset(&f.message()?)?),
                function_proto::NODE => parts.nodes.push(f.message()?),
                function_proto::VALUE_INFO => parts.infos.push(f),
                _ => kept.keep(&f),
            }
        }
        let mut body = Graph::new(function.name.clone());
        for default in defaults {
            function.defaults.push(self.attribute(&default, &body, 0)?);
        }
        parts.create_values(self, &mut body)?;
        for (names, is_input) in [(inputs, true), (outputs, false)] {
            for name in names {
                let v = graph::named(&mut body, &name, "an input or output of a function")?;
                if is_input { &mut body.inputs } else { &mut body.outputs }.push(v);
            }
        }
        parts.declare_types(&mut body, Scope::Function)?;
        self.nodes(&parts.nodes, &mut body, Scope::Function, 0)?;
        function.body = body;
        function.carried = kept.finish();
        Ok(function)
    }
}

fn opset(message: &Message<'_>) -> Result<OpsetImport> {
    let mut kept = message.residue();
    let mut opset = OpsetImport::default();
    for f in message.fields() {
        let f = f?;
        match f.number {
            operator_set_id_proto::DOMAIN => kept.text(&f, &mut opset.domain)?,
            operator_set_id_proto::VERSION => kept.int(&f, &mut opset.version)?,
            _ => kept.keep(&f),
        }
    }
    opset.carried = kept.finish();
    Ok(opset)
}

/// Protobuf would merge a message that is given twice; no writer of models does that, so it is a sign of damage.
fn set_once<T>(slot: &mut Option<T>, value: T, why: &str) -> Result<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::malformed((), why)),
    }
}
