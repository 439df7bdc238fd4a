//! Model-local functions: a model computes the same once they are inlined.

mod support;

use onnx_compress::{
    Error,
    ir::{Attr, Function, Graph, Model, Op, OpsetImport, Tensor, text},
    lower,
    measure::Batch,
    passes::{Changed, Context, Pass, inline_functions, simplify::Simplify},
    runtime::{Runtime, Session, SessionOptions},
};
use support::{conformance, oracle::relative_difference, setup_dir};

fn runtime() -> Runtime {
    Runtime::find(Some(&setup_dir().join("ort"))).expect("run `cargo xtask setup --only runtime`")
}

fn run(runtime: &Runtime, model: &Model, batch: &Batch) -> Result<Batch, Error> {
    Session::new(runtime, model, &SessionOptions { threads: Some(1), ..Default::default() })?.run(batch)
}

/// The text of the model once its functions are inlined; it gives what it gave for `x` of four numbers and `c` true.
fn inlined(source: &str) -> String {
    let model = text::parse(source).unwrap();
    let mut new = model.clone();
    assert!(inline_functions(&mut new).unwrap() > 0);
    new.verify().unwrap();
    assert!(new.functions.is_empty());
    let mut batch: Batch = vec![("x".into(), Tensor::from_vec([4], vec![-2f32, -0.5, 0.25, 3.0]))];
    if model.graph.find("c").is_some() {
        let bool = onnx_compress::ir::DType::Bool;
        batch.push(("c".into(), Tensor::new(bool, [], vec![1u8]).unwrap()));
    }
    let runtime = runtime();
    assert_eq!(run(&runtime, &model, &batch).unwrap(), run(&runtime, &new, &batch).unwrap(), "{source}");
    text::print(&new)
}

#[test]
fn attributes_of_the_call_are_filled_in_and_defaults_where_there_are_none() {
    let text = inlined(
        r#"<ir_version: 9, opset_import: ["" : 18, "own" : 1]>
        g (float[4] x) => (float[4] y, float[4] z) {
            ["first"] h = own.Leak <slope = 0.5> (x)
            ["second"] y = own.Leak (h)
            z = own.Twice (h)
        }
        <domain: "own", opset_import: ["" : 18, "own" : 1]>
        Twice (v) => (w) { a = own.Leak <slope = 2.0> (v)
            w = Add (a, v) }
        <domain: "own", opset_import: ["" : 18]>
        Leak <alpha, slope: float = 0.25> (v) => (w) {
            ["relu"] t = LeakyRelu <alpha: float = @slope> (v)
            w = Elu <alpha: float = @alpha> (t)
        }"#,
    );
    for part in
        ["first/relu", "alpha = 0.5", "alpha = 0.25", "alpha = 2", "h = Elu (", r#"opset_import: ["" : 18]"#]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!text.contains("own"), "{text}");
}

#[test]
fn bodies_and_names_stay_apart() {
    let text = inlined(
        r#"<ir_version: 9, opset_import: ["" : 18, "own" : 1]>
        g (float[4] x, bool c) => (float[4] y, float[4] z) {
            t = Neg (x)
            y = own.Choose (c, t)
            u = If (c) <
                then_branch = a () => (float[4] p) { p = own.Choose (c, x) },
                else_branch = b () => (float[4] q) { q = Identity (x) } >
            z = Add (u, t)
        }
        <domain: "own", opset_import: ["" : 18]>
        Choose (c, v) => (w) {
            t = Abs (v)
            w = If (c) <
                then_branch = a () => (float[4] y) { y = Add (t, v) },
                else_branch = b () => (float[4] y_1) { y_1 = Sub (t, v) } >
        }"#,
    );
    assert_eq!(text.matches("= Abs (").count(), 2, "{text}");
}

#[test]
fn inputs_left_out_and_values_passed_through() {
    // ONNX Runtime itself refuses functions of this kind.
    let source = r#"<ir_version: 9, opset_import: ["" : 18, "own" : 1]>
        g (float[2] x) => (float[2] y, float[2] same, float[2] twice) <float m = {0.5}> {
            y, same, twice = own.Bound (x, "", m)
        }
        <domain: "own", opset_import: ["" : 18]>
        Bound (v, least, most) => (w, v, w) { w = Clip (v, least, most) }"#;
    let mut model = text::parse(source).unwrap();
    assert_eq!(inline_functions(&mut model).unwrap(), 1);
    model.verify().unwrap();
    let x = Tensor::from_vec([2], vec![-1f32, 1.0]);
    let bounded = Tensor::from_vec([2], vec![-1f32, 0.5]);
    let found = run(&runtime(), &model, &vec![("x".into(), x.clone())]).unwrap();
    let expected: Vec<_> =
        [("y", &bounded), ("same", &x), ("twice", &bounded)].map(|(n, t)| (n.into(), t.clone())).into();
    assert_eq!(found, expected);
}

#[test]
fn what_cannot_be_inlined_says_why_and_stays() {
    let why = |body: &str, opset: i64, call: &str| {
        let source = format!(
            r#"<ir_version: 9, opset_import: ["" : 18, "own" : 1]>
            g (float[4] x) => (float[4] y) {{ y = {call} }}
            <domain: "own", opset_import: ["" : {opset}, "own" : 1]> F (v) => (w) {{ {body} }}"#
        );
        let mut model = text::parse(&source).unwrap();
        let before = model.clone();
        let why = inline_functions(&mut model).unwrap_err().to_string();
        assert!(model == before, "{why}");
        why
    };
    assert!(why("w = own.F (v)", 18, "own.F (x)").contains("function `F` calls itself"));
    assert!(why("w = Neg (v)", 18, "own.F (x, x)").contains("2 inputs and 1 outputs, where it has 1 and 1"));
    let versions = why("w = Neg (v)", 17, "own.F (x)");
    assert!(versions.contains("is of version 17 of operator set `ai.onnx`, the model of 18"), "{versions}");
}

#[test]
fn functions_that_stand_for_more_than_memory_holds_are_refused() {
    let mut source = r#"<ir_version: 9, opset_import: ["" : 18, "own" : 1]>
        g (float[4] x) => (float[4] y) { y = own.F0 (x) }"#
        .to_owned();
    for k in 0..40 {
        let next = k + 1;
        source += &format!(
            r#"<domain: "own", opset_import: ["own" : 1]> F{k} (v) => (w) {{ a = own.F{next} (v)
               w = own.F{next} (a) }}"#
        );
    }
    source += r#"<domain: "own", opset_import: ["" : 18]> F40 (v) => (w) { w = Neg (v) }"#;
    let why = inline_functions(&mut text::parse(&source).unwrap()).unwrap_err();
    assert!(
        matches!(why, Error::Unsupported { .. }) && why.to_string().contains("1099511627776 ops"),
        "{why}"
    );
}

/// The model as a call of one function that does all it does, the attributes of its ops given by the call if so wished.
fn as_function(model: &Model, by_call: bool) -> Option<Model> {
    let mut body = model.graph.clone();
    // A function has no defaults of inputs, and its outputs are computed.
    let computed = |g: &Graph| g.outputs.iter().all(|v| g.producer(*v).is_some());
    if body.inputs.iter().any(|v| body.initializer(*v).is_some())
        || !computed(&body)
        || !model.functions.is_empty()
    {
        return None;
    }
    let mut call = Op::new("Whole", "call").in_domain("own");
    let mut function = Function { domain: "own".into(), name: "Whole".into(), ..Function::default() };
    for id in body.ops().collect::<Vec<_>>() {
        for attribute in &mut body.op_mut(id).attrs {
            let kind = match &attribute.value {
                _ if !by_call => continue,
                Attr::Float(_) => 1,
                Attr::Int(_) => 2,
                Attr::String(_) => 3,
                Attr::Floats(_) => 6,
                Attr::Ints(_) => 7,
                _ => continue,
            };
            let name = format!("a{}", function.attributes.len());
            let value = std::mem::replace(&mut attribute.value, Attr::Reference(name.clone(), kind));
            call.set(&name, value);
            function.attributes.push(name);
        }
    }
    let mut main = Graph::new("main");
    let inputs: Vec<_> = body
        .inputs
        .iter()
        .map(|v| Some(main.add_input(body.name_of(*v), body.value(*v).ty.clone().unwrap())))
        .collect();
    let outputs: Vec<_> = body
        .outputs
        .iter()
        .map(|v| Some(main.add_value(body.name_of(*v), body.value(*v).ty.clone())))
        .collect();
    main.add_op(call, &inputs, &outputs);
    main.outputs = outputs.into_iter().flatten().collect();
    function.opsets = model.opsets.clone();
    function.body = body;
    let mut opsets = model.opsets.clone();
    opsets.push(OpsetImport { domain: "own".into(), version: 1, ..OpsetImport::default() });
    Some(Model { graph: main, functions: vec![function], opsets, ..model.clone() })
}

#[test]
fn conformance_models_put_into_a_function_and_taken_out_again_give_what_they_gave() {
    let runtime = runtime();
    let (mut compared, mut wrong) = (0, Vec::new());
    for case in conformance().into_iter().filter(|c| c.runs) {
        let model = lower::load(&case.model).unwrap();
        let Some(mut wrapped) = as_function(&model, true) else { continue };
        wrapped.verify().unwrap_or_else(|e| panic!("{}: {e}", case.name));
        assert_eq!(inline_functions(&mut wrapped).unwrap_or_else(|e| panic!("{}: {e}", case.name)), 1);
        wrapped.verify().unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let Some(batch) = case.batch(&model) else { continue };
        let Ok(expected) = run(&runtime, &model, &batch) else { continue };
        compared += 1;
        match run(&runtime, &wrapped, &batch) {
            Err(e) => wrong.push(format!("{}: {e}", case.name)),
            Ok(found) if found != expected => wrong.push(format!("{}: outputs differ", case.name)),
            Ok(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 1000, "only {compared} models were compared");
}

#[test]
fn conformance_models_in_a_function_give_what_they_gave_once_its_body_is_simplified() {
    let runtime = runtime();
    let (mut compared, mut changed, mut wrong) = (0, 0, Vec::new());
    for case in conformance().into_iter().filter(|c| c.runs) {
        let model = lower::load(&case.model).unwrap();
        for by_call in [false, true] {
            let Some(wrapped) = as_function(&model, by_call) else { continue };
            let Some(batch) = case.batch(&model) else { continue };
            // Not all that ONNX Runtime computes it also computes in a function.
            let Ok(expected) = run(&runtime, &wrapped, &batch) else { continue };
            let (mut simple, mut cx) = (wrapped.clone(), Context::new());
            let simplified = Simplify::default().run(&mut simple, &mut cx);
            changed +=
                usize::from(simplified.unwrap_or_else(|e| panic!("{}: {e}", case.name)) == Changed::Yes);
            simple.verify().unwrap_or_else(|e| panic!("{}: {e}", case.name));
            compared += 1;
            match run(&runtime, &simple, &batch) {
                // It gives Range vectors of one element, which ONNX Runtime takes where it cannot tell their rank.
                Err(_) if case.name.starts_with("node/test_affine_grid_2d_") => {}
                Err(e) => wrong.push(format!("{}: {e}", case.name)),
                Ok(found) if !same(&expected, &found) => wrong.push(format!("{}: outputs differ", case.name)),
                Ok(_) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 2500 && changed > 300, "{compared} compared, {changed} changed");
}

/// Equal but for rounding.
fn same(a: &Batch, b: &Batch) -> bool {
    let equal = |(a, b): (&Tensor, &Tensor)| match (a.to_f32(), b.to_f32()) {
        (Some(x), Some(y)) => a.shape() == b.shape() && relative_difference(&x, &y) < 1e-5,
        _ => a == b,
    };
    a.len() == b.len() && a.iter().zip(b).all(|((_, a), (_, b))| equal((a, b)))
}
