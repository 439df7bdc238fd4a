//! The quant pass and the nodes its schemes become, together.

use onnx_compress::{
    ir::{DType, Graph, Model, Op, OpsetImport, Tensor, Type},
    lower::schemes::materialize,
    passes::{Changed, Context, Pipeline},
};

/// x -> MatMul -> y with a large weight, and z = Gather(table, i).
fn model() -> Model {
    let mut g = Graph::new("g");
    let x = g.add_input("x", Type::tensor(DType::F32, ["n".into(), 64.into()]));
    let i = g.add_input("i", Type::tensor(DType::I64, ["n".into()]));
    let values = |k: usize| (0..k).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>();
    let w = g.add_initializer("w", Tensor::from_vec([64, 32], values(2048)));
    let table = g.add_initializer("table", Tensor::from_vec([100, 16], values(1600)));
    let y = g.add_node(Op::new("MatMul", "m"), &[x, w], "y", None);
    let z = g.add_node(Op::new("Gather", "look"), &[table, i], "z", None);
    g.outputs.extend([y, z]);
    let opsets = vec![OpsetImport { version: 13, ..OpsetImport::default() }];
    Model { ir_version: 8, opsets, graph: g, ..Model::default() }
}

fn bytes(model: &Model) -> usize {
    model.graph.initializers().map(|(_, t)| t.byte_len()).sum()
}

#[test]
fn weights_become_int8_behind_dequantize_linear() {
    let mut m = model();
    let before = bytes(&m);
    let pipeline: Pipeline = "quant".parse().unwrap();
    assert_eq!(pipeline.run(&mut m, &mut Context::new()).unwrap(), Changed::Yes);
    materialize(&mut m).unwrap();
    m.verify().unwrap();
    assert!(bytes(&m) * 100 < before * 35, "{} of {before} bytes", bytes(&m));
    for name in ["w", "table"] {
        let v = m.graph.find(name).unwrap();
        let op = m.graph.producer(v).unwrap().0;
        assert!(m.graph.op(op).is("DequantizeLinear"), "{name}");
        let stored = m.graph.input(op, 0).unwrap();
        assert_eq!(m.graph.dtype(stored), Some(DType::I8), "{name}");
    }
    // What is integer already is left as it is.
    let once = m.clone();
    assert_eq!(pipeline.run(&mut m, &mut Context::new()).unwrap(), Changed::No);
    assert_eq!(m, once);
}

#[test]
fn a_misspelt_option_is_refused() {
    assert!("quant(per_chanel=false)".parse::<Pipeline>().is_err());
    assert!("quant(exclude=[\"a*\"],activations=none,per_channel=false)".parse::<Pipeline>().is_ok());
}
