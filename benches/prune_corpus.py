"""What of the real models can be cut, and what a cut to 70 % of the multiply-accumulates does to their outputs with and
without repair; beside it what onnxsim's structured pruning cuts of the same models.

    cargo build --release
    python3 -m pip install --target target/peers onnx==1.23.2 onnxsim==0.8.1
    PYTHONPATH=target/peers:.onnx-compress/ort python3 benches/prune_corpus.py [MODEL.onnx ...]

Without arguments: every model that `cargo xtask setup` fetched, and the zoo's. Inputs are made up, 48 to repair by and 16
others to compare by, so cosines say what a cut does to the function, not to a task; behind them is the time of one run as
a share of the original's, medians of runs in turns. `cuttable` is the share of the multiply-accumulates in layers that
exact groups make smaller. onnxsim cuts 30 % of the channels of what it matches; what is left is counted by our table.
"""

import glob
import json
import os
import re
import subprocess
import sys
import tempfile

import made_up

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
PROGRAM = f"{ROOT}/target/release/onnx-compress"
PIPELINE, SECONDS = "prune(macs=0.7{})", 120
PEER = "import sys, onnx, onnxsim; onnx.save(onnxsim.apply_structured_pruning(sys.argv[1], 0.3), sys.argv[2])"
REPAIR, COMPARE = 48, 16


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


def compared(original, cut, data):
    """The least cosine of all outputs, and the time of the cut model as a share of the original's."""
    found = told("validate", original, cut, "--calib", data)
    outputs = [o["cosine"] for o in found["outputs"] if o.get("cosine") is not None] if found else []
    if not outputs:
        return "-"
    latency = found["latency"]
    return f"{min(outputs):.4f}, {latency['compressed']['p50_ms'] / latency['original']['p50_ms']:.2f}x"


def row(path, folder):
    stem, declared = os.path.splitext(os.path.basename(path))[0], made_up.session(path).get_inputs()
    made = made_up.batches(stem, declared, REPAIR + COMPARE, 0)
    calib = made_up.write(made[:REPAIR], declared, f"{folder}/calib")
    test, out = made_up.write(made[REPAIR:], declared, f"{folder}/test"), f"{folder}/out.onnx"
    before, cells = macs(path), []
    for options, data in [(",repair=none,criterion=l2", []), ("", ["--calib", calib])]:
        done = run(PROGRAM, path, "-p", PIPELINE.format(options), "-o", out, "--no-validate", "--quiet", *data)
        if done.returncode:
            cells += ["-", {3: "refused", 124: "too long"}.get(done.returncode, "fails")]
        else:
            cells += [f"{100 * macs(out) / max(before, 1):.0f} %", compared(path, out, test)]
    if run(sys.executable, "-c", PEER, path, out).returncode:
        return cells + ["-", "fails"]
    left = macs(out) / max(before, 1)
    return cells + [f"{100 * left:.0f} %", compared(path, out, test) if left < 1 else "nothing cut"]


def main():
    models = sys.argv[1:] or [
        *glob.glob(f"{ROOT}/tests/assets/zoo/*_raw.onnx"),
        *glob.glob(f"{ROOT}/.onnx-compress/models/**/*.onnx", recursive=True),
    ]
    print("| model | cuttable | left by weights | cosine, time | by data, repaired | cosine, time | by onnxsim | cosine, time |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for path in sorted(models, key=os.path.getsize):
        with tempfile.TemporaryDirectory() as folder:
            cells = [os.path.splitext(os.path.basename(path))[0], cuttable(path)]
            print("| " + " | ".join(cells + row(path, folder)) + " |", flush=True)


main()
