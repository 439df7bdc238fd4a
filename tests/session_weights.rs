//! Weights that sessions read where the model has them.

mod support;

use bytes::Bytes;
use onnx_compress::{
    ir::{DType, Model, Op, Origin, Tensor, Type, text},
    lower,
    measure::Batch,
    runtime::{Runtime, Session, SessionOptions},
};
use support::setup_dir;

fn runtime() -> Runtime {
    Runtime::find(Some(&setup_dir().join("ort"))).expect("set-up fetched the library: `cargo xtask setup`")
}

/// A model that puts out a constant, and what it puts out once its session is gone.
fn constant(tensor: &Tensor) -> Tensor {
    let mut model = Model { ir_version: 10, ..Model::default() };
    model.require_domain("", 21);
    model.graph.name = "constant".into();
    let ty = Type::Tensor(tensor.ty());
    let w = model.graph.add_initializer("w", tensor.clone());
    let y = model.graph.add_node(Op::new("Identity", "same"), &[w], "y", Some(ty));
    model.graph.outputs.push(y);
    let session = Session::new(&runtime(), &model, &SessionOptions::default()).unwrap();
    drop(model);
    session.run(&Batch::new()).unwrap().swap_remove(0).1
}

#[test]
fn every_type_is_read_wherever_it_lies() {
    let types = [
        DType::F32,
        DType::F64,
        DType::F16,
        DType::BF16,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::U16,
        DType::U32,
        DType::U64,
        DType::Bool,
    ];
    for dtype in types {
        for start in 0..8 {
            let bytes: Bytes =
                (0..start + (64 << 10)).map(|k| u8::from(k % 7 < 3)).collect::<Vec<u8>>().into();
            let shape = [(64 << 10) / (dtype.bits() / 8)];
            let tensor = Tensor::new(dtype, shape, bytes.slice(start..)).unwrap();
            assert_eq!(constant(&tensor), tensor, "{dtype}, {start} bytes off");
        }
    }
}

#[test]
fn types_that_are_not_put_out_are_read_as_a_file_has_them() {
    for dtype in [DType::I4, DType::U4, DType::F8E4M3FN, DType::F8E5M2] {
        let bytes: Vec<u8> = (0..64 << 10).map(|k| (k % 113) as u8).collect();
        let shape = [bytes.len() * 8 / dtype.bits()];
        let mut model = Model { ir_version: 10, ..Model::default() };
        model.require_domain("", 21);
        model.graph.name = "reals".into();
        let w = model.graph.add_initializer("w", Tensor::new(dtype, shape, bytes).unwrap());
        let cast = Op::new("Cast", "reals").with("to", i64::from(DType::F32.onnx()));
        let ty = Type::tensor(DType::F32, [shape[0].into()]);
        let y = model.graph.add_node(cast, &[w], "y", Some(ty));
        model.graph.outputs.push(y);
        let (runtime, options) = (runtime(), SessionOptions::default());
        let whole = Session::from_bytes(&runtime, &lower::to_bytes(&model).unwrap(), &options).unwrap();
        let apart = Session::new(&runtime, &model, &options).unwrap();
        let [whole, apart] = [whole, apart].map(|session| session.run(&Batch::new()).unwrap());
        assert_eq!(whole, apart, "{dtype}");
    }
}

/// Bytes that this process holds in memory.
#[cfg(target_os = "linux")]
fn held() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[cfg(target_os = "linux")]
#[test]
fn sessions_copy_no_weight_that_is_aligned() {
    const ROWS: usize = 64 << 10;
    let text = "<ir_version: 8, opset_import: [\"\" : 17]>
        g (int64[1] i) => (float[1, 256] y) <float[65536, 256] table> { y = Gather (table, i) }";
    let mut model = text::parse(text).unwrap();
    let table = model.graph.find("table").unwrap();
    let numbers: Vec<f32> = (0..ROWS * 256).map(|k| k as f32).collect();
    model.graph.value_mut(table).origin = Origin::Initializer(Tensor::from_vec([ROWS, 256], numbers));
    let last = vec![("i".to_owned(), Tensor::ints([ROWS as i64 - 1]))];
    // What the library itself takes.
    let runtime = runtime();
    let row = |session: &Session| session.run(&last).unwrap()[0].1.to_f32().unwrap()[0];
    let first = Session::new(&runtime, &model, &SessionOptions::default()).unwrap();
    assert_eq!(row(&first), ((ROWS - 1) * 256) as f32);
    let before = held();
    let more = [0, 1].map(|_| Session::new(&runtime, &model, &SessionOptions::default()).unwrap());
    assert!(more.iter().all(|session| row(session) == row(&first)));
    let took = held().saturating_sub(before);
    assert!(took < 4 * ROWS * 256 / 2, "two sessions over 64 MiB took {} MiB", took >> 20);
}

#[test]
fn sessions_read_shared_weights_and_never_those_that_were_there_before() {
    // A table is read where it is; of a factor ONNX Runtime keeps a copy in another order.
    let text = "<ir_version: 8, opset_import: [\"\" : 17]>
        g (int64[1] i) => (float[1, 128] y) <float[64, 128] table> { y = Gather (table, i) }";
    let (runtime, options) = (runtime(), SessionOptions::default());
    let last = vec![("i".to_owned(), Tensor::ints([63]))];
    let row = |session: &Session| session.run(&last).unwrap()[0].1.to_f32().unwrap()[0];
    let mut model = text::parse(text).unwrap();
    let table = model.graph.find("table").unwrap();
    let kept: Vec<Session> = (0..4)
        .flat_map(|k| {
            // Tensors come and go, and with them their addresses; sessions stay.
            let tensor = Tensor::from_vec([64, 128], vec![k as f32; 64 * 128]);
            model.graph.value_mut(table).origin = Origin::Initializer(tensor);
            [0, 1].map(|_| Session::new(&runtime, &model, &options).unwrap())
        })
        .collect();
    let found: Vec<f32> = kept.iter().map(row).collect();
    assert_eq!(found, [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
}
