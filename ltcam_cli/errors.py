"""What a user did wrong, said in one line. Importable by every station."""

from __future__ import annotations

import difflib
import errno
import importlib
import logging
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # errors of a disk, quota or limit that is full
REMEDIES = {
    errno.ELOOP: "a link leads to itself; remove it, or name another path",
    errno.ENAMETOOLONG: "give it a shorter name",
}


class LtcamError(Exception):
    """A mistake a user can mend: one line that names the culprit and the remedy.

    The command line prints it and exits with status 2, without a traceback.
    """


class DamagedFileError(LtcamError):
    """A file of ours that cannot be read; commands on several runs or cells go on with the others.

    Its line names the file, and what makes it anew.
    """


def user_message(error: BaseException | None) -> str | None:
    """The line for an error that a user can mend; None for a fault of ours."""
    if error is None:
        return None
    text = " ".join(str(error).split())
    if isinstance(error, LtcamError):
        return text
    if "torchvision::nms does not exist" in text:
        return (
            "torch and torchvision do not belong together (one of them is a CPU-only build); "
            "reinstall both at once: pip install --force-reinstall torch torchvision"
        )
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU's memory is full; lower trainer.batch_size or evaluation.batch_size"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return (
            "the memory is full; lower trainer.batch_size, student.batch_size, "
            "evaluation.batch_size or predict.batch_size, or dataset.height and dataset.width"
        )
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        room = "make room, or " if error.errno in FULL else ""
        remedy = REMEDIES.get(error.errno, f"{room}give another folder with outputs=DIR")
        return f"{where}{error.strerror or text}; {remedy}"
    if type(error).__module__.startswith(("hydra.", "omegaconf.")):
        return user_message(error.__cause__) or text
    return None


def interrupted_status(interruption: KeyboardInterrupt) -> int:
    """Exit status after an interruption: 128 and its signal's number, SIGINT's if none is given."""
    return 128 + (interruption.args[0] if interruption.args else signal.SIGINT)


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'? (known: …)"` for a mistyped name, to be appended to a message."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    if not known:
        return ""
    return f"{hint} (known: {', '.join(known)})"


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Raises:
        LtcamError: naming the extra of this package that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LtcamError(
            f"{module} is not installed; install the extra: pip install 'ltcam[{extra}]'"
        ) from error


@contextmanager
def errors_only(*names: str) -> Iterator[None]:
    """Silence all but errors of the loggers of these names."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
