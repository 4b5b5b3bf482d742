"""Masks as run lengths, and back; and the pixels of a polygon.

Points are (x, y) in pixels; pixel (0, 0) covers the square from (0, 0) to (1, 1), as in COCO,
LabelMe, CVAT and Label Studio. A pixel belongs to a polygon if its centre does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LONGEST_RUN = 2**16  # values of one run of Label Studio
RUN_BITS = (3, 4, 8, 16)  # sizes of its lengths


def filled(polygon: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels (H, W) bool whose centres lie in a polygon (n, 2), by the even-odd rule.

    A row's pixels change sides at each crossing of its centre line with an edge.
    """
    height, width = size
    crossings = np.zeros((height, width + 1), bool)
    for (x, y), (next_x, next_y) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        first, last = (int(np.ceil(each - 0.5)) for each in sorted((y, next_y)))
        rows = np.arange(max(first, 0), min(last, height))
        at = x + (rows + 0.5 - y) * (next_x - x) / (next_y - y) if len(rows) else rows
        crossings[rows, np.clip(np.ceil(at - 0.5), 0, width).astype(int)] ^= True
    return np.logical_xor.accumulate(crossings, axis=1)[:, :width]


def run_lengths(values: np.ndarray) -> list[int]:
    """Lengths of the runs of a bool vector; the first is of False, and may be 0."""
    ends = np.flatnonzero(np.diff(values)) + 1
    lengths = np.diff([0, *ends.tolist(), len(values)]).tolist()
    return [0, *lengths] if len(values) and values[0] else lengths


def from_run_lengths(lengths: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Pixels (H, W) bool of run lengths by rows.

    Raises:
        ValueError: If they are of another number of pixels.
    """
    if sum(lengths) != size[0] * size[1] or min(lengths) < 0:
        raise ValueError(f"run lengths of {sum(lengths)} pixels, not of {size[0]} x {size[1]}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size)


def uncompressed(text: str) -> list[int]:
    """Run lengths of COCO's compressed text: digits of five bits, from the third on differences."""
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        value |= (digit & 0x1F) << shift
        shift += 5
        if digit & 0x20:  # more digits follow
            continue
        if digit & 0x10:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths


def brush(mask: np.ndarray) -> list[int]:
    """Bytes of Label Studio's brush: a mask (H, W) as runs of the four channels of its pixels."""
    bits = [f"{4 * mask.size:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in RUN_BITS)]
    for number, length in enumerate(run_lengths(mask.ravel())):
        for start in range(0, 4 * length, LONGEST_RUN):
            part = min(LONGEST_RUN, 4 * length - start)
            bits.append(f"111{part - 1:016b}{255 * (number % 2):08b}")
    text = "".join(bits)
    return [int(text[at : at + 8].ljust(8, "0"), 2) for at in range(0, len(text), 8)]


def from_brush(content: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Mask (H, W) of Label Studio's brush: where it is more than half opaque.

    Raises:
        ValueError: If it is damaged, or of another size.
    """
    bits = "".join(f"{byte:08b}" for byte in content)
    at = 0

    def number(length: int) -> int:
        nonlocal at
        at += length
        return int(bits[at - length : at], 2)

    count, word = number(32), number(5) + 1
    if count != 4 * size[0] * size[1]:
        raise ValueError(f"a brush of {count // 4} pixels, not of {size[0]} x {size[1]}")
    sizes = [number(4) + 1 for _ in RUN_BITS]
    values = np.zeros(count, np.uint8)
    done = 0
    while done < count:
        is_run, length = number(1), number(sizes[number(2)]) + 1
        if is_run:
            values[done : done + length] = number(word)
        else:
            for place in range(done, done + length):
                values[place] = number(word)
        done += length
    return values.reshape(*size, 4)[..., 3] > 127
