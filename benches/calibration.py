"""What calibrating costs: the seconds that `quant` spends on samples, against a bare run of the same samples on ONNX
Runtime in batches as large. First what it takes to find the ranges, then all that `quant(latency=any)` looks at besides: the
outputs with scales moved, with biases corrected, and with layers rounded.

    cargo build --release
    python3 -m compileall -q .onnx-compress/ort .onnx-compress/python
    PYTHONPATH=.onnx-compress/ort:.onnx-compress/python python3 benches/calibration.py [CALIB.npz | MODEL.onnx ...]

Without an argument: three of the zoo's classifiers on the images in tests/assets. Models that are named get made-up samples, 256 of
files of less than 10 MB and 64 of others, are simplified and have operator set 17 at least. A cell is a ratio of medians.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort

import made_up
from program import PROGRAM, ROOT, raised

REPEATS, BATCH = 5, 32
OBSERVERS = ["minmax", "average", "percentile", "mse", "entropy"]


def seconds_of(command):
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def bare(path, batches):
    """Seconds of one run over all batches; loading the model counts, as it does where it is calibrated."""
    start = time.perf_counter()
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in batches:
        session.run(None, batch)
    return time.perf_counter() - start


def zoo(calib):
    """Of each classifier what it is called, its file, what ours is calibrated on, and the same in batches."""
    data = np.load(calib)
    samples = data[next(iter(data))]
    for name in ("resnet20", "vit", "simplecnn"):
        path = f"{ROOT}/tests/assets/zoo/{name}.onnx"
        (only,) = made_up.session(path).get_inputs()
        shape = [d if isinstance(d, int) else -1 for d in only.shape[1:]]
        parts = (samples[k : k + BATCH] for k in range(0, len(samples), BATCH))
        yield f"{name}, {len(samples)}", path, calib, [{only.name: part.reshape([len(part), *shape])} for part in parts]


def named(paths, folder):
    """The same for any model, on made-up samples."""
    for path in paths:
        stem = os.path.splitext(os.path.basename(path))[0]
        source = raised(path, 17, folder)
        if source is None:
            continue
        declared = made_up.session(source).get_inputs()
        count = 256 if os.path.getsize(source) < 10_000_000 else 64
        batches = made_up.batches(stem, declared, count, 0)
        yield f"{stem}, {count}", source, made_up.write(batches, declared, f"{folder}/calib"), batches


def main():
    columns = [*OBSERVERS, "all"]
    print(f"| model, samples | {' | '.join(columns)} |\n|---{'|--:' * len(columns)}|")
    with tempfile.TemporaryDirectory() as folder:
        models = [arg for arg in sys.argv[1:] if arg.endswith(".onnx")]
        calib = sys.argv[1] if len(sys.argv) > 1 else f"{ROOT}/tests/assets/zoo_calib.npz"
        for name, path, calib, batches in named(models, folder) if models else zoo(calib):
            head = [PROGRAM, path, "--no-validate", "--quiet", "-o", f"{folder}/out.onnx", "-p"]
            pipelines = {o: f"quant(latency=any,noise=any,equalize=none,repair=none,observer={o})" for o in OBSERVERS}
            pipelines["all"] = "quant(latency=any)"
            times = {what: [] for what in ["bare", "weights", *columns]}
            for _ in range(REPEATS):
                times["bare"].append(bare(path, batches))
                times["weights"].append(seconds_of([*head, "quant(activations=none)"]))
                for what, pipeline in pipelines.items():
                    times[what].append(seconds_of([*head, pipeline, "--calib", calib]))
            median = {what: statistics.median(found) for what, found in times.items()}
            ratios = ((median[what] - median["weights"]) / median["bare"] for what in columns)
            print(f"| {name} | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |", flush=True)


main()
