"""The page of resam-annotate in a real browser."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resam_runtime.annotate.server import AnnotateServer
from resam_runtime.annotate.store import PointsStore
from resam_runtime.points import Prompt

from .annotate_helpers import BRIGHT, drawn_on, running, write_scenes
from .chromium import Chromium, Page, find_chromium
from .engines import write_engine

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium (apt install chromium)")
if find_chromium() is None:  # a skip is easily overlooked; this stands at the end of every run
    warnings.warn("NO CHROMIUM: the page of resam-annotate IS NOT TESTED (apt install chromium)", stacklevel=1)

READY = "!document.getElementById('done').disabled"
SAVED = "document.getElementById('saved').dataset.kind === 'saved'"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AnnotateServer]:
    write_scenes(tmp_path / "scenes")
    write_engine(tmp_path / "model.resam", image_size=128, radius=60, by_value=True)
    with running(tmp_path / "scenes", tmp_path / "model.resam") as one:
        yield one


@pytest.fixture
def page(browser: Chromium, server: AnnotateServer) -> Iterator[Page]:
    one = browser.page(server.url)
    one.wait(READY)
    yield one
    assert one.errors() == []
    one.close()


def screen(page: Page, x: float, y: float, width: int = 200, height: int = 150) -> tuple[float, float]:
    """Where the fitted scene shows a pixel's centre, by the layout alone."""
    box = page.run(
        "(({left, top, width, height}) => [left, top, width, height])"
        "(document.getElementById('canvas').getBoundingClientRect())"
    )
    scale = min((box[2] - 24) / width, (box[3] - 24) / height, 20)
    left = box[0] + (box[2] - width * scale) / 2
    top = box[1] + (box[3] - height * scale) / 2
    return left + (x + 0.5) * scale, top + (y + 0.5) * scale


def click(page: Page, x: float, y: float, button: str = "left", keys: str = "") -> None:
    page.click(*screen(page, x, y), button, keys)


def saved(page: Page, server: AnnotateServer, name: str = "a.png") -> list[Prompt]:
    page.wait(SAVED)
    return drawn_on(server.store.path, name)


def drawn(prompts: list[Prompt]) -> list[list[Any]]:
    """[[rounded x, y, label], ...] per instance."""
    return [[[round(x), round(y), int(k)] for (x, y), k in zip(p.coords.tolist(), p.labels)] for p in prompts]


def test_clicks_become_points_at_the_pixels_clicked(page: Page, server: AnnotateServer) -> None:
    click(page, 70, 40)
    click(page, 75, 45)
    click(page, 20, 100, "right")
    page.key("n")
    click(page, 0, 0)
    click(page, 199, 149, keys="shift")
    click(page, 100, 20)
    prompts = saved(page, server)
    assert drawn(prompts) == [[[70, 40, 1], [75, 45, 1], [20, 100, 0]], [[0, 0, 1]], [[199, 149, 1], [100, 20, 1]]]
    for (x, y), expected in zip(prompts[0].coords, [(70, 40), (75, 45), (20, 100)]):
        assert abs(x - expected[0]) < 0.3  # a screen pixel is a quarter of a scene pixel
        assert abs(y - expected[1]) < 0.3


def test_undo_and_redo_go_all_the_way(page: Page, server: AnnotateServer) -> None:
    click(page, 70, 40)
    click(page, 120, 90)
    page.key("n")
    click(page, 30, 30)
    page.drag(screen(page, 30, 30), screen(page, 40, 60))
    page.key("x")
    click(page, 10, 10)
    states = [drawn(saved(page, server))]
    for _ in range(6):
        page.key("z", "ctrl")
        states.append(drawn(saved(page, server)))
    assert states == [
        [[[70, 40, 1], [120, 90, 1]], [[10, 10, 1]]],
        [[[70, 40, 1], [120, 90, 1]]],
        [[[70, 40, 1], [120, 90, 1]], [[40, 60, 1]]],
        [[[70, 40, 1], [120, 90, 1]], [[30, 30, 1]]],
        [[[70, 40, 1], [120, 90, 1]]],
        [[[70, 40, 1]]],
        [],
    ]
    page.key("z", "ctrl")
    for state in states[-2::-1]:
        page.key("z", "ctrl", shift=True)
        assert drawn(saved(page, server)) == state


def test_points_and_instances_are_deleted(page: Page, server: AnnotateServer) -> None:
    click(page, 70, 40)
    click(page, 120, 90)
    page.key("n")
    click(page, 30, 30)
    click(page, 120, 90)  # selects the point of the other instance
    page.key("Delete")
    assert drawn(saved(page, server)) == [[[70, 40, 1]], [[30, 30, 1]]]
    page.key("Delete")
    assert drawn(saved(page, server)) == [[[30, 30, 1]]]
    page.run("document.querySelector('.instance .remove').click()")
    assert drawn(saved(page, server)) == []


def test_a_negative_point_needs_an_instance(page: Page, server: AnnotateServer) -> None:
    click(page, 70, 40, "right")
    assert "First click an object" in page.wait("document.getElementById('toast').textContent")
    assert not server.store.path.exists()


def test_every_click_can_begin_an_instance(page: Page, server: AnnotateServer) -> None:
    page.key("o")
    for x in (20, 60, 100):
        click(page, x, 120)
    click(page, 101, 60, "right")
    assert drawn(saved(page, server)) == [[[20, 120, 1]], [[60, 120, 1]], [[100, 120, 1], [101, 60, 0]]]
    page.key("o")


def test_zoom_and_pan_keep_clicks_exact(page: Page, server: AnnotateServer) -> None:
    at = screen(page, 150, 100)
    page.wheel(*at, -500)
    page.wait("document.getElementById('zoom').textContent > '5' && true")
    page.drag((at[0] - 90, at[1]), (at[0] - 130, at[1] - 70))
    page.click(at[0] - 40, at[1] - 70)
    assert drawn(saved(page, server)) == [[[150, 100, 1]]]
    page.key("f")
    click(page, 20, 20)
    assert drawn(saved(page, server)) == [[[150, 100, 1], [20, 20, 1]]]


def test_points_are_seen_where_they_are(browser: Chromium, tmp_path: Path) -> None:
    """On a screenshot, before and after zooming: the bright block of the scene tells where its pixels are."""
    write_scenes(tmp_path / "scenes")
    x, y = BRIGHT[:2]
    places = [(x + 5, y + 4, 1), (x + 22, y + 13, 1), (x - 8, y + 6, 0)]
    instances = [{"id": i, "points": [[px, py]], "labels": [label]} for i, (px, py, label) in enumerate(places, 1)]
    (tmp_path / "scenes" / "points.json").write_text(json.dumps({"scenes": {"a.png": {"instances": instances}}}))
    with running(tmp_path / "scenes") as server:
        page = browser.page(server.url, dark=True)  # nothing bright but the block
        page.wait(f"{READY} && document.querySelectorAll('.instance').length === 3")
        scales = []
        for zoomed in range(3):
            page.wait(f"new Promise((done) => setTimeout(() => done(true), {300 if zoomed else 600}))")
            image = canvas_image(page, tmp_path / f"seen{zoomed}.png")
            corner, scale = seen_block(image)
            scales.append(scale)
            dots = seen_dots(image)
            assert len(dots) == 3, dots
            for px, py, label in places:
                expected = corner + (np.array([px - x, py - y]) + 0.5) * scale
                (red,) = [bar for at, bar in dots if np.abs(at - expected).max() < 1.5]  # px of the screen
                assert red == (label == 0), "a negative point has a red bar"
            page.wheel(*screen(page, x + 10, y + 12), -250)
            page.drag(screen(page, 190, 140), (screen(page, 190, 140)[0] + 37, screen(page, 190, 140)[1] - 23))
        assert scales[2] > 2 * scales[0]
        page.close()


def canvas_image(page: Page, path: Path) -> Any:
    """What a screenshot shows of the canvas: (height, width, 3) int RGB."""
    page.screenshot(path)
    left, top, width, height = page.run(
        "(({left, top, width, height}) => [left, top, width, height].map(Math.round))"
        "(document.getElementById('canvas').getBoundingClientRect())"
    )
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    assert image is not None
    return image[top : top + height, left : left + width].astype(int)


def seen_block(image: Any) -> tuple[Any, float]:
    """The corner of the scene's bright block on the screen, and the size of a scene pixel there, both in screen px."""
    bright = np.abs(image - 220).max(2) < 12
    columns, rows = (np.flatnonzero(bright.sum(axis) > 60) for axis in (0, 1))
    scale = (columns[-1] + 1 - columns[0]) / BRIGHT[2]
    assert abs((rows[-1] + 1 - rows[0]) / BRIGHT[3] - scale) < 0.1
    return np.array([columns[0], rows[0]]), scale


def seen_dots(image: Any) -> list[tuple[Any, bool]]:
    """Centres of the coloured spots on the gray scene, and whether there is red in them."""
    coloured = (np.ptp(image, axis=2) > 60).astype(np.uint8)
    joined = cv2.morphologyEx(coloured, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    count, spots, boxes, _ = cv2.connectedComponentsWithStats(joined)
    red = (image[..., 0] > 150) & (image[..., 1:].max(2) < 90)
    return [
        (boxes[i, :2] + (boxes[i, 2:4] - 1) / 2 + 0.5, bool(red[spots == i].any()))
        for i in range(1, count)
        if boxes[i, cv2.CC_STAT_AREA] > 20
    ]


def test_images_are_walked_marked_done_and_counted(page: Page, server: AnnotateServer) -> None:
    page.key("d")
    page.wait("document.getElementById('message').innerText.includes('b.png')")  # broken, and the next
    page.key("ArrowRight")
    page.wait(f"document.getElementById('name').textContent === 'c.png' && {READY}")
    assert "200 × 150" in page.text("#place")
    page.key("k")
    page.key("k")
    page.wait(f"document.getElementById('name').textContent === 'a.png' && {READY}")
    assert page.text("#progress") == "1 of 4 done"
    assert json.loads(server.store.path.read_text())["scenes"]["a.png"]["done"] is True
    page.key("d")
    page.wait("document.getElementById('progress').textContent === '0 of 4 done'")


def test_masks_of_the_engine_are_drawn(page: Page, server: AnnotateServer) -> None:
    def colour(x: float, y: float) -> list[int]:
        at = screen(page, x, y)
        return list(
            page.run(
                f"(() => {{ const c = document.getElementById('canvas'); const b = c.getBoundingClientRect();"
                f"return [...c.getContext('2d').getImageData({at[0]} - b.left, {at[1]} - b.top, 1, 1).data] }})()"
            )
        )

    x, y, width, height = BRIGHT
    page.wait("document.getElementById('canvas').getContext('2d').getImageData(400, 300, 1, 1).data[3] > 0")
    inside, outside = (x + width - 6, y + height - 6), (x + width + 12, y + 5)
    before = [colour(*inside), colour(*outside)]
    click(page, x + 8, y + 8)
    page.wait("document.querySelector('.instance .score').textContent.endsWith('%')")
    page.wait("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
    after = [colour(*inside), colour(*outside)]
    assert max(abs(a - b) for a, b in zip(before[0], after[0])) > 20
    assert before[1] == after[1]
    page.key("m")
    page.wait("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
    assert colour(*inside) == before[0]


def test_a_large_scene_loads_only_what_is_seen(page: Page, server: AnnotateServer) -> None:
    page.call("Page.navigate", url="about:blank")  # the address alone would not load the page again
    page.call("Page.navigate", url=f"{server.url}#4")
    page.wait(f"document.getElementById('name').textContent === 'large.png' && {READY}")
    pieces = "performance.getEntriesByType('resource').map(e => e.name.split('/piece/')[1]).filter(Boolean)"
    page.wait(f"{pieces}.length >= 2")
    assert not any(address.startswith("3/0/") for address in page.run(pieces)), "no full-size pixels for an overview"
    at = screen(page, 2600, 1000, 3000, 1200)
    page.wheel(*at, -1500)
    page.wait(f"{pieces}.some(address => address.startsWith('3/0/5/'))")
    assert not any(address.startswith("3/0/0/") for address in page.run(pieces)), "nothing far from the view"
    page.click(*at)
    ((x, y),) = saved(page, server, "large.png")[0].coords
    assert abs(x - 2600) < 2
    assert abs(y - 1000) < 2


def test_two_windows_on_one_image_lose_nothing(browser: Chromium, page: Page, server: AnnotateServer) -> None:
    other = browser.page(server.url)
    other.wait(READY)
    rows = "document.querySelectorAll('.instance').length"
    for i in range(4):
        click(page, 20 + 40 * i, 20, keys="shift")
        click(other, 20 + 40 * i, 120, keys="shift")
    for window in (page, other):
        window.wait(f"{rows} === 8")
    prompts = saved(page, server)
    assert sorted(drawn(prompts)) == sorted([[[20 + 40 * i, y, 1]] for i in range(4) for y in (20, 120)])
    assert len({prompt.id for prompt in prompts}) == 8
    # both add to one instance, one removes it, the other's undo finds it gone
    click(other, 20, 20)
    click(other, 60, 70)
    page.wait("document.querySelector('.instance .num').textContent === '2+'")
    page.run("document.querySelector('.instance .remove').click()")
    other.wait(f"{rows} === 7")
    other.key("z", "ctrl")
    assert "another window" in other.wait("document.getElementById('toast').textContent")
    assert len(saved(page, server)) == 7
    assert other.errors() == []
    other.close()


def test_a_point_made_while_the_server_is_away_is_saved_later(browser: Chromium, tmp_path: Path) -> None:
    write_scenes(tmp_path)
    with running(tmp_path) as server:
        page = browser.page(server.url)
        page.wait(READY)
        click(page, 70, 40)
        page.wait(SAVED)
        top = page.run("document.getElementById('canvas').getBoundingClientRect().top")
    click(page, 120, 90)
    page.key("n")
    click(page, 20, 20)
    page.wait("document.getElementById('saved').dataset.kind === 'unsaved'")
    assert "Not saved" in page.text("#saved")
    assert "Keep this window open" in page.text("#unsaved")
    assert page.run("document.getElementById('canvas').getBoundingClientRect().top") == top, "the image stays put"
    with running(tmp_path) as server:
        page.wait(SAVED)
        assert drawn(saved(page, server)) == [[[70, 40, 1], [120, 90, 1]], [[20, 20, 1]]]
        page.close()


def test_a_click_whose_answer_was_lost_is_one_instance(
    browser: Chromium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_scenes(tmp_path)
    apply = PointsStore.apply

    def lost(*about: Any) -> Any:
        apply(*about)
        raise ConnectionError  # on disk, and the answer never comes

    with running(tmp_path) as server:
        page = browser.page(server.url)
        page.wait(READY)
        monkeypatch.setattr(PointsStore, "apply", lost)
        click(page, 70, 40)
        page.wait("document.getElementById('saved').dataset.kind === 'unsaved'")
        monkeypatch.undo()
        server.store._answers.clear()  # as a new server
        page.wait(SAVED)
        click(page, 75, 45)
        assert drawn(saved(page, server)) == [[[70, 40, 1], [75, 45, 1]]]
        page.close()


def test_clicks_do_not_go_to_another_points_file_at_the_same_address(browser: Chromium, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_scenes(tmp_path / name)
    with running(tmp_path / "one") as server:
        port = server.server_port
        page = browser.page(server.url)
        page.wait(READY)
    click(page, 70, 40)
    page.wait("document.getElementById('saved').dataset.kind === 'unsaved'")
    with running(tmp_path / "two", port=port) as server:
        page.wait("document.getElementById('unsaved').textContent.includes('two/points.json is served here now')")
        assert not server.store.path.exists()
    with running(tmp_path / "one") as server:
        assert drawn(saved(page, server)) == [[[70, 40, 1]]]
        page.close()


def test_keys_are_explained_and_the_theme_follows_the_system(browser: Chromium, server: AnnotateServer) -> None:
    page = browser.page(server.url, dark=True)
    page.wait(READY)
    assert page.run("document.documentElement.dataset.theme") == "dark"
    page.key("?")
    assert "Right-click" in page.text("#help")
    page.key("n")
    page.key("Escape")
    page.wait("!document.getElementById('help').open")
    page.close()


def test_the_page_asks_nobody_else(page: Page, server: AnnotateServer) -> None:
    names = page.run("performance.getEntriesByType('resource').map(entry => entry.name)")
    assert names
    assert all(name.startswith(server.url) for name in names)
