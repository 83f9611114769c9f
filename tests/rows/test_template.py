"""Prompt templates: what Jinja says; a text can neither reach Python's internals nor take minutes or gigabytes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from vllm_hpc.rows import sandbox, template_limits
from vllm_hpc.rows.read import read_rows
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row, RowError
from vllm_hpc.rows.template import PromptTemplate
from vllm_hpc.spec.errors import InputError, RequestError

pytestmark = pytest.mark.inputs

FIELDS: Row = {
    "a": "A", "n": None, "words": ["x", "y"], "d": {"items": 3, "k": None}, "num": 3, "s": "'<b>'",
    "Question text": "q", "big": "x" * 10_000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("Summarise: {{ a }}\n", "Summarise: A\n"),
        ("{{ a }}{% if n %}, {{ n }}{% endif %}", "A"),
        ("{{ n or 'none' }} {{ a }}", "none A"),
        ("{{ missing | default('x') }}", "x"),
        ("{{ n | default('x') }}", "x"),
        ("{{ a }}{{ n is none }}{{ n is defined }}{{ d.k is none }}", "ATrueFalseTrue"),
        ("{% if missing is defined %}{{ missing }}{% endif %}{{ a }}", "A"),
        ("{{ words | join(', ') }}", "x, y"),
        ("{{ words | map('upper') | join }}", "XY"),
        ("{{ [d] | join(', ', attribute='items') }}", "3"),
        ("{% for w in words %}{{ loop.index }}. {{ w }}{{ loop.cycle('!', '?') }}\n{% endfor %}", "1. x!\n2. y?\n"),
        ("{% for w in words %}{{ loop.changed(w) }}{% endfor %}", "TrueTrue"),
        ("{% for w in words if w == 'x' %}{{ w }}{% else %}none{% endfor %}", "x"),
        ("{% set b = a ~ num %}{% with c = b %}{{ c }}{% endwith %}", "A3"),
        ("{{ d.items }} {{ num * 2 + 1 }} {{ 2 ** 10 }} {{ num % 2 }} {{ 1.5 }}{{ a }}", "3 7 1024 1 1.5A"),
        ("{{ row['Question text'] }}", "q"),
        ("{{ s | tojson }}{{ d | tojson }}", '"\'<b>\'"{"items": 3, "k": null}'),
        ("{{ a.lower().replace('a', 'b') }} {{ '-'.join(words) }} {{ d.get('items') }}", "b x-y 3"),
        ("{{ words }} {{ range(2) | list }}", "['x', 'y'] [0, 1]"),
        ("{% raw %}{{ x }}{% endraw %}{# a comment #}{{ a }}", "{{ x }}A"),
        ("{{ 'é' }}{{ a[:1] }}{{ words[-1] }}", "éAy"),
        (
            "{{ 'a, b,c'.split(',', 1) }}{{ 'a b c'.rsplit(maxsplit=1) }}{{ 'a\n\nb'.splitlines() }}{{ a }}",
            "['a', ' b,c']['a b', 'c']['a', '', 'b']A",
        ),
        ("{{ words[::-1] }}{{ (words + [a])[1:] | join }}{{ 1.25 | round(1) }}{{ '7' | int + 1 }}", "['y', 'x']yA1.28"),
        (
            "{% for k, v in {'one': 1, 'no': 0}.items() if v %}{{ loop.length }}{{ k }}{% endfor %}{{ a }}",
            "1oneA",
        ),
        ("{{ {'k': [a, (a, 1)]} | tojson(2) }}", '{\n  "k": [\n    "A",\n    [\n      "A",\n      1\n    ]\n  ]\n}'),
        ("{{ words | map('replace', 'x', a) | select('in', [a, 'y']) | sort | list }}", "['A', 'y']"),
        (
            "{{ 'A' in row.values() }}{{ 7 // 2 - 1 }}{{ -7 % 3 }}{{ a is divisibleby(2) if num is string else a }}",
            "True22A",
        ),
        ("{{ (a, a) | length }}{{ s | replace('<b>', '') | trim(\"'\") }}{{ a | truncate(5) }}", "2A"),
    ],
)
def test_a_template_says_what_jinja_says(text: str, prompt: str) -> None:
    assert PromptTemplate(text).render(FIELDS) == prompt


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ abstract }}", "no field 'abstract', only 'a', 'n', 'words', 'd', 'num', 's', 'Question text', 'big'"),
        ("{% if abstract %}{{ a }}{% endif %}", "no field 'abstract'"),
        ("{{ n }}", "the field 'n' is null: write {{ n or '' }}, or {% if n %}"),
        ("{{ a ~ n }}", "the field 'n' is null"),
        ("{{ d.k }}", "a value that it writes is null"),
        ("{{ a ~ d.k }}", "a value that it writes is null"),
        ("{{ [d.k] | join }}{{ a }}", "a value that it writes is null"),
        ("{{ d.missing }}", "no field 'missing' in an object that has 'items', 'k': for rows without it"),
        ("{{ d.keys }}", "a value that it writes is a builtin_function_or_method: use |list or |join, or call it"),
        ("{{ words | map('upper') }}", "a value that it writes is a generator: use |list or |join"),
        ("{{ words | reverse | upper }}", "a value that it writes is a generator: use |list or |join"),
        ("{{ words | map('upper') | string }}", "a value that it writes is a generator"),
        ("{{ range(num) | trim }}", "a value that it writes is a range"),
        ("{{ d.k | upper }}{{ a }}", "a value that it writes is null"),
        ("{{ n | lower }}{{ a }}", "the field 'n' is null"),
        ("{{ d.k | replace('N', 'x') }}{{ a }}", "a value that it writes is null"),
        ("{{ self }}{{ a }}", "a value that it writes is a TemplateReference"),
        ("{{ ' ' if a }}", "--prompt-template gives an empty prompt"),
        ("{% if n %}{{ n }}{% endif %}", "--prompt-template gives an empty prompt"),
        ("{{ 1 / 0 }}{{ a }}", "division by zero"),
        ("{{ num + a }}", "unsupported operand"),
        ("{{ words[5] }}", "a list of 2 items has no item 5: for rows without it"),
        ("{{ a.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{{ a['__class__'] }}", "is unsafe"),
        ("{{ words.append('z') }}", "'append' of 'list' object is unsafe"),
        ("{{ '{0.__class__}'.format(a) }}", "format cannot be called"),
        ("{{ a.replace('x') }}", "--prompt-template: replace() missing 1 required positional argument"),
        ("{{ a.zfill(9) }}", "zfill cannot be called: only capitalize, casefold,"),
        ("{{ d.keys() - d.keys() }}{{ a }}", "- needs two numbers"),
        ("{{ a + missing }}", "no field 'missing'"),
        ("{{ cycler('a') }}{{ a }}", "no field 'cycler'"),
        ("{{ namespace(x=a) }}", "no field 'namespace'"),
    ],
)
def test_what_a_template_cannot_say_of_a_row_is_refused(text: str, said: str) -> None:
    with pytest.raises(RowError) as caught:
        PromptTemplate(text).render(FIELDS)
    assert str(caught.value).startswith("--prompt-template")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ a", "unexpected end of template"),
        ("{{ a }}\n{% if %}", "(line 2 of the template)"),
        ("{{ a | center(9) }}", "No filter named 'center'"),
        ("{{ a | random }}", "No filter named 'random'"),
        ("{{ a is nice }}", "No test named 'nice'"),
        ("abstract", "names no field: write {{ NAME }}, or use --prompt-column NAME"),
        ("{{ 'constant' }}", "names no field"),
        ("{% include 'x' %}{{ a }}", "{% include %} on line 1 cannot be used: only if, for, set and with"),
        ("{% extends 'x' %}{{ a }}", "{% extends %} on line 1 cannot be used"),
        ("{% import 'x' as y %}{{ a }}", "{% import %} on line 1 cannot be used"),
        ("{% macro f() %}{{ a }}{{ f() }}{% endmacro %}{{ f() }}", "{% macro %} on line 1 cannot be used"),
        ("{% block b %}{{ self.b() }}{% endblock %}{{ a }}", "{% block %} on line 1 cannot be used"),
        ("{% set x %}{{ a }}{% endset %}{{ x }}", "{% set NAME %} on line 1 cannot be used"),
        ("{% filter upper %}{{ a }}{% endfilter %}", "{% filter %} on line 1 cannot be used"),
        (
            "{% for w in words recursive %}{{ loop(words) }}{% endfor %}",
            "{% for ... recursive %} on line 1 cannot be used",
        ),
        ("{% autoescape true %}{{ a }}{% endautoescape %}", "{% autoescape %} on line 1 cannot be used"),
        ("{% set x = a %}\n{% autoescape true %}{{ a }}{% endautoescape %}", "{% autoescape %} on line 2 cannot be"),
        ("{{ a }}{{ " + "1" * 5000 + " }}", "has a number of more than 4300 digits: write it as a text"),
        ("{{ a }}{{ 1e999 }}", "a number is too large (line 1 of the template)"),
        ("{% if not a %}{{ a | center }}{% endif %}{{ a }}", "No filter named 'center', only abs, "),
        ("{{ a is escaped }}", "No test named 'escaped', only !=, <,"),
        ("{{" + "(" * 3000 + "a", "is nested too deeply (maximum recursion depth exceeded"),
        ("{{ " + "not " * 5000 + "a }}", "is nested too deeply"),
        ("{% for i in words %}" * 25 + "{{ a }}" + "{% endfor %}" * 25, "is nested too deeply (too many statically"),
    ],
    ids=lambda value: value[:30],
)
def test_a_template_that_is_none_is_refused_before_any_row(text: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        PromptTemplate(text)
    assert str(caught.value).startswith("--prompt-template")
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{{ a }}",
        "{% for i in range(99999) %}{{ big }}{% endfor %}",
        "{% for i in range(10 ** 9) %}{{ a }}{% endfor %}",
        "{{ a * 10 ** 9 }}",
        "{{ [a] * 10 ** 9 }}",
        "{{ 9 ** (9 ** 9) }}{{ a }}",
        "{{ (2 ** 4000) ** 4000 }}{{ a }}",
        "{{ '%1000000000d' % num }}",
        "{{ a.center(10 ** 9) }}",
        "{{ a.ljust(10 ** 9) }}",
        "{{ '{:>1000000000}'.format(a) }}",
        "{{ big | replace('x', big) | replace('x', big) }}",
        "{{ big.replace('x', big) }}",
        "{{ (range(99999) | list) | join(big) }}",
        "{{ big.join(range(99999) | map('string')) }}",
        "{% set x = [a, a] %}" + "{% set x = [x, x] %}" * 40 + "{{ x }}",
        "{% set x = a %}" + "{% set x = x ~ x %}" * 40 + "{{ x }}",
        "{% set x = big %}" + "{% set x = x + x %}" * 40 + "{{ x }}",
        "{{ d | tojson(indent=10 ** 9) }}",
        "{{ lipsum(n=10 ** 6) }}{{ a }}",
        # What Python computes before it can be stopped: arguments, and items that come one after another.
        "{{ a }}{{ 1.5 | round(20000000, 'ceil') }}",
        "{{ a }}{{ 3 | round(precision=20000000, method='floor') }}",
        "{% set n = big | replace('x', 'f') | int(0, 16) %}{{ n * n }}",
        "{{ (big | replace('x', '1')) | float }}",
        "{{ range(9999) | map('string') | map('upper') | max }}{{ a }}",
        "{{ range(999) | map('string') | map('replace', '1', big) | map('length') | max }}{{ a }}",
        "{{ range(999) | map('replace', '1', big) | list | length }}{{ a }}",
        "{{ big | list | length }}",
        "{{ big | title | length }}",
        "{{ big | wordcount }}",
        "{{ big.split('x') | length }}",
        "{{ (big | replace('x', ' y')).rsplit() | length }}",
        "{{ (big | replace('x', '\n')).splitlines() | length }}",
        "{{ big.strip(big) }}{{ a }}",
        "{{ big.rfind(big) }}{{ a }}",
        "{{ big.rsplit(big) }}{{ a }}",
        "{{ big | trim(chars=big) }}{{ a }}",
        "{% set x = [words] %}" + "{% set x = [x] %}" * 300 + "{{ x | tojson(8) }}",
        "{% with x = [a, a] %}" + "{% with x = [x, x] %}" * 40 + "{{ x == x }}" + "{% endwith %}" * 41,
        "{% set x = {'k': a} %}" + "{% set x = {'k': x, 'l': x} %}" * 40 + "{{ a }}",
        "{% set x = d %}" + "{% set x = [x.items(), x.items()] %}{% set x = {'k': x} %}" * 40 + "{{ a }}",
        "{% set x = big %}" + "{% set x = x[:] ~ '' %}" * 50 + "{{ a }}",
        "{% for i in range(900) %}{% set x = big | upper %}{% endfor %}{{ a }}",
        "{% for i in range(900) %}{% if big[1:] == big[:1] %}{% endif %}{% endfor %}{{ a }}",
    ],
    ids=lambda value: value[:40],
)
def test_a_template_is_bounded(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With limits a thousandth as large, so that the test is fast; each would take minutes or gigabytes."""
    monkeypatch.setattr(template_limits, "MOST_STEPS", 1_000)
    monkeypatch.setattr(template_limits, "MOST_CHARACTERS", 1 << 14)
    monkeypatch.setattr(template_limits, "MOST_BYTES", 1 << 19)
    began = time.process_time()
    with pytest.raises(RowError, match="--prompt-template: "):
        PromptTemplate(text).render(FIELDS)
    assert time.process_time() - began < 5


def test_a_template_of_very_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MOST_NODES", 9)
    assert PromptTemplate("x" * 100 + "{{ a }}" * 7).render(FIELDS).endswith("AAAAAAA")
    with pytest.raises(RequestError, match="has more than 9 statements and expressions: use loops"):
        PromptTemplate("{{ a }}" * 9)


def test_a_template_that_takes_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_limits, "MOST_SECONDS", -1.0)
    for text in (
        "{% for i in range(9) %}{{ a }}{% endfor %}",
        "{{ a | upper }}",
        "{{ a.upper() }}",
        "{{ a + a }}",
        "{{ a ~ a }}",
        "{{ a[:1] }}",
        "{{ [a] }}",
        "{{ a == a }}",
        "{{ a is upper }}",
    ):
        with pytest.raises(RowError, match="it takes more than"):
            PromptTemplate(text).render(FIELDS)


@pytest.mark.parametrize("text", ["{{ q }} {{ ctx }}", "{{ q }} {{ row['ctx'] }}", "{{ q ~ ctx }}"])
def test_an_empty_cell_that_a_template_would_write_is_refused(text: str, tmp_path: Path) -> None:
    """As a null in JSON is: the model would be asked about nothing."""
    (tmp_path / "rows.csv").write_text("q,ctx\nWho,abc\nWhat,\n")
    with pytest.raises(
        InputError, match=r"rows.csv:3: --prompt-template: .* is (empty: write \{\{ ctx or '' \}\}|null)"
    ):
        list(read_rows(str(tmp_path / "rows.csv"), Reading(prompt_template=text)))


def test_a_template_may_ask_for_an_empty_cell(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("q,ctx\nWho,abc\nWhat,\n")
    reading = Reading(prompt_template="{{ q }}{% if ctx %} {{ ctx }}{% endif %}{{ ctx or '' }}")
    rows = list(read_rows(str(tmp_path / "rows.csv"), reading))
    assert [(row["prompt"], row["ctx"]) for row in rows] == [("Who abcabc", "abc"), ("What", "")]
