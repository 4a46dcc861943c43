"""The page in a real browser: it opens from disk, asks nothing of the network, logs no error, and draws."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import matplotlib.image
import numpy as np
import pytest

from pipeline.report.build import build
from pipeline.report.config import ReportConfig

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
# Chromium speaks DevTools on descriptors 3 and 4; a Python in between puts ours there.
LAUNCHER = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
SIZES = {"laptop": (1280, 800), "phone": (390, 844)}


class Browser:
    """A headless Chromium with one tab, driven over a pipe: no port, no driver, no package."""

    def __init__(self, program: str, profile: Path) -> None:
        ours, theirs = self._pipe(), self._pipe()
        self._write, self._read = ours[1], theirs[0]
        command = [sys.executable, "-c", LAUNCHER, str(ours[0]), str(theirs[1]), program, *FLAGS, f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(command, pass_fds=(ours[0], theirs[1]), stderr=subprocess.DEVNULL)
        os.close(ours[0])
        os.close(theirs[1])
        self._left = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    @staticmethod
    def _pipe() -> tuple[int, int]:
        # Numbers from ten on, so that moving one to 3 can't close the other.
        pair = os.pipe()
        moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in pair)
        for end in pair:
            os.close(end)
        return moved[0], moved[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._write)
        os.close(self._read)
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that arrive meanwhile are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def wait_for(self, event: str) -> None:
        deadline = time.monotonic() + 60
        while not any(seen.get("method") == event for seen in self.events):
            self.events.append(self._receive(deadline))

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "Chromium did not answer in time"
            chunk = os.read(self._read, 1 << 20)
            assert chunk, f"Chromium ended, with status {self._process.poll()}"
            self._left += chunk
        message, _, self._left = self._left.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def open(self, page: Path, size: tuple[int, int] = SIZES["laptop"], dark: bool = False) -> None:
        """Load a file from disk as a screen of this size and scheme shows it."""
        width, height = size
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait_for("Page.loadEventFired")
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def evaluate(self, script: str) -> Any:
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, whole: bool = False) -> bytes:
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])

    def requests(self) -> list[str]:
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(event) for event in self.events if event.get("method") in kinds]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("this test needs Chromium: apt-get install chromium, or brew install --cask chromium")
    with Browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(run_root: Path, tmp_path: Path) -> Path:
    out = tmp_path / "report"
    out.mkdir()
    build(run_root, out, ReportConfig())
    return out / "index.html"


@pytest.mark.full
def test_page_opens_from_disk_without_network_or_console_message(browser: Browser, page: Path) -> None:
    browser.open(page)
    asked = [url for url in browser.requests() if not url.startswith("data:")]
    assert asked == [page.resolve().as_uri()]
    assert browser.complaints() == []
    assert browser.evaluate("performance.getEntriesByType('resource').length") == 0


@pytest.mark.full
def test_every_chart_has_a_size_and_something_drawn_in_it(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    script = """[...document.querySelectorAll('.plot svg')].map(svg => {
        const box = svg.getBoundingClientRect();
        return [box.width, box.height, svg.querySelectorAll('.curve, .bar').length];
    })"""
    charts = browser.evaluate(script)
    assert len(charts) == 10  # eight curves and two histograms
    assert all(width > 200 and height > 100 and drawn > 0 for width, height, drawn in charts)


@pytest.mark.full
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_page_fits_the_screen_and_is_painted(browser: Browser, page: Path, size: tuple[int, int], dark: bool) -> None:
    browser.open(page, size, dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= size[0]
    pixels = matplotlib.image.imread(io.BytesIO(browser.screenshot()), format="png")[..., :3]
    assert pixels.shape[:2] == (size[1], size[0])
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    background = float(np.median(pixels))
    assert background < 0.3 if dark else background > 0.7


@pytest.mark.full
def test_values_appear_under_pointer_keys_and_finger(browser: Browser, page: Path) -> None:
    browser.open(page)
    tip = "document.getElementById('tip').hidden ? null : document.getElementById('tip').textContent"
    assert browser.evaluate(tip) is None
    point_at = """(selector => {
        const target = document.querySelector(selector);
        target.scrollIntoView({ block: "center", behavior: "instant" });
        const box = target.getBoundingClientRect();
        return [box.left + box.width / 2, box.top + box.height / 2];
    })"""
    wanted: dict[str, Callable[[str], bool]] = {
        ".charts .area": lambda text: text.startswith("step ") and ": " in text,
        ".wide .area": lambda text: "latents fire on" in text,
        ".example mark": lambda text: float(text) > 0,
    }
    for selector, holds in wanted.items():
        x, y = browser.evaluate(f"{point_at}({selector!r})")
        browser.evaluate("new Promise(done => setTimeout(done, 100))")  # the scroll event, which hides a tip, comes later
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        assert holds(browser.evaluate(tip) or ""), selector
    browser.evaluate("document.querySelector('.plot').focus({ preventScroll: true })")
    for key, start in (("Home", "step 0: "), ("ArrowRight", "step 10: "), ("End", "step 2,990: ")):
        browser.call("Input.dispatchKeyEvent", type="keyDown", key=key)
        assert (browser.evaluate(tip) or "").startswith(start)


@pytest.mark.full
def test_theme_button_overrides_the_system(browser: Browser, page: Path) -> None:
    browser.open(page, dark=True)
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = browser.evaluate(paper)
    browser.evaluate("document.getElementById('theme').click()")
    light = browser.evaluate(paper)
    browser.evaluate("document.getElementById('theme').click()")
    assert light != dark
    assert browser.evaluate(paper) == dark
