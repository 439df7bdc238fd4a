"""Loading and saving a 400 MB model against copying its file: wall time and peak memory.

Run after `cargo build --release --example resave`:
    PYTHONPATH=.onnx-compress/python python3 benches/load_save.py
"""

import os
import statistics
import subprocess
import sys
import tempfile

from watched import run

PROGRAM = os.path.join(os.path.dirname(__file__), "../target/release/examples/resave")
REPEATS = 9

# In a process of its own: what this one uses would count towards the peaks of the programs it starts.
MAKE = """
import sys, numpy, onnx
from onnx import helper, numpy_helper
weights = [numpy.random.default_rng(k).standard_normal((2048, 2560), dtype="float32") for k in range(20)]
names = [f"w{k}" for k in range(20)]
nodes = [helper.make_node("Sum", names, ["y"])]
value = lambda name: helper.make_tensor_value_info(name, 1, [2048, 2560])
constants = [numpy_helper.from_array(w, name) for w, name in zip(weights, names)]
graph = helper.make_graph(nodes, "big", [], [value("y")], constants)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.save(model, sys.argv[1] + "/inline.onnx")
onnx.save(model, sys.argv[1] + "/external.onnx", save_as_external_data=True, location="external.onnx.data")
"""


def timed(command, target, fresh):
    """One run that writes `target` anew or over what is there, with nothing of earlier runs left to write out."""
    if fresh and os.path.exists(target):
        os.remove(target)
    os.sync()
    worked, seconds, peak = run(command)
    assert worked, command
    return seconds, peak


def main():
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        subprocess.run([sys.executable, "-c", MAKE, folder], check=True)
        at = lambda name: f"{folder}/{name}"
        inline, external = at("inline.onnx"), at("external.onnx")
        cases = {
            "one file to one file": (inline, at("a.onnx")),
            "one file to external data": (inline, at("b.onnx"), "--external"),
            "external data to external data": (external, at("c.onnx"), "--external"),
            "external data to one file": (external, at("d.onnx")),
        }
        print(f"{os.path.getsize(inline) / 1e6:.0f} MB; medians of {REPEATS} runs in turns with cp of the one file")
        print("| | target | cp | time | against cp | peak memory |\n|---|---|---|---|---|---|")
        for name, arguments in cases.items():
            for fresh in (True, False):
                pairs = []
                for _ in range(REPEATS):
                    copy, _ = timed(("cp", inline, at("copy")), at("copy"), fresh)
                    if fresh and os.path.exists(arguments[1] + ".data"):
                        os.remove(arguments[1] + ".data")
                    pairs.append((copy, *timed((PROGRAM, *arguments), arguments[1], fresh)))
                copy, seconds = (statistics.median(pair[k] for pair in pairs) for k in (0, 1))
                ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
                peak = max(pair[2] for pair in pairs)
                target = "new" if fresh else "replaced"
                print(f"| {name} | {target} | {copy:.2f} s | {seconds:.2f} s | {ratio:.2f} | {peak / 1e6:.0f} MB |")


main()
