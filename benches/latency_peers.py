"""Latency of int8 models: `quant` with samples against each way that ONNX Runtime's own quantizers have, on the zoo's classifiers.

    cargo build --release
    python3 -m pip install --target target/quant_peers onnx==1.23.2 onnx-ir==1.1.0 nncf==3.4.0
    PYTHONPATH=target/quant_peers:.onnx-compress/ort python3 benches/latency_peers.py [CALIB_FOLDER]

A cell is the time of one sample and of a batch of 32 as a multiple of the float model's, on one thread: medians of runs in turns.
CALIB_FOLDER holds MODEL.npz; without it the images in tests/assets are calibrated on.
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

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
PROGRAM = f"{ROOT}/target/release/onnx-compress"
ROUNDS, LEAST_SECONDS = 15, 0.02


class Reader(CalibrationDataReader):
    def __init__(self, name, samples):
        self.batches = iter({name: samples[k : k + 1]} for k in range(len(samples)))

    def get_next(self):
        return next(self.batches, None)


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def median_ratios(sessions, feed):
    """Of each session, the median over the rounds of its time by that of the first in the same round."""
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
            start = time.perf_counter()
            for _ in range(runs):
                session.run(None, feed)
            found.append(time.perf_counter() - start)
    return [statistics.median(t / first for t, first in zip(found, times[0])) for found in times]


def main():
    folder_of_samples = sys.argv[1] if len(sys.argv) > 1 else None
    names = ["`quant`", "static s8s8", "static u8s8", "dynamic"]
    print(f"| model | {' | '.join(names)} |\n|---{'|---' * len(names)}|")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("lstm", "resnet20", "simplecnn", "vit"):
            source = f"{ROOT}/tests/assets/zoo/{name}.onnx"
            calib = f"{folder_of_samples}/{name}.npz" if folder_of_samples else f"{ROOT}/tests/assets/zoo_calib.npz"
            (only,) = session(source).get_inputs()
            data = np.load(calib)
            pixels = data[next(k for k in data if data[k].ndim > 1)].astype("float32")
            samples = pixels.reshape([len(pixels), *(d if isinstance(d, int) else 1 for d in only.shape[1:])])
            paths = [source, *(f"{folder}/{k}.onnx" for k in range(4))]
            command = [PROGRAM, source, "-p", "quant", "--calib", calib, "--no-validate", "--quiet", "-o", paths[1]]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            ready = f"{folder}/ready.onnx"
            quant_pre_process(source, ready, skip_symbolic_shape=True)
            for path, kind in ((paths[2], QuantType.QInt8), (paths[3], QuantType.QUInt8)):
                quantize_static(ready, path, Reader(only.name, samples), per_channel=True, activation_type=kind)
            quantize_dynamic(ready, paths[4], per_channel=True)
            sessions = [session(path) for path in paths]
            by_batch = [median_ratios(sessions, {only.name: samples[:n]}) for n in (1, 32)]
            cells = (f"{one:.2f}, {many:.2f}" for one, many in list(zip(*by_batch))[1:])
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


main()
