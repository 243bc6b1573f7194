"""The commands `compress` and `expand`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from netopsy import load_network
from netopsy.cli import main

LENET = ("netopsy:lenet5", "--weights", "random")
OUT = "a.netopsy.safetensors"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compressed") / OUT
    main(["compress", *LENET, "--density", "0.2,conv=0.5", "--bits", "conv=4,linear=2", "--out", str(path)])
    return path


def test_compress_writes_a_file_and_expand_an_ordinary_state_dict(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "b.safetensors"
    main(["expand", str(file), "--out", str(out)])
    assert "8 tensors, 431,080 values" in capsys.readouterr().out
    network = load_network(file)
    state = safetensors.torch.load_file(out)
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(tensor, state[name])
    for layer in network.layers:
        share = float((state[layer.weight] != 0).double().mean())
        assert share == pytest.approx(0.5 if layer.kind == "conv" else 0.2, abs=0.01)
        assert len(state[layer.weight].unique()) == (16 if layer.kind == "conv" else 4)


def test_compress_prints_the_table_of_the_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compress", *LENET, "--bits", "1", "--start", "linear", "--other-dtype", "float16", "--coder", "huffman"]
    path = tmp_path / OUT
    main([*words, "--out", str(path)])
    printed = capsys.readouterr().out
    size = path.stat().st_size
    assert f"{size:,} bytes on disk, against 1,724,320 for the 431,080 values" in printed
    assert f"{1724320 / size:.2f} x smaller" in printed and "ip1" in printed
    main([*words, "--out", str(path), "--force", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert rows[-1]["layer"] == "all" and rows[-1]["bytes"] == path.stat().st_size == size


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compress {lenet} --out {file}", "exists; give another path, or --force"),
        ("compress {lenet} --out {tmp}", "is a folder"),
        ("compress {lenet} --out {tmp}/a", "must end in .netopsy.safetensors"),
        ("compress {lenet} --out {tmp}/.netopsy.safetensors", "must end in"),
        ("compress {lenet} --out {tmp}/none/a.netopsy.safetensors", "there is no folder"),
        ("compress {lenet} --out {tmp}/a.netopsy.safetensors --bits ip9=3", "nearest: ip"),
        ("compress {lenet} --out {tmp}/a.netopsy.safetensors --density 7", "from 0 to 1"),
        ("compress {lenet}", "--out"),
        ("compress netopsy:nosuch --out {tmp}/a.netopsy.safetensors", "nearest"),
        ("expand {file} --out {file}", "exists"),
        ("compress {lenet} --out {tmp}/a.netopsy.safetensors --start random --seed -1", "whole number from 0"),
        ("expand {file} --out {file} --force", "give another name that ends in .safetensors"),
        ("expand {file} --out {tmp}/b.pt", "must end in .safetensors"),
        ("expand {tmp} --out {tmp}/b.safetensors", "is a folder"),
        ("expand {tmp}/none.netopsy.safetensors --out {tmp}/b.safetensors", "does not exist"),
        ("expand {cut} --out {tmp}/b.safetensors", "is damaged"),
        ("expand {plain} --out {tmp}/b.safetensors", "not a compressed network"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: str, message: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut, plain = tmp_path / "cut.netopsy.safetensors", tmp_path / "plain.safetensors"
    cut.write_bytes(file.read_bytes()[:-100])
    safetensors.torch.save_file({"x": torch.zeros(3)}, plain)
    before = set(tmp_path.iterdir())
    names = {"lenet": " ".join(LENET), "file": file, "tmp": tmp_path, "cut": cut, "plain": plain}
    with pytest.raises(SystemExit) as left:
        main([word.format(**names) for part in words.split() for word in part.format(**names).split()])
    error = capsys.readouterr().err.strip()
    assert left.value.code == 2 and message in error and len(error.splitlines()) == 1
    assert set(tmp_path.iterdir()) == before
