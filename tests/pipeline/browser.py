"""A headless Chromium without a driver: commands of its DevTools protocol through a pipe, a page at a time."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"),
]
START = """# It reads commands from the file descriptor 3 and answers on 4.
import fcntl, os, sys
commands, answers = (fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3])
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "Home": 36, "End": 35, "Tab": 9, " ": 32, "Enter": 13}
SECONDS = 120  # that a command may take, on a busy machine


class Browser:
    """A browser with one page; a context, which ends it. Errors of the page are errors here where that is `strict`."""

    def __init__(self, profile, strict=True):
        read_there, self.write = os.pipe()
        self.read, write_there = os.pipe()
        flags = [*FLAGS, f"--user-data-dir={profile}", "about:blank"]
        start = [sys.executable, "-c", START, str(read_there), str(write_there), CHROMIUM, *flags]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(start, pass_fds=(read_there, write_there), **quiet)
        os.close(read_there)
        os.close(write_there)
        self.rest, self.count, self.session, self.strict = b"", 0, None, strict
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait(SECONDS)
        os.close(self.read)
        os.close(self.write)

    def ask(self, method, **params):
        """A command's result; what else happens meanwhile is let go, but for errors of the page."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.next_message()
            if self.strict and answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                raise AssertionError(answer["params"])
            if answer.get("id") == self.count:
                assert "error" not in answer, answer
                return answer["result"]

    def next_message(self):
        while b"\0" not in self.rest:
            piece = os.read(self.read, 1 << 20)
            assert piece, "the browser ended"
            self.rest += piece
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def size(self, width, height=900, dark=False, still=False):
        """Of the window; a phone below 500 pixels. With or without a dark theme and less motion."""
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )
        features = {"prefers-color-scheme": "dark" if dark else "light"}
        features["prefers-reduced-motion"] = "reduce" if still else "no-preference"
        self.ask("Emulation.setEmulatedMedia", features=[{"name": n, "value": v} for n, v in features.items()])

    def open(self, url):
        """A page, from nothing: another address of the same file is no new page otherwise."""
        self.ask("Page.navigate", url="about:blank")
        self.ask("Page.navigate", url=url)
        self.wait_for(f"location.href.startsWith({json.dumps(url.partition('#')[0])}) && document.readyState")

    def wait_for(self, code, value="complete"):
        """Until what `code` says is `value`."""
        end = time.monotonic() + SECONDS
        while self.say(code) != value:
            assert time.monotonic() < end, f"{code} is not {value}"
            time.sleep(0.02)

    def say(self, code):
        """What an expression is in the page."""
        result = self.ask("Runtime.evaluate", expression=code, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key):
        """A key, down and up again, as a person does."""
        text = {" ": " ", "Enter": "\r"}.get(key, key if len(key) == 1 else "")
        event = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS.get(key, 0)}
        self.ask("Input.dispatchKeyEvent", type="keyDown", text=text, **event)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **event)

    def picture(self, path):
        """Of the whole page, as PNG."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
