"""The command `serve`: the reports of a case, or of a folder of cases, in the browser of this computer."""

from __future__ import annotations

import errno
import html
import json
import mimetypes
import os
import shutil
import time
from collections import Counter
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from netopsy.cli.output import Output
from netopsy.errors import CaseError, SettingsError
from netopsy.wording import plural

HOST = "127.0.0.1"  # the loopback: nobody else on the network can reach it
PORT, TRIES = 8000, 20
DEPTH = 4  # folders between the one that is served and a case in it
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webp": "image/webp",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".parquet": "application/vnd.apache.parquet",
}
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>:root{{color-scheme:light dark}}body{{font:1rem/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;
padding:0 1rem}}table{{border-collapse:collapse;width:100%}}th,td{{text-align:left;padding:.4rem 1.2rem .4rem 0;
vertical-align:top}}td{{overflow-wrap:anywhere}}tr{{border-bottom:1px solid #8886}}td[title=Date]{{white-space:nowrap}}
@media(max-width:40rem){{th{{display:none}}tr,td{{display:block}}td{{padding:.1rem 0}}td:empty{{display:none}}
td:not(:first-child)::before{{content:attr(title)": ";opacity:.7}}}}</style>
<main><h1>{title}</h1>{body}</main></html>"""


def serve(folder: str, port: int | None, output: Output) -> None:
    """Listen on the loopback until Ctrl-C."""
    root = Path(folder)
    cases = find_cases(root)
    with _listen(root, port) as server:
        address = f"http://{HOST}:{server.server_address[1]}/"
        count = "1 case" if len(cases) == 1 else f"{len(cases)} cases"
        print(f"{count} of '{folder}' at {address} (Ctrl-C ends this)", flush=True)
        output.open_page(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def find_cases(root: Path) -> list[Path]:
    """The cases in `root`, itself first if it is one; links are not followed. Errors: CaseError where there is none."""
    if not root.is_dir():
        raise CaseError(
            f"no folder '{root}': give a case, as `netopsy examine --out` writes one, or a folder of cases."
        )
    cases: list[Path] = []
    for path, folders, files in os.walk(root):
        here = Path(path)
        if "case.json" in files:
            cases.append(here)
        deep = len(here.relative_to(root).parts) >= DEPTH
        folders[:] = [] if deep or "result.json" in files else sorted(f for f in folders if not f.startswith("."))
    if not cases:
        raise CaseError(
            f"'{root}' holds no case: give a folder that `netopsy examine --out` wrote, or one that has some."
        )
    return cases


def _listen(root: Path, port: int | None) -> ThreadingHTTPServer:
    """A server on this port, or on the first free one."""
    if port is not None and not 0 <= port <= 65535:
        raise SettingsError(f"port {port} is none; give a number from 1024 to 65535.")
    handler = partial(Handler, root.resolve())
    for number in (port,) if port is not None else range(PORT, PORT + TRIES):
        try:
            return ThreadingHTTPServer((HOST, number), handler)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    which = f"port {port} is" if port is not None else f"ports {PORT} to {PORT + TRIES - 1} are"
    raise SettingsError(f"{which} taken or not allowed; give --port another number, or --port 0 for any that is free.")


class Handler(BaseHTTPRequestHandler):
    """Answers with the files of cases in `root`, read only, and with a list of the cases."""

    server_version = "netopsy"
    sys_version = ""
    protocol_version = "HTTP/1.1"

    def __init__(self, root: Path, *connection: Any) -> None:
        self.root = root
        super().__init__(*connection)

    def do_GET(self) -> None:
        # A page of another site may send the browser here under a name of its own; it gets no answer.
        host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
        if host not in (HOST, "localhost"):
            return self._refuse(HTTPStatus.FORBIDDEN)
        path = unquote(urlsplit(self.path).path)
        if path == "/" and not (self.root / "case.json").is_file():
            page = list_page(self.root).encode()
            return self._send(page, TYPES[".html"], len(page))
        file = allowed_file(self.root, path)
        if file is None:
            return self._refuse(HTTPStatus.NOT_FOUND)
        if file.is_dir():
            if not path.endswith("/"):
                return self._redirect("/" + quote("/".join(filter(None, path.split("/")))) + "/")
            file = file / "index.html"
            if not file.is_file() or file.is_symlink():
                return self._refuse(HTTPStatus.NOT_FOUND)
        kind = TYPES.get(file.suffix.lower()) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        try:
            opened = file.open("rb")
        except OSError:
            return self._refuse(HTTPStatus.NOT_FOUND)
        with opened:
            return self._send(opened, kind, os.fstat(opened.fileno()).st_size)

    do_HEAD = do_GET

    def _send(self, content: Any, kind: str, size: int) -> None:
        self._head(HTTPStatus.OK, {"Content-Type": kind, "Content-Length": str(size)})
        if self.command == "HEAD":
            return
        try:
            if isinstance(content, bytes):
                self.wfile.write(content)
            else:
                shutil.copyfileobj(content, self.wfile)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _redirect(self, target: str) -> None:
        self._head(HTTPStatus.MOVED_PERMANENTLY, {"Location": target, "Content-Length": "0"})

    def _refuse(self, status: HTTPStatus) -> None:
        text = f"{status.value} {status.phrase}\n".encode()
        self._head(status, {"Content-Type": TYPES[".txt"], "Content-Length": str(len(text))})
        if self.command != "HEAD":
            self.wfile.write(text)

    def _head(self, status: HTTPStatus, fields: dict[str, str]) -> None:
        self.send_response(status)
        pages = fields.get("Content-Type") == TYPES[".html"]  # their own policy is in them
        policy = {} if pages else {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; sandbox"}
        guard = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache"}
        for name, value in {**fields, **policy, **guard}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a line a request would bury the address."""


def allowed_file(root: Path, path: str) -> Path | None:
    """The file or folder of a case that the decoded `path` of an address names; None where there is none to give.

    None too for hidden names, for `..`, and where a link leads out of the case.
    """
    parts = [part for part in path.split("/") if part]
    if any(part.startswith(".") or "\\" in part or "\0" in part for part in parts):
        return None
    folders = (root.joinpath(*parts[:count]) for count in range(len(parts) + 1))
    case = next((folder for folder in folders if (folder / "case.json").is_file()), None)
    try:
        target = root.joinpath(*parts).resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    if case is None or not target.is_relative_to(case) or not case.resolve().is_relative_to(root):
        return None
    return target


def list_page(root: Path) -> str:
    """The cases of a folder as a page: name, network, score, date, alerts."""
    try:
        cases = [(_mtime(case), case, _facts(case)) for case in find_cases(root)]
    except CaseError:  # removed since this began
        cases = []
    heads = ["Case", "Network", "Samples", "Score", "Date", "Alerts"]
    rows = ""
    for date, case, facts in sorted(cases, key=lambda one: one[0], reverse=True):
        name, day = case.relative_to(root).as_posix(), time.strftime("%Y-%m-%d %H:%M", time.localtime(date))
        link = f'<a href="/{quote(name)}/">{html.escape(name)}</a>'
        if not (case / "index.html").is_file():
            link = f"{html.escape(name)} (no report yet)"
        texts = [facts["network"], facts["samples"], facts["score"], day, facts["alerts"]]
        cells = [link, *map(html.escape, texts)]
        rows += f"<tr>{''.join(f'<td title={head}>{cell}</td>' for head, cell in zip(heads, cells, strict=True))}</tr>"
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return _PAGE.format(title=html.escape(root.name or "Cases"), body=f"<table><tr>{head}</tr>{rows}</table>")


def _mtime(case: Path) -> float:
    return max((f.stat().st_mtime for f in (case / "case.json", case / "index.html") if f.is_file()), default=0.0)


def _facts(case: Path) -> dict[str, str]:
    """What a case says of itself, as text: `case.json` of its network and samples, the study `baseline` of the rest."""
    from netopsy.result import LEVELS

    facts = {"network": "", "samples": "", "score": "", "alerts": ""}
    try:
        manifest = json.loads((case / "case.json").read_text(encoding="utf-8"))
        network, samples = (manifest.get(key) or {} for key in ("network", "samples"))
        facts["network"] = str((network or manifest.get("features") or {}).get("name", ""))
        facts["samples"], count = str(samples.get("name", "")), samples.get("count")
        if isinstance(count, int) and f"{count:,} of " not in facts["samples"]:
            facts["samples"] += f" ({count:,})"
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {**facts, "network": "damaged case.json"}
    try:
        found = json.loads((case / "baseline" / "result.json").read_text(encoding="utf-8"))
        levels = Counter(str(alert["level"]) for alert in found["alerts"])
        facts["alerts"] = ", ".join(plural(levels[level], level) for level in LEVELS if levels[level])
        facts["score"] = _score(case / "baseline" / "tables" / "score.parquet")
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        pass  # a case without a baseline, or a damaged one, has no score here
    return facts


def _score(path: Path) -> str:
    """The score in the table that `baseline` wrote, with its unit."""
    import polars as pl

    try:
        row = pl.read_parquet(path).row(0, named=True)
        value, unit = float(row["score"]), str(row["unit"])
        share = any(word in unit for word in ("accuracy", "agreement", "union"))
        return f"{100 * value:.1f} % {unit}" if share else f"{value:.4g} {unit}"
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, LookupError, TypeError, ValueError):
        return ""
