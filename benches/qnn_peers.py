"""`quant(target=qnn)` against ONNX Runtime's own tool for Qualcomm's accelerators, on the zoo's classifiers: how near the outputs
stay, in dB, on images that neither saw. Both files run on ONNX Runtime's processor provider, which computes them by way of floats.

    cargo build --release
    python3 -m pip install --target target/quant_peers onnx==1.23.2 onnx-ir==1.1.0
    PYTHONPATH=target/quant_peers:.onnx-compress/ort python3 benches/qnn_peers.py [IMAGES.npz [CALIB_FOLDER]]

IMAGES.npz holds `image` (default: tests/assets/zoo_test.npz), CALIB_FOLDER MODEL.npz (default: the images of
tests/assets/zoo_calib.npz for each). The tool's weights are uint8 with one scale, as it has them unless asked, or as `quant` has
them: int8 or int16 with a scale for each channel of a convolution. Each model is first simplified, for both alike.
"""

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
BATCH = 64

# Types of activations, and the bits of weights that may stand beside them.
ACTIVATIONS = {"uint8": [8], "uint16": [8, 16]}
SIGNED = {8: QuantType.QInt8, 16: QuantType.QInt16}
UNSIGNED = {"uint8": QuantType.QUInt8, "uint16": QuantType.QUInt16}


class Reader(CalibrationDataReader):
    def __init__(self, name, images):
        self.batches = iter({name: images[k : k + BATCH]} for k in range(0, len(images), BATCH))

    def get_next(self):
        return next(self.batches, None)


def read(path, like):
    """The images in a file, in the shape that a model's input declares."""
    data = np.load(path)
    images = next(data[k] for k in data.files if data[k].ndim > 1)
    return images.reshape(-1, *like.shape[1:]).astype("float32")


def outputs(path, name, images):
    session = made_up.session(path)
    parts = [session.run(None, {name: images[k : k + BATCH]})[0] for k in range(0, len(images), BATCH)]
    return np.concatenate(parts).astype("float64")


def theirs(source, target, reader, activations, weights, per_channel):
    """Their tool, as its documentation has it: what it prepares first, its configuration, and the same quantizer as ever."""
    ready = f"{os.path.dirname(target)}/ready.onnx"
    ready = ready if qnn_preprocess_model(source, ready, fuse_layernorm=True) else source
    kinds = {"activation_type": UNSIGNED[activations], "weight_type": weights, "per_channel": per_channel}
    quantize(ready, target, get_qnn_qdq_config(ready, reader, **kinds))


def compress(source, target, pipeline, *options):
    command = [PROGRAM, source, "-p", pipeline, "--no-validate", "--quiet", *options, "-o", target]
    subprocess.run(command, check=True)


def main():
    held = sys.argv[1] if len(sys.argv) > 1 else f"{ROOT}/tests/assets/zoo_test.npz"
    folder_of_samples = sys.argv[2] if len(sys.argv) > 2 else None
    print("| model | activations | weights | `quant(target=qnn)` | the tool, weights alike | the tool, its own weights |")
    print("|---|---|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        target = f"{folder}/out.onnx"
        for model in ("resnet20", "vit"):
            source = f"{folder}/{model}.onnx"
            compress(f"{ROOT}/tests/assets/zoo/{model}_raw.onnx", source, "simplify")
            (only,) = made_up.session(source).get_inputs()
            calib = f"{folder_of_samples}/{model}.npz" if folder_of_samples else f"{ROOT}/tests/assets/zoo_calib.npz"
            samples, images = read(calib, only), read(held, only)
            float_outputs = outputs(source, only.name, images)

            def sqnr():
                noise = np.sum((outputs(target, only.name, images) - float_outputs) ** 2)
                return f"{10 * np.log10(np.sum(float_outputs**2) / noise):.1f}"

            for activations, widths in ACTIVATIONS.items():
                for bits in widths:
                    quant = f"quant(target=qnn,activation_type={activations},bits={bits})"
                    compress(source, target, quant, "--calib", calib)
                    cells = [sqnr()]
                    ways = [(SIGNED[bits], True)] + [(QuantType.QUInt8, False)] * (bits == 8)
                    for weights, per_channel in ways:
                        reader = Reader(only.name, samples)
                        theirs(source, target, reader, activations, weights, per_channel)
                        cells.append(sqnr())
                    cells += [""] * (3 - len(cells))
                    print(f"| {model} | {activations} | int{bits} | {' | '.join(cells)} |", flush=True)


main()
