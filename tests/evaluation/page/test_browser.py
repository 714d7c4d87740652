"""The page in a real browser: what is shown, what is chosen, and the pixels on both sides of the divider."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from semdis_cli.evaluation.page.build import write_page
from semdis_cli.images.images import read_image
from tests.browser import needs_browser
from tests.evaluation.page.conftest import Show, View
from tests.evaluation.page.pages import LARGE, OFFSETS, make_page, pixels
from tests.evaluation.page.test_build import EVERYTHING, HOSTILE

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.browser, needs_browser]

NUM_IMAGES = 20
LAST = "photos/image 0018.jpg"  # a large one


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_page(make_page(folder / "pictures", NUM_IMAGES), folder / "report.html", embed_bytes=EVERYTHING).path


def of(image: str, more: str = "") -> str:
    """The hash of a view of an image."""
    return f"#image={image.replace('/', '%2F').replace(' ', '+')}{more}"


def enlarged(picture: np.ndarray, scale: int) -> np.ndarray:
    return picture.repeat(scale, 0).repeat(scale, 1)


def in_middle(stage: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The part of the stage where something of this size (H, W) stands in its middle."""
    top, left = (round((have - need) / 2 + 1e-9) for have, need in zip(stage.shape, size, strict=False))
    return stage[top : top + size[0], left : left + size[1]]


# --- The page ---


def test_a_page_says_what_was_measured(show: Show, report: Path) -> None:
    view = show(report)
    assert view.page.title() == view.text("#title") == "photos against themselves"
    assert view.text("#subtitle") == "20 images measured · 1 failed"
    rows = view.page.locator("#summary tbody tr").all_inner_texts()
    assert re.search(r"one step\s.*29\.50\s*± 5\.77", rows[0], re.DOTALL)
    assert "3.5" in rows[0]
    assert re.search(r"ten steps\s*minus one step.*\+1\.000\s*better\s*\+0\.500 … \+1\.500", rows[3], re.DOTALL)
    view.page.select_option("#statistic", "range")
    assert "20.00 – 39.00" in view.page.locator("#summary tbody tr").first.inner_text()
    view.page.click("#failures summary")
    assert "broken.jpg" in view.text("#failures")
    view.page.click("#provenance summary")
    assert "semdis eval photos/" in view.text("#provenance")


def test_images_are_sorted_by_any_figure_worst_first(show: Show, report: Path) -> None:
    view = show(report)
    assert view.names() == [f"image {number:04d}.jpg" for number in range(NUM_IMAGES)]
    view.page.select_option("#order", "best")
    assert view.names()[0] == "image 0019.jpg"
    view.page.select_option("#figure", "1.lpips")
    view.page.select_option("#order", "worst")
    assert view.names()[:3] == ["image 0007.jpg", "image 0017.jpg", "image 0004.jpg"]
    assert view.page.locator(".place[aria-posinset='1'] b").inner_text() == "0.460"
    view.page.select_option("#figure", "1-0.psnr_db")
    assert view.text("#histogram-title") == "PSNR: ten steps minus one step 20 images of this page"
    assert view.page.locator(".place[aria-posinset='1'] b").inner_text() == "1.00"
    view.page.select_option("#order", "name")
    assert view.names()[0] == "image 0000.jpg"


def test_images_are_found_by_name_and_range(show: Show, report: Path) -> None:
    view = show(report)
    view.page.fill("#search", "00 7 JPG")
    assert view.text("#count") == "2 of 20 images"
    view.page.fill("#search", "")
    view.page.fill("#range-from", "25")
    view.page.fill("#range-to", "28")
    view.page.press("#range-to", "Enter")
    assert view.names() == [f"image {number:04d}.jpg" for number in range(5, 9)]
    assert view.text(".chip") == "PSNR: one step 25.00 – 28.00 dB ✕"
    view.page.fill("#search", "nothing has this name")
    assert view.page.locator("#nothing").is_visible()
    view.page.click("#clear")
    assert view.text("#count") == "20 images"


def drag(view: View, chart: str, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over a chart; places as shares of its canvas."""
    view.page.locator(f"{chart} canvas").scroll_into_view_if_needed()
    box = view.page.locator(f"{chart} canvas").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    view.page.mouse.move(*places[0])
    view.page.mouse.down()
    view.page.mouse.move(*places[1], steps=3)
    view.page.mouse.up()


def test_a_range_dragged_over_the_histogram_selects_images(show: Show, report: Path) -> None:
    view = show(report)
    drag(view, "#histogram", (0.5, 0.5), (0.999, 0.6))
    names = view.names()
    assert 8 <= len(names) <= 12
    assert names[-1] == "image 0019.jpg"
    assert view.text("#count") == f"{len(names)} of 20 images"
    view.page.click("#histogram canvas", position={"x": 200, "y": 60})
    assert view.text("#count") == "20 images"


def test_a_rectangle_dragged_over_the_scatter_plot_selects_images(show: Show, report: Path) -> None:
    view = show(report)
    view.page.select_option("#other", "1.psnr_db")
    drag(view, "#scatter", (0.05, 0.02), (0.6, 0.999))
    some = len(view.names())
    assert 7 < some < 14
    assert view.page.locator(".chip").count() == 2
    drag(view, "#scatter", (0.05, 0.02), (0.6, 0.4))
    assert len(view.names()) < some / 2


@pytest.mark.slow
def test_a_dot_of_the_scatter_plot_opens_its_image(show: Show, report: Path) -> None:
    view = show(report, "#against=1.psnr_db")
    box = view.page.locator("#scatter canvas").bounding_box()
    assert box
    # The last image is the farthest up and to the right: 3 of 106 parts from the end of either axis.
    width, height = box["width"] - 46 - 12, box["height"] - 10 - 24
    view.page.click("#scatter canvas", position={"x": 46 + width * (1 - 0.03 / 1.06), "y": 10 + height * 0.03 / 1.06})
    assert view.text("#viewer-title") == "photos/image 0019.jpg"


# --- The viewer: pixels ---


def test_the_divider_has_the_original_on_its_left_and_the_contender_on_its_right(show: Show, report: Path) -> None:
    view = show(report)
    view.open_image(18)
    stage = view.stage()
    scale = min(stage.shape[0] // LARGE[0], stage.shape[1] // LARGE[1])
    assert scale >= 2
    size = (LARGE[0] * scale, LARGE[1] * scale)
    original, version = (enlarged(pixels(LARGE, offset), scale) for offset in (0, OFFSETS[0]))
    for share in (0.5, 0.25):
        if share != 0.5:
            handle = view.page.locator("#divider").bounding_box()
            box = view.page.locator("#stage").bounding_box()
            assert handle
            assert box
            view.page.mouse.move(handle["x"] + 22, box["y"] + 40)
            view.page.mouse.down()
            view.page.mouse.move(box["x"] + share * box["width"], box["y"] + 200, steps=4)
            view.page.mouse.up()
        found = in_middle(view.stage(), size)
        split = round(share * stage.shape[1] - (stage.shape[1] - size[1]) / 2)
        rows = slice(60, size[0] // 2 - 60)  # without the names and the handle
        assert np.array_equal(found[rows, : split - 24], original[rows, : split - 24])
        assert np.array_equal(found[rows, split + 24 :], version[rows, split + 24 :])


@pytest.mark.slow
def test_the_contender_on_either_side_can_be_chosen(show: Show, report: Path) -> None:
    view = show(report, of(LAST))
    view.page.select_option("#left", "1")
    view.page.select_option("#right", "original")
    view.wait_for_pictures()
    stage = view.stage()
    middle = stage.shape[1] // 2
    scale = min(stage.shape[0] // LARGE[0], stage.shape[1] // LARGE[1])
    found = in_middle(stage, (LARGE[0] * scale, LARGE[1] * scale))
    expected = enlarged(pixels(LARGE, OFFSETS[1]), scale)
    assert np.array_equal(found[60:120, 10:200], expected[60:120, 10:200])
    assert middle > 0
    assert view.text("#tag-left").split("\n") == ["ten steps", "39.00 dB"]
    view.page.keyboard.press("x")
    view.wait_for_pictures()
    assert view.text("#tag-left") == "Original"


def test_zoom_goes_to_single_pixels_and_keeps_the_point_under_the_pointer(show: Show, report: Path) -> None:
    view = show(report, of(LAST, "&split=0"))
    view.wait_for_pictures()
    version = pixels(LARGE, OFFSETS[0])
    view.page.keyboard.press("0")
    assert view.text("#zoom-value") == "100 %"
    assert np.array_equal(in_middle(view.stage(), LARGE)[60:-60, 60:-60], version[60:-60, 60:-60])
    view.page.keyboard.press("f")
    box = view.page.locator("#stage").bounding_box()
    assert box
    scale = int(view.text("#zoom-value").split()[0]) // 100
    corner = (round(box["width"] / 2 - LARGE[1] / 2 * scale), round(box["height"] / 2 - LARGE[0] / 2 * scale))
    point = (corner[0] + 180 * scale + scale // 2, corner[1] + 40 * scale + scale // 2)  # the middle of a pixel
    before = view.stage()[point[1], point[0]]
    view.page.mouse.move(box["x"] + point[0], box["y"] + point[1])
    for _ in range(6):
        view.page.mouse.wheel(0, -240)
    assert int(view.text("#zoom-value").split()[0]) > 1000
    after = view.stage()[point[1] - 2 : point[1] + 3, point[0] - 2 : point[0] + 3]
    assert (after == before).all()
    view.page.mouse.down()
    view.page.mouse.move(box["x"] + point[0] - 100, box["y"] + point[1] + 50, steps=2)
    view.page.mouse.up()
    assert (view.stage()[point[1] + 50, point[0] - 100] == before).all()


@pytest.mark.slow
def test_both_sides_show_the_same_part(show: Show, report: Path) -> None:
    view = show(report, of(LAST, "&layer=side&zoom=4&at=100,80"))
    view.wait_for_pictures()
    stage = view.stage()
    half = stage.shape[1] // 2
    left, right = stage[60:-60, 20 : half - 20], stage[60:-60, half + 21 : 2 * half - 19]
    assert np.array_equal(left + np.uint8(OFFSETS[0]), right)
    assert len(np.unique(left)) > 40


def test_differences_are_those_of_the_values_times_the_gain(show: Show, report: Path) -> None:
    view = show(report, of(LAST, "&layer=difference&right=1&gain=0"))
    view.wait_for_pictures()
    for gain in range(7):
        assert view.text("#gain-value") == f"×{2**gain}"
        assert (in_middle(view.stage(), (200, 300)) == min(255, OFFSETS[1] * 2**gain)).all()
        view.page.keyboard.press("]")


@pytest.mark.slow
def test_the_latents_are_as_large_as_the_image(show: Show, report: Path) -> None:
    view = show(report, of(LAST, "&layer=latents&split=0&zoom=2"))
    view.wait_for_pictures()
    grid = np.random.default_rng(0).integers(0, 256, (LARGE[0] // 16, LARGE[1] // 16, 3), np.uint8)
    found = in_middle(view.stage(), (2 * LARGE[0], 2 * LARGE[1]))
    assert np.array_equal(found[40:-40, 40:-40], enlarged(grid, 32)[40:-40, 40:-40])
    assert "red 50.0 %, green 20.0 %, blue 10.0 %" in view.text("#layer-note")


@pytest.mark.slow
def test_a_held_key_shows_the_right_picture_alone(show: Show, report: Path) -> None:
    view = show(report, of(LAST, "&split=100"))
    view.wait_for_pictures()
    before = in_middle(view.stage(), (200, 300))
    view.page.keyboard.down("b")
    held = in_middle(view.stage(), (200, 300))
    view.page.keyboard.up("b")
    assert np.array_equal(before + np.uint8(OFFSETS[0]), held)
    assert np.array_equal(in_middle(view.stage(), (200, 300)), before)


# --- Keyboard and address ---


def focused(view: View) -> str:
    """The key of the tile that has the focus."""
    return view.page.locator(".tile:focus").get_attribute("title") or ""


def test_the_gallery_is_walked_through_with_the_keyboard(show: Show, report: Path) -> None:
    view = show(report)
    view.page.keyboard.press("/")
    view.page.keyboard.type("image")
    seen = []
    for key in ("Enter", "End", "ArrowLeft", "ArrowUp", "Home", "ArrowRight", "ArrowDown"):
        view.page.keyboard.press(key)
        seen.append(int(focused(view)[13:17]))
    assert seen[:3] == [0, 19, 18]
    assert seen[3] < 18
    assert seen[4:6] == [0, 1]
    assert seen[6] > 2
    view.page.keyboard.press("Enter")
    view.wait_for_pictures()
    assert view.text("#viewer-title") == f"photos/image {seen[6]:04d}.jpg"


def test_the_viewer_is_ruled_with_the_keyboard(show: Show, report: Path) -> None:
    view = show(report)
    view.open_image(1)
    keyboard = view.page.keyboard
    keyboard.press("ArrowRight")
    view.wait_for_pictures()
    assert view.text("#viewer-title") == "photos/image 0002.jpg"
    keyboard.press("ArrowDown")
    assert view.page.locator("#right").input_value() == "1"
    for key, layer in zip("2341", ("side", "difference", "latents", "slider"), strict=True):
        keyboard.press(key)
        assert view.page.get_attribute("#stage", "data-layer") == layer
    zooms = []
    for key in "f+-0f":
        keyboard.press(key)
        zooms.append(view.text("#zoom-value"))
    assert zooms[0] == zooms[4]
    assert int(zooms[1].split()[0]) > int(zooms[2].split()[0])
    assert zooms[3] == "100 %"


@pytest.mark.slow
def test_the_divider_is_a_range_that_takes_arrows(show: Show, report: Path) -> None:
    view = show(report, of(LAST))
    view.page.focus("#slider")
    view.page.keyboard.press("ArrowRight")
    assert view.text("#viewer-title") == LAST
    assert view.page.locator("#slider").input_value() == "50.1"
    view.page.keyboard.press("Home")
    assert view.page.get_attribute("#slider", "aria-valuetext") == "0 % from the left"


@pytest.mark.slow
def test_keys_are_told_and_the_focus_comes_back(show: Show, report: Path) -> None:
    view = show(report)
    view.open_image(2)
    view.page.keyboard.press("?")
    assert "Side by side" in view.text("#help")
    view.page.keyboard.press("Escape")
    assert view.page.locator("#viewer").is_visible()
    view.page.keyboard.press("ArrowRight")
    view.page.keyboard.press("Escape")
    view.page.keyboard.press("Escape")
    view.page.wait_for_selector("#viewer", state="hidden")
    assert "image 0003.jpg" in focused(view)
    assert view.page.url.startswith("file:"), "back to the page, and not from it"


@pytest.mark.slow
def test_a_view_can_be_linked(show: Show, report: Path) -> None:
    view = show(report)
    view.page.select_option("#figure", "1.lpips")
    view.page.fill("#search", "image")
    view.open_image(3)
    title = view.text("#viewer-title")
    for key in "30+":
        view.page.keyboard.press(key)
    view.page.wait_for_timeout(400)  # the address is written when nothing has changed for a while
    other = show(report, view.page.evaluate("location.hash"))
    other.wait_for_pictures()
    assert other.text("#viewer-title") == title
    assert other.text("#zoom-value") == "200 %"
    assert other.page.get_attribute("#stage", "data-layer") == "difference"
    assert other.page.locator("#search").input_value() == "image"
    assert other.page.locator("#figure").input_value() == "1.lpips"
    other.page.keyboard.press("Escape")
    other.page.wait_for_selector("#viewer", state="hidden")


@pytest.mark.slow
def test_the_way_back_leads_from_the_image_to_the_page(show: Show, report: Path) -> None:
    view = show(report)
    view.open_image(3)
    view.page.keyboard.press("2")
    view.page.go_back()
    view.page.wait_for_selector("#viewer", state="hidden")
    view.open_image(4)
    assert view.page.get_attribute("#stage", "data-layer") == "side", "what was chosen there stays"
    assert view.page.url.startswith("file:")


@pytest.mark.slow
def test_an_address_that_means_nothing_is_passed_over(show: Show, report: Path) -> None:
    view = show(report)
    for hash_ in ("image=none", "figure=9.none&zoom=-3&range=~~&left=7&right=x&at=1", "%", "split=NaN&gain="):
        view.page.evaluate("hash => location.hash = hash", hash_)
        view.settle()
        assert view.text("#count") == "20 images"
        assert not view.page.locator("#viewer").is_visible()


# --- Sizes, colours, readers of screens ---

PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}


def touch(view: View, *moments: list[tuple[float, float]]) -> None:
    """Put fingers down, move them from moment to moment, and lift them."""
    session = view.page.context.new_cdp_session(view.page)
    kinds = ["touchStart", *["touchMove"] * (len(moments) - 1), "touchEnd"]
    for kind, points in zip(kinds, (*moments, []), strict=True):
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]})
    session.detach()


def test_a_phone_shows_it_and_takes_fingers(show: Show, report: Path) -> None:
    view = show(report, **PHONE)
    assert view.number_of("document.documentElement.scrollWidth") == 360
    view.page.locator(".tile").first.tap()
    view.wait_for_pictures()
    assert view.number_of("document.querySelector('#viewer').scrollWidth") == 360
    box = view.page.locator("#stage").bounding_box()
    assert box
    assert box["height"] > 300
    middle = box["y"] + box["height"] / 2
    touch(view, [(180, middle)], [(140, middle)], [(90, middle)])
    assert view.number_of("Number(document.querySelector('#slider').value)") == pytest.approx(25, abs=1)
    before = int(view.text("#zoom-value").split()[0])
    touch(view, *([(180 - apart, middle), (180 + apart, middle)] for apart in (20.0, 60.0, 80.0)))
    assert int(view.text("#zoom-value").split()[0]) > 2.5 * before


def test_an_upright_screen_has_both_sides_above_each_other(show: Show, report: Path) -> None:
    view = show(report, of(LAST, "&layer=side&zoom=2&at=120,80"), viewport=PHONE["viewport"])
    view.wait_for_pictures()
    stage = view.stage()
    half = stage.shape[0] // 2
    upper, lower = stage[60 : half - 60, 20:-20], stage[half + 61 : 2 * half - 59, 20:-20]
    assert np.array_equal(upper + np.uint8(OFFSETS[0]), lower)
    assert len(np.unique(upper)) > 40


def brightness(view: View) -> float:
    shot = read_image(view.page.screenshot()).pixels
    return float(np.asarray(shot)[5:20, 300:600].mean())


@pytest.mark.slow
def test_it_is_dark_where_the_system_is_and_there_is_a_switch(show: Show, report: Path) -> None:
    light, dark = show(report), show(report, color_scheme="dark")
    assert brightness(light) > 200
    assert brightness(dark) < 50
    dark.page.click("#theme")
    assert brightness(dark) > 200
    light.page.click("#theme")
    light.page.click("#theme")
    assert brightness(light) < 50
    assert light.page.get_attribute("#theme", "aria-label") == "Colours: dark"


def test_everything_has_a_name_and_a_role(show: Show, report: Path) -> None:
    view = show(report)
    tree = view.page.locator("body").aria_snapshot()
    assert '- heading "photos against themselves" [level=1]' in tree
    assert "table" in tree
    assert '- rowheader "one step steps 1"' in tree
    assert '- combobox "Order"' in tree
    assert '- searchbox "Search in names"' in tree
    assert 'img "Histogram: PSNR: one step from' in tree
    assert 'button "image 0000.jpg PSNR: one step 20.00 dB"' in tree
    view.open_image(18)
    tree = view.page.locator("#viewer").aria_snapshot()
    assert '- dialog "photos/image 0018.jpg"' in tree
    assert '- slider "Place of the divider"' in tree
    assert '- button "Slider" [pressed]' in tree
    assert '- img "Original of photos/image 0018.jpg"' in tree
    assert '- combobox "Right"' in tree
    unnamed = """[...document.querySelectorAll("button, input, select")].filter(one =>
      one.checkVisibility() && !one.ariaLabel && !one.textContent.trim() && !one.labels?.length).length"""
    assert view.number_of(unnamed) == 0


@pytest.mark.slow
def test_the_focus_is_seen(show: Show, report: Path) -> None:
    view = show(report)
    for _ in range(12):
        view.page.keyboard.press("Tab")
        outline = view.page.locator(":focus").evaluate("one => getComputedStyle(one).outline")
        assert "solid 2px" in outline


# --- Names, folders, scripts ---


def test_names_are_shown_and_not_run(show: Show, tmp_path: Path) -> None:
    page = make_page(
        tmp_path / "pictures", len(HOSTILE), titles=("<b>one</b>" + "n" * 300, "</script><script>alert(2)</script>")
    )
    images = [replace(image, key=key) for image, key in zip(page.images, HOSTILE, strict=True)]
    path = tmp_path / "<script>.html"
    listed = [(name, name) for name in HOSTILE]
    hostile = replace(page, images=images, title=HOSTILE[0], failures=listed, provenance=listed)
    write_page(hostile, path, embed_bytes=EVERYTHING)
    view = show(path, "#order=name")
    assert view.page.locator("h1").inner_text() == HOSTILE[0]
    assert view.number_of("document.scripts.length") == 3
    found = " ".join(view.names())
    assert "<script>alert(1)<" in view.page.locator("body").inner_html().replace("&lt;", "<").replace("&gt;", ">")
    assert "\\u202egpj.exe" in found
    assert "line\\u2028separator\\u2029.jpg" in found
    for number in range(len(HOSTILE)):
        view.open_image(number)
        assert view.page.locator("#stage img").count() == 2
        view.page.keyboard.press("Escape")
        view.page.wait_for_selector("#viewer", state="hidden")
    assert view.number_of("document.querySelectorAll('b b, [onerror]').length") == 0
    for window, width in ((view, 1280), (show(path, "#range=0.psnr_db~22~Infinity", **PHONE), 360)):
        for details in ("#failures", "#provenance"):
            window.page.locator(f"{details} > summary").click()
        assert window.number_of("document.documentElement.scrollWidth") == width
        window.page.locator(".tile").first.click()
        assert window.number_of("document.querySelector('#viewer').scrollWidth") == width


def test_no_other_script_runs_and_nothing_can_be_sent(show: Show, report: Path) -> None:
    view = show(report, may_say="Content Security Policy")
    failed: list[str | None] = []
    view.page.on("requestfailed", lambda request: failed.append(request.failure))
    view.page.evaluate("""() => {
      const script = document.createElement("script");
      script.textContent = "window.hasRun = true";
      document.body.append(script);
      const image = document.createElement("img");
      image.src = "https://example.org/beacon.png";
      document.body.append(image);
    }""")
    view.settle()
    view.asked.remove("https://example.org/beacon.png")  # asked for, and stopped before it left
    assert failed == ["csp"]
    assert view.page.evaluate("window.hasRun") is None
    assert len(view.said) >= 2
    assert all("Content Security Policy" in text for text in view.said)


def test_pictures_are_found_in_the_folder_beside_it(show: Show, tmp_path: Path) -> None:
    written = write_page(make_page(tmp_path / "pictures", 3), tmp_path / "50% of #1?.html", embed_bytes=0)
    assert written.folder
    view = show(written.path)
    view.page.locator(".place img").first.evaluate("image => image.decode()")
    view.open_image(2)
    assert not view.page.locator("#message").is_visible()
    written.folder.rename(tmp_path / "elsewhere")
    lost = show(written.path, of("photos/image 0002.jpg"), may_say="ERR_FILE_NOT_FOUND")
    lost.page.wait_for_selector("#message:not([hidden])")
    assert "50% of #1?-files/000002-original.png" in lost.text("#message")


def test_a_page_without_images_or_figures_says_so(show: Show, tmp_path: Path) -> None:
    page = make_page(tmp_path / "pictures", 2)
    empty = replace(page, images=[], contenders=[], metrics=[], differences=[], num_measured=0)
    view = show(write_page(empty, tmp_path / "report.html", embed_bytes=EVERYTHING).path)
    assert view.text("#nothing") == "This page has no images."
    assert not view.page.locator("#figures").is_visible()


def test_of_contenders_alike_none_is_the_best_and_no_difference_is_below_zero(show: Show, tmp_path: Path) -> None:
    page = make_page(tmp_path / "pictures", 3)
    first, second = page.contenders
    small = replace(page.differences[0], mean=-0.0001, low=-0.0002, high=0.0001)
    alike = replace(page, contenders=[first, replace(second, summary=first.summary)], differences=[small])
    view = show(write_page(alike, tmp_path / "alike.html", embed_bytes=EVERYTHING).path)
    assert view.page.locator("#summary .best").count() == 0
    assert "+0.000 … +0.000" in view.text("#differences")
    view = show(write_page(page, tmp_path / "report.html", embed_bytes=EVERYTHING).path)
    assert view.page.locator("#summary .best").count() == len(page.metrics)


def test_what_an_image_does_not_have_is_passed_over(show: Show, tmp_path: Path) -> None:
    page = make_page(tmp_path / "pictures", 3, titles=("one step",))
    first = page.images[0]
    versions = (replace(first.versions[0], figures={}),)
    images = [replace(first, versions=versions, pca=None), *page.images[1:]]
    path = write_page(replace(page, images=images), tmp_path / "report.html", embed_bytes=EVERYTHING).path
    view = show(path, "#layer=latents")
    assert view.names() == ["image 0001.jpg", "image 0002.jpg", "image 0000.jpg"], "without the figure it comes last"
    view.open_image(2)
    assert view.page.get_attribute("#stage", "data-layer") == "slider"
    assert view.page.locator("#layers button[value=latents]").is_disabled()
    assert view.page.locator("#image-figures td").all_inner_texts() == ["–", "–"]
    view.page.keyboard.press("4")
    view.page.keyboard.press("ArrowLeft")
    view.wait_for_pictures()
    assert view.page.get_attribute("#stage", "data-layer") == "latents", "an image that has them shows them"


# --- Many images ---


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    return write_page(make_page(folder / "pictures", 2000), folder / "report.html", embed_bytes=40 << 20).path


def longest_script_ms(browser: "Browser", view: View, script: str) -> float:
    """Longest time that a script has kept the processor, whatever else the machine did, while `script` ran."""
    browser.start_tracing(page=view.page, categories=["devtools.timeline"])
    view.page.evaluate(script)
    view.settle()
    events = json.loads(browser.stop_tracing())["traceEvents"]
    kinds = {"FunctionCall", "FireAnimationFrame", "EventDispatch", "TimerFire"}
    return max(float(event["tdur"]) for event in events if event["name"] in kinds and "tdur" in event) / 1000


SCROLL = """async () => {
  for (let step = 0; step < 60; step++) {
    scrollBy(0, step % 10 ? (step < 40 ? 180 : -180) : 3000);
    await new Promise(requestAnimationFrame);
  }
}"""
CHOOSE = """async () => {
  for (const [id, value] of [["order", "best"], ["order", "name"], ["figure", "1.lpips"]]) {
    const select = document.getElementById(id);
    select.value = value;
    select.dispatchEvent(new Event("change"));
    await new Promise(requestAnimationFrame);
  }
  const search = document.getElementById("search");
  for (search.value of ["1", "19", "199", ""]) {
    search.dispatchEvent(new Event("input"));
    await new Promise(requestAnimationFrame);
  }
}"""
LEAF = """async () => {
  document.querySelector(".tile").click();
  for (let step = 0; step < 10; step++) {
    await new Promise(requestAnimationFrame);
    document.getElementById("next").click();
  }
}"""


@pytest.mark.slow
def test_two_thousand_images_stay_smooth(show: Show, many: Path, browser: "Browser") -> None:
    view = show(many)
    assert view.text("#count") == "2,000 images"
    for script in (SCROLL, CHOOSE, LEAF):
        assert longest_script_ms(browser, view, script) < 50
        assert view.number_of("document.querySelectorAll('*').length") < 1500
        assert view.number_of("document.images.length") < 250
        places = view.page.locator(".place").evaluate_all("places => places.map(place => Number(place.ariaPosInSet))")
        assert places == sorted(places), "heard in the order in which they are seen"
    view.page.keyboard.press("Escape")
    view.page.wait_for_selector("#viewer", state="hidden")
    view.page.wait_for_function("document.activeElement.parentElement.ariaPosInSet === '11'")  # the one that was shown
    view.page.keyboard.press("End")
    view.page.wait_for_function("document.activeElement.parentElement.ariaPosInSet === '2000'")
