"""What qsub's options and #PBS lines ask the stand-in for, and what it refuses."""

from __future__ import annotations

import getopt
import re
import time
from typing import Any

QUEUES = ("workq",)
RESOURCES = {"select", "place", "walltime", "ncpus", "ngpus", "mem", "cput", "nodes", "mpiprocs"}
NUMBERS = {"ncpus", "ngpus", "mpiprocs"}
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
            name, _, text = value.partition("=")
            request["Resource_List"] = {name: _resource(name, text)} | request["Resource_List"]
        if option == "-J":
            first, last = (int(part) for part in value.split("-"))
            if last <= first:
                raise Refused(2, "illegal -J value")
            request["array"] = list(range(first, last + 1))
        if option == "-W" and value.startswith("umask="):
            request["umask"] = value.partition("=")[2]
        if option == "-v":
            request["given"] = dict(part.split("=", 1) for part in value.split(","))
        if option == "-k":
            request["Keep_Files"] = value
        if option == "-h":
            request |= {"job_state": "H", "Hold_Types": "u"}
        if option == "-a":
            at = time.mktime(time.strptime(value, "%Y%m%d%H%M"))
            request |= {"job_state": "W", "Execution_Time": time.ctime(at)}
        request |= {"-N": {"Job_Name": value}, "-o": {"Output_Path": value}}.get(option, {})
    asked = request["Resource_List"]
    if "select" in asked and {"ncpus", "ngpus", "mem"} & set(asked):
        raise Refused(185, '"-lresource=" cannot be used with "select" or "place", resource is: ncpus')
    return request


def _resource(name: str, text: str) -> str:
    if name not in RESOURCES:
        raise Refused(187, f"Unknown resource Resource_List.{name}")
    good = r"\d+(:\d\d){0,2}" if name in ("walltime", "cput") else r"\d+" if name in NUMBERS else ".+"
    if not re.fullmatch(good, text):
        raise Refused(166, f"Illegal attribute or resource value Resource_List.{name}")
    return text
