"""The template that an admin starts from: it extends the next one below, and its blocks are comments."""

from __future__ import annotations

from pathlib import Path

from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.schedulers.template_folders import known_names
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.ownership import write_mine
from vllm_hpc.spec.values import check_path

_EXAMPLES = {
    "directives": ("more lines of directives, such as", "#{prefix} {directive}"),
    "environment": ("the ranks' environment", "export NCCL_TOPO_FILE=/etc/nccl/topo.xml"),
    "rendezvous": ("how the nodes find each other", "export GLOO_SOCKET_IFNAME=hsn0"),
    "launch": ("how tasks start; all that is around it stays", '  {launcher} "${{task[@]}}"'),
}
_PREFIXES = {"slurm": ("SBATCH", "--constraint=gpu"), "pbs": ("PBS", "-l filesystems=home")}
_LAUNCHERS = {"slurm": "{{ launcher.words(job)|command }} --mpi=none"}


def init_template(folder: str, name: str, scheduler: str) -> Path:
    """Write a template of that name for a scheduler into a folder, which is made. Raises RequestError.

    Nothing is overwritten. A name that is not one of ours gives a template for --template.
    """
    check_path(folder, "DIR")
    check_path(name, "NAME")
    if "/" in name or name.startswith((".", "_")) or not name.endswith(".j2"):
        raise RequestError(f"NAME must be a file's name that ends in .j2, such as slurm.sbatch.j2, not {name!r}")
    path = Path(folder) / name
    text = template_text(name, scheduler)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_mine(path, text.encode())
    except FileExistsError:
        raise RequestError(f"{str(path)!r} already exists: remove it, or name another folder") from None
    except OSError as error:
        raise RequestError(f"{str(path)!r} cannot be written: {error.strerror}: name another folder") from None
    return path


def template_text(name: str, scheduler: str) -> str:
    """The text of such a template."""
    base = name if known_names().get(name) else get_scheduler(scheduler).template
    below = "the template of this name in the next folder below, at last the packaged one" if base == name else base
    lines = [
        f'{{% extends "{base}" %}}',
        f"{{#- Extends {below}. Text outside of blocks is refused.",
        "   Take a block out of its comment and write what is different: {{ super() }} is the text below.",
        f"   'vllm-hpc templates check' tries it, 'vllm-hpc templates show {base} --source' shows it all. -#}}",
    ]
    for block in _EXAMPLES:
        if block == "directives" and scheduler not in _PREFIXES:
            continue
        lines += ["", *_block(block, scheduler)]
    return "\n".join(lines) + "\n"


def _block(block: str, scheduler: str) -> list[str]:
    says, example = _EXAMPLES[block]
    prefix, directive = _PREFIXES.get(scheduler, ("", ""))
    line = example.format(prefix=prefix, directive=directive, launcher=_LAUNCHERS.get(scheduler))
    if block == "directives":
        body = ["{{ super() }}" + line]  # the text below ends with an end of line
    elif block == "launch":
        body = [line if scheduler in _LAUNCHERS else "{{ super() }}"]
    else:
        body = ["{{ super() }}", line]
    return [f"{{#- {block}: {says}", f"{{% block {block} %}}{body[0]}", *body[1:], "{% endblock %} -#}"]
