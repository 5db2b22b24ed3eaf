"""A model and data set hub on the loopback, so that tests can name repositories as a user does.

    with serve(folder) as hub:             # folder/models/ORG/NAME/FILES, folder/datasets/ORG/NAME/FILES
        os.environ["HF_ENDPOINT"] = hub.url

It answers the calls that huggingface_hub, transformers and datasets make to download a repository (no
redirects, no large-file storage). Every repository has one revision, `main`, whose commit hash follows its
contents, and may get a second name in `hub.branches`. `hub.counts` says how often each file was asked for,
`hub.refused` what was asked for in vain.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)(?:/(?P<call>[a-z-]+)(?:/(?P<rest>.+))?)?"
)
FILE = re.compile(r"/(?:(?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class NotServedError(Exception):
    """A request for something that isn't there; `code` is what the hub's clients tell the cases apart by."""

    def __init__(self, code: str, message: str, status: int = 404) -> None:
        super().__init__(message)
        self.code, self.status = code, status


class Repository:
    """One folder of the tree as the hub describes it."""

    def __init__(self, root: Path, kind: str, name: str, branches: Mapping[str, str]) -> None:
        self.id = name
        self.branch = branches.get(f"{kind}/{name}", "main")
        self.key = f"{kind}/{name}"
        self.folder = (root / kind / name).resolve()
        if not self.folder.is_relative_to(root) or not self.folder.is_dir() or ".." in name:
            raise NotServedError("RepoNotFound", f"no {self.key}")

    def files(self) -> Iterator[Path]:
        return (path for path in sorted(self.folder.rglob("*")) if path.is_file() and self.holds(path))

    def holds(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.folder)

    @property
    def commit(self) -> str:
        listing = "".join(f"{path.relative_to(self.folder)} {blob_id(path)}\n" for path in self.files())
        return hashlib.sha1(listing.encode()).hexdigest()

    def check_revision(self, revision: str) -> None:
        if revision not in ("main", self.branch, self.commit):
            raise NotServedError("RevisionNotFound", f"{self.key} has no revision {revision}")

    def find(self, relative: str) -> Path:
        """The file or folder at a path, which must not lead out of the repository."""
        path = self.folder / relative
        if not self.holds(path) or not path.exists():
            raise NotServedError("EntryNotFound", f"{self.key} has no {relative}")
        return path

    def info(self) -> dict[str, Any]:
        siblings = [{"rfilename": str(path.relative_to(self.folder))} for path in self.files()]
        flags = {"private": False, "gated": False, "disabled": False}
        return {"id": self.id, "sha": self.commit, "siblings": siblings, "tags": [], **flags}

    def entry(self, path: Path) -> dict[str, Any]:
        relative = str(path.relative_to(self.folder))
        if path.is_dir():
            return {"type": "directory", "path": relative, "oid": hashlib.sha1(relative.encode()).hexdigest()}
        return {"type": "file", "path": relative, "oid": blob_id(path), "size": path.stat().st_size}

    def tree(self, under: str, recursive: bool) -> list[dict[str, Any]]:
        folder = self.find(under)
        found = folder.rglob("*") if recursive else folder.iterdir()
        return [self.entry(path) for path in sorted(found) if self.holds(path)]


_blob_ids: dict[tuple[str, int, int], str] = {}


def blob_id(path: Path) -> str:
    """Git's hash of a file, remembered as long as the file doesn't change."""
    stat = path.stat()
    key = (str(path), stat.st_mtime_ns, stat.st_size)
    if key not in _blob_ids:
        digest = hashlib.sha1(f"blob {stat.st_size}\0".encode())
        digest.update(path.read_bytes())
        _blob_ids[key] = digest.hexdigest()
    return _blob_ids[key]


class Handler(BaseHTTPRequestHandler):
    """One connection; `self.server.hub` is the hub."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass  # a test's own output stays readable

    def _answer(self) -> None:
        body = self.rfile.read(
            int(self.headers.get("Content-Length", 0))
        )  # or it is taken for the next request
        url = urlsplit(self.path)
        path = unquote(url.path)
        try:
            if match := FILE.fullmatch(path):
                self._send_file(**match.groupdict())
            elif match := API.fullmatch(path):
                query = parse_qs(url.query)
                self._send_json(self._call(query=query, body=body, **match.groupdict()))
            else:
                raise NotServedError("EntryNotFound", f"no such call: {path}")
        except NotServedError as error:
            self.server.hub.note_refused(f"{self.command} {path}: {error}")
            headers = {"X-Error-Code": error.code, "X-Error-Message": str(error)}
            self._send(error.status, json.dumps({"error": str(error)}).encode(), headers)

    def _call(
        self,
        kind: str,
        repo: str,
        call: str | None,
        rest: str | None,
        query: dict[str, list[str]],
        body: bytes,
    ) -> Any:
        repository = self._repository(kind, repo)
        # A revision has no slash of its own here; in a tree call the folder follows it.
        revision, _, under = (rest or "main").partition("/")
        repository.check_revision(revision)
        if call in (None, "revision"):
            return repository.info()
        if call == "tree":
            return repository.tree(under, recursive=query.get("recursive", [""])[0].lower() in ("true", "1"))
        if call == "paths-info":
            found = [repository.folder / path for path in _paths(body, self.headers.get("Content-Type", ""))]
            return [repository.entry(path) for path in found if path.exists() and repository.holds(path)]
        if call == "refs":
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repository.commit}
            return {"branches": [branch], "converts": [], "tags": [], "pullRequests": []}
        raise NotServedError("EntryNotFound", f"no such call: {call}")

    def _repository(self, kind: str, name: str) -> Repository:
        return Repository(self.server.hub.root, kind, name, self.server.hub.branches)

    def _send_file(self, kind: str | None, repo: str, revision: str, path: str) -> None:
        repository = self._repository(kind or "models", repo)
        repository.check_revision(revision)
        file = repository.find(path)
        if not file.is_file():
            raise NotServedError("EntryNotFound", f"{repository.key}/{path} is a folder")
        self.server.hub.note_served(self.command, f"{repository.key}/{path}")
        content, status = file.read_bytes(), 200
        headers = {"ETag": f'"{blob_id(file)}"', "X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes"}
        if wanted := RANGE.fullmatch(self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            if first >= len(content):
                raise NotServedError("RangeNotSatisfiable", f"{path} ends before byte {first}", status=416)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        self._send(status, content, headers | {"Content-Type": "application/octet-stream"})

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _paths(body: bytes, content_type: str) -> list[str]:
    """The paths of a paths-info call, which clients send as a form or as JSON."""
    if "json" in content_type:
        return list(json.loads(body)["paths"])
    return parse_qs(body.decode()).get("paths", [])


class Hub:
    """A running hub: its address, its folder and what was asked of it."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url = root, url
        self.counts: Counter[str] = Counter()  # "GET models/ORG/NAME/FILE" -> requests
        self.refused: list[str] = []
        self.branches: dict[str, str] = {}  # "datasets/ORG/NAME" -> another name of its main branch
        self._lock = threading.Lock()

    def folder(self, kind: str, name: str) -> Path:
        """Where the files of a repository go; made if it isn't there."""
        folder = self.root / kind / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def note_served(self, method: str, file: str) -> None:
        with self._lock:
            self.counts[f"{method} {file}"] += 1

    def note_refused(self, request: str) -> None:
        with self._lock:
            self.refused.append(request)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub


@contextmanager
def serve(root: Path) -> Iterator[Hub]:
    """Serves the folder tree `root` on a free port of the loopback while the context is open."""
    with _Server(("127.0.0.1", 0), Handler) as server:
        server.hub = Hub(root.resolve(), f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server.hub
        finally:
            server.shutdown()
