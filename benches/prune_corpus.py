"""What of the real models can be cut, and what a cut to 70 % of the multiply-accumulates does to their outputs with and
without repair; beside it what onnxsim's structured pruning cuts of the same models.

    cargo build --release
    python3 -m pip install --target target/peers onnx==1.23.2 onnxsim==0.8.1
    PYTHONPATH=target/peers python3 benches/prune_corpus.py [MODEL.onnx ...]

Without arguments: every model that `cargo xtask setup` fetched, and the zoo's. Inputs are made up (normal numbers), 48 to
repair by and 16 others to compare by, so cosines say what a cut does to the function, not to a task. `cuttable` is the
share of the multiply-accumulates in layers that exact groups make smaller. onnxsim cuts 30 % of the
channels of what it matches; what is left is counted by our table.
"""

import glob
import json
import os
import re
import subprocess
import sys
import tempfile

import numpy
import onnx

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
PROGRAM = f"{ROOT}/target/release/onnx-compress"
PIPELINE, SECONDS = "prune(macs=0.7{})", 120
PEER = "import sys, onnx, onnxsim; onnx.save(onnxsim.apply_structured_pruning(sys.argv[1], 0.3), sys.argv[2])"
# What a free axis other than the first is, and ids below what every vocabulary holds.
FREE, IDS = 64, 100


def run(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as late:
        return subprocess.CompletedProcess(late.cmd, 124, "", "")


def told(*arguments):
    """What the program says as JSON, or nothing where it fails."""
    done = run(PROGRAM, *arguments, "--json")
    return json.loads(done.stdout) if done.returncode in (0, 3) and done.stdout.startswith(("{", "[")) else None


def macs(path):
    return sum(layer["macs"] for layer in told("inspect", "--layers", path) or [])


def cuttable(path):
    """The share of the work that is in layers that can be cut, as the program says it."""
    said = re.search(r"([0-9.]+) % of the multiply-accumulates", run(PROGRAM, "inspect", "--groups", path).stdout)
    return f"{float(said[1]):.0f} %" if said else "-"


def samples(path, count, seed):
    """Made-up inputs by name; the first axis runs over samples."""
    graph, random, arrays = onnx.load(path, load_external_data=False).graph, numpy.random.default_rng(seed), {}
    constants = {tensor.name for tensor in graph.initializer}
    for value in (v for v in graph.input if v.name not in constants):
        kind = value.type.tensor_type
        shape = [d.dim_value if d.dim_value > 0 else FREE for d in kind.shape.dim]
        # A model for one sample at a time is given arrays of one more axis.
        batched = bool(kind.shape.dim) and kind.shape.dim[0].dim_value <= 0
        shape = [count, *(shape[1:] if batched else shape)]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        made = random.normal(size=shape) if dtype.kind == "f" else random.integers(0, IDS, shape)
        arrays[value.name] = made.astype(dtype)
    return arrays


def cosine(original, cut, data):
    """The least of all outputs."""
    found = told("validate", original, cut, "--calib", data)
    outputs = [o["cosine"] for o in found["outputs"] if o.get("cosine") is not None] if found else []
    return min(outputs) if outputs else None


def row(path, folder):
    calib, test, out = f"{folder}/calib.npz", f"{folder}/test.npz", f"{folder}/out.onnx"
    numpy.savez(calib, **samples(path, 48, 0))
    numpy.savez(test, **samples(path, 16, 1))
    before, cells = macs(path), []
    for options, data in [(",repair=none,criterion=l2", []), ("", ["--calib", calib])]:
        done = run(PROGRAM, path, "-p", PIPELINE.format(options), "-o", out, "--no-validate", "--quiet", *data)
        if done.returncode:
            cells += ["-", {3: "refused", 124: "too long"}.get(done.returncode, "fails")]
        else:
            cells += [f"{100 * macs(out) / max(before, 1):.0f} %", number(cosine(path, out, test))]
    if run(sys.executable, "-c", PEER, path, out).returncode:
        return cells + ["-", "fails"]
    left = macs(out) / max(before, 1)
    return cells + [f"{100 * left:.0f} %", number(cosine(path, out, test)) if left < 1 else "nothing cut"]


def number(x):
    return "-" if x is None else f"{x:.4f}"


def main():
    models = sys.argv[1:] or [
        *glob.glob(f"{ROOT}/tests/assets/zoo/*_raw.onnx"),
        *glob.glob(f"{ROOT}/.onnx-compress/models/**/*.onnx", recursive=True),
    ]
    print("| model | cuttable | left by weights | cosine | left by data, repaired | cosine | left by onnxsim | cosine |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for path in sorted(models, key=os.path.getsize):
        with tempfile.TemporaryDirectory() as folder:
            cells = [os.path.splitext(os.path.basename(path))[0], cuttable(path)]
            print("| " + " | ".join(cells + row(path, folder)) + " |", flush=True)


main()
