"""Rows at addresses: servers on the loopback, HTTP with ranges, faults and logins, and S3 (moto's server)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from loraplug import InputError, LoraplugError, Run
from loraplug_data import remote
from loraplug_data.sources import CsvSource, JsonLinesSource, JsonSource, ParquetSource

ROWS = [{"text": f"row {number} " + "x" * 40} for number in range(5000)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


class Server:
    """Files by their path, and what goes wrong with them."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.status: dict[str, int] = {}
        self.cut: list[int] = []  # bytes after which the next answers break off
        self.login: str | None = None
        self.ranges, self.tags, self.lengths = True, True, True
        self.endless = False
        self.asked: list[tuple[str, str | None]] = []
        self.address = ""


def _handler(state: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            span = self.headers["Range"]
            state.asked.append((self.path, span))
            wanted = "Basic " + base64.b64encode((state.login or "").encode()).decode()
            code = 401 if state.login and self.headers["Authorization"] != wanted else state.status.pop(path, 200)
            data = state.files.get(path)
            if code != 200 or data is None:
                self.send_response(code if code != 200 else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            match = re.fullmatch(r"bytes=(\d+)-(\d*)", span or "") if state.ranges else None
            start = int(match[1]) if match else 0
            end = int(match[2]) + 1 if match and match[2] else len(data)
            self.send_response(206 if match else 200)
            if state.tags:
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:16]}"')
            if state.lengths:
                self.send_header("Content-Length", str(len(data[start:end])))
            if match:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
            self.end_headers()
            cut = state.cut.pop(0) if state.cut and span != "bytes=0-0" else None
            try:
                self.wfile.write(data[start:end][:cut])
                while state.endless:
                    self.wfile.write(data)
            except OSError:
                return

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    state.address = f"http://127.0.0.1:{http.server_port}"
    state.files["/rows.jsonl"] = LINES
    yield state
    http.shutdown()
    http.server_close()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(remote, "WAIT", 0.01)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return Run("x", outputs=tmp_path / "outputs", cache=tmp_path / "cache")


def test_a_file_is_fetched_once(server: Server, run: Run) -> None:
    """The second load asks whether it is still the same, and fetches nothing; another file is fetched."""
    source = JsonLinesSource(path=f"{server.address}/rows.jsonl")
    assert source.load(run).to_list() == ROWS
    count = len(server.asked)
    assert source.load(run)["text"][7] == ROWS[7]["text"]
    assert [span for _, span in server.asked[count:]] == ["bytes=0-0"]
    server.files["/rows.jsonl"] = LINES[: LINES.index(b"\n") + 1]
    assert source.load(run).to_list() == ROWS[:1]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_breaks_off_goes_on(server: Server, run: Run, ranges: bool) -> None:
    """Behind what has come where the server can, else from the start; the rows are the same."""
    server.ranges, server.cut = ranges, [100_000, 200_000]
    assert JsonLinesSource(path=f"{server.address}/rows.jsonl").load(run).to_list() == ROWS
    starts = [span for _, span in server.asked[1:]]
    assert len(starts) == 3
    assert starts[0] is None and all(re.fullmatch(r"bytes=[1-9]\d+-", str(span)) for span in starts[1:])


def test_the_next_run_goes_on_with_what_has_come(server: Server, run: Run) -> None:
    """A run that gave up leaves its part, which the next one takes."""
    server.cut = [50_000] + [0] * (remote.TRIES - 1)
    source = JsonLinesSource(path=f"{server.address}/rows.jsonl")
    with pytest.raises(LoraplugError, match=r"was interrupted after 50,000 of .* bytes") as told:
        source.load(run)
    assert "continues where it stopped" in str(told.value)
    assert source.load(run).to_list() == ROWS
    assert server.asked[-1][1] == "bytes=50000-"
    assert any("goes on behind the 50,000" in line for line in run.reporter.lines)


def test_a_file_that_changes_between_is_not_put_together(server: Server, run: Run) -> None:
    """Parts of two files make no file."""
    server.cut = [50_000] + [0] * (remote.TRIES - 1)
    source = JsonLinesSource(path=f"{server.address}/rows.jsonl")
    with pytest.raises(LoraplugError, match="connection was interrupted"):
        source.load(run)
    server.files["/rows.jsonl"] = LINES.replace(b"row", b"new")
    assert source.load(run)["text"][0].startswith("new 0")


def test_a_server_that_tells_no_version_is_asked_each_time(server: Server, run: Run) -> None:
    """Nothing tells that the copy is still the same."""
    server.tags = False
    source = JsonLinesSource(path=f"{server.address}/rows.jsonl")
    source.load(run)
    server.files["/rows.jsonl"] = LINES.replace(b"row", b"new")
    assert source.load(run)["text"][0].startswith("new 0")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (401, r"requires a login \(HTTP 401\)\n.*netrc"),
        (403, r"refuses access \(HTTP 403\)\n.*signed address expires"),
        (404, r"no such file \(HTTP 404\)\n.*check the address"),
        (418, r"the server answers \(HTTP 418\)"),
    ],
)
def test_refusals_say_what_to_do(server: Server, run: Run, code: int, told: str) -> None:
    """And preflight finds them, without the secrets that the address holds."""
    server.status["/rows.jsonl"] = code
    source = JsonLinesSource(
        path=f"{server.address.replace('://', '://me:hunter2secret@')}/rows.jsonl?sig=abcdef123456"
    )
    with pytest.raises(InputError, match=told) as error:
        source.load(run)
    server.status["/rows.jsonl"] = code
    (problem,) = source.preflight(run, None)
    for text in (str(error.value), str(problem)):
        assert "hunter2secret" not in text and "abcdef123456" not in text and "/rows.jsonl" in text


def test_a_server_that_is_busy_is_asked_again(server: Server, run: Run) -> None:
    """503 is for now."""
    server.status["/rows.jsonl"] = 503
    assert len(JsonLinesSource(path=f"{server.address}/rows.jsonl").load(run)) == len(ROWS)


def test_nobody_there_is_told(run: Run) -> None:
    """Within a few attempts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (problem,) = JsonLinesSource(path=f"http://127.0.0.1:{port}/rows.jsonl").preflight(run, None)
    assert "cannot be downloaded" in problem.message and problem.exit_code == 1


def test_logins_come_from_the_address_or_netrc(server: Server, run: Run, tmp_path: Path) -> None:
    """And nothing that is said or kept holds them."""
    server.login = "me:hunter2secret"
    address = server.address.replace("://", "://me:hunter2secret@")
    JsonLinesSource(path=f"{address}/rows.jsonl").load(run)
    with pytest.raises(InputError, match="requires a login"):
        JsonLinesSource(path=f"{server.address}/rows.jsonl").load(run)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2secret\n")
    JsonLinesSource(path=f"{server.address}/rows.jsonl").load(run)
    assert "hunter2secret" not in "\n".join(run.reporter.lines)
    kept = [path for path in run.cache.rglob("*") if path.is_file()]
    assert kept and not any(b"hunter2secret" in path.read_bytes() or "hunter2secret" in str(path) for path in kept)


def test_a_new_signature_is_no_new_file(server: Server, run: Run) -> None:
    """What a signed address passes away with is no part of the copy's name."""
    for signature in ("aaaaaaaaaaaa", "bbbbbbbbbbbb"):
        query = f"X-Amz-Date={signature}&X-Amz-Signature={signature}&list=a//b"
        JsonLinesSource(path=f"{server.address}/rows.jsonl?{query}").load(run)
    assert [span for _, span in server.asked] == ["bytes=0-0", None, "bytes=0-0"]
    assert "list=a//b" in server.asked[0][0]


def test_several_files_and_other_forms(server: Server, run: Run, tmp_path: Path) -> None:
    """Local files and addresses beside each other, in their order; packed lines, CSV, JSON and parquet."""
    import gzip

    server.files["/a.jsonl.gz"] = gzip.compress(b'{"text": "a"}\n')
    server.files["/c.csv"] = b"text\nc\n"
    server.files["/d.json"] = b'[{"text": "d"}]'
    Dataset.from_dict({"text": ["e"]}).to_parquet(tmp_path / "e.parquet")
    server.files["/e.parquet"] = (tmp_path / "e.parquet").read_bytes()
    (tmp_path / "b.jsonl").write_text('{"text": "b"}\n')
    rows = JsonLinesSource(path=[f"{server.address}/a.jsonl.gz", str(tmp_path / "b.jsonl")]).load(run)
    assert list(rows["text"]) == ["a", "b"]
    for cls, name in ((CsvSource, "c.csv"), (JsonSource, "d.json"), (ParquetSource, "e.parquet")):
        assert list(cls(path=f"{server.address}/{name}").load(run)["text"]) == [name[0]]
        assert cls.reads(path=f"{server.address}/{name}?version=1")
    with pytest.raises(InputError, match=r'(?s)a .parquet file.*write use = "parquet"'):
        JsonLinesSource(path=f"{server.address}/e.parquet").load(run)


def test_errors_in_rows_name_the_address(server: Server, run: Run) -> None:
    """Not the copy in the cache."""
    server.files["/bad.jsonl"] = b'{"text": "a"}\nnope\n'
    with pytest.raises(InputError) as told:
        JsonLinesSource(path=f"{server.address}/bad.jsonl").load(run)
    assert told.value.where == f"{server.address}/bad.jsonl:2"


def test_what_may_have_no_end_needs_a_limit(server: Server, run: Run) -> None:
    """The rows that were taken are kept, so that a run that goes on has the same."""
    server.lengths, server.ranges, server.endless, server.tags = False, False, True, False
    address = f"{server.address}/rows.jsonl"
    (problem,) = JsonLinesSource(path=address).preflight(run, None)
    assert "may be endless" in problem.message and "limit = 10000" in problem.message
    assert JsonLinesSource(path=address, limit=3).load(run).to_list() == ROWS[:3]
    server.files["/rows.jsonl"] = LINES.replace(b"row", b"new")
    assert JsonLinesSource(path=address, limit=3).load(run).to_list() == ROWS[:3]
    assert "to load new ones delete" in "\n".join(run.reporter.lines)
    server.files["/a.csv"] = b'text,n\n"a\nb",1\nc,2\nd,3\n'
    rows = CsvSource(path=f"{server.address}/a.csv", limit=2).load(run)
    assert rows.to_list() == [{"text": "a\nb", "n": "1"}, {"text": "c", "n": "2"}]
    with pytest.raises(InputError, match=r"(?s)may be endless.*download it"):
        JsonSource(path=f"{server.address}/rows.jsonl", limit=3).load(run)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A bucket `data` at a server on the loopback."""
    pytest.importorskip("s3fs")
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_EC2_METADATA_DISABLED": "1",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="data")
    yield client
    server.stop()


def test_files_of_a_bucket(bucket: Any, run: Run) -> None:
    """One file, a pattern and a folder; fetched once, and anew when they change."""
    for name in ("b", "a"):
        bucket.put_object(Bucket="data", Key=f"rows/{name}.jsonl", Body=json.dumps({"text": name}).encode())
    bucket.put_object(Bucket="data", Key="big.jsonl", Body=LINES)
    assert JsonLinesSource(path="s3://data/big.jsonl").load(run).to_list() == ROWS
    for path in ("s3://data/rows/*.jsonl", "s3://data/rows", "s3://data/rows/"):
        assert list(JsonLinesSource(path=path).load(run)["text"]) == ["a", "b"]
    said = len(run.reporter.lines)
    assert len(JsonLinesSource(path="s3://data/big.jsonl").load(run)) == len(ROWS)
    assert run.reporter.lines[said:] == []
    bucket.put_object(Bucket="data", Key="big.jsonl", Body=LINES.replace(b"row", b"new"))
    assert JsonLinesSource(path="s3://data/big.jsonl").load(run)["text"][0].startswith("new 0")


def test_a_bucket_without_access_is_told(bucket: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """By preflight: no such file, no such bucket, no right to read it, no login at all."""
    from loraplug_data import remote_store

    def told(path: str) -> str:
        (problem,) = JsonLinesSource(path=path).preflight(run, None)
        return problem.message

    assert "s3://data/none.jsonl: no such file" in told("s3://data/none.jsonl")
    assert "no such" in told("s3://nobody/rows.jsonl")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("Forbidden")

    system = remote_store._system("s3")
    monkeypatch.setattr(type(system), "info", refuse)
    assert "no access (Forbidden); set AWS_ACCESS_KEY_ID" in told("s3://data/rows.jsonl")


def test_a_library_that_is_missing_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what installs it."""
    from loraplug_data import remote_store

    monkeypatch.setattr(remote_store, "find_spec", lambda _: None)
    for path, library in (("s3://b/a.jsonl", "s3fs"), ("gs://b/a.jsonl", "gcsfs")):
        (problem,) = JsonLinesSource(path=path).preflight(run, None)
        assert f"needs the library {library}" in problem.message and f'pip install "{library}>=' in problem.message


def test_a_lock_file_holds_no_login(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a user's nor a signature's, of rows and of validation; what is read has them."""
    from loraplug.plugin.registry import load_registry
    from loraplug.recipe.building import build
    from loraplug.recipe.layers import read_layers
    from loraplug.recipe.lock import lock_text, shareable

    address = f"{server.address.replace('://', '://me:hunter2secret@')}/rows.jsonl"
    signed = f"{server.address}/held.jsonl?X-Amz-Signature=abcdef0123456789&list=a//b"
    (tmp_path / "recipe.toml").write_text(
        f'run_name = "x"\n[dataset]\nuse = "jsonl"\npath = ["{address}", "rows.jsonl"]\n'
        f'[validation]\npath = "{signed}"\n'
        '[formatter]\nuse = "text"\n[model]\nuse = "transformers"\nid = "nobody/nothing"\n[trainer]\nuse = "sft"\n'
        '[[exporter]]\nuse = "adapter"\n'
    )
    registry = load_registry()
    recipe = build(read_layers(tmp_path / "recipe.toml"), registry)
    assert recipe.dataset.path == (address, tmp_path / "rows.jsonl") and recipe.validation.path == signed
    text = lock_text(recipe, registry, {})
    for told in (text, shareable(text)):
        assert "hunter2secret" not in told and "abcdef0123456789" not in told
        assert "rows.jsonl" in told and "list=a//b" in told
