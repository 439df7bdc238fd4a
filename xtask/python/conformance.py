"""Writes the ONNX conformance set into a folder: KIND/TEST/{model.onnx, test_data_set_N/{input,output}_M.pb}.

    python3 conformance.py OUT

The operator ("node") tests are built in code by the `onnx` package; the other kinds are files inside it. Each test is
also run on ONNX Runtime as it stands: `passing.txt` lists those whose own expected outputs come out, which is the
set a compressed model can be held to. The rest (operators or types the runtime lacks, random outputs) only have to
survive loading and saving; `failing.txt` gives the reason for each.
"""

import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases

FILE_KINDS = ("pytorch-converted", "pytorch-operator", "simple")
SEED = 0


def to_proto(value, info):
    """The wire form of one test value, by the declared type of the graph input or output it belongs to."""
    if isinstance(value, TensorProto):
        return value
    encode = {
        "map_type": numpy_helper.from_dict,
        "sequence_type": numpy_helper.from_list,
        "optional_type": numpy_helper.from_optional,
    }.get(info.type.WhichOneof("value"), numpy_helper.from_array)
    return encode(value, info.name)


def write_values(folder, role, values, infos):
    for index, (value, info) in enumerate(zip(values, infos)):
        (folder / f"{role}_{index}.pb").write_bytes(to_proto(value, info).SerializeToString(deterministic=True))


def write_node_tests(out):
    # Some cases draw inputs at import: without seeds two set-ups would hold different tests.
    np.random.seed(SEED)
    random.seed(SEED)
    for case in collect_testcases():
        folder = out / "node" / case.name
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(case.model.SerializeToString(deterministic=True))
        for index, (inputs, outputs) in enumerate(case.data_sets):
            data = folder / f"test_data_set_{index}"
            data.mkdir()
            write_values(data, "input", inputs, case.model.graph.input)
            write_values(data, "output", outputs, case.model.graph.output)


def copy_file_tests(out):
    source = Path(onnx.__file__).parent / "backend" / "test" / "data"
    for kind in FILE_KINDS:
        shutil.copytree(source / kind, out / kind, ignore=shutil.ignore_patterns("__pycache__", "*.py"))


def read(path, info):
    """A test value as ONNX Runtime's Python takes and gives it."""
    kind = info.type.WhichOneof("value")
    message, decode = {
        "sequence_type": (onnx.SequenceProto, numpy_helper.to_list),
        "map_type": (onnx.MapProto, numpy_helper.to_dict),
        "optional_type": (onnx.OptionalProto, numpy_helper.to_optional),
    }.get(kind, (TensorProto, numpy_helper.to_array))
    proto = message()
    proto.ParseFromString(path.read_bytes())
    return decode(proto)


def same(actual, expected):
    if isinstance(expected, (list, tuple)):
        return len(actual) == len(expected) and all(map(same, actual, expected))
    actual, expected = np.asarray(actual), np.asarray(expected)
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return False
    if actual.dtype.kind not in "fc":
        return np.array_equal(actual, expected)
    return np.allclose(actual, expected, rtol=1e-3, atol=1e-6, equal_nan=True)


def failure(test):
    """Why ONNX Runtime does not pass this test, or None where it does."""
    model = onnx.load(test / "model.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for data in sorted(test.glob("test_data_set_*")):
            feed = {
                info.name: read(data / f"input_{i}.pb", info)
                for i, info in enumerate(model.graph.input)
                if (data / f"input_{i}.pb").exists()
            }
            outputs = session.run(None, feed)
            for i, (info, output) in enumerate(zip(model.graph.output, outputs)):
                if not same(output, read(data / f"output_{i}.pb", info)):
                    return f"output {info.name!r} differs"
    except Exception as error:  # whatever the runtime or the decoder objects to: the reason is recorded
        return " ".join(str(error).split())[:200]
    return None


def main():
    out = Path(sys.argv[1])
    write_node_tests(out)
    copy_file_tests(out)
    passing, failing = [], []
    for test in sorted(path.parent for path in out.glob("*/*/model.onnx")):
        name = test.relative_to(out).as_posix()
        reason = failure(test)
        if reason is None:
            passing.append(name)
        else:
            failing.append(f"{name}\t{reason}")
    (out / "passing.txt").write_text("".join(f"{line}\n" for line in passing))
    (out / "failing.txt").write_text("".join(f"{line}\n" for line in failing))
    print(f"  {len(passing)} tests pass on ONNX Runtime {onnxruntime.__version__}, {len(failing)} do not")
    sys.stdout.flush()
    os._exit(0)  # a model that the runtime failed to load can crash its teardown


main()
