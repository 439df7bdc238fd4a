"""Runs ONNX's own checker with shape inference on every model given; prints one line for each that it refuses."""

import sys

import onnx

for path in sys.argv[1:]:
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as why:
        print(path, str(why).splitlines()[0])
