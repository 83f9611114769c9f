"""Intake: an input that becomes part of a job. It is read and checked for the plan, then copied or referenced.

An input of up to REFERENCE_OVER unpacked bytes is normalised into the job folder, as input.jsonl. Larger files of lines
are read once and referenced. What cannot be read from any offset where it is (compressed files, tables, standard input)
is normalised into input.jsonl.zst if it is larger, a frame for each block.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import ZSTD_FRAMES, IndexedFile, InputIndex
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.row_ids import IdSums
from vllm_hpc.rows.blocks import BlockMaker
from vllm_hpc.rows.jsonl import LineSource
from vllm_hpc.rows.notes import DROPPED
from vllm_hpc.rows.prefix_scan import PrefixScan
from vllm_hpc.rows.read import Source, Sources, checked_rows, find_sources, sample_rows
from vllm_hpc.rows.reading import AS_IT_IS, Reading
from vllm_hpc.rows.row import Row
from vllm_hpc.rows.unpack import pack_frame
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.lora import split_adapter
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.write_file import replacing

REFERENCE_OVER = 1 << 30
VARIABLE = "VLLM_HPC_REFERENCE_OVER"


class Intake:
    """An input to submit: files, folders, patterns; None means the sample prompts. Creating it reads nothing.

    ``reference_over``: a larger one is not copied as it is; unpacked bytes, by default $VLLM_HPC_REFERENCE_OVER or 1
    GiB. ``reading``: how its rows become prompts.
    """

    def __init__(
        self, given: str | Sequence[str] | None, reference_over: int | None = None, reading: Reading = AS_IT_IS
    ) -> None:
        self._given, self._reading = given, reading
        self._limit = reference_over
        self._sources: Sources | None = None
        # The state of the files when their rows were checked, and the blocks of those that will be referenced.
        self._checked: tuple[tuple[int, ...], ...] | None = None
        self._makers: list[BlockMaker] = []
        self._ids = IdSums()
        # How the prompts begin, from whoever reads the rows to measure them.
        self.beginnings: PrefixScan | None = None

    @property
    def is_sample(self) -> bool:
        """Whether it is the sample prompts, for want of an input."""
        return self._given is None

    @property
    def size(self) -> int:
        """Bytes of its files as they are stored, and those unpacked so far; whichever is more. 0 without files."""
        return max(self._sources.size, self._sources.unpacked) if self._sources else 0

    @property
    def referenced(self) -> tuple[Path, ...]:
        """The files that stay where they are; known once the rows were read."""
        sources = self._sources.all if self._sources and self._makers else []
        return tuple(source.file.path.absolute() for source in sources if isinstance(source, LineSource))

    @property
    def share(self) -> float:
        """The share of the files that was read, from 0 to 1."""
        return self._sources.share if self._sources else 1.0

    def notes(self, request: Request, is_sample: bool = False) -> list[str]:
        """What was left out, and what is to be said once of the rows, in a job with these options.

        Complete after all rows were read; ``is_sample``: only the first ones were.
        """
        if self._sources is None:
            return []
        found = self._sources.row_notes
        is_vain = self._reading.drop_last_answer and not found.has(DROPPED)
        vain = ["--drop-last-answer: no row ends with the assistant's turn"] if is_vain else []
        if request.chat_template is not None and not found.has_chats:
            vain.append("--chat-template is not used: no row has 'messages' without a template of its own")
        adapters = [split_adapter(text)[0] for text in request.lora]
        said = [*vain, *found.lines(request.engine.get("runner") == "pooling", adapters)]
        return [*self._sources.notes, *(f"in the first rows: {note}" if is_sample else note for note in said)]

    def rows(self) -> Iterator[Row]:
        """Read the rows, normalised and checked. Raises InputError."""
        self._ids = ids = IdSums()
        for row in self._read():
            ids.add(row["id"])
            yield row

    def _read(self) -> Iterator[Row]:
        if self._given is None:
            yield from sample_rows()
            return
        self._sources = sources = find_sources(self._given, self._reading)
        self._checked, state = None, _state(sources)
        self._makers = _block_makers(sources) if self._is_referenced(sources) else []
        yield from checked_rows(sources)
        self._checked = state

    def store(self, folder: JobFolder) -> int:
        """Store the input in a job folder, with input.json. Returns the number of rows. Raises InputError.

        An input that has not changed since it was checked is not checked again; a referenced one is not even read.
        """
        if not self._is_checked:
            self.beginnings = None
            for _ in self.rows():
                pass
        index = self._refer() if self._makers else self._copy(folder)
        index = msgspec.structs.replace(index, ids=self._ids.store(folder.input_ids))
        write_json(folder.input_json, index)
        return index.rows

    @property
    def _most(self) -> int:
        return _limit() if self._limit is None else self._limit

    def _is_referenced(self, sources: Sources) -> bool:
        """Whether it stays where it is: too large to be copied, and readable from any offset."""
        are_lines = all(isinstance(source, LineSource) and source.file.is_seekable for source in sources.all)
        return are_lines and sources.size > self._most

    @property
    def _is_checked(self) -> bool:
        if self._sources is None:
            return self._given is None
        return self._checked is not None and self._checked == _state(self._sources)

    def _refer(self) -> InputIndex:
        assert self._sources is not None
        files = tuple(map(_indexed, self._sources.all, self._makers, self._sources.begins))
        rows = self._sources.begins[-1]
        if len(files) > 1:
            return InputIndex(rows=rows, files=files, reading=self._reading)
        (one,) = files
        return InputIndex(
            path=one.path, size=one.size, rows=rows, format=one.format, blocks=one.blocks, reading=self._reading
        )

    def _copy(self, folder: JobFolder) -> InputIndex:
        sources = self._sources
        is_large = sources is not None and sources.unpacked > self._most
        path = folder.input_zst if is_large else folder.input
        maker = BlockMaker(pack_frame) if is_large else BlockMaker()
        encoder = msgspec.json.Encoder()
        with replacing(path) as file:
            for row in checked_rows(sources, check_ids=False) if sources else self.rows():
                file.write(maker.add(encoder.encode(row) + b"\n", is_row=True))
            file.write(maker.finish())
        return InputIndex(
            path=path.name, size=maker.size, rows=maker.rows, format="rows", blocks=tuple(maker.blocks),
            compression=ZSTD_FRAMES if is_large else "",
        )  # fmt: skip


class NoRows(Intake):
    """The input of a program that drives the engine and was given none."""

    def __init__(self) -> None:
        super().__init__(None)

    @property
    def is_sample(self) -> bool:
        """No: it has no rows at all."""
        return False

    def _read(self) -> Iterator[Row]:
        return iter(())


def _block_makers(sources: Sources) -> list[BlockMaker]:
    """A maker for each file, which groups it into blocks while it is read."""
    makers = []
    for source in sources.all:
        if isinstance(source, LineSource):
            source.maker = BlockMaker()
            makers.append(source.maker)
    return makers


def _indexed(source: Source, maker: BlockMaker, row: int) -> IndexedFile:
    path = os.path.abspath(source.file.path)  # noqa: PTH100 - links stay as the user wrote them
    return IndexedFile(path=path, size=maker.size, row=row, format=source.kind, blocks=tuple(maker.blocks))


def _state(sources: Sources) -> tuple[tuple[int, ...], ...] | None:
    """Values that change when a file changes; None if one is missing."""
    try:
        return sources.state()
    except OSError:
        return None


def _limit() -> int:
    text = os.environ.get(VARIABLE) or str(REFERENCE_OVER)
    if not text.isascii() or not text.isdigit():
        raise RequestError(f"{VARIABLE} must be a number of bytes, not {text!r}")
    return int(text)
