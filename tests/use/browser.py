"""A page in headless Chromium, driven through its DevTools protocol: what it logs, asks of the network, and shows."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--remote-debugging-port=0", "--hide-scrollbars"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    # Nothing is found by name, so that nothing can be loaded; and no service of the browser's own tries.
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--disable-component-update"),
)
_STARTING_SECONDS = 30.0


class Page:
    """One tab."""

    def __init__(self, connection: WebSocketClientConnection) -> None:
        self._connection = connection
        self._session = ""
        self._calls = 0
        self.events: list[dict[str, Any]] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; events that come meanwhile are kept."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        await self._connection.write_message(json.dumps(message))
        while True:
            text = await self._connection.read_message()
            assert text is not None, "the browser is gone"
            answer = json.loads(text)
            if answer.get("id") == message["id"]:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    async def open(self, path: Path, width: int, height: int) -> None:
        """Show a file in a window of this size, without a network."""
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        await self.call("Page.navigate", url=path.absolute().as_uri())

    async def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression, awaited if it is a promise."""
        answer = await self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, expression: str, seconds: float = 60.0) -> None:
        """Wait till an expression holds."""
        end = time.monotonic() + seconds
        while not await self.evaluate(expression):
            assert time.monotonic() < end, f"{expression} does not become true; {self.complaints()}"
            await asyncio.sleep(0.1)

    async def move(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window."""
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def picture(self, full: bool = False) -> bytes:
        """PNG of the window, or of the whole page."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=full)
        return base64.b64decode(answer["data"])

    def complaints(self) -> list[str]:
        """Exceptions, and warnings and errors of the console and the browser."""
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            entry = parameters.get("entry", parameters)
            level = entry.get("level", entry.get("type"))
            if event.get("method") == "Runtime.exceptionThrown" or level in ("error", "assert"):
                found.append(json.dumps(parameters)[:600])
        return found

    def requests(self) -> list[str]:
        """What the page asked for, but for itself and what it holds."""
        urls = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("file:", "data:", "blob:"))]


@contextlib.asynccontextmanager
async def show(path: Path, width: int = 1280, height: int = 900) -> AsyncIterator[Page]:
    """A file in a new browser."""
    assert CHROMIUM
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = (CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank")
        quiet = asyncio.subprocess.DEVNULL
        environment = {**os.environ, "HOME": profile}
        process = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet, env=environment)
        try:
            connection = await websocket_connect(await _address(Path(profile)), max_message_size=1 << 28)
            try:
                page = Page(connection)
                await page.open(path, width, height)
                yield page
            finally:
                connection.close()
                while await connection.read_message() is not None:
                    pass
        finally:
            process.terminate()
            await process.wait()


async def _address(profile: Path) -> str:
    """Where the browser listens, which it writes once it does."""
    end = time.monotonic() + _STARTING_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError, ValueError):
            port, path = (profile / "DevToolsActivePort").read_text().split()
            return f"ws://127.0.0.1:{port}{path}"
        await asyncio.sleep(0.05)
    raise AssertionError("the browser does not start")
