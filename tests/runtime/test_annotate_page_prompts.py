"""The page of resam-annotate in a real browser: classes, boxes, several clicks, and what an engine proposes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from resam_runtime.annotate.server import AnnotateServer
from resam_runtime.masks.instance import Category
from resam_runtime.points import PointsFile

from .annotate_helpers import drawn_on, running
from .chromium import Chromium, Page, find_chromium
from .engines import write_engine
from .test_annotate_page import READY, SAVED, drawn, screen
from .test_automatic import LARGE, SMALL, scene

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium (apt install chromium)")
SIZE = (180, 150)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AnnotateServer]:
    """Two scenes of discs and one that is empty, and an engine that finds discs."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    for name, shapes in (("a.png", LARGE), ("b.png", []), ("c.png", LARGE[:2])):
        cv2.imwrite(str(folder / name), scene(*SIZE, shapes)[0][..., ::-1])
    write_engine(tmp_path / "model.resam", 64, 8, radius=24.0, by_value=True, finds=True)
    with running(folder, tmp_path / "model.resam") as one:
        yield one


@pytest.fixture
def page(browser: Chromium, server: AnnotateServer) -> Iterator[Page]:
    one = browser.page(server.url)
    one.wait(READY)
    yield one
    assert one.errors() == []
    one.close()


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    return screen(page, x, y, *SIZE)


def click(page: Page, x: float, y: float, button: str = "left", keys: str = "") -> None:
    page.click(*at(page, x, y), button, keys)


def add_class(page: Page, name: str) -> None:
    page.run("document.getElementById('class-new').click()")
    page.write(name)
    page.key("Enter")
    page.wait(
        f"[...document.querySelectorAll('#class-list .grow')].some((one) => one.textContent === {json.dumps(name)})"
    )


def listed(page: Page) -> list[str]:
    return [
        str(name)
        for name in page.run("[...document.querySelectorAll('#class-list .grow')].map((one) => one.textContent)")
    ]


def test_classes_have_names_and_keys(page: Page, server: AnnotateServer, browser: Chromium) -> None:
    page.key("p")  # no proposals in the way
    add_class(page, "ship")  # the next instances are of it
    click(page, 70, 40)
    add_class(page, "quay")  # and so is the current one
    page.key("n")
    click(page, 20, 100)
    page.key("n")
    page.key("1")
    click(page, 150, 20)
    page.key("n")
    page.key("1")  # none any more
    click(page, 100, 100)
    page.wait(SAVED)
    ship, quay = Category(1, "ship"), Category(2, "quay")
    assert [one.category for one in drawn_on(server.store.path, "a.png")] == [quay, quay, ship, None]
    page.key("2")
    page.key("z", "ctrl")
    page.key("[")
    page.key("2")
    page.wait(SAVED)
    assert [one.category for one in drawn_on(server.store.path, "a.png")] == [quay, quay, quay, None]
    other = browser.page(server.url)
    other.wait(READY)
    assert listed(other) == ["ship", "quay"]
    add_class(other, "car")
    page.wait("document.querySelectorAll('#class-list .row').length === 3")
    other.close()
    assert [one["name"] for one in PointsFile.open(server.store.path).categories] == ["ship", "quay", "car"]


def test_a_class_is_renamed_everywhere(page: Page, server: AnnotateServer) -> None:
    add_class(page, "shop")
    click(page, 70, 40)
    page.run("document.querySelector('#class-list .row').dispatchEvent(new MouseEvent('dblclick', {bubbles: true}))")
    page.run("document.querySelector('#class-edit input').value = ''")
    page.write("ship")
    page.key("Enter")
    page.wait("document.querySelector('#class-list .grow').textContent === 'ship'")
    page.wait(SAVED)
    assert drawn_on(server.store.path, "a.png")[0].category == Category(1, "ship")
    page.wait("document.querySelector('#instance-list').innerText.includes('ship')")


def test_three_clicks_on_a_small_object_are_three_points(page: Page, server: AnnotateServer) -> None:
    page.key("p")
    x, y = at(page, 60, 60)
    for dx in (0, 6, -6):  # screen pixels: an object 14 of them long
        page.click(x + dx, y)
    page.key("n")
    page.click(x + 80, y)
    page.wait(SAVED)
    assert [len(points) for points in drawn(drawn_on(server.store.path, "a.png"))] == [3, 1]
    page.click(x + 80, y)  # on the point itself: it is chosen, not doubled
    page.drag((x + 80, y), (x + 80, y + 40))
    page.wait(SAVED)
    [moved] = drawn_on(server.store.path, "a.png")[1].coords
    assert moved[1] > 65


def test_boxes_are_dragged_resized_and_taken_back(page: Page, server: AnnotateServer) -> None:
    page.key("p")

    def boxes() -> list[list[int] | None]:
        page.wait(SAVED)
        prompts = drawn_on(server.store.path, "a.png")
        return [None if one.box is None else [round(value) for value in one.box.tolist()] for one in prompts]

    def edges(x0: float, y0: float, x1: float, y1: float) -> tuple[tuple[float, float], tuple[float, float]]:
        return at(page, x0 - 0.5, y0 - 0.5), at(page, x1 + 0.5, y1 + 0.5)

    add_class(page, "ship")
    page.drag(*edges(20, 30, 59, 49), keys="shift")
    assert boxes() == [[20, 30, 59, 49]]
    click(page, 40, 40)  # of the same instance
    page.key("n")
    click(page, 100, 100)
    start, end = edges(90, 90, 120, 110)
    page.drag(end, start, keys="shift")  # around the current one, from any corner
    page.key("b")
    page.drag(*edges(130, 20, 150, 30))  # another has its box already: a new one
    assert boxes() == [[20, 30, 59, 49], [90, 90, 120, 110], [130, 20, 150, 30]]
    page.drag(at(page, 150.5, 30.5), at(page, 160.5, 45.5))  # by its corner
    assert boxes()[2] == [130, 20, 160, 45]
    page.key("b")
    page.key("z", "ctrl")
    assert boxes()[2] == [130, 20, 150, 30]
    page.click(*at(page, 150.5, 30.5))
    page.key("Delete")  # all it was
    page.key("[")
    page.click(*at(page, 120.5, 110.5))
    page.key("Delete")  # its point stays
    assert boxes() == [[20, 30, 59, 49], None]
    page.drag(at(page, 10.5, 10.5), at(page, -2, -2), keys="shift")  # beyond the edge
    assert boxes()[2] == [0, 0, 10, 10]
    prompts = drawn_on(server.store.path, "a.png")
    assert [len(one.coords) for one in prompts] == [1, 1, 0]
    assert {one.category for one in prompts} == {Category(1, "ship")}


def test_proposals_are_accepted_and_rejected(page: Page, server: AnnotateServer) -> None:
    page.wait(f"document.getElementById('hint').textContent.startsWith('{len(LARGE)} proposed')")
    first, second = LARGE[0], LARGE[1]
    page.mouse("mouseMoved", *at(page, first[0], first[1]))
    page.key("a")
    page.mouse("mouseMoved", *at(page, second[0], second[1]))
    page.key("r")
    page.wait(f"document.getElementById('hint').textContent.startsWith('{len(LARGE) - 2} proposed')")
    page.wait(SAVED)
    [accepted] = drawn_on(server.store.path, "a.png")
    assert abs(accepted.coords[0] - first[:2]).max() < 6
    assert accepted.category is not None
    assert accepted.category.name == "gray"
    held = json.loads(server.store.path.read_text())["scenes"]["a.png"]
    assert len(held["rejected"]) == 1
    page.key("z", "ctrl")
    page.key("z", "ctrl")
    page.wait(f"document.getElementById('hint').textContent.startsWith('{len(LARGE)} proposed')")
    page.key("Tab")
    for _ in LARGE:
        page.key("a")
        page.wait(SAVED)
    page.wait(f"document.querySelectorAll('#instance-list .row').length === {len(LARGE)}")
    names = [one.category.name for one in drawn_on(server.store.path, "a.png") if one.category]
    assert sorted(names) == sorted("white" if number % 2 else "gray" for number in range(len(LARGE)))
    assert sorted(listed(page)) == ["gray", "white"]


def test_a_click_decides_a_proposal_too_and_they_can_be_hidden(page: Page, server: AnnotateServer) -> None:
    page.wait(f"document.getElementById('hint').textContent.startsWith('{len(LARGE)} proposed')")
    click(page, *LARGE[0][:2])
    page.key("Escape")
    page.wait(f"document.getElementById('hint').textContent.startsWith('{len(LARGE) - 1} proposed')")
    page.key("p")
    page.key("a")
    page.wait("document.getElementById('toast').textContent.startsWith('No proposals here')")
    page.wait(SAVED)
    assert len(drawn_on(server.store.path, "a.png")) == 1


def test_images_are_ordered_by_uncertainty(page: Page, server: AnnotateServer) -> None:
    page.key("u")
    page.wait("document.getElementById('toast').textContent.startsWith('Least certain')")
    shown = page.run("[...document.querySelectorAll('#image-list .row')].map((row) => Number(row.dataset.index))")
    unsure = [server.preview.uncertainty(number) for number in range(3)]  # type: ignore[union-attr]
    assert [unsure[number] for number in shown] == sorted(unsure, reverse=True)
    assert shown[-1] == 1  # nothing to learn from what is empty
    page.key("u")
    assert page.run("[...document.querySelectorAll('#image-list .row')].map((row) => Number(row.dataset.index))") == [
        0,
        1,
        2,
    ]


def test_an_engine_that_finds_nothing_by_itself_offers_nothing(browser: Chromium, tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    cv2.imwrite(str(tmp_path / "scenes/a.png"), scene(64, 64, SMALL)[0])
    write_engine(tmp_path / "plain.resam")
    with running(tmp_path / "scenes", tmp_path / "plain.resam") as server:
        page = browser.page(server.url)
        page.wait(READY)
        assert page.run("['proposing', 'uncertain'].every((id) => document.getElementById(id).hidden)")
        page.key("a")
        page.wait("document.getElementById('toast').textContent.startsWith('No proposals without an engine')")
        assert page.errors() == []
        page.close()
