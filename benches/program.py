"""The program as the benches over many models call it, and what it tells of files."""

import glob
import json
import os
import re
import subprocess

import onnx

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
PROGRAM = f"{ROOT}/target/release/onnx-compress"
SECONDS = 300


def run(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as late:
        return subprocess.CompletedProcess(late.cmd, 124, "", "")


def told(*arguments):
    """What the program says as JSON, or nothing where it fails."""
    done = run(PROGRAM, *arguments, "--json")
    return json.loads(done.stdout) if done.returncode in (0, 3) and done.stdout.startswith(("{", "[")) else None


def raised(path, opset, folder):
    """The model simplified, of this operator set or a newer one; nothing where it cannot be raised."""
    source = f"{folder}/in{opset}.onnx"
    version = max(o.version for o in onnx.load(path).opset_import if o.domain in ("", "ai.onnx"))
    command = [PROGRAM, path, "-p", "simplify", "--no-validate", "--quiet", "-o", source]
    done = run(*command, *(["--opset", str(opset)] if version < opset else []))
    return source if done.returncode == 0 else None


def total(path, what):
    """The sum over all layers of what `inspect` says of each: "macs", "parameters"."""
    return sum(layer[what] for layer in told("inspect", "--layers", path) or [])


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


def corpus():
    """Every model that `cargo xtask setup` fetched, and the zoo's, small ones first."""
    zoo, fetched = "tests/assets/zoo/*_raw.onnx", ".onnx-compress/models/**/*.onnx"
    found = [path for files in (zoo, fetched) for path in glob.glob(f"{ROOT}/{files}", recursive=True)]
    return sorted(found, key=os.path.getsize)


def name(path):
    return os.path.splitext(os.path.basename(path))[0]
