"""`ltcam review`: who is let in, what is saved, and the page in a browser."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import SYNTHETIC, Cli, Run, half_written
from PIL import Image

from ltcam_cli.data.folder import Folder
from ltcam_cli.data.load import load_split
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments import review as experiment
from ltcam_cli.report.review import Review, ReviewServer
from ltcam_cli.runs.corrections import Corrections

# Probability and size of each image; two of the sizes are no multiples of eight pixels.
IMAGES = {
    "defect/sub/a": (0.9, (40, 48)),
    "defect/b": (0.55, (33, 47)),
    "good/<s>&amp;": (0.52, (61, 31)),
    "good/d": (0.1, (40, 48)),
}
ORDER = [
    "good/<s>&amp;",
    "defect/b",
    "defect/sub/a",
    "good/d",
]  # unsure first, of the threshold 0.5
TABLE = {"name": [], "region": [], "top": [], "left": [], "bottom": [], "right": [], "area": [],
         "length": [], "width": [], "score": []}  # fmt: skip


@pytest.fixture
def predicted(tmp_path: Path) -> Path:
    """A data set in `images`, and its predictions as `ltcam predict` writes them."""
    random, out, rows = np.random.default_rng(0), tmp_path / "predicted", []
    for name, (probability, size) in IMAGES.items():
        path = tmp_path / "images" / f"{name}.png"
        mask = random.random(size) < (0.2 if probability > 0.5 else 0)
        written = {path: random.integers(90, 160, size, dtype=np.uint8)}
        written[out / "masks" / f"{name}.png"] = mask.astype(np.uint8) * 255
        for file, pixels in written.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
        rows.append((name, str(path), probability, int(probability > 0.5), 0, mask.sum(), "0" * 16))
    columns = ["name", "path", "probability", "predicted", "regions", "area", "content"]
    pd.DataFrame(rows, columns=columns).to_csv(out / "scores.csv", index=False)
    pd.DataFrame(TABLE).to_csv(out / "regions.csv", index=False)
    config = {"hash": "x", "method": {}, "segmenter": {}, "threshold": 0.5, "white": 4095.0}
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    return out


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Review, int]]:
    """Reviews that would be served until an interruption."""
    reviews: list[tuple[Review, int]] = []
    monkeypatch.setattr(experiment, "serve", lambda *given: reviews.append(given))
    return reviews


@contextmanager
def serving(folder: Path, reviews: list[tuple[Review, int]]) -> Iterator[ReviewServer]:
    experiment.review_predictions(folder, None, 0)
    review, _ = reviews[-1]
    with ReviewServer(review) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(predicted: Path, served: list[tuple[Review, int]]) -> Iterator[ReviewServer]:
    with serving(predicted, served) as started:
        yield started


def ask(
    server: ReviewServer, path: str, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    """Answer to a request whose path is sent as it is, with `~` for the token."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.request(method, path.replace("~", f"/{server.token}/"), body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def bits(mask: np.ndarray) -> bytes:
    """A mask, eight pixels a byte, by a plain loop."""
    text = "".join("1" if pixel else "0" for pixel in mask.ravel())
    return bytes(int(text[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(text), 8))


def mask_at(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)) > 0


def own_samples(folder: Path) -> dict[str, Sample]:
    """The data set with the folder's corrections, by the files' names."""
    corrections = folder / "corrections"
    dataset = Folder(
        root=str(folder.parent / "images"), annotations=str(corrections),
        labels=str(corrections / "labels.csv"), test_fraction=0.5,
    )  # fmt: skip
    samples = load_split(dataset).part("all")
    return {str(s.path.relative_to(dataset.root).with_suffix("")): s for s in samples if s.path}


# --- who is let in


def test_only_the_printed_address_is_answered(server: ReviewServer) -> None:
    assert server.server_address[0] == "127.0.0.1" and len(server.token) >= 32
    port = server.server_port
    for path in ("/", "/images", "/style.css", "//images", "/x/images", f"/{server.token}",
                 f"/{server.token[:-1]}/", f"/{server.token}x/images", f"/%2f{server.token}/",
                 ):  # fmt: skip
        status, body, _ = ask(server, path)
        assert status == 403 and b"address" in body, path
    for host in ("evil.com", f"evil.com:{port}", f"127.0.0.1.evil.com:{port}", "", "[", "0.0.0.0",
                 f"localhost:{port}@evil.com"):  # fmt: skip
        assert ask(server, "~images", Host=host)[0] == 403, host
    for origin in ("http://evil.com", "null", f"http://127.0.0.1:{port + 1}"):
        assert ask(server, "~good/0", "POST", b"", Origin=origin)[0] == 403
        assert ask(server, "~decision/0", "DELETE", Origin=origin)[0] == 403
    assert ask(server, "~images", Host=f"localhost:{port}")[0] == 200
    assert ask(server, "~", Origin=f"http://127.0.0.1:{port}")[0] == 200
    assert not server.review.corrections.rows


def test_there_is_no_way_to_other_files(server: ReviewServer, predicted: Path) -> None:
    for path in ("~../scores.csv", "~photo/../../scores.csv", "~photo/-1", "~photo/4", "~photo/0/",
                 "~photo/%2e%2e", "~photo/0x0", "~photo/",
                 "~run.html", "~review.html", "~..%2f..%2fpyproject.toml", "~_jpeg/0", "~decide/0",
                 "~/etc/passwd", "~mask", "~corrections/0"):  # fmt: skip
        assert ask(server, path)[0] == 404, path
        assert ask(server, path, "POST", b"x")[0] == 404, path
        assert ask(server, path, "DELETE")[0] == 404, path
    assert not (predicted / "corrections" / "labels.csv").exists()


def test_the_page_loads_nothing_from_elsewhere(server: ReviewServer) -> None:
    for path in ("~", "~review.js", "~review.css", "~style.css"):
        status, body, headers = ask(server, path)
        assert status == 200 and b"http://" not in body and b"https://" not in body
        assert b"innerHTML" not in body
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"]


# --- what is saved


def test_images_come_unsure_first_as_they_are(server: ReviewServer, predicted: Path) -> None:
    listed = json.loads(ask(server, "~images")[1])
    assert [image["name"] for image in listed] == ORDER
    assert listed[0] == {
        "name": ORDER[0], "probability": 0.52, "predicted": 1, "regions": 0, "label": None,
        "decision": None,
    }  # fmt: skip
    for number, name in enumerate(ORDER):
        assert ask(server, f"~mask/{number}")[1] == bits(mask_at(predicted / f"masks/{name}.png"))
        photo = Image.open(predicted.parent / "images" / f"{name}.png")
        for what, size in (("photo", photo.size), ("thumbnail", None)):
            status, body, headers = ask(server, f"~{what}/{number}")
            assert status == 200 and headers["Content-Type"] == "image/jpeg"
            (number_file := predicted / "answer.jpg").write_bytes(body)
            with Image.open(number_file) as shown:
                assert size in {None, shown.size}
                near = np.asarray(shown.convert("L"), float)
            if size:
                assert abs(near - np.asarray(photo, float)).mean() < 4


def test_corrections_come_back_as_the_data_sets_masks(
    server: ReviewServer, predicted: Path
) -> None:
    dot = np.zeros(IMAGES["good/d"][1], bool)
    dot[39, 47] = True  # the last pixel
    kept = mask_at(predicted / "masks/defect/b.png")
    answers = [
        ask(server, "~good/0", "POST", bits(np.ones(IMAGES[ORDER[0]][1], bool))),
        ask(server, "~defective/1", "POST", bits(kept)),
        ask(server, "~defective/2", "POST", bits(np.zeros(IMAGES[ORDER[2]][1], bool))),
        ask(server, "~defective/3", "POST", bits(dot)),
    ]
    assert [status for status, _, _ in answers] == [200] * 4
    decisions = [json.loads(body)["decision"] for _, body, _ in answers]
    assert decisions == ["rejected", "accepted", "repainted", "repainted"]
    samples = own_samples(predicted)
    assert {name: sample.label for name, sample in samples.items()} == {
        "good/<s>&amp;": 0, "defect/b": 1, "defect/sub/a": 1, "good/d": 1,
    }  # fmt: skip
    empty = np.zeros(IMAGES[ORDER[0]][1], bool)
    for name, mask in (("good/<s>&amp;", empty), ("defect/b", kept), ("good/d", dot)):
        found = samples[name].mask
        assert found is not None and np.array_equal(found, mask), name
    assert samples["defect/sub/a"].mask is None  # defective, and nobody knows where
    assert not half_written(predicted)
    # A decision is changed, and taken back.
    ask(server, "~defective/0", "POST", bits(~empty))
    assert ask(server, "~mask/0")[1] == bits(~empty)
    assert json.loads(ask(server, "~decision/1", "DELETE")[1])["decision"] is None
    samples = own_samples(predicted)
    assert samples["good/<s>&amp;"].label == 1 and samples["defect/b"].mask is None
    assert samples["good/<s>&amp;"].mask.all()  # type: ignore[union-attr]
    assert np.array_equal(kept, mask_at(predicted / "masks/defect/b.png"))


def test_a_save_that_fails_leaves_what_was_there(
    server: ReviewServer, predicted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros(IMAGES["defect/b"][1], bool)
    mask[:9] = True
    assert ask(server, "~defective/1", "POST", bits(mask))[0] == 200
    for wrong in (b"", bits(mask)[:-1], bits(mask) + b"\0"):
        assert ask(server, "~defective/1", "POST", wrong)[0] == 409
    assert ask(server, "~good/1", "POST", b"x" * 8, **{"Content-Length": "99999999999"})[0] == 413
    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        status, body, _ = ask(server, "~defective/1", "POST", bits(~mask))
    assert status == 409 and b"full" in body and b"b.png" in body
    assert np.array_equal(own_samples(predicted)["defect/b"].mask, mask)  # type: ignore[arg-type]
    (predicted / "masks/defect/b.png").unlink()
    status, body, _ = ask(server, "~mask/1")
    assert status == 409 and b"predict the images anew" in body
    assert not half_written(predicted)


def test_a_restart_knows_what_was_decided(
    predicted: Path, served: list[tuple[Review, int]]
) -> None:
    mask = np.zeros(IMAGES["good/d"][1], bool)
    mask[3, 4:9] = True
    with serving(predicted, served) as server:
        ask(server, "~defective/3", "POST", bits(mask))
        ask(server, "~good/1", "POST", bits(np.zeros(IMAGES["defect/b"][1], bool)))
        token = server.token
    with serving(predicted, served) as server:
        assert server.token != token and server.review.reviewed == 2
        assert server.review.reader.white == 4095  # of the prediction, not `auto`
        listed = json.loads(ask(server, "~images")[1])
        decisions = {image["name"]: (image["label"], image["decision"]) for image in listed}
        assert decisions["good/d"] == (1, "repainted") and decisions["defect/b"] == (0, "rejected")
        assert ask(server, "~mask/3")[1] == bits(mask)
        assert not any(ask(server, "~mask/1")[1])


def test_all_of_many_decisions_at_once_are_kept(server: ReviewServer, predicted: Path) -> None:
    def decide(number: int) -> int:
        mask = np.zeros(IMAGES[ORDER[number % 4]][1], bool)
        return ask(server, f"~good/{number % 4}", "POST", bits(mask))[0]

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(decide, range(32))) == {200}
    table = pd.read_csv(predicted / "corrections/labels.csv")
    assert table["name"].tolist() == sorted(IMAGES) and table["label"].sum() == 0


def test_other_files_are_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").write_bytes(b"drawn by hand")
    with pytest.raises(LtcamError, match="holds no corrections"), ExitStack() as stack:
        stack.enter_context(Corrections.opened(tmp_path / "mine"))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "labels.csv").write_text("name,label,decision\na,1,acc")
    with pytest.raises(LtcamError, match="damaged"), ExitStack() as stack:
        stack.enter_context(Corrections.opened(tmp_path / "damaged"))
    with Corrections.opened(tmp_path / "new") as corrections:
        for name in ("../a", "/a", "b/../../a"):
            with pytest.raises(LtcamError, match="leads out"):
                corrections.save(name, 0, np.zeros((2, 2), bool), "rejected")
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "damaged", "new"}


# --- the command


@pytest.mark.slow
def test_the_command_ends_by_an_interruption(cli: Cli, predicted: Path) -> None:
    process = cli.start("review", predicted)
    assert process.stdout is not None
    assert process.stdout.readline() == "4 images, 0 reviewed; Ctrl-C ends\n"
    address = urlsplit(process.stdout.readline().strip())
    assert address.hostname == "127.0.0.1" and len(address.path) > 32
    connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=10)
    body = bits(np.zeros(IMAGES[ORDER[0]][1], bool))
    connection.request("POST", f"{address.path}good/0", body)
    assert connection.getresponse().status == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert out == f"{predicted / 'corrections'}: 1 of 4 images reviewed\n"
    assert (process.returncode, err) == (0, "")
    assert not half_written(predicted)


def test_what_cannot_be_reviewed(cli: Cli, tiny_run: Run, predicted: Path) -> None:
    cli.fault("review", "nope", says=["nope", "no such run"])
    cli.fault(
        "review",
        tiny_run.path,
        "method=gradcam",
        says=["on the fly", "ltcam data synth"],
        logs=True,
    )
    (predicted / "scores.csv").rename(predicted / "elsewhere.csv")
    (predicted / "shard.1of2.json").write_text("{}")
    cli.fault("review", predicted, says=["join its shards", "ltcam runs gather"])
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(LtcamError, match="--port"):
        ReviewServer(None, taken.getsockname()[1])  # type: ignore[arg-type]


def test_a_runs_own_training_images(
    cli: Cli, tiny_run: Run, served: list[tuple[Review, int]]
) -> None:
    """Their masks are predicted, and the corrections lie in the run, whatever drew the masks."""
    outputs = cli.folder / "outputs"
    shutil.copytree(tiny_run.outputs, outputs)
    cli.ok("data", "synth", "made", *(word for word in SYNTHETIC if word.startswith("dataset")))
    run = outputs / tiny_run.name
    given = ["dataset=folder", "dataset.root=made", "dataset.height=64", "dataset.width=64",
             "dataset.channels=1", "threads=1", "predict.overlays=false"]  # fmt: skip
    cli.ok("review", run, "method=gradcam", *given)
    cli.ok("review", tiny_run.name, "method=ltlayercam", *given, "--port", "0")
    (first, _), (second, _) = served
    folders = [each.corrections.folder.resolve() for each in (first, second)]
    assert folders == [(run / "corrections").resolve()] * 2
    assert first.folder != second.folder
    names = {image["name"] for image in first.images}
    split = load_split(Folder(root="made"))
    assert names == {sample.name for sample in split.train}
    cli.ok("review", run, "method=gradcam", *given, "evaluation.split=test")
    assert {image["name"] for image in served[-1][0].images} == {s.name for s in split.test}
    first.corrections.save(first.images[0]["name"], 0, np.zeros((64, 64), bool), "rejected")
    cli.fault("runs", "rm", tiny_run.name, "--yes", says=["corrections", "a person corrected"])
    assert run.is_dir()


# --- in a browser


@dataclass
class Browser:
    """The page in a browser, as one sees and touches it."""

    driver: Any

    def run(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)

    def one(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def text(self, name: str) -> str:
        return str(self.run("return document.getElementById(arguments[0]).textContent", name))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.one("body").send_keys(key)

    def wait(self, condition: Callable[[], Any]) -> None:
        for _ in range(500):
            if condition():
                return
            time.sleep(0.01)
        raise AssertionError(self.text("status"))

    def wait_for(self, name: str) -> None:
        """Wait until the image of a name can be edited."""
        ready = "return !document.getElementById('accept').disabled"
        self.wait(lambda: self.text("name") == name and self.run(ready))

    def mask(self) -> np.ndarray:
        """What is painted over the image, (H, W) bool."""
        width, height, alpha = self.run(
            "const c = document.getElementById('mask'), copy = c.cloneNode();"
            "const context = copy.getContext('2d', {willReadFrequently: true});"
            "context.drawImage(c, 0, 0);"
            "const data = context.getImageData(0, 0, c.width, c.height).data;"
            "return [c.width, c.height, [...data].filter((_, i) => i % 4 === 3)]"
        )
        return np.array(alpha).reshape(height, width) > 0

    def drag(self, *steps: tuple[float, float]) -> None:
        """Draw from a pixel of the image to others."""
        from selenium.webdriver import ActionChains

        left, top, scale = self.run(
            "const c = document.getElementById('mask'), b = c.getBoundingClientRect();"
            "return [b.left, b.top, b.width / c.width]"
        )
        actions = ActionChains(self.driver, duration=20).w3c_actions
        for number, (x, y) in enumerate(steps):
            place = int(left + x * scale), int(top + y * scale)
            actions.pointer_action.move_to_location(*place)
            if not number:
                actions.pointer_action.pointer_down()
        actions.pointer_action.pointer_up()
        actions.perform()


@pytest.fixture
def browser(driver: Any, server: ReviewServer) -> Iterator[Browser]:
    with opened(driver, server) as page:
        yield page


@contextmanager
def opened(driver: Any, server: ReviewServer) -> Iterator[Browser]:
    """The page; in the end its console must be empty, and no other server asked."""
    driver.get(server.address)
    yield Browser(driver)
    assert driver.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [m["params"]["request"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    ours = server.address, "data:", f"blob:http://127.0.0.1:{server.server_port}/"
    assert asked and all(request["url"].startswith(ours) for request in asked), asked
    driver.get("about:blank")
    driver.get_log("performance")


def test_a_mask_is_painted_and_saved(browser: Browser, predicted: Path) -> None:
    browser.wait_for(ORDER[0])
    before = browser.mask()
    assert np.array_equal(before, mask_at(predicted / f"masks/{ORDER[0]}.png"))
    assert browser.text("progress") == "0 of 4 reviewed"
    browser.press("c")
    assert not browser.mask().any()
    browser.press("b", "[", "]")
    browser.drag((5, 20), (25, 20))
    painted = browser.mask()
    rows, columns = np.nonzero(painted)
    assert 4 <= np.ptp(rows) + 1 <= 10 and 24 <= np.ptp(columns) + 1 <= 31
    assert painted[20, 5:25].all()
    browser.press("e")
    browser.drag((15, 15), (15, 27))
    erased = browser.mask()
    assert not erased[20, 15] and erased[20, 5] and erased[20, 24] and not (erased & ~painted).any()
    browser.press("z")
    assert np.array_equal(browser.mask(), painted)
    browser.press("z", "z")
    assert np.array_equal(browser.mask(), before)
    browser.press("y", "y", "y", "y")
    assert np.array_equal(browser.mask(), erased)
    browser.press("a")
    browser.wait_for(ORDER[1])
    assert browser.text("progress") == "1 of 4 reviewed"
    saved = own_samples(predicted)[ORDER[0]]
    assert saved.label == 1 and np.array_equal(saved.mask, erased)  # type: ignore[arg-type]


def test_all_is_done_by_keys(browser: Browser, predicted: Path) -> None:
    from selenium.webdriver import Keys

    browser.wait_for(ORDER[0])
    browser.press("r")  # it is good
    browser.wait_for(ORDER[1])
    browser.press(Keys.ARROW_RIGHT)
    browser.wait_for(ORDER[2])
    browser.press("c", "l", "l", Keys.ARROW_LEFT)  # the change is kept till one comes back
    browser.wait_for(ORDER[1])
    assert "not saved" in browser.one("[data-number='2'] span").text
    browser.press("a")
    browser.wait_for(ORDER[2])
    assert not browser.mask().any()
    browser.press("a")
    browser.wait_for(ORDER[3])
    browser.press("l")
    assert browser.one("#defective").get_attribute("aria-checked") == "true"
    browser.press("l", "a")
    browser.wait(lambda: "all images are reviewed" in browser.text("status"))
    table = pd.read_csv(predicted / "corrections/labels.csv").set_index("name")
    assert table.loc[ORDER, "label"].tolist() == [0, 1, 1, 0]
    decisions = ["rejected", "accepted", "repainted", "accepted"]
    assert table.loc[ORDER, "decision"].tolist() == decisions
    files = {path.stem for path in predicted.glob("corrections/masks/**/*.png")}
    assert files == {"<s>&amp;", "b", "d"}
    browser.press("u")
    browser.wait(lambda: browser.text("progress") == "3 of 4 reviewed")
    browser.driver.refresh()  # what was decided is still there
    browser.wait_for(ORDER[3])
    assert browser.one("[data-number='0'] span").text == "✓ rejected: good"
    assert browser.one("[data-number='0'] b").text == ORDER[0]
    hidden = browser.run("return document.getElementById('mask').style.opacity")
    browser.press("h")
    assert (hidden, browser.run("return document.getElementById('mask').style.opacity")) == (
        "0.5",
        "0",
    )


def test_an_image_that_is_gone_is_said(browser: Browser, predicted: Path) -> None:
    browser.wait_for(ORDER[0])
    (predicted.parent / "images/defect/sub/a.png").unlink()
    browser.one("[data-number='2']").click()
    browser.wait(lambda: "a.png" in browser.text("status"))
    assert not browser.one("#picture").is_displayed() and not browser.one("#accept").is_enabled()
    browser.driver.get_log("browser")  # Chromium logs the refusal


def test_two_thousand_images(
    driver: Any, predicted: Path, served: list[tuple[Review, int]]
) -> None:
    """The list holds the rows that are seen, and nothing else is asked for."""
    scores = pd.read_csv(predicted / "scores.csv").iloc[[0] * 2000]
    scores["name"] = [f"part{number:04d}" for number in range(2000)]
    scores["probability"] = 0.5 + np.arange(2000) / 1e4
    scores.to_csv(predicted / "scores.csv", index=False)
    for name in scores["name"]:
        os.link(predicted / "masks/defect/sub/a.png", predicted / f"masks/{name}.png")
    with serving(predicted, served) as server, opened(driver, server) as browser:
        browser.wait_for("part0000")
        assert browser.text("progress") == "0 of 2000 reviewed"
        rows = "return [...document.querySelectorAll('.item b')].map((b) => b.textContent)"
        assert 10 < len(browser.run(rows)) < 60
        browser.run("document.getElementById('list').scrollTop = 1e9")
        browser.wait(lambda: browser.run(rows)[-1] == "part1999")
        assert len(browser.run(rows)) < 60
        seen = "return [...document.querySelectorAll('.item img')].every((i) => i.naturalWidth)"
        browser.wait(lambda: browser.run(seen))
        browser.one("#search").send_keys("part123")
        assert browser.run(rows) == [f"part123{n}" for n in range(10)]
        browser.one("[data-number='1234']").click()
        browser.wait_for("part1234")
        browser.press("a")
        browser.wait_for("part1235")
        assert server.review.thumbnail.cache_info().currsize < 200
