"""Inputs that real models can work with where there are no data: something like images, sounds and texts."""

import os

import numpy as np
import onnx
import onnxruntime as ort

# Extents of open dimensions, by input; 1 where nothing is said.
EXTENTS = {
    "ch_PP-OCRv4_det_infer": {"x": [1, 3, 320, 320]},
    "ch_PP-OCRv4_rec_infer": {"x": [1, 3, 48, 160]},
    "ch_ppocr_mobile_v2.0_cls_infer": {"x": [1, 3, 48, 192]},
    "paraphrase-MiniLM-L3-v2": {"input_ids": [1, 32], "attention_mask": [1, 32]},
    "silero_vad": {"input": [1, 512]},
    "silero_vad_16k_op15": {"input": [1, 512]},
    "silero_vad_half": {"input": [1, 512]},
    "silero_vad_op18_ifless": {"input": [1, 576]},
    "silero_vad_16k_sequence": {"input": [4, 576]},
}


def session(path):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def shapes(stem, declared):
    """A shape for each input of the model of this name."""
    found = {}
    for i in declared:
        open_shape = [d if isinstance(d, int) and d > 0 else 1 for d in i.shape]
        found[i.name] = EXTENTS.get(stem, {}).get(i.name, open_shape)
    return found


def made_up(name, shape, kind, rng):
    """Something like an image, a sound, a text; zero where a state starts."""
    if kind == "tensor(int64)":
        if not shape:
            return np.int64(16000)
        return np.ones(shape, "int64") if "mask" in name else rng.integers(1000, 20000, shape)
    noise = rng.standard_normal(shape).astype("float32")
    if name in ("state", "h", "c"):
        return np.zeros(shape, "float32")
    if len(shape) == 4:
        for axis in (2, 3):
            noise = sum(np.roll(noise, k, axis) for k in range(5)) / 5**0.5
        return noise
    return 0.1 * noise


def batches(stem, declared, count, seed):
    """So many batches of one sample each, by the inputs' names."""
    rng, extents = np.random.default_rng(seed), shapes(stem, declared)
    one = lambda: {i.name: np.asarray(made_up(i.name, extents[i.name], i.type, rng)) for i in declared}
    return [one() for _ in range(count)]


def write(made, declared, folder):
    """The batches as ONNX's test data, which `--calib` reads."""
    for k, batch in enumerate(made):
        at = f"{folder}/test_data_set_{k}"
        os.makedirs(at, exist_ok=True)
        for slot, i in enumerate(declared):
            with open(f"{at}/input_{slot}.pb", "wb") as file:
                file.write(onnx.numpy_helper.from_array(batch[i.name], i.name).SerializeToString())
    return folder
