"""Writes models as ONNX Runtime's own tools make them into a folder: fused by its transformer optimizer, quantized.

Arguments: the folder, then models as KIND=PATH, KIND one of bert, vit, cnn, dynamic.
"""
import logging
import pathlib
import sys

import numpy
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions

logging.disable(logging.CRITICAL)


class Noise(CalibrationDataReader):
    """A few random batches for the inputs of a model, one sample each."""

    def __init__(self, path):
        random = numpy.random.default_rng(0)
        self.batches = []
        for _ in range(2):
            batch = {}
            for value in onnx.load(path).graph.input:
                dims = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
                batch[value.name] = random.standard_normal(dims).astype(numpy.float32)
            self.batches.append(batch)

    def get_next(self):
        return self.batches.pop() if self.batches else None


folder = pathlib.Path(sys.argv[1])
for argument in sys.argv[2:]:
    kind, path = argument.split("=", 1)
    name = pathlib.Path(path).stem
    if kind in ("bert", "vit"):
        options = FusionOptions(kind)
        fused = optimizer.optimize_model(path, kind, opt_level=0, optimization_options=options)
        path = str(folder / f"{name}_fused.onnx")
        fused.save_model_to_file(path)
    if kind == "cnn":
        to = folder / f"{name}_static.onnx"
        quantize_static(path, to, Noise(path), quant_format=QuantFormat.QOperator, activation_type=QuantType.QUInt8)
    else:
        # ONNX's inference knows nothing of fused operators, so the quantizer is told what all of this is.
        known = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantize_dynamic(path, folder / f"{name}_dynamic.onnx", weight_type=QuantType.QUInt8, extra_options=known)
