"""A local Hugging Face Hub: the protocol that huggingface_hub speaks with Xet off, and faults on request.

    with HubServer(token="hf_test") as server:
        server.put("org/name", {"config.json": b"{}"})
        ...  # a client that is pointed at server.endpoint
        assert server.files("org/name") == {"config.json": b"{}"}

Faults name a method and a regular expression, which is searched in the path of a request (decoded, without its query).
"""

import base64
import contextlib
import dataclasses
import functools
import hashlib
import json
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

import yaml

USER = "tester"
TIME = "2026-01-01T00:00:00.000Z"
LFS_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".onnx", ".parquet", ".arrow", ".npz", ".png", ".zip"})
LFS_FROM_BYTES = 10 * 1024 * 1024
FRONT_MATTER = re.compile(r"\s*---[\r\n]+(.*?)[\r\n]+---(?:[\r\n]|$)", re.DOTALL)


def needs_lfs(path: str, size: int) -> bool:
    return PurePosixPath(path).suffix in LFS_SUFFIXES or size > LFS_FROM_BYTES


def repo_key(repo_type: str, repo_id: str) -> str:
    """What `HubServer.repos` is keyed by, and the path of the repo on the web: models alone have no prefix."""
    return repo_id if repo_type == "model" else f"{repo_type}s/{repo_id}"


@dataclasses.dataclass(frozen=True)
class StoredFile:
    """One version of a file. Git holds the pointer of an LFS file, so the two kinds have different ids."""

    data: bytes
    is_lfs: bool

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def _pointer(self) -> bytes:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        return text.encode()

    @functools.cached_property
    def blob_id(self) -> str:
        blob = self._pointer if self.is_lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.blob_id

    @property
    def lfs_entry(self) -> dict[str, Any]:
        """What listings say about an LFS file, and nothing of any other."""
        if not self.is_lfs:
            return {}
        # The id is read as `oid` from trees and as `sha256` from the siblings of a repo's information.
        ids = {"oid": self.sha256, "sha256": self.sha256}
        return {"lfs": {**ids, "size": len(self.data), "pointerSize": len(self._pointer)}}


@dataclasses.dataclass(frozen=True)
class Commit:
    """A state of all files of a repo."""

    sha: str
    title: str
    parent: str | None
    files: Mapping[str, StoredFile]


@dataclasses.dataclass
class Repo:
    """A model, a dataset or a Space: commits, and the branches and tags that point at them."""

    repo_type: str
    repo_id: str
    private: bool = False
    branches: dict[str, str] = dataclasses.field(default_factory=dict)
    tags: dict[str, str] = dataclasses.field(default_factory=dict)
    history: dict[str, Commit] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.add_commit("main", "initial commit", {}, parent=None)

    @property
    def key(self) -> str:
        return repo_key(self.repo_type, self.repo_id)

    def find(self, revision: str) -> Commit:
        """The commit of a branch, a tag or a sha."""
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        if sha not in self.history:
            raise HubError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return self.history[sha]

    def add_commit(self, branch: str, title: str, files: Mapping[str, StoredFile], parent: Commit | None) -> Commit:
        # The number of the commit keeps two commits of equal content apart.
        content = [self.key, len(self.history), title, sorted((path, file.blob_id) for path, file in files.items())]
        sha = hashlib.sha1(json.dumps(content).encode()).hexdigest()
        commit = Commit(sha, title, parent.sha if parent else None, dict(files))
        self.history[sha] = commit
        self.branches[branch] = sha
        return commit


@dataclasses.dataclass(frozen=True)
class Request:
    """A request with its whole body."""

    method: str
    url: SplitResult
    headers: dict[str, str]
    body: bytes
    on_cdn: bool

    @property
    def path(self) -> str:
        return unquote(self.url.path)

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(self.url.query)

    def json(self) -> dict[str, Any]:
        return json.loads(self.body)


@dataclasses.dataclass(frozen=True)
class Reply:
    """What goes back; the length of the body is sent with it."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


class HubError(Exception):
    """A request that is refused, in the way that the client knows."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        # Headers are latin-1, paths in messages may be anything.
        told = {"X-Error-Message": message.encode("ascii", "replace").decode()}
        if code is not None:
            told["X-Error-Code"] = code
        self.reply = json_reply({"error": message}, status, {**told, **(headers or {})})


def json_reply(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    # A card may hold dates.
    body = json.dumps(content, default=str).encode()
    return Reply(status, body, {"Content-Type": "application/json", **(headers or {})})


class LoggedRequest(NamedTuple):
    """A request with the status of its reply: 0 if `HubServer.drop` closed the connection."""

    method: str
    path: str
    status: int
    headers: dict[str, str]
    on_cdn: bool


class RequestLog(list[LoggedRequest]):
    """The requests in the order of their answers. Appending, clearing and copying a list are atomic, so no lock."""

    def matching(self, method: str, path_pattern: str = "") -> list[LoggedRequest]:
        return [
            request for request in self.copy() if request.method == method and re.search(path_pattern, request.path)
        ]


API = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo_id>[^/]+/[^/]+)"
WEB = r"/(?:(?P<kind>datasets|spaces)/)?(?P<repo_id>[^/]+/[^/]+?)"


# Of each: the method, the form of the path, whether a token is needed, and the function that the named groups of the
# path are arguments of; instead of `kind` and `repo_id` it gets the repo.
ROUTES: list[tuple[str, re.Pattern[str], bool, Callable[..., Reply]]] = []


def route(method: str, pattern: str, *, needs_token: bool = False):
    def register(function: Callable[..., Reply]) -> Callable[..., Reply]:
        ROUTES.append((method, re.compile(pattern), needs_token, function))
        return function

    return register


def dispatch(hub: "HubServer", request: Request) -> Reply:
    """Find the route of a request, and its repo, and check that the sender may do this."""
    if request.on_cdn and "/resolve/" not in request.path:
        raise HubError(404, "Not Found")
    # What the CDN serves is signed on the real Hub, so that it needs no authorization.
    allowed = request.on_cdn or hub.token is None or request.headers.get("authorization") == f"Bearer {hub.token}"
    for method, pattern, needs_token, function in ROUTES:
        match = pattern.fullmatch(request.url.path)
        if match is None or method != request.method:
            continue
        if needs_token and not allowed:
            raise HubError(401, "Invalid username or password.")
        arguments = {name: unquote(text) for name, text in match.groupdict().items() if text is not None}
        if "repo_id" in arguments:
            repo_type = arguments.pop("kind", None) or "models"
            repo = hub.repos.get(repo_key(repo_type.removesuffix("s"), arguments.pop("repo_id")))
            if repo is None:
                raise HubError(404, "Repository not found", code="RepoNotFound")
            if repo.private and not allowed:
                raise HubError(401, "Repository not found", code="RepoNotFound")
            arguments["repo"] = repo
        return function(hub, request, **arguments)
    raise HubError(404, "Not Found")


@route("GET", "/api/whoami-v2", needs_token=True)
def whoami(hub: "HubServer", request: Request) -> Reply:
    return json_reply({"type": "user", "name": USER, "orgs": []})


@route("POST", "/api/repos/create", needs_token=True)
def create_repo(hub: "HubServer", request: Request) -> Reply:
    asked = request.json()
    repo_id = f"{asked.get('organization') or USER}/{asked['name']}"
    repo = Repo(asked.get("type", "model"), repo_id, private=asked.get("visibility") == "private")
    url = {"url": f"{hub.endpoint}/{repo.key}"}
    if repo.key in hub.repos:
        return json_reply({**url, "error": "You already created this repo"}, 409)
    hub.repos[repo.key] = repo
    return json_reply(url)


@route("DELETE", "/api/repos/delete", needs_token=True)
def delete_repo(hub: "HubServer", request: Request) -> Reply:
    asked = request.json()
    key = repo_key(asked.get("type", "model"), f"{asked.get('organization') or USER}/{asked['name']}")
    if hub.repos.pop(key, None) is None:
        raise HubError(404, "Repository not found", code="RepoNotFound")
    return json_reply({})


def check_card(content: str) -> tuple[dict[str, Any], list[str], list[str]]:
    """The metadata of a model or dataset card, what is wrong with it, and what the Hub only warns of."""
    block = FRONT_MATTER.match(content)
    if block is None:
        return {}, [], ["empty or missing yaml metadata in repo card"]
    try:
        metadata = yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        return {}, [f"invalid yaml: {error}"], []
    if not isinstance(metadata, dict):
        return {}, ["the metadata must be a mapping"], []
    errors = [
        f'"{key}" must be a {kind.__name__}'
        for key, kind in (("license", str), ("model-index", list))
        if not isinstance(metadata.get(key, kind()), kind)
    ]
    return metadata, errors, []


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: "HubServer", request: Request) -> Reply:
    _, errors, warnings = check_card(request.json()["content"])
    found = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return json_reply(found, 400 if errors else 200)


@route("GET", rf"{API}(?:/revision/(?P<revision>[^/]+))?")
def repo_info(hub: "HubServer", request: Request, repo: Repo, revision: str = "main") -> Reply:
    commit = repo.find(revision)
    card = commit.files.get("README.md")
    metadata = check_card(card.data.decode())[0] if card else {}
    info = {
        "id": repo.repo_id,
        "sha": commit.sha,
        "private": repo.private,
        "createdAt": TIME,
        "lastModified": TIME,
        "tags": metadata.get("tags") or [],
        "cardData": metadata,
        "siblings": [
            {"rfilename": path, "size": len(file.data), "blobId": file.blob_id, **file.lfs_entry}
            for path, file in sorted(commit.files.items())
        ],
    }
    return json_reply(info)


def list_entries(files: Mapping[str, StoredFile]) -> dict[str, dict[str, Any]]:
    """Every file and every folder of a commit, as the client wants them described."""
    entries: dict[str, dict[str, Any]] = {}
    for path, file in files.items():
        entries[path] = {"type": "file", "path": path, "size": len(file.data), "oid": file.blob_id, **file.lfs_entry}
        for folder in map(str, PurePosixPath(path).parents[:-1]):
            # No client looks into the tree that a folder's id names, so any stable id will do.
            entries[folder] = {"type": "directory", "path": folder, "oid": hashlib.sha1(folder.encode()).hexdigest()}
    return dict(sorted(entries.items()))


@route("GET", rf"{API}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?")
def tree(hub: "HubServer", request: Request, repo: Repo, revision: str, path: str = "") -> Reply:
    entries = list_entries(repo.find(revision).files)
    if path and entries.get(path, {}).get("type") != "directory":
        raise HubError(404, f"{path} does not exist on {revision}", code="EntryNotFound")
    prefix = f"{path}/" if path else ""
    recursive = request.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    found = [
        entry
        for name, entry in entries.items()
        if name.startswith(prefix) and (recursive or "/" not in name[len(prefix) :])
    ]
    return json_reply(found)


@route("POST", rf"{API}/paths-info/(?P<revision>[^/]+)")
def paths_info(hub: "HubServer", request: Request, repo: Repo, revision: str) -> Reply:
    entries = list_entries(repo.find(revision).files)
    wanted = parse_qs(request.body.decode()).get("paths", [])
    return json_reply([entries[path.rstrip("/")] for path in wanted if path.rstrip("/") in entries])


@route("GET", rf"{API}/refs")
def refs(hub: "HubServer", request: Request, repo: Repo) -> Reply:
    def described(found: Mapping[str, str], kind: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in found.items()]

    # Pull requests are kept as branches, under the names that the client reads them by.
    branches = {name: sha for name, sha in repo.branches.items() if not name.startswith("refs/pr/")}
    return json_reply({"branches": described(branches, "heads"), "tags": described(repo.tags, "tags"), "converts": []})


@route("POST", rf"{API}/branch/(?P<name>[^/]+)", needs_token=True)
def create_branch(hub: "HubServer", request: Request, repo: Repo, name: str) -> Reply:
    return add_reference(repo.branches, name, repo.find(request.json().get("startingPoint", "main")))


@route("POST", rf"{API}/tag/(?P<revision>[^/]+)", needs_token=True)
def create_tag(hub: "HubServer", request: Request, repo: Repo, revision: str) -> Reply:
    return add_reference(repo.tags, request.json()["tag"], repo.find(revision))


def add_reference(references: dict[str, str], name: str, commit: Commit) -> Reply:
    if name in references:
        raise HubError(409, f"Reference already exists: {name}")
    references[name] = commit.sha
    return json_reply({})


@route("POST", rf"{API}/preupload/(?P<revision>[^/]+)", needs_token=True)
def preupload(hub: "HubServer", request: Request, repo: Repo, revision: str) -> Reply:
    present = repo.find(revision).files
    plan = []
    for file in request.json()["files"]:
        mode = "lfs" if needs_lfs(file["path"], file["size"]) else "regular"
        entry = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
        if file["path"] in present:
            # The client leaves a file out of the commit if it has this very content.
            entry["oid"] = present[file["path"]].etag
        plan.append(entry)
    return json_reply({"files": plan})


@route("POST", rf"{WEB}\.git/info/lfs/objects/batch", needs_token=True)
def lfs_batch(hub: "HubServer", request: Request, repo: Repo) -> Reply:
    objects = []
    for wanted in request.json()["objects"]:
        entry = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in hub.lfs_objects:
            upload = {"href": f"{hub.endpoint}/lfs/{wanted['oid']}", "header": {}}
            entry["actions"] = {"upload": upload, "verify": {"href": f"{hub.endpoint}/lfs/verify", "header": {}}}
        objects.append(entry)
    return json_reply({"transfer": "basic", "objects": objects})


@route("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})")
def lfs_upload(hub: "HubServer", request: Request, oid: str) -> Reply:
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise HubError(400, "The content does not have the announced checksum")
    hub.lfs_objects[oid] = request.body
    return Reply(200)


@route("POST", "/lfs/verify")
def lfs_verify(hub: "HubServer", request: Request) -> Reply:
    told = request.json()
    if len(hub.lfs_objects.get(told["oid"], b"")) != told["size"]:
        raise HubError(404, "The object was not uploaded")
    return json_reply({})


def apply_operation(hub: "HubServer", files: dict[str, StoredFile], key: str, value: Mapping[str, Any]) -> None:
    """Change the files as one line of a commit says."""
    path = value["path"].rstrip("/")
    if key == "file":
        files[path] = StoredFile(base64.b64decode(value["content"]), is_lfs=False)
    elif key == "lfsFile":
        if value["oid"] not in hub.lfs_objects:
            raise HubError(400, f"The content of {path} was not uploaded")
        files[path] = StoredFile(hub.lfs_objects[value["oid"]], is_lfs=True)
    elif key in ("deletedFile", "deletedFolder"):
        gone = [name for name in files if (name == path if key == "deletedFile" else name.startswith(f"{path}/"))]
        if not gone:
            raise HubError(404, f"A file with this name doesn't exist: {path}", code="EntryNotFound")
        for name in gone:
            del files[name]
    else:
        raise HubError(400, f"Unknown operation: {key}")


@route("POST", rf"{API}/commit/(?P<revision>[^/]+)", needs_token=True)
def commit_files(hub: "HubServer", request: Request, repo: Repo, revision: str) -> Reply:
    head = repo.find(revision)
    (_, header), *operations = [(line["key"], line["value"]) for line in map(json.loads, request.body.splitlines())]
    if header.get("parentCommit") not in (None, head.sha):
        raise HubError(412, "A commit has happened since")
    files = dict(head.files)
    for key, value in operations:
        apply_operation(hub, files, key, value)
    branch, pull_request = revision, None
    if "create_pr" in request.query:
        number = 1 + sum(name.startswith("refs/pr/") for name in repo.branches)
        branch, pull_request = f"refs/pr/{number}", f"{hub.endpoint}/{repo.key}/discussions/{number}"
    elif revision not in repo.branches:
        raise HubError(404, f"Not a branch: {revision}", code="RevisionNotFound")
    # Nothing was changed up to here: a commit is whole or is not.
    commit = repo.add_commit(branch, header["summary"], files, parent=head)
    url = f"{hub.endpoint}/{repo.key}/commit/{commit.sha}"
    return json_reply({"commitOid": commit.sha, "commitUrl": url, "pullRequestUrl": pull_request})


@route("HEAD", rf"{WEB}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
@route("GET", rf"{WEB}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(hub: "HubServer", request: Request, repo: Repo, revision: str, path: str) -> Reply:
    commit = repo.find(revision)
    headers = {"X-Repo-Commit": commit.sha}
    file = commit.files.get(path)
    if file is None:
        # With the commit the client remembers that the file is absent.
        raise HubError(404, f"{path} does not exist on {revision}", code="EntryNotFound", headers=headers)
    headers.update({"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"})
    if file.is_lfs:
        headers.update({"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))})
        if hub.cdn and not request.on_cdn:
            location = f"{hub.cdn_endpoint}/{repo.key}/resolve/{commit.sha}/{quote(path)}"
            return Reply(302, b"", {**headers, "Location": location})
    if request.method == "HEAD":
        return Reply(200, file.data, headers)
    return part_of(hub.corrupted(request.path, file.data), request.headers.get("range"), headers)


def part_of(data: bytes, byte_range: str | None, headers: Mapping[str, str]) -> Reply:
    """The bytes that a Range header asks for, or all without one."""
    match = re.fullmatch(r"bytes=(?:(\d+)-(\d*)|-(\d+))", byte_range or "")
    if match is None:
        return Reply(200, data, headers)
    first, last, length = match.groups()
    start = max(len(data) - int(length), 0) if length else int(first)
    part = data[start : int(last) + 1 if last else None]
    if not part:
        return Reply(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
    return Reply(206, part, {**headers, "Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}"})


@dataclasses.dataclass
class Fault:
    """What happens instead of the right answer: another reply, or a connection that closes after some bytes."""

    method: str
    path_pattern: str
    times: int
    reply: Reply | None = None
    after_bytes: int = 0


class Handler(BaseHTTPRequestHandler):
    """Reads requests off a connection and writes replies; knows nothing of the Hub."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # the body of a reply would wait for the acknowledgement of its headers
    server: "Origin"

    def _handle(self) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        logged = LoggedRequest(self.command, unquote(url.path), 0, headers, self.server.is_cdn)
        fault = hub.take_fault(self.command, logged.path)
        dropped = fault is not None and fault.reply is None
        if dropped and self.command != "GET":
            # What has a body is the request, so that is where the connection breaks.
            self._read_body(limit=fault.after_bytes)
            hub.requests.append(logged)
            self.close_connection = True
            return
        body = self._read_body()
        if fault is not None and fault.reply is not None:
            reply = fault.reply
        else:
            reply = hub.answer(Request(self.command, url, headers, body, self.server.is_cdn))
        # Before the reply is sent, so that a test whose client has the reply also finds the request in the log.
        hub.requests.append(logged if dropped else logged._replace(status=reply.status))
        self._send(reply, body_bytes=fault.after_bytes if dropped else None)
        self.close_connection |= dropped

    # The names that `http.server` looks for.
    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815

    def _read_body(self, limit: int | None = None) -> bytes:
        body = bytearray()
        for size in self._part_sizes():
            wanted = size if limit is None else min(size, limit - len(body))
            part = self.rfile.read(wanted)
            if len(part) < wanted:
                raise ConnectionResetError("the client went away in the middle of its request")
            body += part
            if wanted < size:
                break
        return bytes(body)

    def _part_sizes(self) -> Iterator[int]:
        """The sizes of the parts that the body is sent in: chunks, or one."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            yield int(self.headers.get("Content-Length", 0))
            return
        while line := self.rfile.readline():
            size = int(line.split(b";")[0], 16)
            if size == 0:
                break
            yield size
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # trailers, up to the empty line

    def _send(self, reply: Reply, body_bytes: int | None = None) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[:body_bytes])

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on standard error: `HubServer.requests` is the log."""


class Origin(ThreadingHTTPServer):
    """One port of the server, with a thread for each connection."""

    daemon_threads = False  # `server_close` waits for the threads: none outlives its test

    def __init__(self, hub: "HubServer", *, is_cdn: bool = False):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = hub
        self.is_cdn = is_cdn
        self._connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def process_request(self, request: socket.socket, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: socket.socket) -> None:
        self._connections.discard(request)
        super().close_request(request)

    def handle_error(self, request: socket.socket, client_address: Any) -> None:
        error = sys.exception()
        if not isinstance(error, ConnectionError):  # clients may leave
            self.hub.errors.append(error)

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        # Idle connections of a client's pool would be served for ever.
        for connection in self._connections.copy():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class HubServer:
    """The server; a context manager.

    Args:
        token: what writes, and reads of private repos, must be authorized with; None allows everything.
        cdn: redirect downloads of LFS files to a second port, which is another origin.

    Attributes:
        repos: every repo, by "org/name" for models, "datasets/org/name" and "spaces/org/name" for the others.
        requests: the log of requests.
        lfs_objects: uploaded contents by their sha256, committed or not.
        errors: what went wrong in the server itself; empty unless it has a bug.
    """

    def __init__(self, *, token: str | None = None, cdn: bool = False):
        self.token = token
        self.cdn = cdn
        self.repos: dict[str, Repo] = {}
        self.requests = RequestLog()
        self.lfs_objects: dict[str, bytes] = {}
        self.errors: list[BaseException | None] = []
        self._lock = threading.RLock()
        self._faults: list[Fault] = []
        self._corruptions: list[tuple[str, Callable[[bytes], bytes]]] = []
        self._origins: list[Origin] = []

    def __enter__(self) -> "HubServer":
        main = Origin(self)
        self.endpoint = main.url
        self._origins = [main]
        if self.cdn:
            self._origins.append(Origin(self, is_cdn=True))
            self.cdn_endpoint = self._origins[1].url
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the ports and every connection; what is stored can still be read. May be called twice."""
        while self._origins:
            self._origins.pop().stop()

    def put(self, repo_id: str, files: Mapping[str, bytes], *, repo_type: str = "model", private: bool = False) -> str:
        """Commit files on main without a client, and make the repo if there is none; the sha of the commit."""
        with self._lock:
            repo = self.repos.setdefault(repo_key(repo_type, repo_id), Repo(repo_type, repo_id, private=private))
            head = repo.find("main")
            added = {path: StoredFile(data, needs_lfs(path, len(data))) for path, data in files.items()}
            self.lfs_objects.update({file.sha256: file.data for file in added.values() if file.is_lfs})
            return repo.add_commit("main", "put", {**head.files, **added}, parent=head).sha

    def files(self, repo_id: str, revision: str = "main", *, repo_type: str = "model") -> dict[str, bytes]:
        """The content of every file of a revision."""
        with self._lock:
            commit = self.repos[repo_key(repo_type, repo_id)].find(revision)
            return {path: file.data for path, file in sorted(commit.files.items())}

    def commits(self, repo_id: str, revision: str = "main", *, repo_type: str = "model") -> list[Commit]:
        """The commits that led to a revision, newest first; the last is the empty one of a new repo."""
        with self._lock:
            repo = self.repos[repo_key(repo_type, repo_id)]
            found = [repo.find(revision)]
            while (parent := found[-1].parent) is not None:
                found.append(repo.history[parent])
            return found

    def fail(
        self, method: str, path_pattern: str, *, times: int = 1, status: int = 503, retry_after: int | None = None
    ) -> None:
        """Answer the next requests of this kind with an error, without doing what they ask."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        reply = json_reply({"error": "this failure was asked for"}, status, headers)
        self._plan(Fault(method, path_pattern, times, reply=reply))

    def drop(self, method: str, path_pattern: str, *, times: int = 1, after_bytes: int = 0) -> None:
        """Close the connection of the next requests of this kind.

        A GET gets its headers and that many bytes of the body; of any other request that many bytes of its body are
        read, and there is no reply.
        """
        self._plan(Fault(method, path_pattern, times, after_bytes=after_bytes))

    def corrupt(self, path_pattern: str, change: Callable[[bytes], bytes]) -> None:
        """Let downloads of these files return `change(content)` with the ETag of the good content."""
        with self._lock:
            self._corruptions.append((path_pattern, change))

    def heal(self) -> None:
        """Forget every planned fault and corruption."""
        with self._lock:
            self._faults.clear()
            self._corruptions.clear()

    def _plan(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The first fault that is planned for a request; counts as one of its times."""
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path_pattern, path):
                    fault.times -= 1
                    return fault
        return None

    def corrupted(self, path: str, data: bytes) -> bytes:
        for pattern, change in self._corruptions:
            if re.search(pattern, path):
                data = change(data)
        return data

    def answer(self, request: Request) -> Reply:
        """The right reply to a request, one request at a time."""
        try:
            with self._lock:
                return dispatch(self, request)
        except HubError as error:
            return error.reply
        except Exception as error:  # a bug in this file, which a client would hide behind its retries
            self.errors.append(error)
            return Reply(500, repr(error).encode())
