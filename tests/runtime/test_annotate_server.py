"""The server of resam-annotate: what it serves, and what it refuses."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from resam_runtime.annotate.cli import annotate
from resam_runtime.annotate.connections import MOST
from resam_runtime.annotate.images import SceneImages, levels, list_scenes
from resam_runtime.annotate.server import AnnotateServer, usual_port

from .annotate_helpers import BRIGHT, drawn_on, running, write_scenes
from .engines import write_engine


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AnnotateServer]:
    write_scenes(tmp_path / "scenes")
    with running(tmp_path / "scenes") as one:
        yield one


def ask(
    server: AnnotateServer, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, dict):
        body = json.dumps(body)
        given = {"Content-Type": "application/json", **given}
    connection.request(method, path, body, given)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, dict(response.headers), content


def scene(server: AnnotateServer, number: int) -> str:
    return f"/api/{server.session}/scene/{number}"


ADD = {"do": "add", "instance": None, "point": [3, 4], "label": 1}


def test_a_folder_is_listed_and_a_point_saved(server: AnnotateServer) -> None:
    folder = json.loads(ask(server, "GET", "/api/folder")[2])
    assert [entry["name"] for entry in folder["scenes"]] == ["a.png", "b.png", "c.png", "large.png"]
    status, _, content = ask(server, "POST", scene(server, 2), ADD)
    assert (status, json.loads(content)["instance"]) == (200, 1)
    assert drawn_on(server.store.path, "c.png")[0].coords.tolist() == [[3, 4]]
    changes = json.loads(ask(server, "GET", f"/api/{server.session}/changes/{folder['version']}")[2])
    assert [(entry["index"], entry["instances"]) for entry in changes["scenes"]] == [(2, 1)]


def test_a_broken_image_is_told_and_the_others_go_on(server: AnnotateServer) -> None:
    answer = json.loads(ask(server, "GET", scene(server, 1))[2])
    assert "b.png" in answer["problem"]
    assert ask(server, "POST", scene(server, 1), ADD)[0] == 500
    assert json.loads(ask(server, "GET", scene(server, 0))[2])["width"] == 200


def test_points_made_for_another_size_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    wrong = {"scenes": {"a.png": {"width": 9, "height": 9, "instances": [{"id": 1, "points": [[1, 1]]}]}}}
    (tmp_path / "points.json").write_text(json.dumps(wrong))
    with running(tmp_path) as server:
        assert "9 x 9" in json.loads(ask(server, "GET", scene(server, 0))[2])["problem"]
        assert ask(server, "POST", scene(server, 0), ADD)[0] == 400
    assert json.loads((tmp_path / "points.json").read_text()) == wrong


@pytest.mark.parametrize("level", [0, 1, 2])
def test_pieces_show_the_scene_at_every_level(server: AnnotateServer, level: int) -> None:
    shown = np.zeros((1200, 3000, 3), np.uint8)
    step = 512 << level
    for row in range(-(-1200 // step)):
        for column in range(-(-3000 // step)):
            status, headers, content = ask(server, "GET", f"/api/{server.session}/piece/3/{level}/{column}/{row}")
            assert (status, headers["Content-Type"]) == (200, "image/jpeg")
            piece = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB)
            assert piece is not None
            part = shown[row * step : (row + 1) * step, column * step : (column + 1) * step]
            part[:] = cv2.resize(piece, (part.shape[1], part.shape[0]), interpolation=cv2.INTER_LINEAR)
    truth = cv2.imread(str(server.images.root / "large.png"), cv2.IMREAD_COLOR_RGB)
    assert np.abs(shown.astype(int) - truth).max() <= 6


def test_coarse_levels_come_from_an_overview_and_from_windows_alike(tmp_path: Path) -> None:
    large = np.tile(np.arange(9000, dtype=np.uint32) * 255 // 9000, (300, 1)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "wide.png"), large)
    images = SceneImages(*list_scenes(tmp_path))
    assert levels(9000, 300) == 6
    for level in range(6):  # 0 to 1: windows; 2 on: overview
        step = 512 << level
        column = 8999 // step
        piece = cv2.imdecode(np.frombuffer(images.piece(0, level, column, 0), np.uint8), cv2.IMREAD_GRAYSCALE)
        assert piece is not None
        assert piece.shape == (-(-300 >> level), -(-(9000 - column * step) >> level))
        assert abs(int(piece[0, 0]) - (column * step) * 255 // 9000) <= 2 + level
        with pytest.raises(IndexError):
            images.piece(0, level, column + 1, 0)
    images.close()


@pytest.mark.parametrize(
    "path",
    [
        "/../points.json",
        "/..%2fpoints.json",
        "/page/../../cli.py",
        "/points.json",
        "/a.png",
        "/api/SESSION/scene/..%2f..%2fetc%2fpasswd",
        "/api/SESSION/scene/-1",
        "/api/SESSION/scene/4",
        "/api/SESSION/scene/99999999999999999999",
        "/api/SESSION/scene/\u00b2",
        "/api/SESSION/piece/0/0/9/0",
        "/api/SESSION/piece/0/70/0/0",
        "/api/SESSION/piece/0/0/0",
        "/api/SESSION/masks/0",
        "/api/",
    ],
)
def test_no_address_leads_out_of_the_listing(server: AnnotateServer, path: str) -> None:
    path = path.replace("SESSION", server.session).replace("\u00b2", "%C2%B2")
    assert ask(server, "GET", path)[0] == 404


def test_a_number_that_json_does_not_know_reaches_no_points_file(server: AnnotateServer) -> None:
    value = {"id": 7, "points": [[3, 4]], "labels": [1], "gsd": float("nan")}
    status, _, content = ask(server, "POST", scene(server, 0), {"do": "restore", "value": value})
    assert (status, json.loads(content)) == (400, {"problem": "not JSON"})
    assert not server.store.path.exists()


def test_an_old_page_learns_that_the_server_is_new(server: AnnotateServer) -> None:
    assert ask(server, "GET", "/api/0123456789abcdef/scene/0")[0] == 410
    assert ask(server, "POST", "/api/0123456789abcdef/scene/0", ADD)[0] == 410


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "192.168.0.7"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:9000"}, 200),
        ({"Host": "[::1]:9000"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://OWN", "Host": "OWN"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_other_sites_cannot_write(server: AnnotateServer, headers: dict[str, str], status: int) -> None:
    own = f"127.0.0.1:{server.server_port}"
    given = {name: value.replace("OWN", own) for name, value in headers.items()}
    assert ask(server, "POST", scene(server, 0), ADD, **given)[0] == status
    assert server.store.path.exists() == (status == 200)


def test_other_machines_reach_it_by_every_name_of_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    online = threading.Event()

    def slow() -> str:
        online.wait(60)
        return "Desk.example.org"

    monkeypatch.setattr(socket, "gethostname", lambda: "Desk")
    monkeypatch.setattr(socket, "getfqdn", slow)
    write_scenes(tmp_path)
    with running(tmp_path, host="0.0.0.0") as one:
        names = ["desk", "Desk.local", "desk.local.", "192.168.0.7", "localhost"]
        assert [ask(one, "GET", "/api/folder", Host=f"{name}:{one.server_port}")[0] for name in names] == [200] * 5
        others = ["desk.example.org", "other.local", "desk.local.evil.example", ""]
        assert [ask(one, "GET", "/api/folder", Host=name)[0] for name in others] == [403] * 4
        online.set()
        deadline = time.monotonic() + 30
        while ask(one, "GET", "/api/folder", Host=others[0])[0] != 200 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [ask(one, "GET", "/api/folder", Host=name)[0] for name in others] == [200, 403, 403, 403]


def test_answers_cannot_be_framed_or_read_elsewhere(server: AnnotateServer) -> None:
    for path in ("/", "/app.js", "/api/folder", "/nothing"):
        headers = ask(server, "GET", path)[1]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ("{", {}, 400),
        ("[]", {}, 400),
        ("[" * 100_000, {}, 400),
        ('{"do": "add", "point": [NaN, 1], "label": 1}', {}, 400),
        (b"\xff\xfe", {}, 400),
        ("", {"Content-Length": str(1 << 40)}, 413),
        ("", {"Content-Length": "9" * 5000}, 413),
        ("", {"Content-Length": "-5"}, 411),
        ("", {"Transfer-Encoding": "chunked"}, 411),
    ],
)
def test_bad_bodies_are_refused(
    server: AnnotateServer, body: str | bytes, headers: dict[str, str], status: int
) -> None:
    lines = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    if "Transfer-Encoding" in headers:
        del lines["Content-Length"]
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    raw = body.encode() if isinstance(body, str) else body
    with socket.create_connection(("127.0.0.1", server.server_port), 60) as connection:
        connection.sendall(f"POST {scene(server, 0)} HTTP/1.1\r\n{head}\r\n".encode() + raw)
        assert connection.recv(100).startswith(f"HTTP/1.1 {status} ".encode())
    assert not server.store.path.exists()


def test_a_length_of_odd_digits_is_a_bad_request(server: AnnotateServer) -> None:
    head = f"POST {scene(server, 0)} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.server_port), 60) as connection:
        connection.sendall(f"{head}Content-Length: \xb2\r\n\r\n".encode("latin-1"))
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


def test_half_open_connections_keep_nobody_out(server: AnnotateServer) -> None:
    before, half = threading.active_count(), []
    try:
        for number in range(300):
            half.append(socket.create_connection(("127.0.0.1", server.server_port), 60))
            half[-1].sendall(b"" if number % 3 == 0 else b"POST / HTTP/1.1\r\nHost: loc")
        assert ask(server, "GET", "/api/folder")[0] == 200
        end = time.monotonic() + 30
        while threading.active_count() > before + MOST + 5 and time.monotonic() < end:
            time.sleep(0.05)
        assert threading.active_count() <= before + MOST + 5
        assert half[0].recv(10) == b""  # the one that had waited longest was closed
    finally:
        for connection in half:
            connection.close()


def test_a_request_in_work_is_not_shut_for_new_connections(server: AnnotateServer, monkeypatch: Any) -> None:
    started, may_end, answers = threading.Event(), threading.Event(), []

    def slow(*_: object) -> list[dict[str, Any]]:
        started.set()
        may_end.wait(60)
        return []

    monkeypatch.setattr(server.store, "classes", slow)
    asking = threading.Thread(target=lambda: answers.append(ask(server, "GET", "/api/folder")[0]))
    asking.start()
    assert started.wait(60)
    half = [socket.create_connection(("127.0.0.1", server.server_port), 60) for _ in range(2 * MOST)]
    may_end.set()
    asking.join(60)
    for connection in half:
        connection.close()
    assert answers == [200]


def test_masks_are_those_of_the_engine(tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes")
    engine = tmp_path / "model.resam"
    write_engine(engine, image_size=128, radius=60, by_value=True, max_points_per_instance=2)
    x, y, width, height = BRIGHT
    with running(tmp_path / "scenes", engine) as server:
        for point in ([x + 5, y + 5], [120, 120]):
            ask(server, "POST", scene(server, 0), {**ADD, "point": point})
        ask(server, "POST", scene(server, 0), {**ADD, "instance": 2, "point": [121, 121], "label": 0})
        ask(server, "POST", scene(server, 0), {**ADD, "instance": 2, "point": [122, 121], "label": 0})
        wanted = {"instances": [1, 2, 77]}
        status, _, content = ask(server, "POST", f"/api/{server.session}/masks/0", wanted)
        assert status == 200
        masks = {mask["id"]: mask for mask in json.loads(content)["masks"]}
    assert set(masks) == {1, 2}
    assert "3 points, the engine takes 2" in masks[2]["problem"]
    ring = np.array(masks[1]["polygons"][0][0]).reshape(-1, 2)
    # the block's outline, along pixel edges; mask cells are some pixels wide
    expected = [x - 0.5, y - 0.5, x + width - 0.5, y + height - 0.5]
    np.testing.assert_allclose([*ring.min(0), *ring.max(0)], expected, atol=2)


def run_command(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(annotate, [*arguments, "--no-browser"])
    return result.exit_code, result.output


def test_errors_are_one_line_and_exit_2(tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    write_scenes(scenes)
    empty = tmp_path / "empty"
    empty.mkdir()
    bad = tmp_path / "bad.json"
    bad.write_text("{")
    (tmp_path / "file").write_text("x")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = {
            "no such folder": [str(tmp_path / "nowhere")],
            "not an image": [str(tmp_path / "file")],
            "no images": [str(empty)],
            "not JSON": [str(scenes), "-o", str(bad)],
            "cannot be written": [str(scenes), "-o", str(tmp_path / "file" / "points.json")],
            "is a folder": [str(scenes), "-o", str(tmp_path / "dir.json")],
            "ending in .json": [str(scenes), "-o", str(tmp_path / "points.csv")],
            "cannot listen": [str(scenes), "--port", port],
            "name.invalid": [str(scenes), "--host", "name.invalid"],
            "model.resam": [str(scenes), "--engine", str(tmp_path / "model.resam")],
        }
        (tmp_path / "dir.json").mkdir()
        for expected, arguments in cases.items():
            code, output = run_command(*arguments)
            assert code == 2, (expected, output)
            assert expected in output
            assert output.startswith("error: ")
            assert output.count("\n") == 1
    assert bad.read_text() == "{"


def test_a_points_file_keeps_its_port(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_scenes(tmp_path / name)
    with running(tmp_path / "one") as server:
        port = server.server_port
        assert 20_000 <= port < 32_000
        with running(tmp_path / "one") as second:  # taken: any other will do
            assert second.server_port != port
        with running(tmp_path / "two") as other:
            assert other.server_port != port
    (tmp_path / "link").symlink_to(tmp_path / "one")
    with running(tmp_path / "link") as server:
        assert server.server_port == port, "the same points by another name"


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_stopped(tmp_path: Path, ending: signal.Signals) -> None:
    write_scenes(tmp_path)
    start = "from resam_runtime.annotate.cli import annotate; annotate()"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", start, str(tmp_path), "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert "4 images" in process.stdout.readline()
    address = process.stdout.readline().split()[0]
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    assert port == usual_port((tmp_path / "points.json").resolve())
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/")
    assert b"resam-annotate" in connection.getresponse().read()
    process.send_signal(ending)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
