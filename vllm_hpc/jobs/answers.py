"""What a job has answered, as rows and as tables: these methods of Job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vllm_hpc.jobs.border import at_the_border, each_at_the_border

if TYPE_CHECKING:
    from vllm_hpc.jobfolder.folder import JobFolder
    from vllm_hpc.rows.row import Row


class Answers:
    """The methods of Job that give its rows back. What they need is imported when one is called."""

    folder: JobFolder

    @each_at_the_border
    def results(self, *, partial: bool = False) -> Iterator[Row]:
        """The output rows in input order, one for every input row; collects first if outputs.jsonl is out of date.

        Of a job that has not ended, ``partial`` gives the rows so far: one that has not ended is a row with an error of
        type ``missing``. Raises RequestError without it, and if the job runs no rows; JobFailedError if it failed
        without a single row.
        """
        from vllm_hpc.jobs.tables import read_results

        return read_results(self.folder, partial)

    @at_the_border
    def dataframe(self, *, prompts: bool = True, explode: bool = True, partial: bool = False) -> Any:
        """The output rows as a pandas DataFrame, in input order.

        ``prompts``: with ``prompt`` or ``messages`` from the input. ``explode``: of a row with n > 1 outputs one row
        each, numbered in ``output``; else they are a list. Rows without an answer have ``error_type`` and
        ``error_message``. Counts are Int64. ``partial`` as of ``results``. Raises RequestError, also without pandas;
        InputError if the input has changed.
        """
        return self._frame("to_pandas", prompts, explode, partial)

    @at_the_border
    def join(self, df: Any, on: str | None = None, *, explode: bool = True, partial: bool = False) -> Any:
        """A DataFrame of pandas or polars with the answers as new columns; its index stays.

        By the order of the input, or by the ids in its column ``on``, of which those that the job does not have get no
        answer. A row of n > 1 outputs is repeated. Raises RequestError where lengths or ids do not match.
        """
        from vllm_hpc.jobs import frames, tables

        return frames.join(tables.read_columns(self.folder, False, explode, partial), df, on)

    @at_the_border
    def to_polars(self, *, prompts: bool = True, explode: bool = True, partial: bool = False) -> Any:
        """The same as ``dataframe``, as a polars DataFrame. Raises RequestError, also without polars."""
        return self._frame("to_polars", prompts, explode, partial)

    @at_the_border
    def to_arrow(self, *, prompts: bool = True, explode: bool = True, partial: bool = False) -> Any:
        """The same as ``dataframe``, as a pyarrow Table. Raises RequestError, also without pyarrow."""
        return self._frame("to_arrow", prompts, explode, partial)

    @at_the_border
    def to_dataset(self, *, prompts: bool = True, explode: bool = True, partial: bool = False) -> Any:
        """The same as ``dataframe``, as a datasets.Dataset. Raises RequestError, also without datasets."""
        return self._frame("to_dataset", prompts, explode, partial)

    def _frame(self, kind: str, prompts: bool, explode: bool, partial: bool) -> Any:
        from vllm_hpc.jobs import frames, tables

        return getattr(frames, kind)(tables.read_columns(self.folder, prompts, explode, partial))
