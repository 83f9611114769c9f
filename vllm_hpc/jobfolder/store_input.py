"""Intake: an input that becomes part of a job. It is read and checked for the plan, then copied or referenced.

An input of up to REFERENCE_OVER bytes is normalised into the job folder. A larger one is read once and not copied.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputIndex
from vllm_hpc.jobfolder.records import write_json
from vllm_hpc.rows.blocks import BlockMaker
from vllm_hpc.rows.jsonl import LineSource
from vllm_hpc.rows.read import Source, checked_rows, find_source, fingerprint, sample_rows
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError, RequestError
from vllm_hpc.spec.values import as_path

REFERENCE_OVER = 1 << 30
VARIABLE = "VLLM_HPC_REFERENCE_OVER"


class Intake:
    """An input to submit; ``path`` None means the sample prompts. Creating it does not read the file.

    ``reference_over``: a larger file is not copied; bytes, by default $VLLM_HPC_REFERENCE_OVER or 1 GiB.
    """

    def __init__(self, path: str | None, reference_over: int | None = None) -> None:
        self._path = path
        self._limit = reference_over
        self._source: Source | None = None
        # The state of the file when its rows were checked, and its blocks if it will be referenced.
        self._checked: tuple[int, ...] | None = None
        self._maker = BlockMaker()

    @property
    def size(self) -> int:
        """Bytes of the file; 0 if there is none."""
        file = None if self._path is None else as_path(self._path, "--input")
        return file.stat().st_size if file and file.is_file() else 0

    @property
    def share(self) -> float:
        """The share of the file that was read, from 0 to 1."""
        return self._source.share if self._source else 1.0

    def rows(self) -> Iterator[Row]:
        """Read the rows, normalised and checked. Raises InputError."""
        if self._path is None:
            yield from sample_rows()
            return
        source = self._source = find_source(self._path)
        if self._is_large:
            self._maker = _block_maker(source)
        self._checked, state = None, _fingerprint(source.file)
        yield from checked_rows(source)
        self._maker.finish()
        self._checked = state

    def store(self, folder: JobFolder) -> int:
        """Store the input in a job folder, with input.json. Returns the number of rows. Raises InputError.

        An input that has not changed since it was checked is not checked again; a referenced one is not even read.
        """
        index = self._refer() if self._is_large else self._copy(folder)
        write_json(folder.input_json, index)
        return index.rows

    @property
    def _is_large(self) -> bool:
        return self.size > (_limit() if self._limit is None else self._limit)

    @property
    def _is_checked(self) -> bool:
        return self._source is not None and self._checked == _fingerprint(self._source.file)

    def _refer(self) -> InputIndex:
        if not self._is_checked:
            for _ in self.rows():
                pass
        assert self._source is not None
        file = os.path.abspath(self._source.file)  # noqa: PTH100 - links stay as the user wrote them
        return _index(file, self._source.kind, self._maker)

    def _copy(self, folder: JobFolder) -> InputIndex:
        rows = checked_rows(self._source, check_ids=False) if self._source and self._is_checked else self.rows()
        maker = BlockMaker()
        encoder = msgspec.json.Encoder()
        with folder.input.open("wb") as file:
            for row in rows:
                file.write(maker.add(encoder.encode(row) + b"\n", is_row=True))
            file.write(maker.finish())
        return _index(folder.input.name, "rows", maker)


def _index(path: str, kind: str, maker: BlockMaker) -> InputIndex:
    return InputIndex(path=path, size=maker.size, rows=maker.rows, format=kind, blocks=tuple(maker.blocks))


def _block_maker(source: Source) -> BlockMaker:
    """The maker that groups a large file into blocks while it is read. Tables cannot be split at lines."""
    if not isinstance(source, LineSource):
        raise InputError(
            f"{source.file} is too large for a {source.file.suffix} file, which would be copied: convert it to "
            ".jsonl, which is read in place"
        )
    source.maker = BlockMaker()
    return source.maker


def _fingerprint(file: Path) -> tuple[int, ...]:
    """Values that change when a file changes; empty if it is missing."""
    try:
        return fingerprint(file)
    except OSError:
        return ()


def _limit() -> int:
    text = os.environ.get(VARIABLE) or str(REFERENCE_OVER)
    if not text.isascii() or not text.isdigit():
        raise RequestError(f"{VARIABLE} must be a number of bytes, not {text!r}")
    return int(text)
