"""Names and values that YAML, Kubernetes or a shell might take for something else: they come through as they are."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.local_pods import expand
from tests.kubernetes.test_manifests import container_of, load, needs_schemas
from vllm_hpc.jobs.submit import prepare
from vllm_hpc.schedulers.kubernetes.names import object_prefix
from vllm_hpc.schedulers.yaml_text import pod_script, yaml
from vllm_hpc.spec.errors import RefusedError, RequestError, TemplateError
from vllm_hpc.spec.kubernetes import Kubernetes
from vllm_hpc.spec.kubernetes_checks import check_kubernetes

pytestmark = pytest.mark.programs

TEXTS = [
    "$(RANK) $$(RANK) $$ $$$ $", "{{ x }} {% y %} {# z #}", "---", "- a: b # c", '"', "'", "\\", "a\tb", "*x &y !z",
    "no", "~", "1e3", "0x10", "é \U0001f600", "\u2028", "\x7f", "%s", ": ", "`id`", "|", ">-",
]  # fmt: skip
NAMES = ["$(RANK) {{ x }} a: b # c", 'it\'s "one"', "日本 é", "UPPER_case.v1", "x" * 200]
PROFILE = """
[profiles.p]
scheduler = "kubernetes"
gpus_per_node = 2
{top}
container = {{ image = "vllm/vllm-openai:v0.26.0" }}
[profiles.p.kubernetes]
{table}
[profiles.p.kubernetes.volumes.all]
host_path = "/"
mount = {mount}
{volume}
"""


def written(desk: Path, table: str = "", top: str = "", volume: str = "", mount: str | None = None) -> None:
    place = json.dumps(str(desk.parent) if mount is None else mount)
    text = PROFILE.format(table=table, top=top, volume=volume, mount=place).replace('host_path = "/"', 'claim = "all"')
    (desk / "vllm-hpc.toml").write_text(text)


def render(model: Path, **options: Any) -> dict[str, Any]:
    return load(prepare(str(model), profile="p", **options).script)


@needs_schemas
def test_values_come_through_yaml_kubernetes_and_the_shell(desk: Path, model: Path) -> None:
    written(desk)
    variables = {f"V{number}": text for number, text in enumerate(TEXTS) if text.isprintable()}
    manifest = render(model, tp=2, env=variables)
    script = expand(container_of(manifest)["args"][0], {"RANK": "0"})
    exports = [line for line in script.splitlines() if re.match(r"export V\d+=", line)]
    assert len(exports) == len(variables)
    show = "\n".join([*exports, *(f"printf '%s\\0' \"${name}\"" for name in variables)])
    found = subprocess.run(["bash", "-c", show], capture_output=True, check=True).stdout.decode().split("\0")[:-1]
    assert found == list(variables.values())


@needs_schemas
def test_values_are_themselves_in_yaml() -> None:
    for text in TEXTS:
        value = {"a": [text, {text or "x": 1}], "b": True}
        assert load(f"key: {yaml(value)}")["key"] == value


@needs_schemas
@pytest.mark.parametrize("texts", [[text for text in TEXTS if text.isascii() and text != "\x7f"], TEXTS])
def test_a_script_is_itself_in_yaml(texts: list[str]) -> None:
    """As a block, and as one string where it has what a block cannot."""
    quoted = "".join(f"x='{text.replace(chr(39), chr(34))}'\n" for text in texts)
    script = f"# one\n{quoted}\n\n   echo\n \n\n"
    found = load(f"args:\n  - {pod_script(script, 4)}\n")["args"][0]
    assert expand(found, {"RANK": "7"}) == script.strip("\n") + "\n"


def test_a_script_that_bash_cannot_parse_is_refused() -> None:
    with pytest.raises(TemplateError, match="the script of the pods is not valid bash"):
        pod_script("if true", 4)


def test_a_script_that_is_no_argument_is_refused() -> None:
    """Each pod of it would say "argument list too long", and nothing else."""
    pod_script(f"x={'x' * (128 * 1024 - 3)}", 4)
    with pytest.raises(
        TemplateError, match=r"the script of the pods has 131072 bytes, .*: use shorter values of --env"
    ):
        pod_script(f"x={'x' * (128 * 1024 - 2)}", 4)


def test_more_than_an_object_may_have_is_refused() -> None:
    with pytest.raises(RequestError, match=r"'k'\.annotations must have at most 196608 bytes together, not 200140"):
        check_kubernetes(Kubernetes(annotations={f"a{n}": "x" * 4000 for n in range(50)}), "'k'")
    with pytest.raises(RequestError, match=r"'k'\.context must be a context of kubectl") as caught:
        check_kubernetes(Kubernetes(context="x" * 10**6), "'k'")
    assert len(str(caught.value)) < 5000


@needs_schemas
@pytest.mark.parametrize("name", NAMES)
def test_a_jobs_name_is_as_kubernetes_wants_it(desk: Path, model: Path, name: str) -> None:
    written(desk)
    manifest = render(model, tp=1, name=name)
    prefix = manifest["metadata"]["generateName"]
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,42}[a-z0-9])?-", prefix), prefix
    assert prefix == object_prefix(Path(name))
    script = expand(container_of(manifest)["args"][0], {"RANK": "0"})
    (line,) = (line for line in script.splitlines() if line.startswith("job="))
    found = subprocess.run(["bash", "-c", f'{line}\nprintf %s "$job"'], capture_output=True, check=True).stdout
    assert found.decode() == str(desk / "runs" / name)


REFUSED = {
    'namespace = "Team"': "namespace must be a name of at most 63 lower-case",
    'namespace = "a\\nb"': "namespace must be",
    'namespace = "-x"': "namespace must be",
    'shm = "lots"': "shm must be an amount of memory, such as 16Gi",
    'shm = "0"': "shm must be",
    'gpu_resource = "nvidia.com/gpu: 8"': "gpu_resource must be a resource",
    'runtime = "a b"': "runtime must be",
    'context = "--kubeconfig=/x"': "context must be a context of kubectl",
    'context = "a\\u0000b"': "context must be",
    'secrets = { RANK = "a/b" }': "neither Kubeflow nor we set",
    'secrets = { "a b" = "a/b" }': "must be the name of a variable",
    'secrets = { HF_TOKEN = "hunter2" }': "secret",
    'secrets = { X = "Big/key" }': "X must be NAME/KEY",
    'labels = { "vllm-hpc/folder" = "x" }': "is not a user's to set",
    'labels = { a = "b c" }': "a must be at most 63 letters",
    'labels = { "a b" = "c" }': "labels must be keys such as",
    'node_selector = { a = "b\\n" }': "node_selector: a must be",
    'tolerations = ["a:Never"]': r"must be KEY\[=VALUE\]\[:EFFECT\]",
    'tolerations = [":NoSchedule"]': "must be KEY",
    'image_pull_secrets = ["a/b"]': "image_pull_secrets must be names of Secrets",
    'api = "mpijob"': "'api' must be one of",
    "run_as_user = -1": "run_as_user",
    'run_as_user = "root"': "run_as_user",
    'api = "trainjob"\npriority_class = "high"': "priority_class must be left out with api = 'trainjob'",
    'volumes = "x"': "",
    'volume = "x"': "unknown key 'volume': did you mean 'volumes'",
}


@pytest.mark.parametrize("table", REFUSED)
def test_a_wrong_value_of_the_table_is_refused_with_its_file(desk: Path, model: Path, table: str) -> None:
    written(desk, table)
    with pytest.raises(RefusedError, match=REFUSED[table]) as caught:
        prepare(str(model), profile="p", tp=1)
    assert "vllm-hpc.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


VOLUMES = {
    'nfs = "a:/b"': "must have one of claim, host_path and nfs, not claim and nfs",
    'sub_path = "../x"': "sub_path",
    'read_only = "yes"': "read_only",
}


@pytest.mark.parametrize("volume", VOLUMES)
def test_a_wrong_volume_is_refused(desk: Path, model: Path, volume: str) -> None:
    written(desk, volume=volume)
    with pytest.raises(RefusedError, match=VOLUMES[volume]):
        prepare(str(model), profile="p", tp=1)


@pytest.mark.parametrize("mount", ["", "x", "/", "/a/../b", "/a:b", "/dev/shm", "/a\nb", "/a/", "//a"])
def test_a_wrong_mount_is_refused(desk: Path, model: Path, mount: str) -> None:
    written(desk, mount=mount)
    with pytest.raises(RefusedError, match="mount"):
        prepare(str(model), profile="p", tp=1)


def test_what_pods_would_not_see_is_refused(desk: Path, model: Path) -> None:
    written(desk, mount="/elsewhere")
    with pytest.raises(
        RefusedError, match=r"pods would not see '.*': it must be in a volume .* mounts are: /elsewhere"
    ):
        prepare(str(model), profile="p", tp=1)
    written(desk, volume="read_only = true")
    with pytest.raises(RefusedError, match=r"pods must write to '.*', but its volume, .* has read_only = true"):
        prepare(str(model), profile="p", tp=1)


def test_pods_see_the_folder_of_a_script_and_need_not_see_where_it_was_submitted(desk: Path, tmp_path: Path) -> None:
    written(desk, mount=str(tmp_path / "shared"))
    (desk / "a.py").write_text("print(1)\n")
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "a.py").write_text("print(1)\n")
    shared: dict[str, Any] = {"profile": "p", "job_dir": str(tmp_path / "shared" / "runs"), "tp": 1}
    assert prepare(script=str(tmp_path / "shared" / "a.py"), **shared).script
    with pytest.raises(RefusedError, match=r"pods would not see '.*', the folder of your code: it must be in a volume"):
        prepare(script="a.py", **shared)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"array": True, "dp": 2, "nodes": 1, "gpus_per_node": 1},
            "--array cannot be used with the scheduler kubernetes",
        ),
        ({"partition": "gpu"}, "--partition means nothing to the scheduler kubernetes: set queue"),
        ({"account": "x"}, "--account means nothing"),
        ({"directive": ["--x"]}, "--directive means nothing"),
        ({"mem": "0"}, "--mem 0 is all of a node's memory"),
        ({"launcher": "srun"}, "--launcher srun cannot be used with the scheduler kubernetes"),
        ({"container": "/x/y.sif"}, "--container must be an image in a registry"),
        ({"container": "a b"}, "--container must be an image in a registry"),
        ({"container": "docker://x"}, "--container must be an image in a registry"),
        ({"container": ""}, "the scheduler kubernetes runs images: give one"),
    ],
)
def test_what_no_manifest_can_say_is_refused(desk: Path, model: Path, options: dict[str, Any], said: str) -> None:
    written(desk)
    with pytest.raises(RefusedError, match=re.escape(said)):
        prepare(str(model), profile="p", **options)


@pytest.mark.parametrize("key", ["runtime", "binds", "options"])
def test_a_runtime_of_hosts_is_refused(desk: Path, model: Path, key: str) -> None:
    written(desk)
    value = {"runtime": '"podman"', "binds": '["/x"]', "options": '["--x"]'}[key]
    with (desk / "vllm-hpc.toml").open("a") as file:
        file.write(f"[profiles.p.container]\n{key} = {value}\n")
    text = (desk / "vllm-hpc.toml").read_text().replace('container = { image = "vllm/vllm-openai:v0.26.0" }\n', "")
    (desk / "vllm-hpc.toml").write_text(text + 'image = "x"\n')
    with pytest.raises(RefusedError, match=rf"container\.{key} must be left out for the scheduler kubernetes"):
        prepare(str(model), profile="p", tp=1)
