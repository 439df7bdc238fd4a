//! The size of a model in the figures that compression changes.

use crate::{
    ir::{Data, Graph, Model},
    ops,
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// What a model holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Bytes of the file, external data included; `None` before it is written.
    pub file_bytes: Option<u64>,
    /// Bytes of all constants, bodies and functions included.
    pub weight_bytes: u64,
    /// Elements of all constants.
    pub parameters: u64,
    /// Multiply-accumulates of one run, where free dimensions count as 1.
    pub macs: u64,
    /// Ops, bodies and functions included.
    pub nodes: u64,
    /// The version of ONNX's own operator set.
    pub opset: i64,
    /// Ops by operator; another domain stands before a colon.
    pub operators: BTreeMap<String, u64>,
}

impl Summary {
    /// Counts a model.
    pub fn of(model: &Model) -> Summary {
        let mut summary = Summary { opset: model.opset(), ..Summary::default() };
        model.for_each_graph(|graph| summary.add(graph));
        // Costs follow from shapes, and a file need not state them.
        let mut typed = model.clone();
        if ops::infer_types(&mut typed).is_ok() {
            summary.macs = ops::cost::of_model(&typed).macs;
        }
        summary
    }

    /// Counts a model that was loaded from a file, with the bytes of that file and of those its constants lie in.
    pub fn of_file(model: &Model, path: &Path) -> Summary {
        Summary { file_bytes: Summary::file_bytes(model, path), ..Summary::of(model) }
    }

    /// The bytes of the file that a model was loaded from and of those its constants lie in; `None` where one is gone.
    pub fn file_bytes(model: &Model, path: &Path) -> Option<u64> {
        let mut files = BTreeSet::from([path.to_owned()]);
        model.for_each_graph(|graph| {
            for (_, tensor) in graph.initializers() {
                if let Some(Data::Mapped { file, .. }) = tensor.data() {
                    files.insert(file.path().to_owned());
                }
            }
        });
        files.iter().map(|file| Some(std::fs::metadata(file).ok()?.len())).sum()
    }

    fn add(&mut self, graph: &Graph) {
        for (_, tensor) in graph.initializers() {
            self.weight_bytes += tensor.byte_len() as u64;
            self.parameters += tensor.len() as u64;
        }
        for id in graph.ops() {
            let op = graph.op(id);
            self.nodes += 1;
            *self.operators.entry(op.full_type()).or_default() += 1;
            if let Some(tensor) = op.tensor("value").filter(|_| op.is("Constant")) {
                self.weight_bytes += tensor.byte_len() as u64;
                self.parameters += tensor.len() as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Op, Tensor};

    #[test]
    fn constants_count_wherever_they_stand() {
        let mut model = Model::default();
        let graph = &mut model.graph;
        let w = graph.add_initializer("w", Tensor::from_vec([2, 3], vec![0f32; 6]));
        let constant = Op::new("Constant", "c").with("value", Tensor::ints([1, 2]));
        let c = graph.add_node(constant, &[], "c", None);
        let y = graph.add_node(Op::new("Gather", "g"), &[w, c], "y", None);
        graph.outputs.push(y);
        let summary = Summary::of(&model);
        assert_eq!((summary.parameters, summary.weight_bytes, summary.nodes), (8, 40, 2));
        assert_eq!(summary.operators["Gather"], 1);
    }
}
