"""One browser for the tests of a module, and pages in it that may neither complain nor ask a network."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from semdis_cli.images.images import read_image
from tests.browser import FLAGS, find_chromium
from tests.extras import needs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    needs("playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=find_chromium(), args=[*FLAGS])
        yield started
        started.close()


@dataclass
class View:
    """A page in a window. `said`: errors and warnings of the console; `asked`: addresses that were loaded."""

    page: "Page"
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def names(self) -> list[str]:
        """Names of the tiles that exist, in their order."""
        tiles = self.page.locator(".place").evaluate_all(
            "places => places.map(place => [Number(place.ariaPosInSet), place.querySelector('.name').textContent])"
        )
        return [name for _, name in sorted(tiles)]

    def open_image(self, number: int) -> None:
        """Open the tile of this number in the order, and wait for its pictures."""
        self.page.locator(f".place[aria-posinset='{number + 1}'] button").click()
        self.wait_for_pictures()

    def wait_for_pictures(self) -> None:
        self.page.wait_for_selector("#viewer[open] #stage:not([aria-busy]) #pane-right img")

    def stage(self) -> np.ndarray:
        """[H,W,3] uint8 of what the stage shows, in px of the screen."""
        self.settle()
        box = self.page.locator("#stage").bounding_box()
        assert box is not None
        left, top = round(box["x"]), round(box["y"])
        shot = np.asarray(read_image(self.page.screenshot()).pixels)
        return shot[top : top + round(box["height"]), left : left + round(box["width"])]

    def settle(self) -> None:
        """Wait until what was asked for is painted."""
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def number_of(self, script: str) -> float:
        value = self.page.evaluate(script)
        assert isinstance(value, int | float)
        return value


Show = Callable[..., View]


@pytest.fixture
def show(browser: "Browser") -> Iterator[Show]:
    """Opens a page: path, hash, options of the context. `may_say`: words of a complaint that is meant to come."""
    contexts: list[tuple[BrowserContext, View, str | None]] = []

    def opened(path: Path, hash_: str = "", may_say: str | None = None, **options: Any) -> View:
        settings = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce", **options}
        context = browser.new_context(**settings)
        context.set_default_timeout(20_000)
        view = View(context.new_page())
        contexts.append((context, view, may_say))
        view.page.on("console", lambda message: view.said.append(f"{message.type}: {message.text}"))
        view.page.on("pageerror", lambda error: view.said.append(str(error)))
        view.page.on("dialog", lambda dialog: view.said.append(f"dialog: {dialog.message}"))
        view.page.on("request", lambda request: view.asked.append(request.url))
        view.page.goto(path.as_uri() + hash_)
        return view

    yield opened
    for context, view, may_say in contexts:
        context.close()
        assert [text for text in view.said if may_say is None or may_say not in text] == []
        assert {address.partition(":")[0] for address in view.asked} <= {"file", "data"}
