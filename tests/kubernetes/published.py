"""Checks an object against the published APIs: each field must be there, of its type, and none may be missing.

PyTorchJob is read from the models of kubeflow-training (its Python is not run: that needs the whole Kubernetes client);
TrainJob, and Kubernetes' own types, from those of kubeflow-trainer-api, which are made of their OpenAPI schema.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

Object = dict[str, Any]
_PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "object": object}


def check(manifest: Object) -> None:
    """Check a PyTorchJob or a TrainJob. Raises AssertionError that names the field."""
    if manifest["kind"] == "TrainJob":
        _check_model("TrainerV1alpha1TrainJob", manifest, "TrainJob")
    else:
        _check_v1("KubeflowOrgV1PyTorchJob", manifest, "PyTorchJob")


def _check_v1(kind: str, value: Any, place: str) -> None:
    if found := re.fullmatch(r"dict\(str, (.+)\)", kind):
        for name, one in value.items():
            _check_v1(found[1], one, f"{place}.{name}")
    elif found := re.fullmatch(r"list\[(.+)\]", kind):
        for number, one in enumerate(value):
            _check_v1(found[1], one, f"{place}[{number}]")
    elif kind in _PLAIN:
        assert isinstance(value, _PLAIN[kind]), f"{place} must be {kind}, not {value!r}"  # type: ignore[arg-type]
    elif kind.startswith("KubeflowOrg"):
        types, names, required = _tables(kind)
        for name in required - value.keys():
            raise AssertionError(f"{place} lacks {name}")
        for name, one in value.items():
            assert name in names, f"{place} has no field {name}"
            _check_v1(types[names[name]], one, f"{place}.{name}")
    else:
        prefix = "IoK8sApimachineryPkgApisMetaV1" if kind.endswith("Meta") else "IoK8sApiCoreV1"
        _check_model(prefix + kind.removeprefix("V1"), value, place)


@cache
def _tables(kind: str) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """The types of a model's attributes, the attributes of its fields, and the fields that must be there."""
    spec = find_spec("kubeflow")
    assert spec is not None
    assert spec.submodule_search_locations
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()
    file = Path(next(iter(spec.submodule_search_locations)), "training", "models", f"{name}.py")
    text = file.read_text(encoding="utf-8")
    (model,) = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef))
    found = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in model.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    fields = {json: attribute for attribute, json in found["attribute_map"].items()}
    required = {json for json, name in fields.items() if f"Invalid value for `{name}`, must not be `None`" in text}
    return found["openapi_types"], fields, required


def _check_model(kind: str, value: Any, place: str) -> None:
    """By a pydantic model, which leaves out what it does not know."""
    import kubeflow_trainer_api.models as models

    made = getattr(models, kind).from_dict(value).to_dict()
    for path in _lost(value, made, place):
        raise AssertionError(f"{path} is not in the schema of {kind}")


def _lost(given: Any, made: Any, place: str) -> list[str]:
    if isinstance(given, dict):
        if not isinstance(made, dict):
            return [place]
        return [path for key in given for path in _lost(given[key], made.get(key), f"{place}.{key}")]
    if isinstance(given, list):
        if not isinstance(made, list) or len(given) != len(made):
            return [place]
        both = zip(given, made, strict=True)
        return [path for number, (a, b) in enumerate(both) for path in _lost(a, b, f"{place}[{number}]")]
    return [] if given == made else [place]
