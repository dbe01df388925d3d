"""The bucket client against a loopback server that misbehaves on purpose."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from swe_helpers import read_rejects, synth

from loraplug import InputError, LoraplugError, Run
from loraplug_swe.conversations.synth import SweSynthSource
from loraplug_swe.tasks.options import BucketOptions

FAST = BucketOptions(backoff=0.01, per_second=500, timeout=2, attempts=4, max_wait=1, max_bytes=50_000)
GOLD = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"


def task(number: int) -> bytes:
    data = synth("0" * 40, GOLD)
    data["source"]["swe_instance_id"] = f"ada__lib-{number}"
    return json.dumps(data).encode()


class Bucket(ThreadingHTTPServer):
    """Serves `/bugs/task_<11 digits>.json`; `trouble[n]` lists how the first answers for task n go wrong."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.trouble: dict[int, list[str]] = {}
        self.asked: Counter[int] = Counter()
        self.times: list[float] = []
        self.lock, self.inside, self.most_inside = threading.Lock(), 0, 0

    @property
    def url(self) -> str:
        """The prefix."""
        return f"http://127.0.0.1:{self.server_port}/bugs"


class Handler(BaseHTTPRequestHandler):
    """Answers as the bucket's trouble list says."""

    server: Bucket

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Count, and answer."""
        number = int(self.path.removeprefix("/bugs/task_").removesuffix(".json"))
        assert len(self.path) == len("/bugs/task_.json") + 11
        with self.server.lock:
            self.server.asked[number] += 1
            self.server.times.append(time.monotonic())
            self.server.inside += 1
            self.server.most_inside = max(self.server.most_inside, self.server.inside)
            waiting = self.server.trouble.get(number, [])
            trouble = waiting.pop(0) if waiting else ""
        try:
            self.answer(number, trouble)
        except OSError:
            pass  # the client has gone
        finally:
            with self.server.lock:
                self.server.inside -= 1

    def answer(self, number: int, trouble: str) -> None:
        """Send the task, or the trouble."""
        if trouble.isdigit():
            self.send_response(int(trouble))
            self.end_headers()
        elif trouble.startswith("retry-after"):
            self.send_response(429)
            self.send_header("Retry-After", trouble.split()[1])
            self.end_headers()
        elif trouble == "moved":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()
        elif trouble == "slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(20):
                self.wfile.write(b" ")
                time.sleep(0.1)
        elif trouble == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "9999")
            self.end_headers()
            self.wfile.write(task(number)[:50])
        elif trouble == "huge":
            self.send_response(200)
            self.end_headers()
            for _ in range(1000):
                self.wfile.write(b" " * 100_000)
        elif trouble == "wrong JSON":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"source": ')
        else:
            time.sleep(0.005)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(task(number))


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    """A running bucket."""
    with Bucket() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def rows_of(bucket: Bucket, run: Run, ids: str, **options) -> list[dict]:
    source = SweSynthSource(tasks=bucket.url, ids=ids, bucket=options.pop("options", FAST), **options)
    return list(source.rows(run))


@pytest.mark.parametrize("trouble", ["429", "500", "503", "408", "cut", "wrong JSON", "slow"])
def test_passing_trouble_is_waited_out(trouble: str, bucket: Bucket, run: Run) -> None:
    """Each fault, come once, costs a second attempt and no row."""
    bucket.trouble[3] = [trouble]
    made = rows_of(bucket, run, "0-5", options=BucketOptions(backoff=0.01, per_second=500, timeout=0.4, attempts=3))
    assert [row["task_id"] for row in made] == [str(n) for n in range(6)]
    assert bucket.asked[3] == 2


@pytest.mark.parametrize(("trouble", "reason", "asked"), [("500", "fetch-failed", 4), ("cut", "fetch-failed", 4),
    ("wrong JSON", "bad-json", 4), ("huge", "too-large", 1), ("403", "fetch-failed", 1), ("moved", "fetch-failed", 1),
    ("404", "no-such-task", 1)])  # fmt: skip
def test_lasting_trouble_is_a_reject(trouble: str, reason: str, asked: int, bucket: Bucket, run: Run) -> None:
    """What does not pass rejects that task alone, after so many attempts as make sense."""
    bucket.trouble[3] = [trouble] * 9
    assert [row["task_id"] for row in rows_of(bucket, run, "0-5")] == ["0", "1", "2", "4", "5"]
    assert [(one["task_id"], one["reason"]) for one in read_rejects(run)] == [("3", reason)]
    assert bucket.asked[3] == asked


def test_retry_after_is_honoured_by_all(bucket: Bucket, run: Run) -> None:
    """Told to come back in a second, nobody asks before."""
    bucket.trouble[0] = ["retry-after 1"]
    assert len(rows_of(bucket, run, "0-30", options=BucketOptions(backoff=0.01, per_second=500, parallel=2))) == 31
    start = bucket.times[0]
    early = [at for at in bucket.times if at - start < 0.9]
    assert len(early) < 31  # the rest waited behind the closed gate
    assert bucket.times[-1] - start >= 0.95


def test_parallel_and_rate_are_bounded(bucket: Bucket, run: Run) -> None:
    """Never more under way than `parallel`, never faster than `per_second`."""
    rows_of(bucket, run, "0-29", options=BucketOptions(parallel=3, per_second=60))
    assert bucket.most_inside <= 3
    assert bucket.times[-1] - bucket.times[0] >= 29 / 60 * 0.95


def test_an_interrupted_fetch_goes_on(bucket: Bucket, run: Run) -> None:
    """What was fetched before an interruption, or by an earlier run, is not asked for again."""
    rows = SweSynthSource(tasks=bucket.url, ids="0-99", bucket=FAST).rows(run)
    for _ in range(10):
        next(rows)
    rows.close()
    before = bucket.asked.copy()
    assert 10 <= before.total() < 100
    assert len(rows_of(bucket, run, "0-99")) == 100
    assert set(bucket.asked.values()) == {1}
    assert not (run.folder / ".rejects.jsonl").exists()


def test_a_damaged_copy_in_the_cache_is_fetched_again(bucket: Bucket, run: Run) -> None:
    """A file cut short in the cache is no task."""
    rows_of(bucket, run, "0-2")
    (kept,) = (run.cache / "swe" / "buckets").rglob("task_00000000001.json")
    kept.write_bytes(kept.read_bytes()[:40])
    assert len(rows_of(bucket, run, "0-2")) == 3
    assert bucket.asked[1] == 2


def test_a_dead_bucket_ends_the_run(bucket: Bucket, run: Run) -> None:
    """Failure after failure is no small data set but an error that says what to do."""
    for number in range(5, 100):
        bucket.trouble[number] = ["500"] * 99
    with pytest.raises(LoraplugError, match="20 tasks in a row could not be fetched") as error:
        rows_of(bucket, run, "0-99")
    assert not isinstance(error.value, InputError)
    assert "what was fetched is kept" in str(error.value)


def test_no_tasks_at_all_is_an_error(bucket: Bucket, run: Run) -> None:
    """404 for every id: a wrong prefix or wrong ids."""
    for number in range(3):
        bucket.trouble[number] = ["404"]
    with pytest.raises(InputError, match=r"3 no-such-task; the first: .*0"):
        rows_of(bucket, run, "0-2")


def test_a_bucket_needs_ids(run: Run) -> None:
    """It cannot be listed."""
    with pytest.raises(InputError, match="cannot be listed"):
        list(SweSynthSource().rows(run))


def test_shards_of_a_bucket_join_to_the_whole(bucket: Bucket, run: Run) -> None:
    """Blocks of ids, in order."""
    whole = rows_of(bucket, run, "0-10,20,15")
    parts = [row for at in (1, 2, 3) for row in rows_of(bucket, run, "0-10,20,15", shard=f"{at}/3")]
    assert parts == whole
    assert [row["task_id"] for row in whole][-2:] == ["20", "15"]
