"""simplify against the Python simplifiers, each as a process of its own: nodes left, bytes, wall time, peak memory; and
what ours does to the model's latency on ONNX Runtime.

    cargo build --release
    python3 -m pip install --target target/peers onnx==1.23.2 onnxsim==0.8.1 onnxslim==0.1.98 onnxoptimizer==0.4.2 \
        onnxscript==0.7.2
    python3 -m compileall -q target/peers
    PYTHONPATH=target/peers python3 benches/simplify_peers.py [MODEL.onnx ...]

Without arguments: every model that `cargo xtask setup` fetched, and the zoo's.
"""

import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile

from watched import run

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), ".."))
PROGRAM = f"{ROOT}/target/release/onnx-compress"
REPEATS = 3

PEERS = {
    "onnxsim": "import onnxsim; model, _ = onnxsim.simplify(onnx.load(source)); onnx.save(model, target)",
    "onnxslim": "import onnxslim; onnx.save(onnxslim.slim(source), target)",
    "onnxoptimizer": "import onnxoptimizer as o; "
    "onnx.save(o.optimize(onnx.load(source), o.get_fuse_and_elimination_passes()), target)",
    "onnxscript": "import onnx_ir, onnxscript.optimizer as o; "
    "onnx_ir.save(o.optimize(onnx_ir.load(source)), target)",
}

# Nodes of all graphs, bodies and functions included; a Constant node counts like an initializer, as no node.
COUNT = """
import sys, onnx
def count(graph):
    bodies = (b for n in graph.node for a in n.attribute for b in [a.g, *a.graphs] if b.node)
    return sum(n.op_type != "Constant" for n in graph.node) + sum(map(count, bodies))
model = onnx.load(sys.argv[1])
print(count(model.graph) + sum(n.op_type != "Constant" for f in model.functions for n in f.node))
"""


def nodes(path):
    return int(subprocess.run([sys.executable, "-c", COUNT, path], check=True, capture_output=True).stdout)


def tools(source, target):
    ours = [PROGRAM, source, "-p", "simplify", "--no-validate", "--quiet", "-o", target]
    yield "onnx-compress", ours
    for name, code in PEERS.items():
        yield name, [sys.executable, "-c", f"import sys, onnx; source, target = sys.argv[1:]; {code}", source, target]


def measure(source, folder):
    """A row of the table: for each tool its nodes, megabytes, seconds and peak megabytes, or a dash where it failed."""
    target, row = f"{folder}/out.onnx", {}
    for name, command in tools(source, target):
        runs = []
        for _ in range(REPEATS):
            # Each run writes a new file: what replaces one must first reach the disk.
            if os.path.exists(target):
                os.remove(target)
            runs.append(run(command))
        if not all(worked for worked, _, _ in runs) or not os.path.exists(target):
            row[name] = None
            continue
        seconds = statistics.median(seconds for _, seconds, _ in runs)
        row[name] = (nodes(target), os.path.getsize(target), seconds, max(peak for _, _, peak in runs))
    return row


def latency(source, folder):
    """The median run time of our result as a share of the original's, the least of three interleaved measurements."""
    target, report = f"{folder}/out.onnx", f"{folder}/report.json"
    command = [PROGRAM, source, "-p", "simplify", "--quiet", "-o", target, "--report", report]
    ratios = []
    for _ in range(3):
        if not run(command)[0]:
            return None
        with open(report) as file:
            measured = json.load(file)["validation"]["latency"]
        ratios.append(measured["compressed"]["p50_ms"] / measured["original"]["p50_ms"])
    return min(ratios)


def main():
    models = sys.argv[1:] or [
        *glob.glob(f"{ROOT}/tests/assets/zoo/*.onnx"),
        *glob.glob(f"{ROOT}/.onnx-compress/models/*/*.onnx"),
    ]
    names = ["onnx-compress", *PEERS]
    print("Each cell: nodes, MB of the file, seconds, peak MB.\n")
    print(f"| model (nodes, MB) | {' | '.join(names)} | latency |\n|---{'|---' * (len(names) + 1)}|")
    behind = []
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted(models, key=os.path.getsize):
            row = measure(source, folder)
            cell = lambda c: "-" if c is None else f"{c[0]}, {c[1] / 1e6:.2f}, {c[2]:.2f}, {c[3] / 1e6:.0f}"
            name = os.path.splitext(os.path.basename(source))[0]
            name += f" ({nodes(source)}, {os.path.getsize(source) / 1e6:.2f})"
            ratio = latency(source, folder)
            time_left = "-" if ratio is None else f"{ratio:.2f}x"
            print(f"| {name} | {' | '.join(cell(row[tool]) for tool in names)} | {time_left} |", flush=True)
            best = min((c[0] for tool, c in row.items() if c and tool != "onnx-compress"), default=None)
            if best is not None and row["onnx-compress"][0] > best:
                behind.append(f"{name}: {row['onnx-compress'][0]} nodes, best peer {best}")
    print("\nMore nodes than the best peer: " + ("; ".join(behind) or "nowhere"))


main()
