"""Exported programs and modules as people hold them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.export import Dim, export, save

from netopsy import Preprocessing, load_network
from netopsy.errors import NetworkError, WeightsError
from netopsy.network.capture import export_program, write_program
from netopsy.network.signature import Input, Signature


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.head((self.embed(ids) * mask.unsqueeze(-1)).sum(1))


def picture_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()


def test_an_exported_program_opens_from_its_file_with_its_inputs(tmp_path: Path) -> None:
    module, x = picture_net(), torch.rand(2, 3, 10, 12)
    save(export(module, (x,), dynamic_shapes=({0: Dim("batch")},)), tmp_path / "net.pt2")
    network = load_network(tmp_path / "net.pt2")
    assert network.preprocessing.input_shape == (3, 10, 12)
    assert [layer.name for layer in network.layers] == ["0", "4"]
    assert torch.equal(network.module(x), module(x))


def test_an_exported_program_of_several_inputs(tmp_path: Path) -> None:
    ids, mask, size = torch.randint(20, (2, 7)), torch.ones(2, 7, dtype=torch.long), Dim("batch")
    program = export(Two(), (ids, mask), dynamic_shapes=({0: size}, {0: size}))
    save(program, tmp_path / "net.pt2")
    network = load_network(str(tmp_path / "net.pt2"))
    assert [(entry.name, entry.kind) for entry in network.signature.inputs] == [("ids", "tokens"), ("mask", "mask")]
    assert [layer.name for layer in network.layers] == ["embed", "head"]


HEADERS = {
    "of this network": (
        {"size": "10x12", "mean": "0.5,0.4,0.3", "std": "2,2,2", "scale": "1", "channels": "BGR"},
        True,
    ),
    "of another size": ({"size": "12x12", "mean": "0.5,0.4,0.3"}, False),
    "of other channels": ({"size": "10x12", "mean": "0.5", "std": "1", "channels": "L"}, False),
    "damaged": ({"size": "ten", "mean": "x"}, False),
    "of other inputs": (
        {"signature": '{"inputs": {"x": {"shape": [5], "dtype": "float32", "kind": "vector"}}}'},
        False,
    ),
    "nonsense": ({"signature": "[1, {"}, False),
}


@pytest.mark.parametrize("name", HEADERS)
def test_the_header_of_a_program_says_how_images_become_its_input_where_it_fits(name: str, tmp_path: Path) -> None:
    (header, fits), path = HEADERS[name], tmp_path / "net.pt2"
    program = export(picture_net(), (torch.rand(2, 3, 10, 12),), dynamic_shapes=({0: Dim("batch")},))
    write_program(program, path, header)
    given = load_network(path).preprocessing
    expected = Preprocessing((10, 12), mean=(0.5, 0.4, 0.3), std=(2.0,) * 3, channels="BGR", scale=1.0)
    assert given == (expected if fits else Preprocessing((10, 12)))
    assert torch.export.load(path).module()(torch.zeros(4, 3, 10, 12)).shape == (4, 5)  # torch alone opens it too


def test_the_header_of_a_program_of_several_inputs_tells_their_lengths(tmp_path: Path) -> None:
    module = Two().eval()
    signature = Signature(
        tuple(Input(name, (7,), torch.int64, kind, 0) for name, kind in (("ids", "tokens"), ("mask", "mask")))  # type: ignore[arg-type]
    )
    write_program(
        export_program(module, signature), tmp_path / "net.pt2", {"signature": json.dumps(signature.record())}
    )
    network = load_network(tmp_path / "net.pt2")
    assert network.signature == signature
    ids, mask = torch.randint(20, (3, 7)), torch.ones(3, 7, dtype=torch.long)
    assert torch.equal(network.module(ids=ids, mask=mask), module(ids, mask))


def test_an_exported_program_of_one_batch_size_says_how_to_export(tmp_path: Path) -> None:
    save(export(picture_net(), (torch.rand(2, 3, 8, 8),)), tmp_path / "net.pt2")
    with pytest.raises(NetworkError, match="dynamic_shapes"):
        _ = load_network(tmp_path / "net.pt2").layers


def test_a_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"none")
    with pytest.raises(NetworkError, match="no exported program"):
        load_network(tmp_path / "net.pt2")
    with pytest.raises(NetworkError, match="no file"):
        load_network("absent.pt2")


def test_a_torchscript_archive_opens_as_a_source_and_not_as_weights(tmp_path: Path) -> None:
    module, x = picture_net(), torch.rand(3, 3, 8, 8)
    torch.jit.trace(module, x, check_trace=False).save(str(tmp_path / "net.pt"))
    network = load_network(tmp_path / "net.pt", size=8)
    assert [layer.name for layer in network.layers] == ["0", "4"]
    with torch.no_grad():
        torch.testing.assert_close(network.graph(x), module(x))
    with pytest.raises(WeightsError, match=r"TorchScript.*torch\.jit\.load"):
        load_network(picture_net(), weights=tmp_path / "net.pt")


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_modules_are_operators(kind: str) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = getattr(nn, kind)(5, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.cell(x)[0][:, -1])

    network = load_network(Reader(), example=torch.rand(2, 9, 5))
    assert [layer.kind for layer in network.layers] == ["recurrent", "recurrent", "linear"]


def test_a_damaged_program_is_one_sentence_and_no_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.pt2").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(NetworkError, match="no exported program"):
        load_network(tmp_path / "net.pt2")
    assert capfd.readouterr() == ("", "")
