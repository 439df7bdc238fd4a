"""Reads texts with ONNX's own parser; prints for each file the ops, initializers with values, and functions it holds."""

import sys

import onnx.parser


def ops(graph):
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from ops(attribute.g)


for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as file:
        model = onnx.parser.parse_model(file.read())
    types = sorted(node.domain + "." + node.op_type for node in ops(model.graph))
    print(len(types), len(model.graph.input), len(model.graph.output), len(model.functions), ",".join(types))
