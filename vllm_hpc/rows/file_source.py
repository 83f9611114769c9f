"""What every source has that reads the bytes of a file: how much was read, and where a row is."""

from __future__ import annotations

from vllm_hpc.rows.input_file import InputFile


class FileSource:
    """The base of sources that read ``file`` as a stream."""

    file: InputFile

    @property
    def share(self) -> float:
        """The share of the file that was read, from 0 to 1."""
        return self.file.share

    @property
    def unpacked(self) -> int:
        """Unpacked bytes that were read."""
        return self.file.unpacked

    def place(self, number: int) -> str:
        """The position of the row that begins on line ``number``, for errors."""
        return self.file.place(number)
