"""`loraplug web` in a real browser, and what it refuses before that."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from calling import ASKED
from command import Cli
from loraplug import InputError, printable
from loraplug_serve.chat_model import Sampling

SECONDS = 60


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(found: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """What `found` gives, once it gives something."""
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end, "nothing came"
        time.sleep(0.02)
    return value


def test_a_port_in_use_is_told_before_anything_is_loaded(loraplug: Cli, merged: Path) -> None:
    """With a port that may be free."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = loraplug("web", merged, "--port", port)
    assert done.returncode == 2, done.stderr
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "choose another: --port" in done.stderr
    assert "parameters" not in done.stderr
    assert "no such address" in loraplug("web", merged, "--host", "no.such.host.invalid").stderr


def test_without_gradio_the_command_to_get_it_is_named(cold: Cli, merged: Path, tmp_path: Path) -> None:
    """A path hook hides it, as if it were not installed."""
    (tmp_path / "hide" / "sitecustomize.py").parent.mkdir()
    (tmp_path / "hide" / "sitecustomize.py").write_text(
        "import importlib.util\nfind = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: None if name == 'gradio' else find(name, package)\n"
    )
    path = os.pathsep.join([str(tmp_path / "hide"), os.environ.get("PYTHONPATH", "")])
    done = cold("web", merged, env={"PYTHONPATH": path})
    assert done.returncode == 2, done.stderr
    assert 'pip install "gradio>=6.31"' in done.stderr


@pytest.mark.parametrize(("text", "seed"), [("", None), ("  ", None), ("0", 0), (" 7 ", 7)])
def test_an_empty_seed_draws_anew(text: str, seed: int | None) -> None:
    """And what is no seed is told, in words."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install gradio>=6.31")
    from loraplug_serve.page import sampling_of

    assert sampling_of(1.0, 0.9, 64, text) == Sampling(1.0, 0.9, 64, seed)
    for wrong in ("-1", "1.5", "x", str(2**63)):
        with pytest.raises(InputError, match="is not a whole number"):
            sampling_of(1.0, 0.9, 64, wrong)


@pytest.fixture(scope="module")
def address(finished: Path, unhurried: Path) -> Iterator[str]:
    """The page of the endless model, slowed down, with the runs of `finished` to choose from."""
    with paging(finished, unhurried) as found:
        yield found


@contextmanager
def paging(finished: Path, model: Path, **more: str) -> Iterator[str]:
    """The page of a model in a process of its own; gives its address."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed: pip install gradio>=6.31")
    port = free_port()
    # whatever asks for another machine is written down, and does not reach it
    (finished / "watch").mkdir(exist_ok=True)
    (finished / "watch/sitecustomize.py").write_text(WATCH.format(log=str(finished / "asked.txt")))
    path = os.pathsep.join([str(finished / "watch"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "loraplug", "web", str(model), "--port", str(port)]
    env = os.environ | {"LORAPLUG_CACHE": str(finished / "cache"), "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    env |= {"GRADIO_TEMP_DIR": str(finished / "kept"), **more}
    said = finished / f"web-{port}.log"
    with said.open("w") as log:
        server = subprocess.Popen(command, cwd=finished, env=env, stdout=log, stderr=log)
    try:
        until(lambda: "ctrl-c ends it" in said.read_text() or server.poll() is not None, 300)
        assert server.poll() is None, said.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


WATCH = """
import ipaddress, sys

def near(host):
    try:
        return host in (None, "", "localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

def watch(event, given):
    if event == "socket.getaddrinfo":
        host = given[0]
    elif event == "socket.connect" and isinstance(given[1], tuple):
        host = given[1][0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if not near(host):
        with open({log!r}, "a") as log:
            log.write(f"{{event}} {{host}}\\n")
        raise OSError("not from here")

sys.addaudithook(watch)
"""


def test_the_page_answers_its_own_and_nobody_else(address: str, finished: Path) -> None:
    """Through the real server: an answer to the page itself, and nothing by a foreign name or from a foreign site.

    Nothing is uploaded or kept on the disk, and the server has asked for no other machine.
    """
    import http.client

    port = int(address.rpartition(":")[2])

    def ask(method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        sent = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json"} | headers
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return answer.status, answer.read()

    status, told = ask("GET", "/config")
    config = json.loads(told)
    assert status == 200 and ask("GET", "/")[0] == 200
    components = {one["id"]: one["props"] for one in config["components"]}
    (number, inputs) = next(
        (one["id"], one["inputs"])
        for one in config["dependencies"]
        if "Model" in [components[place].get("label") for place in one["inputs"]] and len(one["outputs"]) == 2
        and [components[place].get("label") for place in one["outputs"]] == ["Base", "Fine-tuned"]
    )  # fmt: skip
    values = ["what is 3 and one?", *(components[place].get("value") for place in inputs[1:])]
    values[1], values[5] = "tiny (adapter)", 16
    job = json.dumps({"data": values, "fn_index": number, "session_hash": "s"}).encode()
    join = "/gradio_api/queue/join"
    assert ask("POST", join, job, Host="evil.example")[0] == 403
    assert ask("POST", join, job, Origin="http://evil.example")[0] == 403
    assert ask("GET", "/config", Host="evil.example")[0] == 403
    boundary = "--b\r\nContent-Disposition: form-data; name=files; filename=up.bin\r\n\r\nkept?\r\n--b--\r\n"
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    assert ask("POST", "/gradio_api/upload", boundary.encode(), **form)[0] == 404
    assert ask("POST", join, b" " * (5 << 20))[0] == 413
    assert ask("POST", join, job, Origin=address)[0] == 200
    status, told = ask("GET", "/gradio_api/queue/data?session_hash=s")
    assert status == 200 and b"process_completed" in told and b'"success":true' in told, told[-500:]
    assert not [path for path in (finished / "kept").rglob("*") if path.is_file()]
    assert not (finished / "asked.txt").exists(), (finished / "asked.txt").read_text()


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """Headless Chromium."""
    found = [shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")]
    if importlib.util.find_spec("selenium") is None or None in found:
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver, and pip install selenium")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1000"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    made = webdriver.Chrome(options, webdriver.ChromeService(found[1]))
    yield made
    made.quit()


@pytest.fixture
def page(driver: Any, address: str) -> Page:
    """A fresh page."""
    driver.get("about:blank")
    driver.get_log("performance")  # what earlier pages asked for, of other servers too, is let go of
    driver.get(address)
    made = Page(driver)
    until(lambda: made.all("#said textarea"))
    return made


class Page:
    """What a person does and sees."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def all(self, selector: str) -> list[Any]:
        """Elements that are shown."""
        from selenium.webdriver.common.by import By

        return [found for found in self.driver.find_elements(By.CSS_SELECTOR, selector) if found.is_displayed()]

    def write(self, selector: str, text: str) -> None:
        """Put text into a box."""
        until(lambda: self.all(selector))[0].send_keys(text)

    def press(self, selector: str) -> None:
        """Click a button."""
        until(lambda: self.all(selector))[0].click()

    def said(self, who: str) -> list[str]:
        """Texts of the bubbles of `user` or `bot`."""
        script = "return [...document.querySelectorAll(`#chatbot [data-testid=${arguments[0]}]`)].map(e => e.innerText)"
        return list(self.driver.execute_script(script, who))

    def value(self, selector: str) -> str:
        """What stands in a box."""
        return str(self.driver.execute_script(f"return document.querySelector({selector!r}).value"))

    def tab(self, name: str) -> None:
        """Turn to a tab."""
        until(lambda: [tab for tab in self.all("button[role=tab]") if tab.text == name])[0].click()

    def choose(self, name: str) -> None:
        """Choose a model."""
        self.press("#model input")
        until(lambda: [item for item in self.all("[role=option]") if item.text.strip().endswith(name)])[0].click()


@pytest.mark.slow
def test_an_answer_streams_and_can_be_stopped_and_cleared(page: Page) -> None:
    """The answer grows in steps; stop leaves what there is; a second turn follows; clear empties all."""
    page.write("#said textarea", "<b>bold</b> & <|im_end|>")
    page.press("#send")
    until(lambda: page.said("user") == ["<b>bold</b> & <|im_end|>"])
    lengths: list[int] = []

    def grown() -> bool:
        if (now := len("".join(page.said("bot")).strip())) > (lengths or [0])[-1]:
            lengths.append(now)
        return len(lengths) >= 4

    until(grown)
    page.press("#stop")
    time.sleep(1)
    (stopped,) = page.said("bot")
    time.sleep(1)
    assert page.said("bot") == [stopped]
    assert set(stopped.strip()) <= {"a", "b"}
    assert lengths[-1] <= len(stopped) < 512
    page.write("#said textarea", "go on\n")
    until(lambda: len(page.said("bot")) == 2 and len(page.said("bot")[1].strip()) > 5)
    page.press("#clear")
    until(lambda: page.said("user") == [] and page.said("bot") == [])
    time.sleep(1)
    assert page.said("bot") == []


@pytest.mark.slow
def test_reasoning_and_calls_are_folded(driver: Any, finished: Path, caller: Path) -> None:
    """Above and below the text, closed until they are opened; tokens a second stand below the chat."""
    with paging(finished, caller) as address:
        driver.get(address)
        page = Page(driver)
        until(lambda: page.all("#said textarea"))
        # while the page loads, a veil takes clicks
        until(lambda: [one for one in page.all("#settings button") if not page.all("[data-testid=status-tracker]")])
        page.press("#settings button")
        page.write("#system textarea", "tools: add")
        page.write("#said textarea", ASKED[0]["content"] + "\n")
        until(lambda: [one.text for one in page.all("#chatbot [role=button]")] == ["Reasoning", "Calls add"])
        assert "hm" not in page.all("#chatbot")[0].text and '"a": 3' not in page.all("#chatbot")[0].text
        page.all("#chatbot [role=button]")[1].click()
        until(lambda: '{"a": 3, "b": 1}' in page.all("#chatbot")[0].text)
        until(lambda: any("tokens/s" in one.text for one in page.all("#figures")))
        if place := os.environ.get("LORAPLUG_SCREENSHOTS"):
            driver.save_screenshot(str(Path(place) / "web-calls.png"))


@pytest.mark.slow
def test_compare_shows_two_columns(
    page: Page, finished: Path, adapter: Path, loraplug: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a chosen adapter: left what the base says, right what `chat` says with the adapter."""
    monkeypatch.setenv("LORAPLUG_AUTO_DTYPE", "float32")  # as the recipe of the adapter says; the base alone has none
    page.choose("tiny (adapter)")
    page.tab("Compare")
    page.write("#prompt textarea", "what is 3 and one?")
    page.press("#compare")
    words = ["--prompt", "what is 3 and one?", "--temperature", "0", "--max-tokens", "512"]
    model = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    expected = [loraplug("chat", one, *words).stdout.removesuffix("\n") for one in (model, adapter)]
    # the terminal shows control characters written out, the page has them as they are
    until(lambda: [printable(page.value(f"#{name} textarea")) for name in ("base", "fine-tuned")] == expected)
    assert expected[0] != expected[1]
    left, right = (page.all(f"#{name}")[0].rect for name in ("base", "fine-tuned"))
    assert left["x"] + left["width"] <= right["x"]
    assert left["y"] == right["y"]


@pytest.mark.slow
def test_the_page_asks_nobody_else(page: Page, address: str) -> None:
    """Every request goes to the page's own server, which listens on 127.0.0.1 alone; the policy holds for the rest."""
    import http.client

    page.write("#said textarea", "hello\n")
    until(lambda: page.said("bot"))
    page.press("#clear")
    events = [json.loads(entry["message"])["message"] for entry in page.driver.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    port = int(address.rpartition(":")[2])
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), timeout=2):
        pass
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/")
    assert "default-src 'self'" in str(connection.getresponse().headers["content-security-policy"])


@pytest.mark.slow
def test_runs_at_work_are_shown_live(page: Page, finished: Path) -> None:
    """What another process writes shows without a click, in its own tab; a finished run can be chosen."""
    from loraplug import exclusive_lock

    folder = finished / "outputs/runs/live"
    folder.mkdir()
    log = folder / "events.jsonl"
    log.write_text('{"time": 1, "event": "stage-start", "stage": "trainer"}\n')

    def shown() -> str:
        return "\n".join(element.text for element in page.all("#run"))

    with exclusive_lock(folder, "live"):
        page.tab("Runs")
        until(lambda: "live: running (trainer)" in shown())
        for step in (1, 2):
            told = {"time": step, "event": "metrics", "step": step, "steps": 4, "loss": 3.5 - step, "seconds": step}
            with log.open("a") as file:
                file.write(json.dumps(told) + "\n")
            until(lambda words=f"{step} of 4": words in shown())
        assert "1.500" in shown() and page.all("#run svg")
    until(lambda: "its process died" in shown())
    page.press("#run-name input")
    until(lambda: [item for item in page.all("[role=option]") if item.text.strip().endswith("tiny")])[0].click()
    until(lambda: "tiny: done" in shown())
    if place := os.environ.get("LORAPLUG_SCREENSHOTS"):
        page.driver.save_screenshot(str(Path(place) / "web-runs.png"))
