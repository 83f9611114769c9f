"""Files of rows in five formats, compressed or not, with hostile rows or bytes."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from random import Random
from typing import Any

from tests.hostile.cases import Case, Edit
from tests.hostile.generate_values import broken_json, expansion, json_bytes, mild, nested, number, text, value

_KEYS = ("prompt", "messages", "id", "sampling", "custom_id", "body", "lora", "task", "chat_template", "index", "error")
_SAMPLING = ("temperature", "max_tokens", "seed", "n", "stop", "logit_bias", "top_p", "structured_outputs", "no_such")


def rows(random: Random) -> Case:
    """Rows, of which some are hostile, in some format, or as standard input."""
    format_, write = random.choice(tuple(_WRITERS.items()))
    content = _damaged(random, write(random, [make_row(random) for _ in range(random.choice((1, 2, 5)))]))
    suffix, pack = random.choice((("", bytes),) * 4 + _PACKS)
    name = random.choice(("rows", "rows", text(random).replace("/", "_").replace("\0", "_")[:40]))
    path = f"in/{name}.{format_}{suffix}".encode("utf-8", "replace").decode()
    packed = _damaged(random, pack(content)) if suffix else content
    asked = (random.choice(("submit", "submit", "submit", "plan", "render")), "--rehearse", "--scheduler", "slurm")
    options = random.choice(((),) * 3 + (
        ("--prompt-column", random.choice(("prompt", "text", expansion(random)))),
        ("--prompt-template", "{{ prompt }} {{ id }}"),
        ("--rename", "text=prompt"),
        ("--drop-last-answer",),
        ("--seed-rows",),
    ))  # fmt: skip
    if random.random() < 0.1:
        return Case(((*asked, "--input", "-", *options),), stdin=packed, answers_rows=True)
    return Case(((*asked, "--input", path, *options),), (Edit(path, content=packed),), answers_rows=True)


def files(random: Random) -> Case:
    """What is named as the input is no plain file, or a folder or a pattern with one in it."""
    how = random.choice(("folder", "fifo", "zeros", "loop", "sparse", "empty", "binary"))
    name = random.choice(("rows.jsonl", "rows.txt", "rows.csv", "rows.parquet", "rows.json", "rows.jsonl.gz", "rows"))
    given = random.choice((f"in/{name}", f"in/{name}", "in", "in/*", f"in/{name}/*", "in/**"))
    good = Edit("in/good.jsonl", content=b'{"prompt": "a"}\n')
    bad = Edit(f"in/{name}", how)  # type: ignore[arg-type]
    command = random.choice(("submit", "plan", "render"))
    return Case(((command, "--rehearse", "--scheduler", "slurm", "--input", given),), (good, bad))


def make_row(random: Random) -> Any:
    """A row, of which most are plain."""
    kind = random.random()
    if kind < 0.5:
        return (
            {"prompt": mild(random)} if random.random() < 0.5 else {"prompt": mild(random), "id": str(random.random())}
        )
    if kind < 0.53:
        return value(random)
    row: dict[str, Any] = {"prompt": text(random) if kind < 0.7 else "a"}
    if kind > 0.85:
        row = {"messages": [{"role": random.choice(("user", "system", text(random))), "content": value(random, 2)}]}
    if random.random() < 0.3:
        row["sampling"] = {random.choice(_SAMPLING): random.choice((number(random), value(random)))}
    if random.random() < 0.4:
        row[random.choice((*_KEYS, text(random)))] = random.choice((text(random), number(random), value(random)))
    return row


def _jsonl(random: Random, given: list[Any]) -> bytes:
    lines = [broken_json(random, one) if random.random() < 0.1 else json_bytes(one) for one in given]
    return b"\n".join(lines) + random.choice((b"\n", b"", b"\r\n", b"\n\n\n"))


def _json(random: Random, given: list[Any]) -> bytes:
    whole = random.choice((given, {"rows": given}, {"data": given}, nested(random), given[0]))
    return broken_json(random, whole) if random.random() < 0.2 else json_bytes(whole)


def _txt(random: Random, given: list[Any]) -> bytes:
    said = [text(random) if random.random() < 0.2 else mild(random) for _ in given]
    return "\n".join(said).encode(errors=random.choice(("replace", "replace", "surrogatepass")))


def _csv(random: Random, given: list[Any]) -> bytes:
    file = io.StringIO()
    head = ["prompt", *(text(random) for _ in range(random.choice((0, 0, 1, 3, 500))))]
    writer = csv.writer(file, delimiter=random.choice(",;\t"), quoting=random.choice((0, 1)), escapechar="\\")
    writer.writerow(random.sample(head, len(head)))
    for one in given:
        odd = [] if random.random() < 0.5 else [text(random) for _ in range(random.randrange(4))]
        writer.writerow([json.dumps(one), *odd, *[""] * (len(head) - 1 - len(odd))])
    return file.getvalue().encode(errors=random.choice(("replace", "replace", "surrogatepass")))


def _parquet(random: Random, given: list[Any]) -> bytes:
    """A table whose cells are text; without pyarrow, the bytes at which a reader begins and ends."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        return b"PAR1" + random.randbytes(50) + b"PAR1"
    cells = [json.dumps(one) for one in given]
    column = random.choice(("prompt", "messages", expansion(random)))
    file = io.BytesIO()
    numbers = pa.array([random.choice((0, -1, 2**62)) for _ in given])
    pq.write_table(pa.table({column: pa.array(cells), random.choice(("id", "sampling", "x")): numbers}), file)
    return file.getvalue()


def _damaged(random: Random, content: bytes) -> bytes:
    """The bytes; one of five times with some of them wrong."""
    if random.random() < 0.9 or not content:
        return content
    cut = random.randrange(len(content))
    return random.choice((
        content[:cut], content[:cut] + b"\0" + content[cut:], content[:cut] + random.randbytes(4) + content[cut + 4 :],
        b"\xef\xbb\xbf" + content, b"\0" * 100 + content, content * 2, b"",
    ))  # fmt: skip


def _zstd(content: bytes) -> bytes:
    """One frame of one raw block, or of several (RFC 8878, 3.1.1): nothing here needs a compressor."""
    blocks = [content[at : at + 100_000] for at in range(0, len(content), 100_000)] or [b""]
    heads = [(len(one) << 3 | (place == len(blocks) - 1)).to_bytes(3, "little") for place, one in enumerate(blocks)]
    return b"\x28\xb5\x2f\xfd\x00\x58" + b"".join(head + one for head, one in zip(heads, blocks, strict=True))


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def _bomb(content: bytes) -> bytes:
    """A file of 16 MiB in 16 KiB."""
    return gzip.compress(content + b"x" * (16 << 20), 1, mtime=0)


_WRITERS: dict[str, Callable[[Random, list[Any]], bytes]] = {
    "jsonl": _jsonl, "json": _json, "txt": _txt, "csv": _csv, "tsv": _csv, "parquet": _parquet,
}  # fmt: skip
_PACKS: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    (".gz", _gzip),
    (".zst", _zstd),
    (".gz", _zstd),
    (".gz", _bomb),
)
