"""What calibrating costs: the seconds that `quant` spends on samples, against a bare run of the same samples on ONNX
Runtime in batches as large. First what it takes to find the ranges, then all that `quant(latency=any)` looks at besides: the
outputs with scales moved, with biases corrected, and with layers rounded.

    cargo build --release
    python3 -m compileall -q .onnx-compress/ort .onnx-compress/python
    PYTHONPATH=.onnx-compress/ort:.onnx-compress/python python3 benches/calibration.py [CALIB.npz]

Without an argument: the images in tests/assets. A cell is a ratio of medians.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
PROGRAM = f"{ROOT}/target/release/onnx-compress"
REPEATS, BATCH = 5, 32
OBSERVERS = ["minmax", "average", "percentile", "mse", "entropy"]


def seconds_of(command):
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def bare(path, samples):
    """Seconds of one run over all samples; loading the model counts, as it does where it is calibrated."""
    start = time.perf_counter()
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (only,) = session.get_inputs()
    shape = [d if isinstance(d, int) else -1 for d in only.shape]
    for k in range(0, len(samples), BATCH):
        batch = samples[k : k + BATCH]
        session.run(None, {only.name: batch.reshape([len(batch), *shape[1:]])})
    return time.perf_counter() - start


def main():
    calib = sys.argv[1] if len(sys.argv) > 1 else f"{ROOT}/tests/assets/zoo_calib.npz"
    data = np.load(calib)
    samples = data[next(iter(data))]
    columns = [*OBSERVERS, "all"]
    print(f"{len(samples)} samples\n\n| model | {' | '.join(columns)} |\n|---{'|--:' * len(columns)}|")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("resnet20", "vit", "simplecnn"):
            path = f"{ROOT}/tests/assets/zoo/{name}.onnx"
            head = [PROGRAM, path, "--no-validate", "--quiet", "-o", f"{folder}/out.onnx", "-p"]
            pipelines = {o: f"quant(latency=any,noise=any,equalize=none,repair=none,observer={o})" for o in OBSERVERS}
            pipelines["all"] = "quant(latency=any)"
            times = {what: [] for what in ["bare", "weights", *columns]}
            for _ in range(REPEATS):
                times["bare"].append(bare(path, samples))
                times["weights"].append(seconds_of([*head, "quant(activations=none)"]))
                for what, pipeline in pipelines.items():
                    times[what].append(seconds_of([*head, pipeline, "--calib", calib]))
            median = {what: statistics.median(found) for what, found in times.items()}
            ratios = ((median[what] - median["weights"]) / median["bare"] for what in columns)
            print(f"| {name} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)


main()
