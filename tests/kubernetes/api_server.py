"""A stand-in of a Kubernetes API server with Kubeflow's kinds, for the real kubectl.

It answers as kube-apiserver does (https://kubernetes.io/docs/reference/using-api/api-concepts), for what kubectl asks
here: discovery, OpenAPI, create, get by name and by labels, delete, logs. Tests set the states that Kubeflow's operator
and the kubelet would.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from tests.kubernetes.operator import Operator, StatusError

# Group and version of each kind of job, and of pods.
KINDS = {
    "pytorchjobs": ("kubeflow.org", "v1", "PyTorchJob"),
    "trainjobs": ("trainer.kubeflow.org", "v1alpha1", "TrainJob"),
}
_OBJECTS = re.compile(
    r"(?:/api/v1|/apis/(?P<group>[^/]+)/[^/]+)/namespaces/(?P<namespace>[^/]+)/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[^/]+)(?P<log>/log)?)?"
)


class Fault(NamedTuple):
    """What is answered to requests such as "POST /apis/..." that match, instead of what is right.

    ``how``: a Status (403 ...), or "hang", "drop" (the connection, after the request was carried out) or "garbage".
    """

    match: str
    how: str
    status: StatusError | None = None


class ApiServer:
    """The server, what it has (``operator``), what it was asked (``asked``), and what it does wrong (``faults``)."""

    def __init__(self) -> None:
        self.reset()
        self.over = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Forget everything, as a new cluster; requests that hang go on hanging."""
        self.operator = Operator()
        self.asked: list[str] = []
        self.faults: list[Fault] = []
        self.kinds = dict(KINDS)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        """End, with the requests that hang."""
        self.over.set()
        self._http.shutdown()
        self._http.server_close()

    def fault_for(self, request: str) -> Fault | None:
        """The first fault that matches a request."""
        return next((fault for fault in self.faults if re.search(fault.match, request)), None)

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, Any]:
        """Status and content of an answer. Raises StatusError."""
        url = urlsplit(target)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        if (found := self._discovery(url.path)) is not None:
            return 200, found
        match = _OBJECTS.fullmatch(url.path)
        plural = match["plural"] if match else ""
        if match is None or not self._serves(plural, match["group"]):
            raise StatusError(404, "NotFound", "the server could not find the requested resource")
        namespace, name = unquote(match["namespace"]), unquote(match["name"] or "")
        if match["log"]:
            return 200, self.operator.log(namespace, name, query)
        if method == "POST":
            group, version, kind = self.kinds[plural]
            return 201, self.operator.create(namespace, plural, (f"{group}/{version}", kind), json.loads(body))
        if method == "DELETE":
            return 200, self.operator.delete(namespace, plural, name, json.loads(body or b"{}"))
        if name:
            return 200, self.operator.get(namespace, plural, name)
        return 200, self._list(plural, self.operator.chosen(namespace, plural, query))

    def _serves(self, plural: str, group: str | None) -> bool:
        if plural == "pods":
            return group is None
        return plural in self.kinds and self.kinds[plural][0] == group

    def _list(self, plural: str, items: list[dict[str, Any]]) -> dict[str, Any]:
        group, version, kind = self.kinds.get(plural, ("", "v1", "Pod"))
        api = f"{group}/{version}" if group else version
        return {"apiVersion": api, "kind": f"{kind}List", "metadata": {"resourceVersion": "1"}, "items": items}

    def _discovery(self, path: str) -> Any:
        """What tells kubectl which kinds there are; None for any other path."""
        groups = [_group(group, version) for group, version, _ in self.kinds.values()]
        known: dict[str, Any] = {
            "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0", "platform": "linux/amd64"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
            "/api/v1": _resources("v1", "pods", "Pod", "po"),
            "/openapi/v2": b"",  # an empty document of protobuf: kubectl before 1.24 checks nothing then
            "/openapi/v3": {"paths": {}},
        }
        for plural, (group, version, kind) in self.kinds.items():
            api = f"{group}/{version}"
            known[f"/apis/{group}"] = {"kind": "APIGroup", "apiVersion": "v1", **_group(group, version)}
            known[f"/apis/{api}"] = _resources(api, plural, kind)
            known["/openapi/v3"]["paths"][f"apis/{api}"] = {"serverRelativeURL": f"/openapi/v3/apis/{api}?hash=1"}
            known[f"/openapi/v3/apis/{api}"] = _openapi(group, version, plural, kind)
        return known.get(path)


def _group(group: str, version: str) -> dict[str, Any]:
    named = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [named], "preferredVersion": named}


def _resources(api: str, plural: str, kind: str, *short: str) -> dict[str, Any]:
    verbs = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
    one = {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": verbs}
    more = [{"name": "pods/log", "singularName": "", "namespaced": True, "kind": "Pod", "verbs": ["get"]}]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api,
        "resources": [{**one, "shortNames": list(short)}, *(more if plural == "pods" else [])],
    }


def _openapi(group: str, version: str, plural: str, kind: str) -> dict[str, Any]:
    """What tells kubectl that the server itself refuses unknown fields (fieldValidation)."""
    path = f"/apis/{group}/{version}/namespaces/{{namespace}}/{plural}/{{name}}"
    gvk = {"group": group, "version": version, "kind": kind}
    patch = {
        "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
        "responses": {},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": gvk,
    }
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.32.0"},
        "paths": {path: {"patch": patch}},
    }


def _handler(server: ApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            request = f"{self.command} {self.path}"
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.asked.append(request)
            fault = server.fault_for(request)
            if fault is not None and fault.how == "hang":
                server.over.wait()
                self.close_connection = True
                return
            try:
                code, content = self._answer(fault, body)
            except StatusError as error:
                code, content = error.code, error.content
            if fault is not None and fault.how == "drop":
                self.close_connection = True
                return
            self._send(code, b"\0garbage{" if fault is not None and fault.how == "garbage" else content)

        def _answer(self, fault: Fault | None, body: bytes) -> tuple[int, Any]:
            if fault is not None and fault.status is not None:
                raise fault.status
            return server.answer(self.command, self.path, body)

        def _send(self, code: int, content: Any) -> None:
            is_text = isinstance(content, (bytes, str))
            data = (
                content.encode() if isinstance(content, str) else content if is_text else json.dumps(content).encode()
            )
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if is_text else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing: ``asked`` has it."""

        do_GET = do_POST = do_DELETE = do_PATCH = _serve  # noqa: N815 - BaseHTTPRequestHandler's names

    return Handler


def kubeconfig(path: Path, url: str, namespace: str = "default", name: str = "stand-in") -> Path:
    """A configuration of kubectl with one context, the current one. (kubectl sends no token without TLS.)"""
    context = {"cluster": name, "user": name, "namespace": namespace}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": name,
                "clusters": [{"name": name, "cluster": {"server": url}}],
                "users": [{"name": name, "user": {}}],
                "contexts": [{"name": name, "context": context}],
            }
        )
    )
    path.chmod(0o600)
    return path


@contextmanager
def running() -> Iterator[ApiServer]:
    """A server for the time of a test."""
    server = ApiServer()
    try:
        yield server
    finally:
        server.close()


def until(condition: Any, seconds: float = 20.0) -> None:
    """Wait for a condition."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "the condition did not become true"
        threading.Event().wait(0.02)
