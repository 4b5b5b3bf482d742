"""Shards: `predict.shard=3/8` takes the third of eight parts of the images."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltcam_cli.errors import LtcamError

if TYPE_CHECKING:
    from ltcam_cli.data.sample import Sample


@dataclass(frozen=True, order=True)
class Shard:
    """One of `count` parts of a list of images, counted from 1."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard of `i/n`.

        Raises:
            LtcamError: If the text is no such shard.
        """
        match = re.fullmatch(r"(\d{1,7})/(\d{1,7})", text, re.ASCII)
        shard = cls(int(match[1]), int(match[2])) if match else cls(0, 0)
        if not 1 <= shard.index <= shard.count:
            raise LtcamError(f"predict.shard={text}: must be i/n with 1 <= i <= n, e.g. 3/8")
        return shard

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def __contains__(self, name: str) -> bool:
        """Whether an image of this name belongs here.

        A hash of the name decides, not the place in a list: each machine lists the folder for
        itself, and an image that arrives meanwhile must not move the others to another shard.
        """
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index - 1

    def of(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples that belong here, in their order."""
        return [sample for sample in samples if sample.name in self]
