"""The answers of the server on loopback, one function for each kind of request."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import yaml

from tests.hub_answers import Answers
from tests.hub_store import DATE, LFS_ENDINGS, Blob, Repo, facts_of

if TYPE_CHECKING:
    pass


class Handler(Answers):
    """The routes of the Hub that its client asks for."""

    # Repositories

    def create(self, body: bytes, query: Any) -> None:
        facts = json.loads(body)
        name = f"{facts.get('organization') or 'user'}/{facts['name']}"
        url = {"url": f"{self.server.endpoint}/{name}", "name": name, "id": name}
        if name in self.server.repos:
            return self._json(url, 409)
        if facts.get("type") == "space" and facts.get("sdk") != "static":
            return self._json({"error": "sdk is required"}, 400)
        private = facts.get("private") or facts.get("visibility") == "private"
        repo = self.server.repos[name] = Repo(facts.get("type", "model"), bool(private))
        repo.commit("main", {".gitattributes": Blob(b"*.safetensors filter=lfs\n", size=25)})
        self._json(url)

    def validate(self, body: bytes, query: Any) -> None:
        text = json.loads(body)["content"]
        found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        errors = [] if found and isinstance(yaml.safe_load(found[1]), dict) else [{"message": "no front matter"}]
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, body: bytes, query: Any, kind: str, name: str, revision: str = "main") -> None:
        repo = self._repo(kind, name)
        sha = repo and self._revision(repo, revision)
        if repo and sha:
            siblings = [{"rfilename": path} for path in sorted(repo.commits[sha][1])]
            facts = {"id": name, "modelId": name, "sha": sha, "private": repo.private, "siblings": siblings, "tags": []}
            self._json({**facts, "lastModified": DATE, "gated": False, "downloads": 0, "disabled": False})

    def refs(self, body: bytes, query: Any, kind: str, name: str) -> None:
        repo = self._repo(kind, name)
        if repo:
            branches = [
                {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": sha}
                for branch, sha in repo.branches.items()
            ]
            self._json({"branches": branches, "converts": [], "tags": []})

    def commits(self, body: bytes, query: Any, kind: str, name: str, revision: str) -> None:
        repo = self._repo(kind, name)
        sha = repo and self._revision(repo, revision)
        if repo and sha:
            found, at = [], sha
            while at:
                found.append({"id": at, "title": "", "message": "", "date": DATE, "authors": []})
                at = repo.commits[at][0] or ""
            self._json(found)

    def branch(self, body: bytes, query: Any, kind: str, name: str, branch: str) -> None:
        repo = self._repo(kind, name)
        if repo and branch in repo.branches:
            return self._json({"error": "Reference already exists"}, 409)
        sha = repo and self._revision(repo, json.loads(body or b"{}").get("startingPoint", "main"))
        if repo and sha:
            repo.branches[branch] = sha
            self._json({})

    def tree(self, body: bytes, query: Any, kind: str, name: str, revision: str, path: str = "") -> None:
        repo = self._repo(kind, name)
        sha = repo and self._revision(repo, revision)
        if not (repo and sha):
            return
        files = {file: blob for file, blob in repo.commits[sha][1].items() if not path or file.startswith(f"{path}/")}
        if path and not files:
            return self._json({"error": "not found"}, 404, X_Error_Code="EntryNotFound")
        recursive = query.get("recursive", ["false"])[0].lower() == "true"
        depth = len(PurePosixPath(path).parts)
        folders = {str(parent) for file in files for parent in PurePosixPath(file).parents if str(parent) != "."}
        items = [facts_of(file, blob) for file, blob in files.items()]
        items += [{"type": "directory", "path": folder, "size": 0, "oid": "0" * 40} for folder in folders]
        deeper = [item for item in items if len(PurePosixPath(item["path"]).parts) > depth]
        shown = [item for item in deeper if recursive or len(PurePosixPath(item["path"]).parts) == depth + 1]
        self._json(sorted(shown, key=lambda item: item["path"]), X_Repo_Commit=sha)

    def paths_info(self, body: bytes, query: Any, kind: str, name: str, revision: str) -> None:
        repo = self._repo(kind, name)
        sha = repo and self._revision(repo, revision)
        if repo and sha:
            is_json = "json" in (self.headers.get("Content-Type") or "")
            wanted = json.loads(body)["paths"] if is_json else parse_qs(body.decode()).get("paths", [])
            files = repo.commits[sha][1]
            self._json([facts_of(path, files[path]) for path in wanted if path in files])

    # Uploads

    def preupload(self, body: bytes, query: Any, kind: str, name: str, revision: str) -> None:
        repo = self._repo(kind, name)
        sha = repo and self._revision(repo, revision)
        if repo and sha:
            files, tree = json.loads(body)["files"], repo.commits[sha][1]
            modes = {file["path"]: "lfs" if file["path"].endswith(LFS_ENDINGS) else "regular" for file in files}
            oids = {path: tree[path].oid if path in tree else None for path in modes}
            answer = [
                {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oids[path]}
                for path, mode in modes.items()
            ]
            self._json({"files": answer, "commitOid": sha})

    def batch(self, body: bytes, query: Any, name: str, kind: str = "model") -> None:
        if not self._repo(kind, name):
            return
        objects = []
        for wanted in json.loads(body)["objects"]:
            facts = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server.objects:
                facts["actions"] = {"upload": {"href": f"{self.server.endpoint}/lfs/{wanted['oid']}", "header": {}}}
            objects.append(facts)
        self._json({"transfer": "basic", "objects": objects})

    def put(self, body: bytes, query: Any, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self._json({"error": "sha256 does not match"}, 400)
        if self.server.faults.corrupt:
            self.server.faults.corrupt -= 1
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.server.objects[oid] = body
        self.server.stored[oid] += 1
        if self.server.faults.kind != "lost":
            self._lose_answer = False  # else the client would rightly send the file again
        self._send(b"")

    def commit(self, body: bytes, query: Any, kind: str, name: str, revision: str) -> None:
        repo = self._repo(kind, name)
        sha = repo and self._revision(repo, revision)
        if not (repo and sha):
            return
        if revision not in repo.branches:
            return self._json({"error": "not a branch"}, 400)
        tree = dict(repo.commits[sha][1])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                if value.get("parentCommit") not in (None, sha):
                    return self._json({"error": "the parent is not the newest commit"}, 412)
            elif entry["key"] == "file":
                content = base64.b64decode(value["content"])
                tree[value["path"]] = Blob(content, size=len(content))
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    return self._json({"error": "LFS file was not uploaded"}, 400)
                tree[value["path"]] = Blob(lfs=value["oid"], size=len(self.server.objects[value["oid"]]))
            elif entry["key"] == "deletedFile":
                del tree[value["path"]]
        self.server.commits_made += 1
        oid = repo.commit(revision, tree)
        self._json({"commitUrl": f"{self.server.endpoint}/{name}/commit/{oid}", "commitOid": oid, "success": True})

    # Downloads

    def resolve(self, body: bytes, query: Any, name: str, revision: str, path: str, kind: str = "model") -> None:
        repo = self._repo(kind, name)
        sha = repo and self._revision(repo, revision)
        if not (repo and sha):
            return
        blob = repo.commits[sha][1].get(path)
        if blob is None:
            return self._json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=sha)
        if blob.lfs is None:
            return self._ranged(blob.content, ETag=f'"{blob.oid}"', X_Repo_Commit=sha)
        linked = {"X_Linked_ETag": f'"{blob.lfs}"', "X_Linked_Size": str(blob.size)}
        # By another host name, as a file behind a redirect to the same one would not be taken for the Hub's.
        where = f"http://localhost:{self.server.server_port}/cdn/{blob.lfs}"
        self._send(b"", 302, Location=where, ETag=f'"{blob.oid}"', X_Repo_Commit=sha, **linked)

    def cdn(self, body: bytes, query: Any, oid: str) -> None:
        self._ranged(self.server.objects[oid], ETag=f'"{oid}"')

    def _ranged(self, content: bytes, **headers: str) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not found:
            return self._send(content, **headers)
        start, stop = int(found[1]), int(found[2] or len(content) - 1)
        headers["Content_Range"] = f"bytes {start}-{stop}/{len(content)}"
        self._send(content[start : stop + 1], 206, **headers)


_API = r"/api/(?P<kind>model|dataset|space)s/(?P<name>[^/]+/[^/]+)"
_GIT = r"/(?:(?P<kind>dataset|space)s/)?(?P<name>[^/]+/[^/]+)"
Handler.routes = [
    ("POST", "/api/repos/create", Handler.create),
    ("POST", "/api/validate-yaml", Handler.validate),
    ("GET", _API, Handler.info),
    ("GET", f"{_API}/revision/(?P<revision>[^/]+)", Handler.info),
    ("GET", f"{_API}/refs", Handler.refs),
    ("GET", f"{_API}/commits/(?P<revision>[^/]+)", Handler.commits),
    ("POST", f"{_API}/branch/(?P<branch>[^/]+)", Handler.branch),
    ("GET", f"{_API}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", Handler.tree),
    ("POST", f"{_API}/paths-info/(?P<revision>[^/]+)", Handler.paths_info),
    ("POST", f"{_API}/preupload/(?P<revision>[^/]+)", Handler.preupload),
    ("POST", f"{_API}/commit/(?P<revision>[^/]+)", Handler.commit),
    ("POST", rf"{_GIT}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", Handler.put),
    ("GET|HEAD", f"{_GIT}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
    ("GET|HEAD", "/cdn/(?P<oid>[0-9a-f]{64})", Handler.cdn),
]
