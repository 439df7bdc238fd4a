"""Gives the classic networks that the `onnx` package ships without weights random ones.

    python3 light.py OUT

In those files a weight is ConstantOfShape of its shape. Here it becomes an initializer drawn from a seeded generator,
scaled so that activations keep their size through the layers (variance 2 / fan-in). The final Softmax goes: on random
weights it saturates and hides any difference. A network over SIZE_LIMIT bytes is left out.
"""

import math
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

SIZE_LIMIT = 110_000_000


def constant_shapes(graph):
    """Name -> shape of every float weight, in file order: ConstantOfShape outputs, then float initializers."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes = {}
    for node in graph.node:
        if node.op_type == "ConstantOfShape" and node.input[0] in stored:
            shapes[node.output[0]] = tuple(stored[node.input[0]].tolist())
    for name, value in stored.items():
        if value.dtype == np.float32 and value.size > 1:
            shapes[name] = value.shape
    return shapes


def roles(graph):
    """The weights that normalise: scales and variances must be positive and near one."""
    normalisations = [node for node in graph.node if node.op_type == "BatchNormalization"]
    return {node.input[slot] for node in normalisations for slot in (1, 4)}


def draw(rng, shape, near_one):
    if len(shape) > 1:
        return rng.standard_normal(shape, dtype=np.float32) * math.sqrt(2 / math.prod(shape[1:]))
    small = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.1)
    return np.abs(1 + small) if near_one else small


def fill(model):
    graph = model.graph
    shapes, near_one, rng = constant_shapes(graph), roles(graph), np.random.default_rng(0)
    kept_nodes = [node for node in graph.node if not set(node.output) & shapes.keys()]
    if kept_nodes[-1].op_type == "Softmax":
        graph.output[0].name = kept_nodes.pop().input[0]
    used = {name for node in kept_nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used and tensor.name not in shapes]
    drawn = [
        numpy_helper.from_array(draw(rng, shape, name in near_one).astype(np.float32), name)
        for name, shape in shapes.items()
        if name in used
    ]
    constants = shapes.keys() | {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    for field, content in (("node", kept_nodes), ("initializer", kept + drawn), ("input", inputs)):
        graph.ClearField(field)
        getattr(graph, field).extend(content)
    model.ir_version = max(model.ir_version, 4)  # initializers that are not inputs


def main():
    out = Path(sys.argv[1])
    source = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    for path in sorted(source.glob("*.onnx")):
        name = path.stem.removeprefix("light_")
        model = onnx.load(path)
        size = 4 * sum(math.prod(shape) for shape in constant_shapes(model.graph).values())
        if size > SIZE_LIMIT:
            print(f"  {name} left out ({size / 1e6:.0f} MB)")
            continue
        fill(model)
        onnx.checker.check_model(model)
        (out / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


main()
