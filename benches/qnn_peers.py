"""`quant(target=qnn)` against ONNX Runtime's own tool for Qualcomm's accelerators, on the zoo's classifiers and a sentence model: how
near the outputs stay, in dB, on inputs that neither saw. Both files run on ONNX Runtime's processor provider, which computes them by
way of floats.

    cargo build --release
    cargo xtask setup
    python3 -m pip install --target target/quant_peers onnx==1.23.2 onnx-ir==1.1.0
    PYTHONPATH=target/quant_peers:.onnx-compress/ort python3 benches/qnn_peers.py [IMAGES.npz [CALIB_FOLDER]]

IMAGES.npz holds `image` (default: tests/assets/zoo_test.npz), CALIB_FOLDER MODEL.npz (default: the images of
tests/assets/zoo_calib.npz for each). Texts are made up, 32 to calibrate by and 32 to compare. The tool's weights are uint8 with one
scale, as it has them unless asked, or as `quant` has them: int8 or int16 with a scale for each channel of a convolution. Each model
is first simplified, for both alike.
"""

import glob
import os
import subprocess
import sys
import tempfile

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config, qnn_preprocess_model

import made_up

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
PROGRAM = f"{ROOT}/target/release/onnx-compress"
BATCH, TEXTS = 64, 32
SENTENCES = "paraphrase-MiniLM-L3-v2"

# Types of activations, and the bits of weights that may stand beside them.
ACTIVATIONS = {"uint8": [8], "uint16": [8, 16]}
SIGNED = {8: QuantType.QInt8, 16: QuantType.QInt16}
UNSIGNED = {"uint8": QuantType.QUInt8, "uint16": QuantType.QUInt16}


class Reader(CalibrationDataReader):
    def __init__(self, batches):
        self.batches = iter(batches)

    def get_next(self):
        return next(self.batches, None)


def images(path, like):
    """The images in a file, in the shape that a model's input declares, in batches."""
    data = np.load(path)
    images = next(data[k] for k in data.files if data[k].ndim > 1)
    images = images.reshape(-1, *like.shape[1:]).astype("float32")
    return [{like.name: images[k : k + BATCH]} for k in range(0, len(images), BATCH)]


def outputs(path, batches):
    """Each output, of all batches together."""
    session = made_up.session(path)
    parts = zip(*(session.run(None, batch) for batch in batches))
    return [np.concatenate([np.ravel(part) for part in output]).astype("float64") for output in parts]


def sqnr(original, changed):
    """dB above the noise of the worst output."""
    each = (np.sum(x**2) / np.sum((y - x) ** 2) for x, y in zip(original, changed))
    return f"{10 * np.log10(min(each)):.1f}"


def theirs(source, target, batches, activations, weights, per_channel):
    """Their tool, as its documentation has it: what it prepares first, its configuration, and the same quantizer as ever."""
    ready = f"{os.path.dirname(target)}/ready.onnx"
    ready = ready if qnn_preprocess_model(source, ready, fuse_layernorm=True) else source
    kinds = {"activation_type": UNSIGNED[activations], "weight_type": weights, "per_channel": per_channel}
    quantize(ready, target, get_qnn_qdq_config(ready, Reader(batches), **kinds))


def compress(source, target, pipeline, *options):
    command = [PROGRAM, source, "-p", pipeline, "--no-validate", "--quiet", *options, "-o", target]
    subprocess.run(command, check=True)


def inputs(model, source, folder):
    """Batches to calibrate by, where `--calib` finds the same, and batches to compare."""
    declared = made_up.session(source).get_inputs()
    if model == SENTENCES:
        made = made_up.batches(model, declared, 2 * TEXTS, 0)
        return made[:TEXTS], made_up.write(made[:TEXTS], declared, f"{folder}/calib"), made[TEXTS:]
    held = sys.argv[1] if len(sys.argv) > 1 else f"{ROOT}/tests/assets/zoo_test.npz"
    calib = f"{sys.argv[2]}/{model}.npz" if len(sys.argv) > 2 else f"{ROOT}/tests/assets/zoo_calib.npz"
    return images(calib, declared[0]), calib, images(held, declared[0])


def main():
    (sentences,) = glob.glob(f"{ROOT}/.onnx-compress/models/*/{SENTENCES}.onnx")
    files = {name: f"{ROOT}/tests/assets/zoo/{name}_raw.onnx" for name in ("resnet20", "vit")} | {SENTENCES: sentences}
    print("| model | activations | weights | `quant(target=qnn)` | the tool, weights alike | the tool, its own weights |")
    print("|---|---|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        source, target = f"{folder}/in.onnx", f"{folder}/out.onnx"
        for model, file in files.items():
            compress(file, source, "simplify")
            samples, calib, held = inputs(model, source, folder)
            original = outputs(source, held)
            for activations, widths in ACTIVATIONS.items():
                for bits in widths:
                    quant = f"quant(target=qnn,activation_type={activations},bits={bits})"
                    compress(source, target, quant, "--calib", calib)
                    cells = [sqnr(original, outputs(target, held))]
                    ways = [(SIGNED[bits], True)] + [(QuantType.QUInt8, False)] * (bits == 8)
                    for weights, per_channel in ways:
                        theirs(source, target, samples, activations, weights, per_channel)
                        cells.append(sqnr(original, outputs(target, held)))
                    cells += [""] * (3 - len(cells))
                    print(f"| {model} | {activations} | int{bits} | {' | '.join(cells)} |", flush=True)


main()
