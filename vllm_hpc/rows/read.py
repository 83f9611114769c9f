"""Reads files of prompts in any format as normalised rows.

``find`` finds the files of an input, ``input_file`` and ``unpack`` open them. ``jsonl`` reads .jsonl, .txt and OpenAI
batch files (``openai_batch``, ``openai_sampling``), ``json_values`` .json, ``tables`` .csv, .tsv and .parquet
(``header``, ``cells``, ``writers``). ``row_maker`` makes a row: it decodes a line (``decode``), gives fields their
names and the row its prompt (``fields``, with ``reading``), and checks it (``plain``, ``messages``). ``ids`` checks
that ids are unique, ``blocks`` splits a file into pieces, ``notes`` counts what is said once. ``missing_prompt`` says
what to do about a row without a prompt: which field it likely is (``likely``), or how rows are taken out of something
else (``wrapped``, ``speakers``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from vllm_hpc.rows.find import KINDS, PACKED, SUFFIXES, find_files
from vllm_hpc.rows.ids import Id, UniqueIds
from vllm_hpc.rows.input_file import InputFile
from vllm_hpc.rows.json_values import JsonSource, is_array_or_spread
from vllm_hpc.rows.jsonl import LineSource
from vllm_hpc.rows.notes import UNREADABLE, Notes
from vllm_hpc.rows.reading import AS_IT_IS, Reading
from vllm_hpc.rows.row import SAMPLE_PROMPTS, Row
from vllm_hpc.rows.tables import TAB_SUFFIXES, CsvSource, ParquetSource
from vllm_hpc.rows.text_file import refuse_json
from vllm_hpc.rows.unpack import packing_of
from vllm_hpc.rows.will_fail import check_sampling
from vllm_hpc.rows.writers import ABSENT, ABSENT_ID
from vllm_hpc.spec.bounds import MOST_ROWS
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.words import counted

Source = LineSource | JsonSource | CsvSource | ParquetSource
_TAR = (257, b"ustar")
_PARQUET = b"PAR1"
_ARROW = b"ARROW1"
_ZIP = "is compressed: unpack it first, or save a spreadsheet as .csv"
_UNREADABLE = {
    b"PK\x03\x04": _ZIP,
    b"PK\x05\x06": _ZIP,  # empty
    b"7z\xbc\xaf\x27\x1c": "is compressed: unpack it first, with 7z",
    b"Rar!\x1a\x07": "is compressed: unpack it first, with unrar",
    b"\x04\x22\x4d\x18": "is compressed: unpack it first, with unlz4",
    b"\x1f\x9d": "is compressed: unpack it first, with uncompress",
    b"LZIP\x01": "is compressed: unpack it first, with lunzip",
    _ARROW: "is an Arrow file: convert it to .parquet (datasets: to_parquet)",
    b"Obj\x01": "is an Avro file: convert it to .jsonl",
    b"SQLite format 3\0": "is a database: write its table as .csv, with sqlite3 -csv -header",
    b"%PDF-": "is a PDF: write its text as .jsonl",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file: get that with 'git lfs pull'",
}


class Sources:
    """The files of an input, each with its reader, in order. ``notes`` say what was left out."""

    def __init__(self, sources: list[Source], reading: Reading = AS_IT_IS, notes: Sequence[str] = ()) -> None:
        self.all, self.reading = sources, reading
        self._found = tuple(notes)
        self._current = 0
        # Index of the first row of each file that was read, and of the row after the last one.
        self.begins: list[int] = []

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out, and which files have no row, as far as they were read."""
        ends = self.begins[1:]
        empty = [source for source, begin, end in zip(self.all, self.begins, ends, strict=False) if begin == end]
        if not empty:
            return self._found
        return *self._found, f"{len(empty)} of {len(self.all)} files have no row, the first: {empty[0].file}"

    @property
    def row_notes(self) -> Notes:
        """What is to be said of the rows, as far as they were read."""
        found = Notes()
        for source in self.all[: self._current + 1]:
            found.join(source.notes)
        return found

    @property
    def size(self) -> int:
        """Bytes of the files as they are stored. Raises OSError."""
        return sum(source.file.stored_size for source in self.all)

    @property
    def share(self) -> float:
        """The share of these bytes that was read, from 0 to 1."""
        before = sum(source.file.stored_size for source in self.all[: self._current])
        now = self.all[self._current]
        return (before + now.share * now.file.stored_size) / max(1, self.size)

    @property
    def unpacked(self) -> int:
        """Unpacked bytes that were read; of Parquet, those of the cells in memory."""
        return sum(source.unpacked for source in self.all)

    def state(self) -> tuple[tuple[int, ...], ...]:
        """Values that change when a file is written to or replaced. Raises OSError."""
        return tuple(source.file.state() for source in self.all)

    def each(self) -> Iterator[tuple[Source, Iterator[tuple[int, Row]]]]:
        """Each source with its numbered rows, to be read in turn. Raises InputError, OSError."""
        self.begins = [0]
        for number, source in enumerate(self.all):
            self._current = number
            yield source, self._counted(source)
            self._check_url(source)

    def _counted(self, source: Source) -> Iterator[tuple[int, Row]]:
        end = self.begins[-1]
        for pair in source.rows(end):
            end += 1
            yield pair
        self.begins.append(end)

    def _check_url(self, source: Source) -> None:
        """Refuse OpenAI batches for two urls: a chat model and an embedding model need two jobs."""
        for other in self.all[: self._current]:
            ours, theirs = getattr(source, "url", None), getattr(other, "url", None)
            if ours is not None and theirs is not None:
                if ours != theirs:
                    raise InputError(
                        f"{source.file}: url {ours!r}, but {other.file} has {theirs!r}: submit a job for each"
                    )
                return


def read_rows(given: str | Sequence[str] | None, reading: Reading = AS_IT_IS) -> Iterator[Row]:
    """Read and check an input, row by row, normalised; None gives the sample prompts.

    Raises InputError at the first invalid row; it names file and line.
    """
    return sample_rows() if given is None else checked_rows(find_sources(given, reading))


def sample_rows() -> Iterator[Row]:
    """The rows of a job without an input."""
    yield from ({"index": index, "id": str(index), "prompt": text} for index, text in enumerate(SAMPLE_PROMPTS))


def find_sources(given: str | Sequence[str], reading: Reading = AS_IT_IS) -> Sources:
    """The readers of all files of an input. Raises InputError if one cannot be read, or not beside the others."""
    found = find_files([given] if isinstance(given, str) else given)
    sources = [_source(file, reading) for file in found.files]
    _check_kinds(sources)
    return Sources(sources, reading, found.notes)


def _source(file: InputFile, reading: Reading) -> Source:
    try:
        _check_head(file)
        if file.suffix == ".parquet":
            return ParquetSource(file, reading)
        if file.suffix in (".csv", *TAB_SUFFIXES):
            return CsvSource(file, reading)
        if file.suffix == ".txt":
            refuse_json(file)
            return LineSource(file, reading)
        is_json = is_array_or_spread(file)
        return JsonSource(file, reading) if is_json else LineSource(file, reading)
    except OSError as error:
        raise _cannot_read(file, error) from None


def _check_kinds(sources: list[Source]) -> None:
    """Refuse an OpenAI batch beside other rows: results have the form of their rows."""
    having = [source for source in sources if not source.is_blank]
    batch = next((source for source in having if source.kind == "openai"), None)
    other = next((source for source in having if source.kind != "openai"), None)
    if batch and other:
        raise InputError(f"{batch.file} is an OpenAI batch, but {other.file} is not: submit a job for each")


def checked_rows(sources: Sources, check_ids: bool = True) -> Iterator[Row]:
    """The rows of an input, all checked; ids too, unless they were checked before. Raises InputError.

    With very many rows, a repeated id is reported only after the last row.
    """
    unique = UniqueIds()
    index = unreadable = 0
    source = sources.all[0]
    try:
        before = sources.state()
        for source, rows in sources.each():
            for number, row in rows:
                if check_ids and not unique.add(index, row["id"]):
                    raise _repeated(sources, (source, number), row)
                index += 1
                unreadable += "error" in row
                yield row
        if not index:
            raise InputError(f"{_all_of(sources)} no prompt: write one row per line")
        _check_notes(sources, unreadable == index, index)
        if repeated := unique.first_repeated(lambda: _ids(sources)):
            (source, number), row = _find(sources, repeated[1], 2)
            raise _repeated(sources, (source, number), row)
        for source, old, new in zip(sources.all, before, sources.state(), strict=True):
            if new != old:
                raise InputError(
                    f"{source.file} changed while it was read: wait until it is complete, and submit again"
                )
    except OSError as error:
        raise _cannot_read(source.file, error) from None


def _check_notes(sources: Sources, is_unreadable: bool, rows: int) -> None:
    """Refuse an input of too many rows or of which none can be run, and a --rename or --keep that no row needs."""
    if rows > MOST_ROWS:
        raise InputError(f"{_all_of(sources)} more than {MOST_ROWS:,} rows: submit several jobs")
    found = sources.row_notes
    if is_unreadable:
        raise InputError(f"{found.first(UNREADABLE)} (no other row can be run)")
    check_sampling(found, rows)
    for old, new in sources.reading.rename.items():
        if old not in found.renamed:
            raise InputError(
                f"{_all_of(sources)} no row with a field {old!r}: correct --rename {old}={new}, or leave it out"
            )
    for name in sources.reading.keep or ():
        if name not in found.kept:
            raise InputError(
                f"{_all_of(sources)} no row with a field {name!r}: correct --keep {name!r}, or leave it out"
            )


def _all_of(sources: Sources) -> str:
    first, others = sources.all[0].file, len(sources.all) - 1
    return f"{first} and {counted(others, 'other file')} have" if others else f"{first} has"


def _ids(sources: Sources) -> Iterator[tuple[tuple[Source, int], Id]]:
    for source, rows in sources.each():
        yield from (((source, number), row["id"]) for number, row in rows)


def _find(sources: Sources, identity: Id, time: int = 1) -> tuple[tuple[Source, int], Row]:
    """The row with an id, and its place: the first or the second one. They are read again."""
    rows = (((source, number), row) for source, rows in sources.each() for number, row in rows)
    return next(islice((found for found in rows if found[1]["id"] == identity), time - 1, None))


def _repeated(sources: Sources, place: tuple[Source, int], row: Row) -> InputError:
    source, number = place
    identity, where = row["id"], source.place(number)
    (source, number), _ = _find(sources, identity)
    words, first = f"{where}: id {identity!r} was given before", f" (the first: {source.place(number)})"
    if identity in ABSENT:
        return InputError(f"{words}{ABSENT_ID}{first}")
    if "batch" in row:
        return InputError(f"{words}: give every request a custom_id of its own{first}")
    if isinstance(identity, str) and identity.isdecimal():
        words += ", or is that of a row without one, which is its number in the input, from 0"
    return InputError(f"{words}: ids must differ: give every row one, or none{first}")


def _check_head(file: InputFile) -> None:
    """Refuse archives and what is compressed otherwise, whatever their name, and unknown suffixes."""
    head = file.head()
    offset, tar = _TAR
    if head[offset:].startswith(tar):
        raise InputError(f"input {str(file)!r} is a tar archive: extract it, and give its folder or files")
    if file.packing and packing_of(head):
        raise InputError(f"input {str(file)!r} is compressed twice: unpack it once")
    for magic, advice in _UNREADABLE.items():
        if head.startswith(magic) or (magic == _ARROW and file.suffix == ".arrow"):  # datasets': without a magic
            raise InputError(f"input {str(file)!r} {advice}")
    if head.startswith(_PARQUET) and file.suffix != ".parquet":
        raise InputError(f"input {str(file)!r} is Parquet: write it to a file named .parquet, and give that")
    if file.suffix not in SUFFIXES:
        words = f"only {KINDS} can be read, and these but Parquet also compressed ({PACKED})"
        raise InputError(f"input {str(file)!r}: {words}: convert it to one of them")
    if file.packing and file.suffix == ".parquet":
        raise InputError(f"input {str(file)!r}: Parquet is read from its end: unpack the file first")
    if file.claimed and not file.packing and b"\0" in head and file.suffix != ".parquet":  # pandas: df.parquet.gzip
        raise InputError(f"input {str(file)!r} is neither {file.claimed.name} nor text: copy the file again")


def _cannot_read(file: InputFile, error: OSError) -> InputError:
    return InputError(f"cannot read input {str(file)!r}: {error.strerror or error}")
