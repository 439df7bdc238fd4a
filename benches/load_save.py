"""Loading and saving a 400 MB model against copying its file: wall time and peak memory.

Run after `cargo build --release --example resave`:
    PYTHONPATH=.onnx-compress/python python3 benches/load_save.py
"""

import os
import subprocess
import sys
import tempfile
import time

PROGRAM = os.path.join(os.path.dirname(__file__), "../target/release/examples/resave")
REPEATS = 7

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


def run(*command):
    """Wall seconds and peak resident bytes of a program."""
    start = time.perf_counter()
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, command
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def best(*command):
    """The fastest run's time, and the largest peak of all runs."""
    runs = [run(*command) for _ in range(REPEATS)]
    return min(seconds for seconds, _ in runs), max(peak for _, peak in runs)


def main():
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        subprocess.run([sys.executable, "-c", MAKE, folder], check=True)
        inline, external, data = (f"{folder}/{name}" for name in ("inline.onnx", "external.onnx", "external.onnx.data"))
        size = os.path.getsize(inline)
        copy, _ = best("cp", inline, f"{folder}/copy")
        cases = {
            "inline to inline": (inline, f"{folder}/a.onnx"),
            "inline to external": (inline, f"{folder}/b.onnx", "--external"),
            "external to external": (external, f"{folder}/c.onnx", "--external"),
            "external to inline": (external, f"{folder}/d.onnx"),
        }
        print(f"{size / 1e6:.0f} MB; cp: {copy:.3f} s; best of {REPEATS}")
        print("| | time | against cp | peak memory |\n|---|---|---|---|")
        for name, arguments in cases.items():
            seconds, peak = best(PROGRAM, *arguments)
            print(f"| {name} | {seconds:.3f} s | {seconds / copy:.2f} | {peak / 1e6:.0f} MB |")


main()
