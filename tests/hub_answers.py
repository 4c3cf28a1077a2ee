"""What the server on loopback does with every request: faults on request, the route, and the answer."""

from __future__ import annotations

import json
import re
import socket
import struct
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_store import Repo

if TYPE_CHECKING:
    from tests.hub_server import HubServer


class Answers(BaseHTTPRequestHandler):
    """What all requests have in common: faults, routes, and how an answer is sent."""

    routes: ClassVar[list[tuple[str, str, Any]]] = []  # method, pattern of the path, and what answers
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer with a body waits 40 ms
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        self.server.requests.append(f"{self.command} {self.path} {args[1] if len(args) > 1 else ''}")

    # Faults, then the route

    def _serve(self) -> None:
        faults, server = self.server.faults, self.server
        if header := self.headers.get("Authorization"):
            server.tokens.add(header.removeprefix("Bearer "))
        with server.lock:
            dropped = faults.random.random() < faults.drop
            after = faults.random.random() < 0.5
            server.served += 1
            kind = faults.of(server.served)
        dropped, after = dropped or kind in ("reset", "lost"), after if not kind else kind == "lost"
        length = int(self.headers.get("Content-Length") or 0)
        if dropped and self.command == "PUT" and kind != "lost":
            self.rfile.read(length // 2)
            return self._hang_up()
        body = self.rfile.read(length)
        if len(body) < length or (dropped and not after):  # a client that was interrupted while it sent
            return self._hang_up()
        self._lose_answer = dropped
        if kind.isdigit():
            return self._json({"error": "on request"}, int(kind))
        with server.lock:
            if faults.statuses and (self.command in ("PUT", "POST") and "create" not in self.path):
                return self._json({"error": "on request"}, faults.statuses.pop(0))
            url = urlsplit(self.path)
            for method, pattern, handle in self.routes:
                found = re.fullmatch(pattern, url.path)
                if self.command in method.split("|") and found:
                    words = {key: unquote(word) for key, word in found.groupdict().items() if word is not None}
                    return handle(self, body, parse_qs(url.query), **words)
            self._json({"error": "no such route"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # the names of BaseHTTPRequestHandler

    def _hang_up(self) -> None:
        # Zero seconds to linger: the client sees a reset and no end of file.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
        self.rfile.close()

    def _send(self, content: bytes, status: int = 200, **headers: str) -> None:
        if self._lose_answer:
            return self._hang_up()
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(value).encode(), status, Content_Type="application/json", **headers)

    def _repo(self, kind: str, name: str) -> Repo | None:
        """The repository; or None, after saying that there is none or that it is closed to this client."""
        repo = self.server.repos.get(name)
        if repo is None or repo.kind != kind:
            # The Hub does not tell the anonymous whether a repository exists.
            self._json(
                {"error": "Repository not found"}, 404 if self.server.tokens else 401, X_Error_Code="RepoNotFound"
            )
            return None
        if repo.gated and not self.headers.get("Authorization"):
            self._json({"error": "restricted"}, 401, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted")
            return None
        return repo

    def _revision(self, repo: Repo, revision: str) -> str | None:
        sha = repo.find(revision)
        if sha is None:
            self._json({"error": f"Invalid rev id: {revision}"}, 404, X_Error_Code="RevisionNotFound")
        return sha
