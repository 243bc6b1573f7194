"""`netopsy serve`: the files of cases, read only, on the loopback, and nothing else."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from netopsy.cli import main
from netopsy.cli.serve import HOST, _listen, find_cases
from netopsy.errors import CaseError, SettingsError


def make_case(folder: Path, **facts: object) -> Path:
    (folder / "noise" / "tables").mkdir(parents=True)
    (folder / ".work").mkdir()
    (folder / ".work" / "secret").write_text("secret")
    (folder / "case.json").write_text(json.dumps({"format": 1, "studies": ["noise"], **facts}))
    (folder / "index.html").write_text(f"<h1>{folder.name}</h1>")
    (folder / "noise" / "result.json").write_text("{}")
    for name in ("tables/scores.parquet", "chart.svg", "picture.webp"):
        (folder / "noise" / name).write_bytes(b"content")
    return folder


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """Two cases and one below, a file beside them, and links that lead out."""
    root = tmp_path / "cases"
    network = {"name": "<b>resnet</b>"}
    a = make_case(root / "a b", network=network, samples={"name": "digits", "count": 540})
    baseline = {"score": [0.917], "unit": ["top-1 accuracy"]}
    (a / "baseline" / "tables").mkdir(parents=True)
    pl.DataFrame(baseline).write_parquet(a / "baseline" / "tables" / "score.parquet")
    alerts = [{"level": level} for level in ("warning", "error", "warning")]
    (a / "baseline" / "result.json").write_text(json.dumps({"alerts": alerts}))
    make_case(root / "inner" / "c")
    (root / "broken").mkdir()
    (root / "broken" / "case.json").write_text("{")
    (root / "notes.txt").write_text("secret")
    outside = make_case(tmp_path / "outside")
    (tmp_path / "secret").write_text("secret")
    (root / "linked").symlink_to(outside)
    (a / "link.txt").symlink_to(tmp_path / "secret")
    (a / "beside.txt").symlink_to(root / "notes.txt")
    (a / "folder").symlink_to(tmp_path)
    return root


@pytest.fixture
def port(cases: Path) -> Iterator[int]:
    with _listen(cases, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()


def ask(port: int, path: str, method: str = "GET", host: str = HOST) -> tuple[int, dict[str, str], str]:
    """Status, header and text of the answer, for a path that goes out exactly as it is written."""
    with socket.create_connection((HOST, port), timeout=10) as line:
        line.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = http.client.HTTPResponse(line, method=method)
        answer.begin()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read().decode()


def test_the_list_names_every_case_with_what_is_known_of_it(port: int) -> None:
    status, head, page = ask(port, "/")
    assert status == 200 and head["content-type"] == "text/html; charset=utf-8"
    for text in (
        'href="/a%20b/"',
        'href="/inner/c/"',
        "&lt;b&gt;resnet&lt;/b&gt;",
        "digits (540)",
        "91.7 % top-1 accuracy",
        "1 error, 2 warnings",
    ):
        assert text in page
    assert "damaged case.json" in page and "outside" not in page and "linked" not in page and "<b>" not in page


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/a%20b/", "text/html; charset=utf-8"),
        ("/a%20b/index.html?x=1", "text/html; charset=utf-8"),
        ("/a%20b/noise/result.json", "application/json"),
        ("/a%20b/noise/chart.svg", "image/svg+xml"),
        ("/a%20b/noise/picture.webp", "image/webp"),
        ("/inner/c/noise/tables/scores.parquet", "application/vnd.apache.parquet"),
    ],
)
def test_files_of_a_case_come_with_their_types(port: int, path: str, kind: str) -> None:
    status, head, text = ask(port, path)
    assert (status, head["content-type"], head["x-content-type-options"]) == (200, kind, "nosniff") and text
    assert ("content-security-policy" in head) == ("html" not in kind)
    assert ask(port, path, "HEAD")[::2] == (200, "")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/a%20b/../../secret",
        "/a%20b/%2e%2e/%2e%2e/secret",
        "/a%20b/..%2f..%2fsecret",
        "/a%20b/..%5c..%5csecret",
        "/a%20b/%00",
        "/%2fetc/passwd",
        "//etc/passwd",
        "/notes.txt",
        "/inner/",
        "/a%20b/link.txt",
        "/a%20b/beside.txt",
        "/a%20b/folder/secret",
        "/linked/index.html",
        "/a%20b/.work/secret",
        "/a%20b/noise/",
        "/a%20b/nothing",
    ],
)
def test_nothing_else_is_given(port: int, path: str) -> None:
    status, _, text = ask(port, path)
    assert status == 404 and "secret" not in text


def test_other_hosts_and_other_methods_are_refused(port: int) -> None:
    assert ask(port, "/", host="evil.example")[0] == 403
    assert ask(port, "/", "POST")[0] == 501 and ask(port, "/", "DELETE")[0] == 501
    assert ask(port, "/", host="localhost")[0] == 200
    status, head, _ = ask(port, "//a%20b")
    assert status == 404 or head["location"] == "/a%20b/"
    assert ask(port, "/a%20b")[1]["location"] == "/a%20b/"


def test_one_case_is_served_by_itself(cases: Path) -> None:
    with _listen(cases / "a b", 0) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        assert ask(server.server_address[1], "/")[2] == "<h1>a b</h1>"
        server.shutdown()


def test_wrong_folders_and_ports_are_one_sentence(cases: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaseError, match="holds no case"):
        find_cases(tmp_path / "empty")
    with pytest.raises(CaseError, match="no folder"):
        find_cases(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="port 70000 is none"):
        _listen(cases, 70000)
    with _listen(cases, 0) as server, pytest.raises(SettingsError, match="taken or not allowed; give --port another"):
        _listen(cases, server.server_address[1])


def test_an_interrupt_ends_it_quietly(cases: Path) -> None:
    code = "from netopsy.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", str(cases), "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    port = int(line.split(f"http://{HOST}:")[1].split("/")[0])
    assert line.startswith("3 cases of") and ask(port, "/")[0] == 200
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, error, out.strip()) == (0, b"", b"")


def test_open_shows_the_address(cases: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)) or True)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", stop)
    main(["serve", str(cases), "--port", "0", "--open"])
    assert opened[0].startswith(f"http://{HOST}:") and opened[0] in capsys.readouterr().out
