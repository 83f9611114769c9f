"""The same in a real kernel: cards are updated in the cell that began them, and a stop is one line."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.notebooks, pytest.mark.ranks, pytest.mark.full]

CELLS = (
    'import vllm_hpc; job = vllm_hpc.submit(input="rows.jsonl", name="first", scheduler="local", tp=1, max_tokens=8, '
    'rehearse={"tokens_per_s": 200, "load_s": 2}, engine={"max_num_seqs": 4})',
    'vllm_hpc.attach("first")',
    "_",
    "job.wait()",
    "await job",
    "[row['index'] async for row in job]",
    "await job",
)


class Kernel:
    """A kernel, and what each of its cells has shown."""

    def __init__(self, manager: Any, client: Any) -> None:
        self.manager, self.client = manager, client
        self.shown: dict[str, list[dict[str, Any]]] = {}

    def run(self, code: str, stop: bool = False) -> list[dict[str, Any]]:
        """Run a cell to its end; ``stop``: interrupt it once it has shown a card."""
        cell = self.client.execute(code)
        own = self.shown.setdefault(cell, [])
        while True:
            message = self.client.get_iopub_msg(timeout=60)
            kind, content = message["msg_type"], message["content"]
            self.shown.setdefault(message["parent_header"].get("msg_id", ""), []).append({"kind": kind, **content})
            if stop and kind == "display_data":
                stop = False
                threading.Timer(0.3, self.manager.signal_kernel, [signal.SIGINT]).start()
            if message["parent_header"].get("msg_id") == cell and content.get("execution_state") == "idle":
                return own


def texts(messages: list[dict[str, Any]], kind: str) -> list[str]:
    return [one["data"]["text/plain"] for one in messages if one["kind"] == kind]


def test_cards_and_interrupts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jupyter_client = pytest.importorskip("jupyter_client")
    pytest.importorskip("ipykernel")
    monkeypatch.chdir(tmp_path)
    lines = (json.dumps({"prompt": f"row {number}"}) + "\n" for number in range(24))
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    manager, client = jupyter_client.manager.start_new_kernel(kernel_name="python3")
    try:
        kernel = Kernel(manager, client)
        submit, attach, attached_before, wait, awaits, stream, last = CELLS
        kernel.run(submit)
        attached = kernel.run(attach)
        (result,) = [one["data"] for one in attached if one["kind"] == "execute_result"]
        assert list(result) == ["text/plain"], "a card of the same cell follows the job"
        (result,) = [one["data"] for one in kernel.run(attached_before) if one["kind"] == "execute_result"]
        assert "REHEARSAL" in result["text/html"], "another cell shows it as any other job"
        for code in (wait, awaits):
            (error,) = [one for one in kernel.run(code, stop=True) if one["kind"] == "error"]
            said = "Interrupted: the job continues: job.wait(), or vllm-hpc watch first"
            assert error["traceback"] == [said]
        (found,) = texts(kernel.run(stream), "execute_result")
        assert sorted(json.loads(found)) == list(range(24))
        ended = kernel.run(last)
        assert [text.split(",")[0] for text in texts(ended, "display_data")] == ["Job first: COMPLETED 24/24"]
        (result,) = [one["data"] for one in ended if one["kind"] == "execute_result"]
        assert list(result) == ["text/plain"], "the card above says the same"
        while not any("COMPLETED" in text for text in texts(attached, "update_display_data")):
            message = client.get_iopub_msg(timeout=30)
            kernel.shown.setdefault(message["parent_header"].get("msg_id", ""), []).append(
                {"kind": message["msg_type"], **message["content"]}
            )
        assert len(texts(attached, "display_data")) == 1
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
