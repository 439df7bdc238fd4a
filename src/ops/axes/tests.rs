//! The analysis on small graphs: what becomes a group, and that cutting leaves a valid graph with the right extents.

use super::{Flow, Keep};
use crate::{
    ir::{DType, Dim, Graph, Model, Op, OpsetImport, Tensor, Type, ValueId, text},
    ops::infer_types,
};

fn weight(g: &mut Graph, name: &str, shape: &[usize]) -> ValueId {
    let n = shape.iter().product();
    g.add_initializer(name, Tensor::from_vec(shape, (0..n).map(|k| k as f32).collect()))
}
fn ty(shape: &[usize]) -> Type {
    Type::tensor(DType::F32, std::iter::once(Dim::from("N")).chain(shape.iter().map(|n| Dim::from(*n))))
}
fn model(graph: Graph) -> Model {
    let opsets = vec![OpsetImport { version: 17, ..OpsetImport::default() }];
    Model { ir_version: 8, opsets, graph, ..Model::default() }
}
/// Cuts every second position of every group and returns the shapes of all initializers by name.
fn halved(model: &mut Model) -> Vec<(String, Vec<usize>)> {
    let flow = Flow::of(model);
    let keep: Keep = flow.groups().iter().map(|g| (g.factor, (0..g.size).step_by(2).collect())).collect();
    flow.cut(keep).apply(model).unwrap();
    model.verify().unwrap();
    let g = &model.graph;
    g.initializers().map(|(v, t)| (g.name_of(v).to_owned(), t.shape().to_vec())).collect()
}

#[test]
fn a_residual_sum_ties_the_convolutions_around_it() {
    let mut g = Graph::new("residual");
    let x = g.add_input("x", ty(&[3, 8, 8]));
    let (w1, w2) = (weight(&mut g, "w1", &[16, 3, 1, 1]), weight(&mut g, "w2", &[16, 16, 1, 1]));
    let w3 = weight(&mut g, "w3", &[4, 16, 1, 1]);
    let a = g.add_node(Op::new("Conv", "a"), &[x, w1], "a", Some(ty(&[16, 8, 8])));
    let b = g.add_node(Op::new("Conv", "b"), &[a, w2], "b", Some(ty(&[16, 8, 8])));
    let s = g.add_node(Op::new("Add", "s"), &[a, b], "s", Some(ty(&[16, 8, 8])));
    let y = g.add_node(Op::new("Conv", "y"), &[s, w3], "y", Some(ty(&[4, 8, 8])));
    g.outputs.push(y);
    let mut m = model(g);
    let groups = Flow::of(&m).groups();
    assert_eq!(groups.len(), 1);
    assert!(groups[0].exact);
    assert_eq!((groups[0].size, groups[0].members.len()), (16, 4));
    let shapes = halved(&mut m);
    let expected: [(&str, &[usize]); 3] =
        [("w1", &[8, 3, 1, 1]), ("w2", &[8, 8, 1, 1]), ("w3", &[4, 8, 1, 1])];
    assert_eq!(shapes, expected.map(|(n, s)| (n.to_owned(), s.to_vec())));
}

#[test]
fn a_depthwise_convolution_follows_and_its_group_attribute_too() {
    let mut g = Graph::new("depthwise");
    let x = g.add_input("x", ty(&[3, 8, 8]));
    let (w1, w2) = (weight(&mut g, "w1", &[16, 3, 1, 1]), weight(&mut g, "w2", &[16, 1, 3, 3]));
    let w3 = weight(&mut g, "w3", &[4, 16, 1, 1]);
    let a = g.add_node(Op::new("Conv", "a"), &[x, w1], "a", Some(ty(&[16, 8, 8])));
    let dw = Op::new("Conv", "b").with("group", 16).with("pads", vec![1; 4]);
    let b = g.add_node(dw, &[a, w2], "b", Some(ty(&[16, 8, 8])));
    let y = g.add_node(Op::new("Conv", "y"), &[b, w3], "y", Some(ty(&[4, 8, 8])));
    g.outputs.push(y);
    let mut m = model(g);
    assert_eq!(halved(&mut m)[1].1, [8, 1, 3, 3]);
    let dw = m.graph.ops().find(|o| m.graph.op(*o).name == "b").unwrap();
    assert_eq!(m.graph.op(dw).int("group"), Some(8));
}

#[test]
fn flattening_ties_each_channel_to_a_run_of_columns() {
    let mut g = Graph::new("flatten");
    let x = g.add_input("x", ty(&[3, 2, 2]));
    let (w1, w2) = (weight(&mut g, "w1", &[8, 3, 1, 1]), weight(&mut g, "w2", &[32, 5]));
    let shape = g.add_initializer("shape", Tensor::ints([-1, 32]));
    let a = g.add_node(Op::new("Conv", "a"), &[x, w1], "a", Some(ty(&[8, 2, 2])));
    let f = g.add_node(Op::new("Reshape", "f"), &[a, shape], "f", Some(ty(&[32])));
    let y = g.add_node(Op::new("MatMul", "y"), &[f, w2], "y", Some(ty(&[5])));
    g.outputs.push(y);
    let mut m = model(g);
    let shapes = halved(&mut m);
    let shape = |name: &str| shapes.iter().find(|s| s.0.starts_with(name)).unwrap().1.clone();
    assert_eq!((shape("w1"), shape("w2")), (vec![4, 3, 1, 1], vec![16, 5]));
    let w2 = m.graph.initializer(m.graph.find("w2").unwrap()).unwrap().view::<f32>().unwrap()[20];
    assert_eq!(w2, 40.0, "row 4 is channel 2, so row 8 before");
    let reshape = m.graph.ops().find(|o| m.graph.op(*o).is("Reshape")).unwrap();
    let target = m.graph.constant(m.graph.input(reshape, 1).unwrap()).unwrap();
    assert_eq!(target.to_i64().unwrap(), [-1, 16]);
}

#[test]
fn unknown_operators_freeze_and_reductions_are_statistics() {
    let mut g = Graph::new("opaque");
    let x = g.add_input("x", ty(&[6]));
    let (w1, w2) = (weight(&mut g, "w1", &[6, 8]), weight(&mut g, "w2", &[8, 4]));
    let w3 = weight(&mut g, "w3", &[4, 4]);
    let a = g.add_node(Op::new("MatMul", "a"), &[x, w1], "a", Some(ty(&[8])));
    let s = g.add_node(Op::new("Softmax", "s"), &[a], "s", Some(ty(&[8])));
    let b = g.add_node(Op::new("MatMul", "b"), &[s, w2], "b", Some(ty(&[4])));
    let c = g.add_node(Op::new("Mystery", "c").in_domain("acme"), &[b], "c", Some(ty(&[4])));
    let y = g.add_node(Op::new("MatMul", "y"), &[c, w3], "y", Some(ty(&[4])));
    g.outputs.push(y);
    let groups = Flow::of(&model(g)).groups();
    assert_eq!(groups.iter().map(|g| (g.size, g.exact)).collect::<Vec<_>>(), [(8, false)]);
}

/// ONNX Runtime does not run this layout on CPU, so nothing but the structure is tested.
#[test]
fn recurrent_layers_may_have_the_batch_first() {
    let mut m = text::parse(
        "<ir_version: 8, opset_import: [\"\" : 17]>
         m (float[N, 7, 3] x) => (float[N, 2, 5] y)
         <float[2, 32, 3] w, float[2, 32, 8] r, float[2, 24] p, float[8, 5] v>
         {
           a, h, c = LSTM <layout = 1, direction = \"bidirectional\", hidden_size = 8> (x, w, r, , , , , p)
           s = Add (h, c)
           y = MatMul (s, v)
         }",
    )
    .unwrap();
    infer_types(&mut m).unwrap();
    let shapes: Vec<_> = halved(&mut m).into_iter().map(|(_, shape)| shape).collect();
    assert_eq!(shapes, [vec![2, 16, 3], vec![2, 16, 4], vec![2, 12], vec![4, 5]]);
    let lstm = m.graph.ops().find(|o| m.graph.op(*o).is("LSTM")).unwrap();
    assert_eq!(m.graph.op(lstm).int("hidden_size"), Some(4));
}
