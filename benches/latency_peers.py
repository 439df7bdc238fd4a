"""Latency of int8 models: `quant` with samples against each way that ONNX Runtime's own quantizers have.

    cargo build --release
    python3 -m pip install --target target/quant_peers onnx==1.23.2 onnx-ir==1.1.0 nncf==3.4.0
    PYTHONPATH=target/quant_peers:.onnx-compress/ort python3 benches/latency_peers.py [CALIB_FOLDER | MODEL.onnx ...]

A cell is the time of one sample, and for the zoo's classifiers of a batch of 32 too, as a multiple of the float model's, on one
thread: medians of runs in turns. CALIB_FOLDER holds MODEL.npz for the zoo; without it the images in tests/assets are calibrated on.
Models that are named get 16 made-up samples; all tools, and the clock, get them simplified and with operator set 17 at least.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import made_up
from program import PROGRAM, ROOT, raised

ROUNDS, LEAST_SECONDS = 15, 0.02


class Reader(CalibrationDataReader):
    def __init__(self, samples):
        self.batches = iter(samples)

    def get_next(self):
        return next(self.batches, None)


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def median_ratios(sessions, feed):
    """Of each session, the median over the rounds of its time by that of the first in the same round; nothing where there is none."""
    times = [[] for _ in sessions]
    runs = 1
    while True:
        start = time.perf_counter()
        for _ in range(runs):
            sessions[0].run(None, feed)
        if time.perf_counter() - start > LEAST_SECONDS:
            break
        runs *= 2
    for _ in range(ROUNDS):
        for session, found in zip(sessions, times):
            if session is None:
                continue
            start = time.perf_counter()
            for _ in range(runs):
                session.run(None, feed)
            found.append(time.perf_counter() - start)
    return [statistics.median(t / first for t, first in zip(found, times[0])) if found else None for found in times]


def zoo(folder_of_samples):
    """Of each classifier the file, what ours is calibrated on, the samples for the peers, and what is timed."""
    for name in ("lstm", "resnet20", "simplecnn", "vit"):
        source = f"{ROOT}/tests/assets/zoo/{name}.onnx"
        calib = f"{folder_of_samples}/{name}.npz" if folder_of_samples else f"{ROOT}/tests/assets/zoo_calib.npz"
        (only,) = session(source).get_inputs()
        data = np.load(calib)
        pixels = data[next(k for k in data if data[k].ndim > 1)].astype("float32")
        samples = pixels.reshape([len(pixels), *(d if isinstance(d, int) else 1 for d in only.shape[1:])])
        single = [{only.name: samples[k : k + 1]} for k in range(len(samples))]
        yield name, source, calib, single, [single[0], {only.name: samples[:32]}]


def named(paths, folder):
    """The same for any model, on made-up samples."""
    for path in paths:
        name = os.path.splitext(os.path.basename(path))[0]
        source = raised(path, 17, folder)
        if source is None:
            continue
        declared = session(source).get_inputs()
        batches = made_up.batches(name, declared, 16, 0)
        yield name, source, made_up.write(batches, declared, f"{folder}/{name}"), batches, batches[:1]


def quantized(source, calib, samples, folder):
    """A file for each way to quantize, and nothing where it fails."""
    paths = [f"{folder}/{k}.onnx" for k in range(4)]
    ours, signed, unsigned, dynamic = paths
    ready = f"{folder}/ready.onnx"

    def ourselves():
        command = [PROGRAM, source, "-p", "quant", "--calib", calib, "--no-validate", "--quiet", "-o", ours]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def prepared():
        quant_pre_process(source, ready, skip_symbolic_shape=True)

    def static(path, kind):
        quantize_static(ready, path, Reader(samples), per_channel=True, activation_type=kind)

    ways = [
        (None, prepared),
        (ours, ourselves),
        (signed, lambda: static(signed, QuantType.QInt8)),
        (unsigned, lambda: static(unsigned, QuantType.QUInt8)),
        (dynamic, lambda: quantize_dynamic(ready, dynamic, per_channel=True)),
    ]
    made = []
    for path, make in ways:
        try:
            make()
            made.append(path)
        except Exception:
            if path in (None, ours):
                raise
    return [path if path in made else None for path in paths]


def main():
    arguments = sys.argv[1:]
    names = ["`quant`", "static s8s8", "static u8s8", "dynamic"]
    print(f"| model | {' | '.join(names)} |\n|---{'|---' * len(names)}|")
    with tempfile.TemporaryDirectory() as folder:
        by_name = arguments and arguments[0].endswith(".onnx")
        models = named(arguments, folder) if by_name else zoo(arguments[0] if arguments else None)
        for name, source, calib, samples, feeds in models:
            paths = quantized(source, calib, samples, folder)
            runs = [session(source), *(session(path) if path else None for path in paths)]
            by_feed = [median_ratios(runs, feed) for feed in feeds]
            cells = (", ".join("-" if r is None else f"{r:.2f}" for r in ratios) for ratios in list(zip(*by_feed))[1:])
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


main()
