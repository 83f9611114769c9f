"""What qsub's options and #PBS lines ask the stand-in for, and what it refuses."""

from __future__ import annotations

import getopt
import os
import re
import time
from collections.abc import Iterator
from typing import Any

QUEUES = ("workq",)
RESOURCES = {"select", "place", "walltime", "ncpus", "ngpus", "mem", "cput", "nodes", "mpiprocs"}
NUMBERS = {"ncpus", "ngpus", "mpiprocs"}
# Without a select these are of one chunk, on one host.
TOTALS = ("mem", "ncpus", "ngpus")
ATTRIBUTES = {"umask", "group_list", "depend", "block", "sandbox", "stagein", "stageout", "run_count"}
Fields = dict[str, Any]


class Refused(Exception):  # noqa: N818 - a client's end
    """What a client says before it exits with that code."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code = code


def split(line: str) -> list[str]:
    """The words of a #PBS line: quotes of both kinds, nothing special in them; a backslash outside (make_argv)."""
    words, word, rest = list[str](), None, iter(line)
    for c in rest:
        if c in "'\"":
            word = word or ""
            for inside in rest:
                if inside == c:
                    break
                word += inside
            else:
                raise Refused(1, "unmatched quote")
        elif c.isspace():
            words += [] if word is None else [word]
            word = None
        else:
            word = (word or "") + (next(rest, "") if c == "\\" else c)
    return words + ([] if word is None else [word])


def options(words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """qsub's options with their values, and what is left."""
    try:
        return getopt.getopt(words, "a:A:c:C:e:fhIj:J:k:l:m:M:N:o:p:q:r:R:S:u:v:VW:XzP:")
    except getopt.GetoptError as error:
        raise Refused(2, f"invalid option -- '{error.opt}'\nusage: qsub [-a date_time] [-A account_string]") from None


def request_of(given: list[tuple[str, str]]) -> Fields:  # noqa: C901 - a table of options
    """What the options ask for. Raises Refused with qsub's words."""
    request: Fields = {"job_state": "Q", "Job_Name": "STDIN", "Resource_List": {}}
    for option, value in given:
        if option == "-N" and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_+.-]*", value):
            raise Refused(2, "illegal -N value")
        if option == "-o" and not (value.isascii() and value.isprintable()):
            raise Refused(2, "illegal -o value")
        if option == "-q" and value not in QUEUES:
            raise Refused(170, "Unknown queue")
        if option == "-l":
            for part in value.split(","):
                name, _, text = part.partition("=")
                request["Resource_List"] = {name: _resource(name, text)} | request["Resource_List"]
        if option == "-J":
            first, last = (int(part) for part in value.split("-"))
            if last <= first:
                raise Refused(2, "illegal -J value")
            request["array"] = list(range(first, last + 1))
        if option == "-W":
            request |= _attributes(value)
        if option == "-v":
            request["given"] = dict(_variables(value))
        if option == "-k":
            request["Keep_Files"] = value
        if option == "-h":
            request |= {"job_state": "H", "Hold_Types": "u"}
        if option == "-a":
            at = time.mktime(time.strptime(value, "%Y%m%d%H%M"))
            request |= {"job_state": "W", "Execution_Time": time.ctime(at)}
        request |= {"-N": {"Job_Name": value}, "-o": {"Output_Path": value}}.get(option, {})
    request["Resource_List"] = _placed(request["Resource_List"])
    return request


def _attributes(value: str) -> Fields:
    """Of several -W the last that has the attribute counts."""
    found = {name.strip(): text for part in value.split(",") for name, given, text in [part.partition("=")] if given}
    if set(found) - ATTRIBUTES:
        raise Refused(154, "Undefined attribute")
    return found


def _variables(value: str) -> Iterator[tuple[str, str]]:
    """Of -v: a comma in quotes or after a backslash ends none; one without a value has that of the environment."""
    word = r"""(?:\\.|[^,'"\\]|'[^']*'|"[^"]*")+"""
    if not re.fullmatch(f"{word}(,{word})*,?", value):
        raise Refused(1, "cannot send environment with the job")
    for part in re.findall(word, value):
        name, given, text = part.partition("=")
        if not given and name not in os.environ:
            raise Refused(1, "cannot send environment with the job")
        plain = re.sub(r"""'([^']*)'|"([^"]*)"|\\(,)""", lambda found: "".join(filter(None, found.groups())), text)
        yield name.strip(), plain if given else os.environ[name]


def _placed(asked: dict[str, str]) -> dict[str, str]:
    """What is asked for as chunks, as PBS keeps it."""
    totals = [name for name in asked if name in TOTALS]
    if totals and {"select", "place"} & set(asked):
        words = '"-lresource=" cannot be used with "select" or "place", resource is:'
        raise Refused(5, f"{words} {totals[0]}")
    if "nodes" in asked and {"select", "place"} & set(asked):
        raise Refused(6, "Cannot be used with select or place: nodes")
    if "select" in asked:
        return {"place": "free", **asked}
    if "place" in asked:
        raise Refused(7, 'Cannot have "place" without "select"')
    if "nodes" in asked:
        return {**asked, "select": _old_form(asked["nodes"]), "place": "scatter"}
    chunk = "".join(f":{name}={asked[name]}" for name in TOTALS if name in asked) or ":ncpus=1"
    return {**asked, "select": f"1{chunk}", "place": "pack"}


def _old_form(nodes: str) -> str:
    """-l nodes=2:ppn=4 as chunks; gpus= is TORQUE's."""
    found = re.fullmatch(r"(\d+)(?::ppn=(\d+))?", nodes)
    if not found:
        raise Refused(241, "node(s) specification error")
    cores = int(found[2] or 1)
    return f"{found[1]}:ncpus={cores}{f':mpiprocs={cores}' if cores > 1 else ''}"


def _resource(name: str, text: str) -> str:
    if name not in RESOURCES:
        raise Refused(187, f"Unknown resource Resource_List.{name}")
    good = r"\d+(:\d\d){0,2}" if name in ("walltime", "cput") else r"\d+" if name in NUMBERS else ".+"
    if not re.fullmatch(good, text):
        raise Refused(166, f"Illegal attribute or resource value Resource_List.{name}")
    return text
