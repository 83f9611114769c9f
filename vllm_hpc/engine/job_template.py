"""The text of --chat-template, as it was submitted."""

from __future__ import annotations

import hashlib

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.read_file import read_regular


def with_chat_template(job: JobFolder, record: JobRecord) -> JobRecord:
    """The record with the text of --chat-template as it was submitted, in place of its path.

    Raises OSError, RequestError if it was changed.
    """
    if record.request.chat_template is None:
        return record
    text = read_regular(job.chat_template, follow_links=False)
    wanted = record.chat_template_sha256  # none in jobs of earlier versions
    if wanted and hashlib.sha256(text).hexdigest() != wanted:
        raise RequestError(f"{str(job.chat_template)!r} was changed since the job was submitted: submit a new job")
    request = msgspec.structs.replace(record.request, chat_template=text.decode())
    return msgspec.structs.replace(record, request=request)
