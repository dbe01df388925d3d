"""Tasks out of an HTTP(S) bucket: `<prefix>/task_<11 digits>.json`, fetched with rate limits and cached."""

from __future__ import annotations

import contextlib
import email.utils
import hashlib
import os
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraplug import InputError, LoraplugError, Run
from loraplug_swe.tasks.json_stream import decode
from loraplug_swe.tasks.options import BucketOptions
from loraplug_swe.tasks.rejects import Reject
from loraplug_swe.tasks.stores import Entry, missing

if TYPE_CHECKING:
    import httpx2

_FAILURES_IN_A_ROW = 20  # so many tasks given up one after the other mean that the bucket is down


class _TryAgain(Exception):  # noqa: N818 - goes no further than this module
    """This attempt failed; `wait` is what Retry-After asked for, in seconds, and `reason` a reject code."""

    def __init__(self, what: str, wait: float = 0.0, reason: str = "fetch-failed") -> None:
        super().__init__(what)
        self.wait, self.reason = wait, reason


class _Gate:
    """Lets requests start no faster than allowed; what one of them is told to wait, all wait."""

    def __init__(self, per_second: float) -> None:
        self._lock, self._between, self._next = threading.Lock(), 1.0 / per_second, 0.0

    def enter(self) -> None:
        """Wait for the next start."""
        with self._lock:
            start = max(time.monotonic(), self._next)
            self._next = start + self._between
        time.sleep(max(0.0, start - time.monotonic()))

    def close_for(self, seconds: float) -> None:
        """Let nobody start for so long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


class Bucket:
    """A bucket of tasks. Fetched tasks are cached, so an interrupted fetch resumes.

    Args:
        prefix: the URL in front of `/task_<11 digits>.json`.
    """

    numbered = True

    def __init__(self, prefix: str, run: Run, options: BucketOptions) -> None:
        self._prefix, self._run, self._options = prefix.rstrip("/"), run, options
        host = re.sub(r"[^A-Za-z0-9.-]", "+", self._prefix.split("://", 1)[1].split("/")[0])
        self._folder = (
            run.cache / "swe" / "buckets" / f"{host}.{hashlib.sha256(self._prefix.encode()).hexdigest()[:10]}"
        )
        self._gate = _Gate(options.per_second)

    def numbers(self) -> Sequence[int]:
        """Not supported: a bucket cannot be listed.

        Raises:
            InputError: always; `ids` must name the tasks.
        """
        raise InputError("a bucket cannot be listed", where="ids", todo='name the tasks to take: ids = "0-99"')

    def read(self, numbers: Sequence[int]) -> Iterator[Entry]:
        """Yield the tasks in this order, with prefetching.

        Raises:
            LoraplugError: many tasks in a row could not be fetched; fetched ones stay cached.
        """
        import httpx2

        self._folder.mkdir(parents=True, exist_ok=True)
        limits = httpx2.Limits(max_connections=self._options.parallel, max_keepalive_connections=self._options.parallel)
        outcomes: Counter[str] = Counter()
        failures = 0
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(self._run.progress("fetching tasks", len(numbers)))
            client = stack.enter_context(
                httpx2.Client(timeout=self._options.timeout, limits=limits, headers={"User-Agent": "loraplug"})
            )
            pool = ThreadPoolExecutor(self._options.parallel, thread_name_prefix="bucket")
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            under_way: deque[Future[tuple[str, Entry]]] = deque()
            waiting = iter(numbers)
            while True:
                while len(under_way) < 4 * self._options.parallel and (number := next(waiting, None)) is not None:
                    under_way.append(pool.submit(self._get, client, number))
                if not under_way:
                    return
                outcome, entry = under_way.popleft().result()
                outcomes[outcome] += 1
                bar.advance(1, **outcomes)
                failures = failures + 1 if outcome == "failed" else 0
                if failures >= _FAILURES_IN_A_ROW:
                    last = entry.fault.detail if entry.fault else ""
                    raise LoraplugError(
                        f"{failures} tasks in a row could not be fetched; the last: {last}",
                        where=self._prefix,
                        todo="start again later with the same command; what was fetched is kept",
                    )
                yield entry

    def _get(self, client: httpx2.Client, number: int) -> tuple[str, Entry]:
        """One task, from the cache or the bucket, and how that went: cached, fetched, missing or failed."""
        import tenacity

        name = f"task_{number:011d}.json"
        kept = self._folder / name
        if kept.exists():
            with contextlib.suppress(Reject):  # a damaged copy is fetched anew
                return "cached", Entry(number, name, decode(kept.read_bytes()))
        options = self._options
        patience = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TryAgain),
            stop=tenacity.stop_after_attempt(options.attempts),
            wait=_wait(options),
            reraise=True,
        )
        try:
            data = patience(self._attempt, client, number, kept)
        except _TryAgain as error:
            told = f"{error} ({options.attempts} attempts)"
            return "failed", Entry(number, name, fault=Reject(error.reason, told))
        except Reject as fault:
            outcome = "missing" if fault.reason == "no-such-task" else "failed"
            return outcome, Entry(number, name, fault=fault)
        return "fetched", Entry(number, name, data)

    def _attempt(self, client: httpx2.Client, number: int, kept: Path) -> Any:
        """Ask once.

        Raises:
            _TryAgain: it may work later.
            Reject: it will not.
        """
        import httpx2

        self._gate.enter()
        url = f"{self._prefix}/task_{number:011d}.json"
        try:
            with client.stream("GET", url) as response:
                self._check(response, number)
                raw = self._body(response)
        except httpx2.TransportError as error:
            raise _TryAgain(f"{url}: {error or type(error).__name__}") from None
        except httpx2.HTTPError as error:
            raise Reject("fetch-failed", f"{url}: {error}") from None
        try:
            data = decode(raw)
        except Reject as fault:
            raise _TryAgain(f"{url}: not JSON, or cut short: {fault.detail}", reason="bad-json") from None
        beside = kept.with_name(f"{kept.name}.{os.getpid()}.part")
        beside.write_bytes(raw)
        beside.replace(kept)
        return data

    def _check(self, response: httpx2.Response, number: int) -> None:
        status, url = response.status_code, response.url
        if status == 404:
            raise missing(number, self._prefix)
        if status in (408, 425, 429) or status >= 500:
            wait = min(_retry_after(response.headers.get("Retry-After", "")), self._options.max_wait)
            if status in (429, 503):
                self._gate.close_for(wait)
            raise _TryAgain(f"{url}: HTTP {status}", wait)
        if response.is_redirect:
            raise Reject("fetch-failed", f"{url} leads to {response.headers.get('Location')}; give that address")
        if status != 200:
            raise Reject("fetch-failed", f"{url}: HTTP {status}")

    def _body(self, response: httpx2.Response) -> bytes:
        until = time.monotonic() + self._options.timeout
        raw = bytearray()
        for part in response.iter_bytes(65_536):
            raw += part
            if len(raw) > self._options.max_bytes:
                raise Reject("too-large", f"{response.url} has more than {self._options.max_bytes:,} bytes")
            if time.monotonic() > until:
                raise _TryAgain(f"{response.url} took longer than {self._options.timeout:g} s")
        return bytes(raw)


def _wait(options: BucketOptions) -> Any:
    import tenacity

    grow = tenacity.wait_exponential(multiplier=options.backoff, max=options.max_wait) + tenacity.wait_random(
        0, options.backoff
    )

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return max(grow(state), error.wait if isinstance(error, _TryAgain) else 0.0)

    return wait


def _retry_after(text: str) -> float:
    """Seconds that a Retry-After header asks for, given as seconds or as a date; 0 where there is none."""
    if re.fullmatch(r"\s*\d+(\.\d+)?\s*", text):
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
