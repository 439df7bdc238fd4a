"""What compression costs in accuracy and gives in size and latency, on the image classifiers of tests/assets.

Run after `cargo build --release --bin onnx-compress`, with any Python 3.11 or newer:
    python3 benches/accuracy.py [IMAGES.npz [CALIBRATION.npz]]

IMAGES.npz holds `image` and `labels` (default: tests/assets/zoo_test.npz, the first 2,000 test images), CALIBRATION.npz
`image` (default: tests/assets/zoo_calib.npz, 256 training images). Every figure
is the program's own: accuracy over all images, latency as the median of runs of both models in turns on one thread,
and of REPEATS such measurements the median.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
ASSETS = os.path.join(ROOT, "tests/assets")
PROGRAM = os.path.join(ROOT, "target/release/onnx-compress")
CALIBRATION = os.path.abspath(sys.argv[2]) if len(sys.argv) > 2 else os.path.join(ASSETS, "zoo_calib.npz")
MODELS = ["resnet20_raw", "vit_raw", "lstm_raw", "simplecnn"]
# Pipelines, and whether each is given calibration images.
PIPELINES = [
    ("quant", False),
    ("quant", True),
    ("quant(bits=4)", False),
    ("quant(bits=4)", True),
    ("quant(bits=3)", True),
    ("quant(bits=2)", True),
    ("quant(activations=dynamic)", False),
    ("quant(observer=minmax)", True),
    ("cast", True),
    ("cast(precision=bf16)", True),
    ("prune(macs=0.75)", False),
    ("prune(macs=0.75)", True),
    ("prune(macs=0.5)", False),
    ("prune(macs=0.5)", True),
    ("prune(latency=0.65)", True),
    ("prune(macs=0.75),quant", True),
    ("sparsify(ratio=0.5)", False),
    ("sparsify(ratio=0.5)", True),
    ("sparsify(ratio=0.8)", True),
    ('sparsify(pattern="2:4")', True),
    ("sparsify(ratio=0.5),quant", True),
    ("svd(ratio=0.75)", True),
    ("svd(ratio=0.5)", True),
    ("svd(macs=0.5)", True),
    ("prune(macs=0.75),svd(ratio=0.5),quant", True),
    ("prune(macs=0.75),svd(ratio=0.7,exclude=[\"/fc*\"]),quant(bits=4)", True),
    ("prune(macs=0.6),svd(ratio=0.4),quant(bits=4)", True),
]
BATCHES = [1, 32]
REPEATS = 3


def run(*arguments):
    """What the program prints; 3 is the exit code of a result below the bar, which is a figure too."""
    done = subprocess.run([PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode not in (0, 3):
        sys.exit(f"{arguments}: {done.stderr}")
    return done


def validate(original, compressed, *arguments):
    return json.loads(run("validate", original, compressed, "--json", *arguments).stdout)


def latency(original, compressed, batch):
    """The median latency of the compressed model as a multiple of the original's, on made-up inputs."""
    found = [validate(original, compressed, "--dim", f"batch={batch}")["latency"] for _ in range(REPEATS)]
    return statistics.median(f["compressed"]["p50_ms"] / f["original"]["p50_ms"] for f in found)


def row(model, pipeline, calibrated, images, out):
    original = os.path.join(ASSETS, "zoo", f"{model}.onnx")
    calibration = ["--calib", CALIBRATION] if calibrated else []
    done = run(original, "-p", pipeline, "-o", out, "--no-validate", "--quiet", *calibration)
    cells = [model, f"`{pipeline}`" + (" with samples" if calibrated else "")]
    if done.returncode == 3:
        return cells + ["refused"] + ["-"] * (3 + len(BATCHES))
    accuracy = validate(original, out, "--calib", images, "--labels", images)["accuracy"]
    before, after = 100 * accuracy["original"], 100 * accuracy["compressed"]
    cells += [f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"]
    cells.append(f"{os.path.getsize(out) / os.path.getsize(original):.2f}")
    return cells + [f"{latency(original, out, batch):.2f}" for batch in BATCHES]


def main():
    images = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else os.path.join(ASSETS, "zoo_test.npz")
    columns = ["model", "pipeline", "accuracy before", "after", "change", "file"]
    columns += [f"latency, batch {batch}" for batch in BATCHES]
    print("| " + " | ".join(columns) + " |")
    print("|---|---" + "|--:" * (len(columns) - 2) + "|")
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS:
            for pipeline, calibrated in PIPELINES:
                cells = row(model, pipeline, calibrated, images, os.path.join(folder, "out.onnx"))
                print("| " + " | ".join(cells) + " |", flush=True)


main()
