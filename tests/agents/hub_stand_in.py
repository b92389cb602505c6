"""A small stand-in for the Hugging Face hub: what uploads and pinned downloads ask of it.

Facts from the hub's public HTTP API: repositories are made with a POST, files are announced and
then committed as lines of JSON, and downloads are resolved by commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


@dataclass
class Hub:
    """Files by repository and commit; branches by name; what was asked, in order."""

    endpoint: str = ""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[tuple[str, str], str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def commit(self, repo: str, branch: str, files: dict[str, bytes]) -> str:
        before = self.commits.get(self.branches.get((repo, branch), ""), {})
        after = {**before, **files}
        text = json.dumps([repo, branch, sorted((k, v.hex()) for k, v in after.items())])
        name = hashlib.sha1(text.encode()).hexdigest()
        self.commits[name] = after
        self.branches[repo, branch] = name
        return name


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers on the loopback interface while the body runs."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def answer(self, value: Any = None, *, status: int = 200, **headers: str) -> None:
            body = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for key, text in headers.items():
                self.send_header(key.replace("_", "-"), text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            parts = unquote(self.path.partition("?")[0]).strip("/").split("/")
            hub.asked.append(f"POST {self.path}")
            if parts[1:] == ["validate-yaml"]:
                self.answer({"warnings": [], "errors": []})
            elif parts[1:3] == ["repos", "create"]:
                asked = json.loads(body)
                organization = asked.get("organization") or "me"
                repo = f"{organization}/{asked['name']}"
                hub.branches.setdefault((repo, "main"), hub.commit(repo, "main", {}))
                self.answer({"url": f"{hub.endpoint}/{repo}", "name": repo})
            elif parts[4:5] == ["preupload"]:
                files = json.loads(body)["files"]
                self.answer(
                    {
                        "files": [
                            {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                            for f in files
                        ]
                    }
                )
            elif parts[4:5] == ["commit"]:
                lines = [
                    json.loads(line)["value"] for line in body.splitlines() if b'"file"' in line
                ]
                files = {v["path"]: base64.b64decode(v["content"]) for v in lines}
                repo = "/".join(parts[2:4])
                oid = hub.commit(repo, parts[5], files)
                url = f"{hub.endpoint}/{repo}/commit/{oid}"
                self.answer({"commitUrl": url, "commitOid": oid, "hookOutput": ""})
            else:
                self.answer({"error": "unknown"}, status=404)

        def do_GET(self) -> None:
            parts = unquote(self.path.partition("?")[0]).strip("/").split("/")
            hub.asked.append(f"{self.command} {self.path}")
            if parts[0] == "api":  # api/models/OWNER/NAME[/revision/REV | /tree/REV]
                repo, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
                oid = hub.branches.get((repo, revision), revision)
                if oid not in hub.commits:
                    self.answer({"error": "not found"}, status=404)
                    return
                files = hub.commits[oid]
                if parts[4:5] == ["tree"]:
                    self.answer([{"type": "file", "path": n, "size": len(d), "oid": oid}
                                 for n, d in files.items()])  # fmt: skip
                    return
                siblings = [{"rfilename": name} for name in files]
                self.answer({"id": repo, "modelId": repo, "sha": oid, "siblings": siblings})
                return
            repo, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
            oid = hub.branches.get((repo, revision), revision)
            data = hub.commits.get(oid, {}).get(name)
            if data is None:
                self.answer({"error": "not found"}, status=404, X_Error_Code="EntryNotFound")
                return
            etag = hashlib.sha256(data).hexdigest()
            self.answer(data, X_Repo_Commit=oid, ETag=f'"{etag}"')

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
