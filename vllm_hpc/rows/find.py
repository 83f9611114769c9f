"""Finds the files of an input: each ``--input`` is a file, a folder, a pattern, or ``-`` for standard input."""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from vllm_hpc.rows.input_file import STDIN, InputFile, StandardInput, split_suffix
from vllm_hpc.rows.kept_rows import find_kept
from vllm_hpc.rows.unpack import PACKINGS
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.values import as_path
from vllm_hpc.spec.words import counted

SUFFIXES = (".jsonl", ".ndjson", ".json", ".txt", ".csv", ".tsv", ".tab", ".parquet")
KINDS = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
PACKED = ", ".join(one.suffixes[0] for one in PACKINGS)


# Suffixes of one format.
_SAME = {".ndjson": ".jsonl", ".tab": ".tsv"}
# Texts that are about a folder; each line of them would be a prompt.
_ABOUT = frozenset(
    {"readme", "read_me", "license", "licence", "copying", "notice", "changelog", "changes", "authors", "citation"}
    | {"requirements", "log", "todo"}
)


class Found(msgspec.Struct, frozen=True):
    """The files of an input, in order, and what was left out, in words for people."""

    files: list[InputFile]
    notes: list[str] = []


def find_files(given: Sequence[str]) -> Found:
    """The files that ``--input`` names. A folder's and a pattern's are sorted by name. Raises InputError."""
    files: list[InputFile] = []
    notes: list[str] = []
    try:
        for text in given:
            if text == STDIN:
                files.append(StandardInput())
                continue
            if (kept := find_kept(text)) is not None:
                files.append(kept)
                continue
            paths, skipped = _expand(text)
            files += map(_open, paths)
            if skipped:
                notes.append(_skipped(text, len(paths), skipped))
        _check_distinct(files)
    except OSError as error:
        raise InputError(f"cannot read input {error.filename!r}: {error.strerror or error}") from None
    return Found(files, notes)


def has_pattern(text: str) -> bool:
    """Whether a text that names no file is a pattern."""
    return any(sign in text for sign in "*?[")


def _expand(text: str) -> tuple[list[Path], list[str]]:
    """The files of one ``--input``, and the names of what is not read."""
    if not text:
        raise InputError("--input is empty: name a file, a folder or a pattern")
    path = as_path(text, "--input")
    if "://" in text and not path.exists():
        raise InputError(f"--input {text!r} is an address: download it first, or pipe its rows into --input -")
    if path.is_dir():
        _check_saved([path / "dataset"])
        advice = f"name one, or give a pattern for the folders in it, as in '{text.rstrip('/')}/**/*'"
        chosen, skipped = _readable(text, sorted(path.iterdir()), f"is a folder without a {KINDS} file", advice)
        _check_alike(text, chosen)
    elif has_pattern(text) and not path.exists():
        found = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - of Path, ** finds hidden files
        chosen, skipped = _readable(text, map(Path, found), f"matches no {KINDS} file", "name one")
    else:
        _check_saved([path])
        return [path], []
    _check_saved(chosen)
    _check_about(text, chosen)
    return chosen, skipped


def _readable(text: str, paths: Iterable[Path], without: str, advice: str) -> tuple[list[Path], list[str]]:
    """Divide paths into those to read and the names of others: hidden ones, folders, those of another kind."""
    chosen: list[Path] = []
    skipped: list[str] = []
    for path in paths:
        is_readable = split_suffix(path)[0] in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
        chosen.append(path) if is_readable else skipped.append(path.name)
    if not chosen:
        raise InputError(f"input {text!r} {without}: {advice}")
    return chosen, skipped


def _check_saved(paths: list[Path]) -> None:
    """Refuse files of a folder that datasets' save_to_disk wrote: its rows are in .arrow files, not in the .json."""
    for folder in dict.fromkeys(path.parent for path in paths):
        is_dict = (folder / "dataset_dict.json").is_file()
        if is_dict or all((folder / name).is_file() for name in ("dataset_info.json", "state.json")):
            split = "['train']" if is_dict else ""
            raise InputError(
                f"input {str(folder)!r} was written by datasets' save_to_disk: convert it, in Python with "
                f"datasets.load_from_disk({str(folder)!r}){split}.to_parquet('rows.parquet'), and give that"
            )


def _check_about(text: str, paths: list[Path]) -> None:
    """Refuse a .txt that is about the folder, rather than a list of prompts."""
    texts = [path.name for path in paths if split_suffix(path)[0] == ".txt"]
    if about := next((name for name in texts if name.lower().partition(".")[0] in _ABOUT), None):
        raise InputError(
            f"input {text!r} has {about!r}, whose lines would be prompts: choose the others by a quoted pattern, such "
            "as 'FOLDER/part-*.txt', or name each"
        )


def _check_alike(text: str, paths: list[Path]) -> None:
    """Refuse a folder with files of several formats: some are rarely meant, as a log.txt or a config.json."""
    firsts: dict[str, Path] = {}
    for path in paths:
        suffix = split_suffix(path)[0]
        firsts.setdefault(_SAME.get(suffix, suffix), path)
    if len(firsts) < 2:
        return
    names = ", ".join(repr(path.name) for path in firsts.values())
    suffix = min(firsts, key=SUFFIXES.index)
    ends = "" if all(split_suffix(path)[1] is None for path in paths) else "*"
    pattern = f"{glob.escape(text.rstrip('/'))}/*{suffix}{ends}"
    raise InputError(
        f"input {text!r} has files of several formats ({names}): choose by a quoted pattern, as in --input "
        f"{shlex.quote(pattern)}; give one for each format that is meant"
    )


def _skipped(text: str, read: int, skipped: list[str]) -> str:
    names = ", ".join(repr(name) for name in skipped[:3]) + ", ..." * (len(skipped) > 3)
    return f"input {text!r}: {counted(read, 'file')} read, {len(skipped)} skipped ({names})"


def _open(path: Path) -> InputFile:
    """The input at a path. Raises InputError if it is not a regular file."""
    if not _is_utf8(os.path.abspath(path)):  # noqa: PTH100 - as it will be written into input.json
        raise InputError(f"input {str(path)!r}: its path is not valid UTF-8: rename it")
    if not path.exists():
        raise InputError(f"no such input: {str(path)!r}: {_advice(str(path))}")
    if not path.is_file():
        raise InputError(
            f"input {str(path)!r} is a pipe or a device, but an input is read more than once: write it to a file, or "
            "pipe it into --input -"
        )
    return InputFile(path)


def _advice(path: str) -> str:
    """What to give instead of a path that does not exist."""
    parts = [part.strip() for part in path.split(",")]
    if len(parts) > 1 and all(parts) and any(map(os.path.exists, parts)):
        return f"repeat --input for each file, as in {' '.join(f'--input {shlex.quote(part)}' for part in parts)}"
    return f"give a {KINDS} file"


def _is_utf8(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_distinct(files: list[InputFile]) -> None:
    """Refuse a file that is found twice, also under another name: its rows would be run twice."""
    seen: dict[tuple[int, ...], InputFile] = {}
    for file in files:
        first = seen.setdefault(file.state()[:2], file)
        if first is not file:
            same = "is given twice" if str(first) == str(file) else f"is the same file as {str(first)!r}"
            raise InputError(f"input {str(file)!r} {same}: give it once")
