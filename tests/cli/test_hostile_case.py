"""A case from another hand, a damaged one, and one that several processes write: nothing outside it is touched, nothing
damaged is believed, no study is lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from netopsy.case import Case, _checksum
from netopsy.errors import CaseError, DiskFull
from netopsy.files import atomic_folder, atomic_write, file_digest
from netopsy.report.overview import is_safe_link
from netopsy.result import Atlas, Figure, Image, Passage, Result, Sheet, Texts
from netopsy.result_files import NAME, STUDY

pytestmark = pytest.mark.usefixtures("undrawn")
ESCAPES = ("../outside", "a/b", "/etc/passwd", "..", ".", "", "a\\b", "a\x00b", "a\nb", ".hidden", "x" * 300, None, 3)


def result(study: str = "noise") -> Result:
    units = pl.DataFrame({"node": ["n"], "layer": ["l"], "channel": [0], "class": ["c"], "selectivity": [1.0]})
    stimuli = pl.DataFrame({"node": ["n"], "channel": [0], "rank": [0], "value": [1.0], "image": [0], "class": ["c"]})
    sheet = Sheet.of(np.zeros((2, 4, 4, 3), np.uint8))
    return Result(
        study,
        tables={"scores": pl.DataFrame({"layer": ["all"], "top1": [0.5]})},
        figures={"all": Figure({"mark": "bar"}, "title", "reading")},
        images={"unit n:0": Image(np.zeros((2, 2), np.uint8), "title", "reading")},
        texts={"stimuli": Texts({"g": (Passage(("a",), (0.5,)),)}, "title", "reading")},
        atlases={"atlas": Atlas(units, stimuli, {"n": (sheet,)}, 1, {}, "title", "reading")},
        findings=["a sentence."],
        provenance={"network": {"name": "n"}},
    )


@pytest.fixture
def case(tmp_path: Path) -> Path:
    full = result()
    (tmp_path / "file.bin").write_bytes(b"contents")
    full.artifacts = {"file.bin": tmp_path / "file.bin"}
    Case(tmp_path / "case").add(full)
    return tmp_path / "case"


def sign(case: Path, **changes: Any) -> None:
    """A manifest with `changes`, whose checksum is right: what someone who means harm would write."""
    manifest = json.loads((case / "case.json").read_text()) | changes
    del manifest["checksum"]
    (case / "case.json").write_text(json.dumps({**manifest, "checksum": _checksum(manifest)}))


def sign_result(case: Path, **changes: Any) -> None:
    path = case / "noise" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    sign(case, digests={"noise": file_digest(path)})


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_of_a_study_leads_outside(case: Path, name: Any) -> None:
    outside = case.parent / "outside"
    shutil.copytree(case / "noise", outside)
    (case.parent / "outside.old").mkdir()
    before = everything(case.parent)
    sign(case, studies=["noise", name], digests={"noise": "", str(name): ""})
    with pytest.raises(CaseError, match="is no name"):
        Case(case)
    changed = {path for path, content in everything(case.parent).items() if before.get(path) != content}
    assert changed == {"case/case.json"} and (case.parent / "outside.old").exists()


@pytest.mark.parametrize("kind", ["tables", "figures", "images", "texts", "atlases", "artifacts"])
@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_in_a_result_leads_outside(case: Path, kind: str, name: Any) -> None:
    index = json.loads((case / "noise" / "result.json").read_text())
    entry = {str(name): {}} if isinstance(index[kind], dict) else [name]
    if isinstance(index[kind], dict) and (name is None or name == 3):
        return  # the keys of a JSON object are texts
    sign_result(case, **{kind: entry}, files={**index["files"], f"{kind}/{name}": "0"})
    with pytest.raises(CaseError, match="is no name"):
        Case(case).load("noise")


def test_a_name_without_a_checksum_is_not_read(case: Path) -> None:
    shutil.copy(case / "noise" / "tables" / "scores.parquet", case / "noise" / "tables" / "more.parquet")
    sign_result(case, tables=["scores", "more"])
    with pytest.raises(CaseError, match=r"no checksum for 'tables/more.parquet'"):
        Case(case).load("noise")


def test_names_that_studies_use_are_names() -> None:
    for name in ("karnaugh block5.relu3:38", "unit fc:7", "digits-a.netopsy.safetensors", "layer1.0.conv1", "größe"):
        assert NAME.fullmatch(name)
    assert STUDY.fullmatch("filter_codebook")


@pytest.mark.parametrize(
    "text",
    ["null", "[]", "3", '"case"', "{", "", "[" * 100_000, '{"a":' * 100_000, '{"format": 3}', '{"format": null}',
     '{"format": 3, "studies": null}', '{"format": 3, "studies": {"noise": 1}, "digests": []}',
     '{"format": 3, "studies": [["noise"]], "digests": {}}', '{"format": 3, "studies": ["noise"], "digests": {}}',
     '{"format": 2, "studies": ["noise"]}', '{"format": [3]}'],
)  # fmt: skip
def test_a_damaged_manifest_is_one_sentence(case: Path, text: str) -> None:
    (case / "case.json").write_text(text)
    with pytest.raises(CaseError) as error:
        Case(case)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    (case / "case.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CaseError):
        Case(case)


def test_a_change_of_any_file_is_noticed_and_named(case: Path) -> None:
    Case(case).load("noise")
    read = [
        path for path in sorted(case.rglob("*")) if path.is_file() and path.suffix != ".svg" and path.name != ".lock"
    ]
    assert len(read) == 11
    for path in read:
        content = path.read_bytes()
        for damaged in (bytes([content[0] ^ 1]) + content[1:], content[:-2], content + b"0", content[:-9] + b"\0" * 9):
            path.write_bytes(damaged)
            with pytest.raises(CaseError, match=path.name):
                Case(case).load("noise")
        path.unlink()
        with pytest.raises(CaseError):
            Case(case, create=False).load("noise")
        path.write_bytes(content)
    assert Case(case).load("noise").findings == ["a sentence."]


@pytest.mark.parametrize("content", [b"", b"PAR1" + b"\xff" * 200 + b"PAR1", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"{}"])
def test_a_file_of_another_hand_is_one_sentence(case: Path, content: bytes) -> None:
    files = json.loads((case / "noise" / "result.json").read_text())["files"]
    for name in files:
        if name.endswith(".svg") or name.startswith("artifacts") or name.endswith("webp"):
            continue  # not read
        path = case / "noise" / name
        before = path.read_bytes()
        path.write_bytes(content)
        sign_result(case, files={**files, name: file_digest(path)})
        if content == b"{}" and name.endswith((".vl.json", "atlas/texts.json")):
            Case(case).load("noise")
        else:
            with pytest.raises(CaseError):
                Case(case).load("noise")
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("link", "safe"),
    [
        *((link, True) for link in ("mnist/index.html", "../a/index.html", "https://example.org/a?b#c", "a%20b.html")),
        *((link, False) for link in ("javascript:alert(1)", " javascript:a", "java\tscript:a", "JavaScript:a", "data:a",
                                     "//evil.example/a", "http://example.org", "file:///etc/passwd", "vbscript:a", "",
                                     "a\\b", "\x01javascript:a")),
    ],
)  # fmt: skip
def test_links_are_relative_or_https(link: str, safe: bool) -> None:
    assert is_safe_link(link) == safe


def test_two_cases_of_one_folder_lose_no_study(tmp_path: Path) -> None:
    one, other = Case(tmp_path / "case"), Case(tmp_path / "case")
    one.add(result("noise"))
    other.add(result("rounding"))
    one.add(result("codebook"))
    assert Case(tmp_path / "case").names == ["noise", "rounding", "codebook"]
    assert [r.study for r in Case(tmp_path / "case").results] == ["noise", "rounding", "codebook"]


def test_threads_that_add_at_once_lose_no_study(tmp_path: Path) -> None:
    Case(tmp_path / "case")
    names = [f"study{i}" for i in range(8)]
    threads = [threading.Thread(target=lambda n=n: Case(tmp_path / "case").add(Result(n))) for n in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Case(tmp_path / "case").names) == names


def _begin_and_wait(path: Path, ready: Any, go: Any) -> None:
    case = Case(path)
    case.begin("noise")
    ready.set()
    go.wait()


def test_a_study_at_work_says_who_holds_it_and_a_dead_holder_is_followed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, go = context.Event(), context.Event()
    Case(tmp_path / "case")
    holder = context.Process(target=_begin_and_wait, args=(tmp_path / "case", ready, go))
    holder.start()
    ready.wait()
    case = Case(tmp_path / "case")
    with pytest.raises(CaseError, match=f"'noise' of case .* is at work in process {holder.pid} on "):
        case.begin("noise")
    case.begin("rounding")  # another study is free
    assert holder.pid is not None
    os.kill(holder.pid, 9)
    holder.join()
    case.begin("noise")
    case.add(Result("noise"))
    case.release()
    Case(tmp_path / "case").begin("rounding")


def test_a_block_that_fails_frees_its_study(tmp_path: Path) -> None:
    case, other = Case(tmp_path / "case"), Case(tmp_path / "case")
    with pytest.raises(KeyboardInterrupt), case.at_work("noise"):
        raise KeyboardInterrupt
    other.begin("noise")
    assert list(other.work.glob("noise*.at-work")), "what it left behind is kept for whoever takes it up"


def test_files_reach_the_disk_before_their_names_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    flush, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda d: (steps.append(os.readlink(f"/proc/self/fd/{d}")), flush(d))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append(f"-> {Path(b).name}"), replace(a, b))[1])
    with atomic_write(tmp_path / "file") as part:
        part.write_text("whole")
    assert steps == [str(part), "-> file", str(tmp_path)]
    steps.clear()
    with atomic_folder(tmp_path / "folder") as part:
        (part / "inner").mkdir()
        (part / "inner" / "file").write_text("whole")
    assert set(steps[:3]) == {str(part / "inner"), str(part / "inner" / "file"), str(part)}
    assert steps[3:] == ["-> folder", str(tmp_path)]


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), OSError(122, "Disk quota exceeded"), OSError(27, "File too large"),
     RuntimeError("write failed: No space left on device (os error 28)"), ValueError("File too large (os error 27)")],
)  # fmt: skip
def test_a_full_disk_is_one_sentence_and_loses_nothing(tmp_path: Path, error: Exception) -> None:
    (tmp_path / "file").write_text("before")
    with pytest.raises(DiskFull, match="free some"), atomic_write(tmp_path / "file") as part:
        part.write_text("half")
        raise error
    assert everything(tmp_path) == {"file": b"before"}
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("before")
    with pytest.raises(DiskFull), atomic_folder(tmp_path / "folder"):
        raise error
    assert everything(tmp_path / "folder") == {"file": b"before"}


@pytest.mark.slow
def test_a_file_size_limit_ends_with_exit_code_3(tmp_path: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        "from netopsy.cli.main import main; main()"
    )
    words = ["distributions", "netopsy:digits-a", "--out", str(tmp_path / "case")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr and "lift the limit" in done.stderr.splitlines()[-1]
    assert Case(tmp_path / "case").names in ([], ["baseline"])


def test_the_lock_is_waited_for(tmp_path: Path) -> None:
    slow, quick = Case(tmp_path / "case"), Case(tmp_path / "case")
    order: list[str] = []

    def hold() -> None:
        with slow._writing():
            order.append("held")
            time.sleep(0.3)
            order.append("freed")

    thread = threading.Thread(target=hold)
    thread.start()
    while not order:
        time.sleep(0.01)
    quick.add(Result("noise"))
    order.append("added")
    thread.join()
    assert order == ["held", "freed", "added"] and Case(tmp_path / "case").names == ["noise"]
