"""Ray Data LLM, as its documentation has it: with_ray.py CHATS OUTPUT MODEL ENGINE-ARGUMENTS-AS-JSON.

Run by the Python that has ray[data,serve] and vLLM. One engine; on a machine without a GPU it is placed on CPUs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    chats, output, model, engine = sys.argv[1:]
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    ray.init(include_dashboard=False, logging_level="warning")
    device = {} if ray.cluster_resources().get("GPU") else {"placement_group_config": {"bundles": [{"CPU": 1}]}}
    config = vLLMEngineProcessorConfig(model_source=model, engine_kwargs=json.loads(engine), **device)
    with Path(chats).open() as lines:
        rows = [json.loads(line) for line in lines]
    done = build_processor(config, preprocess=request, postprocess=answer)(ray.data.from_items(rows))
    with Path(f"{output}.part").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in done.iter_rows())
    Path(f"{output}.part").rename(output)


def request(row: dict[str, Any]) -> dict[str, Any]:
    body = row["body"]
    names = ("max_tokens", "temperature", "ignore_eos")
    sampling = {name: body[name] for name in names if body.get(name) is not None}
    return {"messages": body["messages"], "sampling_params": sampling, "custom_id": row["custom_id"]}


def answer(row: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": row["custom_id"], "text": row["generated_text"]}


if __name__ == "__main__":
    main()
