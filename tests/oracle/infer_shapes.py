"""Prints what ONNX's own inference says of every value of every model, one JSON object a line.

Argument: a file that lists models, one path a line. A line of output is
{"model": path, "values": {name: [element type, [dimension or null, ...] or null]}} or {"model": path, "error": why}.
The declared types of inner values are removed first, so that all that is printed is inferred. Weights are left out of
large models: their types are kept, their bytes are not needed.
"""
import json
import sys
import onnx
from onnx import shape_inference


def facts(graph):
    values = {}
    for v in list(graph.value_info) + list(graph.output):
        if v.type.WhichOneof("value") != "tensor_type":
            continue
        t = v.type.tensor_type
        dims = None
        if t.HasField("shape"):
            dims = [d.dim_value if d.HasField("dim_value") else None for d in t.shape.dim]
        values[v.name] = [t.elem_type, dims]
    return values


def lighten(graph):
    for tensor in graph.initializer:
        if len(tensor.raw_data) > 1 << 16:
            tensor.ClearField("raw_data")


for path in open(sys.argv[1]).read().split("\n"):
    if not path:
        continue
    try:
        model = onnx.load(path, load_external_data=False)
        del model.graph.value_info[:]
        for output in model.graph.output:
            if output.type.WhichOneof("value") == "tensor_type":
                output.type.tensor_type.ClearField("shape")
        lighten(model.graph)
        try:
            inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except Exception:
            # Strict mode stops at the first operator that its rules refuse; what they know of the others still counts.
            inferred = shape_inference.infer_shapes(model, strict_mode=False, data_prop=True)
        print(json.dumps({"model": path, "values": facts(inferred.graph)}))
    except Exception as error:
        print(json.dumps({"model": path, "error": str(error).split("\n")[0][:200]}))
