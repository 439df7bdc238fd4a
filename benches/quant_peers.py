"""quant against ONNX Runtime's own quantizers and NNCF, each as a process of its own on the same file: how near the
outputs stay (SQNR in dB), bytes as a share of the original's, wall seconds, peak memory.

    cargo build --release
    python3 -m pip install --target target/quant_peers onnx==1.23.2 onnx-ir==1.1.0 nncf==3.4.0
    python3 -m compileall -q target/quant_peers
    PYTHONPATH=target/quant_peers:.onnx-compress/ort python3 benches/quant_peers.py [MODEL.onnx ...]

Without arguments: every model of at least 100,000 parameters that `cargo xtask setup` fetched, and the zoo's four. The
zoo's are calibrated and compared on its images; the others on made-up inputs, 16 to calibrate and 8 to compare.
Each model is first simplified, and raised to operator set 17 (21 for 4 bits) where it has an older one, for all tools
alike: NNCF writes files that do not run at 21 with int8, or below with 4 bits.
"""

import glob
import os
import statistics
import sys
import tempfile

import numpy as np
import onnx

import made_up
from program import PROGRAM, ROOT, raised
from watched import run

CALIBRATE, COMPARE = 16, 8
LEAST_PARAMETERS = 100_000

PEERS = {
    "static": """
import numpy as np
from onnxruntime.quantization import CalibrationDataReader, quantize_static
class Reader(CalibrationDataReader):
    def __init__(self):
        data = np.load(calib)
        n = len(next(iter(data.values())))
        self.batches = iter([{k: v[i : i + 1].reshape(shapes[k]) for k, v in data.items()} for i in range(n)])
    def get_next(self):
        return next(self.batches, None)
quantize_static(source, target, Reader(), per_channel=True)
""",
    "dynamic": """
from onnxruntime.quantization import quantize_dynamic
quantize_dynamic(source, target, per_channel=True)
""",
    "nbits": """
import onnx
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=32)
quantizer.process()
quantizer.model.save_model_to_file(target)
""",
    "nncf": """
import numpy as np, onnx, nncf
data = np.load(calib)
n = len(next(iter(data.values())))
batches = [{k: v[i : i + 1].reshape(shapes[k]) for k, v in data.items()} for i in range(n)]
onnx.save(nncf.quantize(onnx.load(source), nncf.Dataset(batches), subset_size=n), target)
""",
    "nncf, int4": """
import onnx, nncf
mode = nncf.CompressWeightsMode.INT4_SYM
onnx.save(nncf.compress_weights(onnx.load(source), mode=mode, group_size=32), target)
""",
}
# What `quantize_static` does and no more: the ends of ranges, and rounding to the nearest.
PLAIN = "quant(latency=any,noise=any,equalize=none,repair=none,observer=minmax)"
# Ours, whether it sees samples, the least operator set, and the peers that do the same; None stands for the run of
# "static" in the group before.
GROUPS = [
    ("quant(latency=any)", True, 17, ["static", "nncf"]),
    (PLAIN, True, 17, [None]),
    ("quant", False, 17, ["dynamic"]),
    ("quant(bits=4,block=32)", False, 21, ["nbits", "nncf, int4"]),
]

def inputs(stem, path, folder):
    """The file to calibrate on, each input's shape, and the batches to compare on."""
    declared = made_up.session(path).get_inputs()
    shapes = made_up.shapes(stem, declared)
    if os.path.exists(f"{ROOT}/tests/assets/zoo/{stem}.onnx"):
        images = np.load(f"{ROOT}/tests/assets/zoo_test.npz")
        name = declared[0].name
        pixels = images[next(k for k in images if images[k].ndim > 1)]
        comparing = [{name: pixels[k : k + 1].reshape(shapes[name])} for k in range(256)]
        return f"{ROOT}/tests/assets/zoo_calib.npz", shapes, comparing
    batches = made_up.batches(stem, declared, CALIBRATE + COMPARE, 0)
    calib = made_up.write(batches[:CALIBRATE], declared, f"{folder}/calib")
    np.savez(f"{folder}/calib.npz", **{k: np.stack([b[k] for b in batches[:CALIBRATE]]) for k in batches[0]})
    return calib, shapes, batches[CALIBRATE:]


def sqnr(original, path, batches):
    """The least of the outputs' SQNR in dB, infinite where all are the same, nothing where the file does not run."""
    try:
        found = [made_up.session(path).run(None, batch) for batch in batches]
    except Exception:
        return None
    worst = np.inf
    for slot in range(len(original[0])):
        a = np.concatenate([np.ravel(o[slot]).astype("float64") for o in original])
        b = np.concatenate([np.ravel(o[slot]).astype("float64") for o in found])
        if a.shape != b.shape:
            return None
        noise = np.sum((a - b) ** 2)
        if noise > 0:
            worst = min(worst, 10 * np.log10(np.sum(a**2) / noise))
    return worst


def cell(measured):
    if measured is None:
        return "-"
    db, share, seconds, peak = measured
    if db == np.inf:
        return f"nothing done, {seconds:.1f} s, {peak / 1e6:.0f} MB"
    return f"{db:.1f} dB, {share:.2f}, {seconds:.1f} s, {peak / 1e6:.0f} MB"


def measure(command, target, size, original, batches):
    if os.path.exists(target):
        os.remove(target)
    worked, seconds, peak = run(command)
    if not worked or not os.path.exists(target):
        return None
    db = sqnr(original, target, batches)
    return None if db is None else (db, os.path.getsize(target) / size, seconds, peak)


def main():
    models = sys.argv[1:] or [
        *(f"{ROOT}/tests/assets/zoo/{name}.onnx" for name in ("lstm", "resnet20", "simplecnn", "vit")),
        *glob.glob(f"{ROOT}/.onnx-compress/models/*/*.onnx"),
    ]
    names = [name for ours, _, _, peers in GROUPS for name in (f"`{ours}`", *filter(None, peers))]
    print(f"| model | {' | '.join(names)} |\n|---{'|---' * len(names)}|")
    pairs = [(ours, peer or "static") for ours, _, _, peers in GROUPS for peer in peers]
    better, times, peaks = ({pair: [] for pair in pairs} for _ in range(3))
    sized = []
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(models, key=os.path.getsize):
            stem = os.path.splitext(os.path.basename(path))[0]
            target = f"{folder}/out.onnx"
            sources = {opset: raised(path, opset, folder) for opset in (17, 21)}
            if None in sources.values():
                continue
            source = sources[17]
            weights = onnx.load(source).graph.initializer
            if sum(int(np.prod(w.dims)) for w in weights) < LEAST_PARAMETERS:
                continue
            calib, shapes, batches = inputs(stem, source, folder)
            original = [made_up.session(source).run(None, batch) for batch in batches]
            size, row = os.path.getsize(source), []
            npz = calib if calib.endswith(".npz") else f"{folder}/calib.npz"
            for pipeline, with_data, opset, peers in GROUPS:
                source = sources[opset]
                head = f"source, target, calib, shapes = {source!r}, {target!r}, {npz!r}, {shapes!r}"
                command = [PROGRAM, source, "-p", pipeline, "--no-validate", "--quiet", "-o", target]
                command += ["--calib", calib] if with_data else []
                ours = measure(command, target, size, original, batches)
                row.append(ours)
                for peer in peers:
                    if peer is not None:
                        theirs = measure([sys.executable, "-c", head + PEERS[peer]], target, size, original, batches)
                        row.append(theirs)
                        static = theirs if peer == "static" else static
                        if peer == "nbits" and theirs and theirs[0] < np.inf:
                            # It leaves more of a model in float: so with as many bytes too.
                            by_size = [PROGRAM, source, "-p", f"quant(size={theirs[1]:.4f})", *command[4:]]
                            sized.append((stem, measure(by_size, target, size, original, batches), theirs))
                    else:
                        theirs = static
                    if all(measured and measured[0] < np.inf for measured in (ours, theirs)):
                        pair = (pipeline, peer or "static")
                        better[pair].append(ours[0] >= theirs[0])
                        times[pair].append(ours[2] / theirs[2])
                        peaks[pair].append(ours[3] / theirs[3])
            print(f"| {stem} | {' | '.join(map(cell, row))} |", flush=True)
    for stem, ours, theirs in sized:
        print(f"\n{stem}, in as many bytes as nbits takes: ours {cell(ours)}; nbits {cell(theirs)}")
    for (ours, peer), won in better.items():
        if won:
            time, peak = (statistics.median(of[ours, peer]) for of in (times, peaks))
            print(f"\n`{ours}` against {peer}: nearer on {sum(won)} of {len(won)}; median time {time:.2f}x, peak {peak:.2f}x")


main()
