"""What the Slurm job of llmflux 2.0 does, without Slurm and Apptainer: vLLM's server, then its BatchProcessor.

Run by the Python that has llmflux: with_llmflux.py CHATS OUTPUT SERVER... (the command of vLLM's server).
`llmflux run` itself only submits to Slurm, and its job starts the server in an Apptainer image. The port, the second
between two looks at the server's health, batch_size 4 and save_frequency 50 are those of its job's script.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


def main() -> None:
    chats, output, *server = sys.argv[1:]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    at = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([*server, "--host", "127.0.0.1", "--port", str(port)])
    try:
        wait_for(process, at)
        answer(chats, output, at)
    finally:
        process.terminate()
        process.wait()


def wait_for(process: subprocess.Popen[bytes], at: str) -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"{at}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    sys.exit(f"vLLM's server ended with exit code {process.returncode}")


def answer(chats: str, output: str, at: str) -> None:
    os.environ["VLLM_HOST"] = at
    from llmflux.core.config import Config
    from llmflux.processors import BatchProcessor

    with Path(chats).open() as lines:
        model = json.loads(lines.readline())["body"]["model"]
    config = Config().load_model_config("Llama-3.2-3B-Instruct")
    config.engine = "vllm"
    config.hf_name = model  # its catalogue knows no folder of this machine
    BatchProcessor(model_config=config, batch_size=4, save_frequency=50).run(chats, output, "vllm")


if __name__ == "__main__":
    main()
