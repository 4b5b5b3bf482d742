"""The review page: predicted masks, to be accepted, rejected or repainted in a browser.

It is served to this machine alone: on 127.0.0.1, below a random token. Files are named by numbers
of images, never by paths.
"""

from __future__ import annotations

import io
import json
import math
import re
import secrets
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ltcam_cli.data.image_files import ImageReader
from ltcam_cli.errors import LtcamError, user_message
from ltcam_cli.report.overlay import as_rgb, shrunk_size
from ltcam_cli.runs.annotating import kept_mask
from ltcam_cli.runs.corrections import Corrections

PAGE = Path(__file__).with_name("page")
FILES = {
    "": ("review.html", "text/html; charset=utf-8"),
    "review.js": ("review.js", "text/javascript; charset=utf-8"),
    "review.css": ("review.css", "text/css; charset=utf-8"),
    "style.css": ("style.css", "text/css; charset=utf-8"),
}
HOST = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]+)?")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
THUMBNAIL = 96  # pixels of the longer side


@dataclass
class Review:
    """Predicted masks, and what a person decides of them.

    Attributes:
        folder: Folder that `ltcam predict` wrote.
        images: Name, path, probability, predicted and regions of each image, in the page's order.
        threshold: Probability from which an image is called defective.
        reader: Reader of the images.
        corrections: Where decisions are written.
    """

    folder: Path
    images: Sequence[dict[str, Any]]
    threshold: float
    reader: ImageReader
    corrections: Corrections
    saving: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.thumbnail = lru_cache(4096)(self._thumbnail)

    @property
    def reviewed(self) -> int:
        """Number of the images of which something was decided."""
        return sum(image["name"] in self.corrections.rows for image in self.images)

    def listed(self, number: int) -> dict[str, Any]:
        """What the page's list shows of an image."""
        image = self.images[number]
        label, decision = self.corrections.rows.get(image["name"], (None, None))
        shown = {key: image[key] for key in ("name", "probability", "predicted", "regions")}
        return {**shown, "label": label, "decision": decision}

    def photo(self, number: int) -> bytes:
        """The image in its own size, as JPEG without visible loss.

        Raises:
            LtcamError: If it cannot be read.
        """
        return _jpeg(Image.fromarray(self._pixels(number)), 95)

    def _thumbnail(self, number: int) -> bytes:
        pixels = self._pixels(number)
        small = Image.fromarray(pixels).resize(shrunk_size(pixels, THUMBNAIL))
        return _jpeg(small, 80)

    def mask(self, number: int) -> bytes:
        """The mask as it is decided, or else predicted, row by row, eight pixels a byte.

        Raises:
            LtcamError: If it cannot be read.
        """
        name, predicted = self.images[number]["name"], self._predicted(number)
        label, _ = self.corrections.rows.get(name, (None, None))
        if label is None:
            return np.packbits(predicted).tobytes()
        corrected = self.corrections.mask(name, predicted.shape)
        return np.packbits(np.zeros_like(predicted) if corrected is None else corrected).tobytes()

    def decide(self, number: int, label: int, bits: bytes) -> dict[str, Any]:
        """Write a decision.

        Args:
            number: Of the image.
            label: 0 good: its mask is empty; 1 defective: by an empty mask nobody knows where.
            bits: Mask, as of `mask`.

        Raises:
            LtcamError: If the mask is not of the image's size.
        """
        name, predicted = self.images[number]["name"], self._predicted(number)
        if len(bits) != math.ceil(predicted.size / 8):
            raise LtcamError(f"{name}: the mask is of another size than the image")
        mask = np.unpackbits(np.frombuffer(bits, np.uint8), count=predicted.size).astype(bool)
        mask = mask.reshape(predicted.shape) & bool(label)
        is_kept = np.array_equal(mask, predicted)
        decision = "accepted" if is_kept else "repainted" if label else "rejected"
        with self.saving:
            self.corrections.save(name, label, mask if mask.any() or not label else None, decision)
        return self.listed(number)

    def forget(self, number: int) -> dict[str, Any]:
        """Delete a decision."""
        with self.saving:
            self.corrections.forget(self.images[number]["name"])
        return self.listed(number)

    def _predicted(self, number: int) -> np.ndarray:
        return kept_mask(self.folder, self.images[number]["name"])

    def _pixels(self, number: int) -> np.ndarray:
        """Image (H, W, 3) uint8."""
        return as_rgb(self.reader(Path(self.images[number]["path"])))


class ReviewServer(ThreadingHTTPServer):
    """Server of a review, on 127.0.0.1.

    Raises:
        LtcamError: If the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, review: Review, port: int = 0) -> None:
        self.review, self.token = review, secrets.token_urlsafe(24)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise LtcamError(f"--port {port}: {error.strerror}; choose another one") from error

    @property
    def address(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Be silent about a browser that left."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Refusal(Exception):  # noqa: N818
    """A request that is answered with a status and a line."""

    def __init__(self, status: HTTPStatus, line: str) -> None:
        super().__init__(line)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    protocol_version = "HTTP/1.1"
    timeout = 60
    server_version, sys_version = "ltcam", ""

    def do_GET(self) -> None:
        self._answer(self._read)

    def do_POST(self) -> None:
        self._answer(self._write)

    def do_DELETE(self) -> None:
        self._answer(self._delete)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the token is in each line."""

    def _answer(self, respond: Any) -> None:
        """Answer a request by `respond(what, number)`, which gives a body and its type."""
        try:
            body, kind = respond(*self._asked())
            status = HTTPStatus.OK
        except _Refusal as refusal:
            body, kind, status = str(refusal).encode(), "text/plain; charset=utf-8", refusal.status
        except Exception as error:
            if isinstance(error, (ConnectionError, TimeoutError)):
                raise
            line = user_message(error)
            status = HTTPStatus.CONFLICT if line else HTTPStatus.INTERNAL_SERVER_ERROR
            body = (line or f"{type(error).__name__}: {error}").encode()
            kind = "text/plain; charset=utf-8"
        self.close_connection |= status != HTTPStatus.OK  # a refused body was not read
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), **HEADERS}
        headers |= {"Connection": "close"} if self.close_connection else {}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _asked(self) -> tuple[str, int | None]:
        """What is asked for, and of which image.

        Raises:
            _Refusal: If the request does not come from our page, or there is no such image.
        """
        token, slash, what = self.path[1:].partition("/")
        host = self.headers.get("Host", "")
        is_ours = secrets.compare_digest((token + slash).encode(), f"{self.server.token}/".encode())
        is_ours &= HOST.fullmatch(host) is not None  # another name that was bound to 127.0.0.1
        if not is_ours or self.headers.get("Origin") not in {None, f"http://{host}"}:
            raise _Refusal(HTTPStatus.FORBIDDEN, "use the address that ltcam review printed")
        match = re.fullmatch("([a-z]+)/([0-9]{1,9})", what)
        if match is None:
            return what, None
        number = int(match[2])
        if number >= len(self.server.review.images):
            raise _Refusal(HTTPStatus.NOT_FOUND, "no such image")
        return match[1], number

    def _read(self, what: str, number: int | None) -> tuple[bytes, str]:
        review = self.server.review
        if number is None and what in FILES:
            name, kind = FILES[what]
            return (PAGE / name).read_bytes(), kind
        if what == "images":
            return _json([review.listed(n) for n in range(len(review.images))])
        if number is not None and what in {"photo", "thumbnail"}:
            return getattr(review, what)(number), "image/jpeg"
        if number is not None and what == "mask":
            return review.mask(number), "application/octet-stream"
        raise _Refusal(HTTPStatus.NOT_FOUND, "no such page")

    def _write(self, what: str, number: int | None) -> tuple[bytes, str]:
        if number is None or what not in {"good", "defective"}:
            raise _Refusal(HTTPStatus.NOT_FOUND, "no such page")
        review = self.server.review
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,12}", length) or int(length) > review.reader.max_pixels // 8:
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the mask is too large")
        bits = self.rfile.read(int(length))
        return _json(review.decide(number, int(what == "defective"), bits))

    def _delete(self, what: str, number: int | None) -> tuple[bytes, str]:
        if number is None or what != "decision":
            raise _Refusal(HTTPStatus.NOT_FOUND, "no such page")
        return _json(self.server.review.forget(number))


def serve(review: Review, port: int = 0) -> None:
    """Serve a review until it is interrupted; a decision that is being written is finished.

    Raises:
        LtcamError: If the port cannot be had.
    """
    with ReviewServer(review, port) as server:
        count = len(review.images)
        with suppress(KeyboardInterrupt):
            print(f"{count} images, {review.reviewed} reviewed; Ctrl-C ends", flush=True)
            print(server.address, flush=True)
            server.serve_forever()
        with review.saving:
            print(f"{review.corrections.folder}: {review.reviewed} of {count} images reviewed")


def _json(value: Any) -> tuple[bytes, str]:
    return json.dumps(value, allow_nan=False).encode(), "application/json"


def _jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, subsampling=0)
    return stream.getvalue()
