"""--chat-template: what is read, what is refused; and the arguments of vLLM's server that --engine takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.marks import needs_vllm
from tests.tiny_model import CHAT_TEMPLATE
from vllm_hpc.spec.chat_template import check_compiles, read_chat_template
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.job_definition import make_request, read_options
from vllm_hpc.spec.server_arguments import engine_only
from vllm_hpc.spec.vllm_arguments import tool_parsers, typed

pytestmark = pytest.mark.inputs

# The beginning of Qwen's published template, and its way to write tools; of ChatML; of a template for training.
PUBLISHED = [
    CHAT_TEMPLATE,
    "{{ messages }}",
    "{%- if tools %}\n    {{- '<|im_start|>system\\n' }}\n    {%- for tool in tools %}\n        {{- tool | tojson }}\n"
    "    {%- endfor %}\n{%- endif %}\n{%- set ns = namespace(multi_step_tool=true, last=messages|length - 1) %}\n"
    "{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{%- endfor %}",
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}{% endfor %}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content }}{% break %}{% endfor %}",
    "{% macro say(m) %}{{ m.content | trim }}{% endmacro %}{% for m in messages %}{{ say(m) }}{% endfor %}",
    "{{ strftime_now('%Y') }}{{ raise_exception('no') if messages|length > 9 }}",
]


@pytest.mark.parametrize("text", PUBLISHED, ids=range(len(PUBLISHED)))
def test_a_template_is_taken_as_a_file_and_as_text(tmp_path: Path, text: str) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(text)
    assert read_chat_template(str(file)) == read_chat_template(text) == text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{% for m in messages %}", "does not compile: line 1: Unexpected end of template"),
        (b"{{ messages }}\n{{ messages | nope }}", "does not compile: line 2: No filter named 'nope'"),
        (b"{{ messages }}{% nope %}", "does not compile: line 1: Encountered unknown tag 'nope'"),
        (b"{{ messages }}{% endfor %}", "does not compile: line 1: "),
        (b"{{ messages }" + b"{% if a %}" * 3000, "does not compile"),
        (
            b"{{ messages }}" + b"{% if a %}" * 3000 + b"{% endif %}" * 3000,
            "blocks or expressions are nested too deeply",
        ),
        (b"{{ " + b"(" * 3000 + b"messages" + b")" * 3000 + b" }}", "blocks or expressions are nested too deeply"),
        (b"{{ messages }}\xff", "is not UTF-8"),
        (b"Be brief.", "does not use 'messages'"),
        (b"{{ prompt }}", "does not use 'messages'"),
        (b'{"chat_template": "{{ messages }}"}', "is JSON: write the template in it"),  # it compiles
        (b'{"bos_token": "<s>"}', "is JSON"),
        (b"a" * (4 << 20) + b"{{ messages }}", "it must be at most 4 MiB: name a Jinja file"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_template_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "chat.jinja"
    file.write_bytes(content)
    with pytest.raises(RequestError) as caught:
        read_chat_template(str(file))
    assert str(caught.value).startswith(f"--chat-template {str(file)!r}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for given, said in (
        (str(tmp_path / "nowhere.jinja"), "no such file"),
        (str(tmp_path), "it must be a regular file"),
        ("", "is empty"),
        ("a" * 5000, "File name too long"),
        ("a\0b", "has a NUL"),
        ("~nobody-here/x", "home"),
        ("tool_use", "no such file"),
        ("{% for m in messages %}", "--chat-template does not compile: line 1"),
        ("/dev/zero", "it must be a regular file: name a Jinja file"),
        (str(tmp_path / "pipe"), "it must be a regular file"),  # without a writer, who opens it waits for ever
    ):
        with pytest.raises(RequestError, match="--chat-template") as caught:
            read_chat_template(given)
        assert said in str(caught.value), given


def test_line_ends_and_a_mark_of_utf_8_are_not_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "dos.jinja").write_bytes(b"\xef\xbb\xbf{{ messages }}\r\nend\r")
    assert read_chat_template(str(tmp_path / "dos.jinja")) == "{{ messages }}\nend\n"


def test_constants_are_not_computed() -> None:
    check_compiles("{{ 'a' * 10 ** 12 }}{{ 9 ** 9 ** 9 ** 9 }}{{ messages }}")


def test_a_path_in_a_job_definition_is_beside_it(desk: Path) -> None:
    (desk / "job").mkdir()
    definition = desk / "job" / "job.toml"
    definition.write_text('model = "org/m"\nchat_template = "chat.jinja"\n')
    assert make_request({"model": "job"}).chat_template == "job/chat.jinja"
    definition.write_text("model = 'org/m'\nchat_template = '''{% for m in messages %}{{ m }}{% endfor %}'''\n")
    assert make_request({"model": "job"}).chat_template == "{% for m in messages %}{{ m }}{% endfor %}"
    given = read_options({"model": "job", "chat_template": Path("own.jinja")})
    assert (given.request.chat_template, given.origins["chat_template"]) == ("own.jinja", "--chat-template")


# -- arguments of vLLM's server --------------------------------------------------------------------------------------
@needs_vllm
def test_the_parser_of_tools_is_an_argument_of_the_server() -> None:
    given = {"tool_call_parser": "hermes", "max_num_seqs": "8"}
    assert typed("engine", given) == {"tool_call_parser": "hermes", "max_num_seqs": 8}
    assert engine_only(given) == {"max_num_seqs": "8"}
    assert typed("engine", {"tool_call_parser": None}) == {"tool_call_parser": None}
    own = {"tool_call_parser": "mine", "tool_parser_plugin": "mine.py"}
    assert typed("engine", own) == own
    assert {"hermes", "mistral", "pythonic"} <= tool_parsers()


@needs_vllm
@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"tool_call_parser": "herms"}, "has no parser 'herms': did you mean 'hermes'?"),
        ({"tool_call_parser": "zzz"}, "use one of "),
        ({"tool_call_parser": 3}, "must be a string, not 3"),
        ({"tool_call_parser": True}, "must be a string, not True"),
        ({"tool_call_parser": ""}, "must be a string"),
        ({"tool_call_parser": ["hermes"]}, "must be a string"),
        ({"tool_parser_plugin": "mine.py"}, "choose one with --engine tool_call_parser=NAME"),
        ({"tool_call_parsers": "hermes"}, "did you mean 'tool_call_parser'?"),
    ],
)
def test_a_wrong_parser_is_refused(engine: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        typed("engine", engine)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("chat_template", "use --chat-template"),
        ("trust_request_chat_template", "use the field chat_template of a row"),
        ("enable_auto_tool_choice", "use --engine tool_call_parser=NAME"),
    ],
)
def test_the_servers_other_arguments_say_what_to_use(model: Path, run_cli: Cli, name: str, said: str) -> None:
    refused = run_cli("plan", "model", "--engine", f"{name}=true")
    assert (refused.code, said in refused.err) == (2, True), refused.err
