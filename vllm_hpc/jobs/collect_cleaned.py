"""collect of a job whose shards 'vllm-hpc clean' has removed: its outputs.jsonl is what there is."""

from __future__ import annotations

import shutil

import msgspec

from vllm_hpc.jobfolder.cleaned import read_cleaned
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobs.output_folder import Outputs
from vllm_hpc.jobs.summary import Summary
from vllm_hpc.spec.errors import CollectError
from vllm_hpc.spec.read_file import open_regular
from vllm_hpc.spec.visible import in_utf8
from vllm_hpc.spec.write_file import replacing


def collect_cleaned(folder: JobFolder, outputs: Outputs) -> Summary:
    """The summary as it was; the rows are copied if they are wanted elsewhere. Raises CollectError."""
    summary = read_json(folder.summary, Summary)
    if summary is None or not folder.outputs.exists():
        gone = folder.outputs.name if summary is not None else folder.summary.name
        raise CollectError(f"{folder.path.name} was cleaned, and its {gone} is gone: restore it, or submit a new job")
    if outputs.rows == folder.outputs:
        return summary
    copied = msgspec.structs.replace(summary, outputs=in_utf8(str(outputs.rows)))
    try:
        with open_regular(folder.outputs, follow_links=False) as rows, replacing(outputs.rows) as out:
            write_json(outputs.summary, copied)
            shutil.copyfileobj(rows, out, 1 << 20)
    except OSError as error:
        raise CollectError(f"cannot copy to {outputs.rows}: {error.strerror}: collect again") from None
    return copied


def check_not_cleaned(folder: JobFolder, rows: int) -> None:
    """Called once the shards were read, before outputs.jsonl is replaced by what they had. Raises CollectError."""
    if read_cleaned(folder, rows):
        raise CollectError(f"{folder.path.name} was cleaned meanwhile: its {folder.outputs.name} stays as it is")
