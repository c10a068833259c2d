"""A real browser, Debian's Chromium, that looks at a real Airflow and tells of whatever goes wrong while it does."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Frame, Page, Request, Response, sync_playwright

from tests.servers import missing

__all__ = ["FLAGS", "Watched", "chromium", "focused", "program", "settled", "shortcomings", "sign_in"]

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 60.0  # seconds; machines that run tests do other things too
OURS = "/pipesec/"
_TELL = """
document.addEventListener('securitypolicyviolation', (e) => __refused(`${e.violatedDirective} ${e.blockedURI} ${e.sample}`));
"""
_GO = "(url) => { history.pushState(null, '', url); dispatchEvent(new PopStateEvent('popstate', { state: null })); }"


def program() -> str | None:
    """Return the path of Chromium; None where there is none."""
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium. Where there is none, the test is skipped, or fails where servers are required."""
    found = program()
    if found is None:
        missing("Chromium is not installed (apt-get install chromium, or tests/install-servers.sh as root)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def sign_in(context: BrowserContext, url: str, token: str) -> None:
    """Sign in as whoever the token is of, without Airflow's login page."""
    context.add_cookies([{"name": "_token", "value": token, "url": url}])


def settled(page: Page, *, path: str = "", seconds: float = PATIENCE) -> Frame:
    """Return the frame with a page of ours, of this path, when all that it asks for has come."""
    end = time.monotonic() + seconds
    seen = "no frame"
    while time.monotonic() < end:
        for frame in page.frames:
            seen = frame.url if frame.parent_frame else seen
            if frame.parent_frame is None or f"{OURS}{path}" not in frame.url:
                continue
            try:
                if frame.evaluate("document.readyState == 'complete' && document.documentElement.dataset.verified || ''"):
                    return frame
            except Error:
                pass  # it went on to another document meanwhile
        page.wait_for_timeout(50)
    raise TimeoutError(f"after {seconds:.0f} s no frame has settled whose page is {path or OURS}; the last one is {seen}")


@dataclass
class Watched:
    """A window whose every complaint and request is kept. ``clean`` demands that there is nothing to complain of."""

    context: BrowserContext
    page: Page
    origin: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @classmethod
    @contextmanager
    def window(
        cls,
        browser: Browser,
        url: str,
        token: str,
        *,
        dark: bool = False,
        width: int = 1440,
        height: int = 1000,
    ) -> Iterator[Watched]:
        """Open a window of somebody who is signed in."""
        scheme: Literal["dark", "light"] = "dark" if dark else "light"
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True, locale="en-GB"
        )
        context.set_default_timeout(PATIENCE * 1000)
        sign_in(context, url, token)
        parts = urlsplit(url)
        watched = cls(context, context.new_page(), f"{parts.scheme}://{parts.netloc}")
        watched._listen()
        try:
            yield watched
        finally:
            context.close()

    def _listen(self) -> None:
        note: Callable[[str], None] = self.complaints.append

        def refused(source: Any, what: str) -> None:
            note(f"refused by the content's policy: {what} ({source['frame'].url})")

        self.context.expose_binding("__refused", refused)
        self.context.add_init_script(_TELL)

        def said(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                note(f"console: {message.text} ({message.location['url']})")

        def failed(request: Request) -> None:
            if "ERR_ABORTED" not in (request.failure or ""):  # what a page no longer waits for when it is left
                note(f"failed: {request.url} {request.failure}")

        def answered(answer: Response) -> None:
            if answer.status >= 400:
                note(f"HTTP {answer.status}: {answer.url}")

        self.context.on("request", lambda request: self.requests.append(request.url))
        self.context.on("weberror", lambda error: note(f"error in a page: {error.error}"))
        self.context.on("console", said)
        self.context.on("requestfailed", failed)
        self.context.on("response", answered)

    def open(self, url: str, *, path: str = "", anew: bool = False) -> Frame:
        """Go to one of Airflow's pages, and return our frame in it when it has settled.

        Where Airflow is open already its own router goes there, as for a link of its own; ``anew``, all is loaded again.
        """
        # The address of what is in the navigation follows its frame: going there again need not load anything.
        tab = "/dags/" in url and url != self.page.url
        if tab and not anew and self.page.evaluate("document.querySelector('#root iframe') !== null"):
            for frame in self.page.frames:
                with suppress(Error):  # one that is going anyway
                    frame.evaluate("delete document.documentElement.dataset.verified")
            self.page.evaluate(_GO, url)
        else:
            self.page.goto(url)
        return settled(self.page, path=path)

    def clean(self, *allowed: str) -> None:
        """Demand that nothing complained, that nothing of another origin was asked for, and that no frame is in a frame.

        ``allowed`` are words of complaints that are none of ours.
        """
        found = [one for one in self.complaints if not any(words in one for words in allowed)]
        assert not found, "\n".join(found)
        strangers = {url for url in self.requests if not url.startswith((f"{self.origin}/", "data:", "blob:"))}
        assert not strangers, strangers
        assert all(frame.parent_frame is None or frame.parent_frame.parent_frame is None for frame in self.page.frames)


# What somebody who cannot see the page, or sees it badly, would miss; as sentences.
_AUDIT = """
() => {
  const said = [];
  const tell = (element, what) => said.push(`${what}: ${element.outerHTML.slice(0, 160)}`);
  const shown = (element) => element.checkVisibility({ visibilityProperty: true });
  const words = (text) => (text ?? "").replace(/\\s+/g, " ").trim();
  const namers = (element) => (element.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id));
  const name = (element) => words(element.getAttribute("aria-label"))
    || words(namers(element).map((one) => one?.textContent).join(" "))
    || [...(element.labels ?? [])].map((label) => words(label.textContent)).join(" ")
    || words(element.getAttribute("alt"))
    || (element.matches("input, select") ? "" : words(element.textContent))
    || words(element.getAttribute("title"));
  if (!document.documentElement.lang) said.push("the page has no language");
  if (!words(document.title)) said.push("the page has no title");
  if (!document.querySelector("main")) said.push("the page has no main part");
  for (const one of document.querySelectorAll("a, button, input, select, summary, img, svg, iframe, [role=img]")) {
    if (!shown(one) || one.closest("[aria-hidden=true]")) continue;
    if (one.matches("svg svg")) continue;
    if (!name(one)) tell(one, "has no name");
    if (one.matches("svg") && !["img", "group"].includes(one.getAttribute("role"))) tell(one, "a picture without a role");
    if (one.matches("svg[role=img]") && one.querySelector("a")) tell(one, "links within what is one image to who cannot see");
  }
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  for (const id of ids.filter((id, place) => ids.indexOf(id) !== place)) said.push(`two elements are called ${id}`);
  for (const one of document.querySelectorAll("[aria-labelledby]")) {
    if (namers(one).includes(null)) tell(one, "is named by nothing");
  }
  for (const one of document.querySelectorAll("th")) if (!one.scope) tell(one, "heads no row or column");
  let before = 0;
  for (const one of document.querySelectorAll("h1, h2, h3, h4")) {
    if (!shown(one)) continue;
    const level = Number(one.tagName[1]);
    if (level > before + 1) tell(one, "a heading that leaves out a level");
    before = level;
  }
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const seen = new Map();
  const rgba = (colour) => {
    if (!seen.has(colour)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
      seen.set(colour, [r, g, b, a / 255]);
    }
    return seen.get(colour);
  };
  const over = (top, under) => top.slice(0, 3).map((part, place) => part * top[3] + under[place] * (1 - top[3]));
  const paper = (element) => {
    const coats = [];
    for (let one = element; one; one = one.parentElement) coats.push(rgba(getComputedStyle(one).backgroundColor));
    return coats.reverse().reduce((under, coat) => over(coat, under), [255, 255, 255]);
  };
  const bright = (colour) => {
    const [r, g, b] = colour.map((part) => ((part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [low, high] = [bright(one), bright(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const dim = new Set();
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!words(walker.currentNode.data) || element.closest("svg, option, script, style") || !shown(element)) continue;
    const style = getComputedStyle(element);
    const under = paper(element);
    const found = contrast(over(rgba(style.color), under), under);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const text = words(walker.currentNode.data).slice(0, 40);
    if (found < (large ? 3 : 4.5)) dim.add(`contrast ${found.toFixed(2)}: ${element.tagName} .${element.className} "${text}"`);
  }
  return [...said, ...dim];
}
"""
_FOCUSED = """
() => {
  const one = document.activeElement;
  const style = getComputedStyle(one);
  const drawn = [one, ...one.querySelectorAll("*")].some((part) => getComputedStyle(part).outlineStyle !== "none"
    && parseFloat(getComputedStyle(part).outlineWidth) > 0);
  return { tag: one.tagName.toLowerCase(), name: one.getAttribute("aria-label") ?? one.textContent.trim().slice(0, 60),
    visible: drawn, at: one.matches("svg a") ? "picture" : one.closest("form") ? "form" : "page" };
}
"""


def shortcomings(frame: Frame) -> list[str]:
    """Return what is wrong with a page for who cannot see it, or sees it badly: names, order of headings, contrast of text."""
    return list(frame.evaluate(_AUDIT))


def focused(frame: Frame) -> dict[str, Any]:
    """Return what has the focus within a frame, and whether that is seen."""
    return dict(frame.evaluate(_FOCUSED))
