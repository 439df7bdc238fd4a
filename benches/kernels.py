"""What ONNX Runtime's integer kernels take of the time of its float ones: the figures by which `quant` decides without a clock,
and those that docs/quant.md tells.

    cargo build --release
    PYTHONPATH=.onnx-compress/ort:.onnx-compress/python python3 benches/kernels.py

A figure is the median ratio of runs in turns, on one thread. Operators read and write uint8 on one side and float32 on the other;
layers are what the pass makes of a float model.
"""

import os
import statistics
import subprocess
import tempfile
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx.parser import parse_model

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
PROGRAM = f"{ROOT}/target/release/onnx-compress"
ROUNDS, LEAST_SECONDS = 15, 0.02
HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>'

# Operators of one input `x` and their outputs, by shape.
MAP = "1, 64, 56, 56"
OPERATORS = [
    ("Softmax", "Softmax (x)", "12, 128, 128"),
    ("AveragePool, 3x3", "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)", MAP),
    ("GlobalAveragePool", "GlobalAveragePool (x)", MAP),
    ("MaxPool, 3x3", "MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)", MAP),
    ("Sigmoid", "Sigmoid (x)", MAP),
    ("LeakyRelu", "LeakyRelu (x)", MAP),
    ("Add", "Add (x, x)", MAP),
    ("Mul", "Mul (x, x)", MAP),
    ("Sub", "Sub (x, x)", MAP),
    ("Div", "Div (x, x)", MAP),
    ("Clip", "Clip (x)", MAP),
    ("Concat", "Concat <axis = 1> (x, x)", MAP),
    ("Pad", "Pad (x, pads)", MAP),
    ("ReduceMean", "ReduceMean (x, axes)", MAP),
    ("Resize, linear", 'Resize <mode = "linear"> (x, , factors)', MAP),
    ("Resize, nearest", 'Resize <mode = "nearest"> (x, , factors)', MAP),
    ("SpaceToDepth", "SpaceToDepth <blocksize = 2> (x)", MAP),
    ("Transpose", "Transpose <perm = [0, 2, 3, 1]> (x)", MAP),
]
CONSTANTS = """int64[8] pads = {0, 0, 1, 1, 0, 0, 1, 1}, int64[2] axes = {2, 3}, float[4] factors = {1.0, 1.0, 2.0, 2.0},
    float scale = {0.02}, uint8 zero = {128}"""


def operator(text, shape):
    """The operator on floats, and on integers."""
    float_ = f"{HEAD} g (float[{shape}] x) => (float[] y) <{CONSTANTS}> {{ y = {text} }}"
    integer = f"""{HEAD} g (uint8[{shape}] q) => (uint8[] r) <{CONSTANTS}> {{
        x = DequantizeLinear (q, scale, zero)
        y = {text}
        r = QuantizeLinear (y, scale, zero)
    }}"""
    return tuple(without_shapes(parse_model(text)) for text in (float_, integer))


def without_shapes(model):
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return model


def product(heads, width, tokens):
    """A product of two activations, and of the integers that they are rounded to."""
    left, right = f"1, {heads}, {tokens}, {width}", f"1, {heads}, {width}, {tokens}"
    inputs = f"(float[{left}] a, float[{right}] b) => (float[1, {heads}, {tokens}, {tokens}] y)"
    integer = f"""{HEAD} g {inputs}
        <float scale = {{0.02}}, uint8 zero = {{128}}, int8 even = {{0}}> {{
        p = QuantizeLinear (a, scale, zero)
        q = QuantizeLinear (b, scale, even)
        y = com.microsoft.MatMulIntegerToFloat (p, q, scale, scale, zero, even)
    }}"""
    return parse_model(f"{HEAD} g {inputs} {{ y = MatMul (a, b) }}"), parse_model(integer)


def layers(graph, weights):
    """A model with weights of these shapes, spread like a bell."""
    rng = np.random.default_rng(0)
    model = parse_model(f"{HEAD} g {graph}")
    for name, shape in weights.items():
        values = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype("float32")
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return model


CONV = {"w": (64, 64, 3, 3), "v": (64, 64, 3, 3)}
LOOP = """(float[1, 512] x) => (float[1, 512] y) <int64 n = {50}, bool go = {1}> {
    y = Loop (n, go, x) <body = b (int64 i, bool c, float[1, 512] s) => (bool d, float[1, 512] t) {
        d = Identity (c) m = MatMul (s, w) t = Tanh (m) }>
}"""


def chain(function):
    return f"""(float[1, 64, 28, 28] x) => (float[1, 64, 28, 28] y) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, w)
        {function}
        y = Conv <pads = [1, 1, 1, 1]> (b, v)
    }}"""


def first_layer(channels, size):
    graph = f"(float[1, {channels}, {size}, {size}] x) => (float[1, 16, {size}, {size}] y) {{ y = Conv <pads = [1, 1, 1, 1]> (x, w) }}"
    return layers(graph, {"w": (16, channels, 3, 3)})


# What is compared, a float model, and the pipelines whose results are timed against it; with samples where one says so.
STATIC = "quant(latency=any,noise=any,equalize=none,repair=none"
LAYERS = [
    ("Conv of 64 channels", layers(chain("b = Relu (a)"), CONV), STATIC + ")"),
    ("HardSwish between two", layers(chain("b = HardSwish (a)"), CONV), STATIC + ")"),
    ("Conv of 3 channels, 224 x 224", first_layer(3, 224), STATIC + ",target=openvino)"),
    ("Conv of 1 channel, 28 x 28", first_layer(1, 28), STATIC + ",target=openvino)"),
    ("a Loop of products of one row by 512 x 512", layers(LOOP, {"w": (512, 512)}), "quant(activations=none)"),
    ("MatMulNBits, 16 rows by 1024 x 1024", layers("(float[16, 1024] x) => (float[16, 1024] y) { y = MatMul (x, w) }", {"w": (1024, 1024)}), "quant(bits=4,form=matmulnbits)"),
    ("GatherBlockQuantized, 64 rows", layers("(int64[64] x) => (float[64, 256] y) { y = Gather (w, x) }", {"w": (1000, 256)}), "quant(bits=4,form=matmulnbits)"),
]


def feed(session):
    rng = np.random.default_rng(1)
    made = {"float": lambda s: rng.standard_normal(s).astype("float32"), "uint8": lambda s: rng.integers(0, 256, s).astype("uint8"), "int64": lambda s: rng.integers(0, 1000, s)}
    return {i.name: made[i.type[7:-1]](i.shape) for i in session.get_inputs()}


def ratio(before, after):
    """The median time of the second file's model by that of the first's."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    sessions = [ort.InferenceSession(m if isinstance(m, str) else m.SerializeToString(), options) for m in (before, after)]
    feeds = [feed(session) for session in sessions]
    times, runs = ([], []), 1
    while True:
        start = time.perf_counter()
        for _ in range(runs):
            sessions[0].run(None, feeds[0])
        if time.perf_counter() - start > LEAST_SECONDS:
            break
        runs *= 2
    for _ in range(ROUNDS):
        for session, given, found in zip(sessions, feeds, times):
            start = time.perf_counter()
            for _ in range(runs):
                session.run(None, given)
            found.append(time.perf_counter() - start)
    return statistics.median(b / a for a, b in zip(*times))


def main():
    print("| what | integers, as a share of float |\n|---|--:|")
    for name, text, shape in OPERATORS:
        print(f"| {name} | {ratio(*operator(text, shape)):.2f} |", flush=True)
    for heads, width, tokens in ((6, 64, 197), (12, 64, 512), (4, 24, 50)):
        share = ratio(*product(heads, width, tokens))
        print(f"| product of two activations, {heads} heads of {width}, {tokens} tokens | {share:.2f} |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name, model, pipeline in LAYERS:
            source, target, calib = (f"{folder}/{file}" for file in ("in.onnx", "out.onnx", "calib.npz"))
            onnx.save(model, source)
            session = ort.InferenceSession(source, providers=["CPUExecutionProvider"])
            np.savez(calib, **{k: np.concatenate([v] * 4) if v.shape[0] == 1 else v for k, v in feed(session).items()})
            command = [PROGRAM, source, "-p", pipeline, "--no-validate", "--quiet", "-o", target]
            subprocess.run(command + (["--calib", calib] if "latency" in pipeline else []), check=True)
            print(f"| {name}: `{pipeline}` | {ratio(source, target):.2f} |", flush=True)


main()
