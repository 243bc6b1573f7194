"""Errors: each is also of the kind that Python has for it, says one plain sentence, and survives a pickle."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import netopsy
from netopsy.errors import (
    CaseError,
    DivergedError,
    EditError,
    MissingExtra,
    NetopsyError,
    NetworkError,
    SettingsError,
    UnknownLayer,
    WeightsError,
)

SENTENCE = "no layer 'conv9' in net; nearest: conv1."


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (SettingsError, ValueError),
        (DivergedError, ValueError),
        (EditError, ValueError),
        (UnknownLayer, KeyError),
        (WeightsError, OSError),
        (CaseError, OSError),
    ],
)
def test_an_error_is_of_the_builtin_kind_too(kind: type[NetopsyError], builtin: type[Exception]) -> None:
    with pytest.raises(builtin) as caught:
        raise kind(SENTENCE)
    assert isinstance(caught.value, NetopsyError) and str(caught.value) == SENTENCE
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is kind and str(again) == SENTENCE


def test_a_missing_extra_is_an_import_error() -> None:
    with pytest.raises(ImportError, match=r"^A thing needs an optional dependency: pip install 'netopsy\[text\]'\.$"):
        raise MissingExtra("A thing", "text")
    again = pickle.loads(pickle.dumps(MissingExtra("A thing", "text")))
    assert isinstance(again, MissingExtra) and str(again) == str(MissingExtra("A thing", "text"))


def test_what_users_get_wrong_can_be_caught_as_python_has_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="does not exist"):
        netopsy.load_network("netopsy:lenet5", weights=tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="no study"):
        netopsy.examine(netopsy.load_network("netopsy:mnist-mlp"), studies=["nois"])
    assert not issubclass(NetworkError, OSError | KeyError)


def test_python_m_netopsy_is_the_command_and_its_help_needs_no_torch() -> None:
    code = (
        "import runpy, sys; sys.argv = ['netopsy', '--help']\n"
        "try: runpy.run_module('netopsy', run_name='__main__')\n"
        "finally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "examine" in done.stdout, done.stderr
    wrong = subprocess.run([sys.executable, "-m", "netopsy", "nois"], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith("netopsy: ") and "Traceback" not in wrong.stderr


def test_type_checkers_find_the_types() -> None:
    assert (Path(netopsy.__file__).parent / "py.typed").exists()
