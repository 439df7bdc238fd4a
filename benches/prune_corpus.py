"""What of the real models can be cut, and what a cut to 70 % of the multiply-accumulates does to their outputs with and
without repair; beside it what onnxsim's structured pruning cuts of the same models.

    cargo build --release
    python3 -m pip install --target target/peers onnx==1.23.2 onnxsim==0.8.1
    PYTHONPATH=target/peers:.onnx-compress/ort python3 benches/prune_corpus.py [MODEL.onnx ...]

Without arguments: every model that `cargo xtask setup` fetched, and the zoo's. Inputs are made up, 48 to repair by (8 where a
run takes more than 2.5 billion multiply-accumulates) and 16 others to compare by, so cosines say what a cut does to the
function, not to a task; behind them is the time of one run as a share of that of the simplified model, medians of runs in
turns. `cuttable` is the share of the multiply-accumulates in layers that exact groups make smaller. onnxsim gets models that
our `simplify` has simplified, as `prune` does, and cuts 30 % of the channels of what it matches; what is left is counted by
our table.
"""

import sys
import tempfile

import made_up
from program import PROGRAM, compared, corpus, cuttable, name, run, total

PIPELINE = "prune(macs=0.7{})"
PEER = "import sys, onnx, onnxsim; onnx.save(onnxsim.apply_structured_pruning(sys.argv[1], 0.3), sys.argv[2])"
REPAIR, FEWER, LARGE, COMPARE = 48, 8, 2.5e9, 16


def row(path, folder):
    stem, declared = name(path), made_up.session(path).get_inputs()
    before, cells, simple = total(path, "macs"), [], f"{folder}/simple.onnx"
    run(PROGRAM, path, "-p", "simplify", "-o", simple, "--no-validate", "--quiet")
    repair = FEWER if before > LARGE else REPAIR
    made = made_up.batches(stem, declared, repair + COMPARE, 0)
    calib = made_up.write(made[:repair], declared, f"{folder}/calib")
    test, out = made_up.write(made[repair:], declared, f"{folder}/test"), f"{folder}/out.onnx"
    for options, data in [(",repair=none,criterion=l2", []), ("", ["--calib", calib])]:
        done = run(PROGRAM, path, "-p", PIPELINE.format(options), "-o", out, "--no-validate", "--quiet", *data)
        if done.returncode:
            cells += ["-", {3: "refused", 124: "too long"}.get(done.returncode, "fails")]
        else:
            cells += [f"{100 * total(out, 'macs') / max(before, 1):.0f} %", compared(simple, out, test)]
    if run(sys.executable, "-c", PEER, simple, out).returncode:
        return cells + ["-", "fails"]
    left = total(out, 'macs') / max(before, 1)
    return cells + [f"{100 * left:.0f} %", compared(simple, out, test) if left < 1 else "nothing cut"]


def main():
    print("| model | cuttable | left by weights | cosine, time | by data, repaired | cosine, time | by onnxsim | cosine, time |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for path in sys.argv[1:] or corpus():
        with tempfile.TemporaryDirectory() as folder:
            cells = [name(path), cuttable(path)]
            print("| " + " | ".join(cells + row(path, folder)) + " |", flush=True)


main()
