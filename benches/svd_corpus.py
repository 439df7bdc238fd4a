"""What splitting layers does to the real models: work and weights left, the outputs, and the time of a run.

    cargo build --release
    PYTHONPATH=.onnx-compress/ort python3 benches/svd_corpus.py [MODEL.onnx ...]

Without arguments: every model that `cargo xtask setup` fetched, and the zoo's. Inputs are made up, 48 to go by and 16 others
to compare by. `svd(energy=0.99)` splits what keeps 0.99 of the squares of a layer's outputs and is no slower here. Behind the
least cosine of all outputs is the time of a run on one thread as a share of the original's, medians of runs in turns:
of REPEATS measurements the median.
"""

import statistics
import sys
import tempfile

import made_up
from program import PROGRAM, corpus, name, run, told, total

PIPELINE, SEEN, COMPARE, REPEATS = "svd(energy=0.99)", 48, 16, 3


def row(path, folder):
    declared = made_up.session(path).get_inputs()
    made = made_up.batches(name(path), declared, SEEN + COMPARE, 0)
    calib, test = (made_up.write(part, declared, f"{folder}/{k}") for k, part in enumerate((made[:SEEN], made[SEEN:])))
    out, simple = f"{folder}/out.onnx", f"{folder}/simple.onnx"
    # What simplifying alone gains is no merit of the split.
    run(PROGRAM, path, "-p", "simplify", "-o", simple, "--no-validate", "--quiet")
    done = run(PROGRAM, simple, "-p", PIPELINE, "-o", out, "--no-validate", "--quiet", "--calib", calib)
    if done.returncode:
        return [{3: "no split pays", 124: "too long"}.get(done.returncode, "fails"), "", "", ""]
    found = [told("validate", simple, out, "--calib", test) for _ in range(REPEATS)]
    cosines = [o["cosine"] for o in found[0]["outputs"] if o.get("cosine") is not None]
    times = [f["latency"]["compressed"]["p50_ms"] / f["latency"]["original"]["p50_ms"] for f in found]
    left = [f"{100 * total(out, of) / max(total(simple, of), 1):.0f} %" for of in ("macs", "parameters")]
    return [*left, f"{min(cosines, default=float('nan')):.4f}", f"{statistics.median(times):.2f}x"]


def main():
    print("| model | multiply-accumulates | weights | cosine | time |")
    print("|---|--:|--:|--:|--:|")
    for path in sys.argv[1:] or corpus():
        with tempfile.TemporaryDirectory() as folder:
            print("| " + " | ".join([name(path), *row(path, folder)]) + " |", flush=True)


main()
