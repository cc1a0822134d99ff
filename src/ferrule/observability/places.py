"""Places in code: file, line and function, told from the frames of a stack."""

import inspect
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, Literal

Owner = Literal["application", "library", "Python"]

_FERRULE = f"{Path(__file__).parents[1]}{os.sep}"
_PYTHON = tuple(
    f"{folder}{os.sep}"
    for name in ("stdlib", "platstdlib")
    for folder in {sysconfig.get_path(name), os.path.realpath(sysconfig.get_path(name))}
)
_INSTALLED = ("site-packages", "dist-packages")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a function."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file.removeprefix(_folder())}:{self.line} in {self.function}"


def _folder() -> str:
    try:
        return f"{os.getcwd()}{os.sep}"
    except FileNotFoundError:
        return ""


def chain(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame and those that called it, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def own_place(frames: Iterable[FrameType]) -> Place | None:
    """The innermost of the application's own code."""
    return next((_place(frame) for frame in frames if _owner_of(frame) == "application"), None)


def nearest_place(frames: Sequence[FrameType]) -> Place:
    """The innermost of the application's own code, else of a library (Ferrule is one), else any."""
    of_library = (frame for frame in frames if _owner_of(frame) == "library")
    return own_place(frames) or _place(next(of_library, frames[0]))


def place_of(function: Callable[..., Any]) -> Place | None:
    """Where a function begins; None for what is not written in Python."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return code and Place(code.co_filename, code.co_firstlineno, code.co_qualname)


def _place(frame: FrameType) -> Place:
    code = frame.f_code
    # A frame that is just being left may have no line.
    line: int | None = frame.f_lineno
    return Place(code.co_filename, line or code.co_firstlineno, code.co_qualname)


def _owner_of(frame: FrameType) -> Owner:
    return _owner(frame.f_code.co_filename)


@lru_cache(maxsize=4096)
def _owner(file: str) -> Owner:
    """Who wrote a file; what is not in a file (`<string>`) was generated."""
    parts = file.split(os.sep)
    if any(folder in parts for folder in _INSTALLED) or file.startswith(_FERRULE):
        return "library"
    if file.startswith((*_PYTHON, "<")):
        return "Python"
    return "application"
