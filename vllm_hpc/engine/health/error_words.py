"""What a rank's record says of an error, whatever a user's exception says of itself."""

from __future__ import annotations

import traceback

# Characters: of a message, and of a traceback. A record stays one that can be read.
_MOST, _MOST_OF_TRACE = 20_000, 200_000


def message_of(error: BaseException) -> str:
    """Its message, or its type if it has none."""
    try:
        said = str(error)
    except Exception:  # noqa: BLE001 - its own code
        said = ""
    return _fit(said or type(error).__name__, _MOST)


def trace_of(error: BaseException) -> str:
    """Its traceback."""
    return _fit("".join(traceback.format_exception(error)), _MOST_OF_TRACE)


def _fit(text: str, most: int) -> str:
    """Without what UTF-8 has not (a file's name may bring it), and without the middle of what is too long."""
    if len(text) > most:
        text = f"{text[: most // 2]}\n[{len(text) - most} characters are left out]\n{text[-most // 2 :]}"
    return text.encode(errors="backslashreplace").decode()
