"""The card of a script: highlighted, with line numbers that are not copied, and a button that copies it."""

from __future__ import annotations

from markupsafe import Markup
from pygments import lex
from pygments.lexers import BashLexer, PythonLexer, YamlLexer
from pygments.token import Comment, Keyword, Name, Operator, String, Token, _TokenType

from vllm_hpc.api.cards.elements import frame, head, join, safe, tag
from vllm_hpc.spec.script import Script
from vllm_hpc.spec.visible import visible
from vllm_hpc.spec.words import counted

# A longer script is shown as it is, and one that is far longer only in part.
_MOST_LEXED, _MOST_SHOWN = 40_000, 100_000
_LOOKS: tuple[tuple[_TokenType, str], ...] = (
    (Comment, "c"), (String, "s"), (Keyword, "k"), (Name.Variable, "v"), (Name.Builtin, "b"), (Name.Tag, "b"),
    (Operator.Word, "k"),
)  # fmt: skip
# Without the right to write the clipboard, it selects the text and asks for an older way of copying.
_COPY = (
    "var b=this,p=b.closest('.vh-code-box').querySelector('pre'),d=function(){b.textContent='Copied'},"
    "f=function(){var s=getSelection(),r=document.createRange();r.selectNodeContents(p);s.removeAllRanges();"
    "s.addRange(r);if(document.execCommand('copy'))d();else b.textContent='Selected'};"
    "if(navigator.clipboard)navigator.clipboard.writeText(p.textContent).then(d,f);else f()"
)


def card(script: Script) -> str:
    """A script as it is submitted."""
    return frame(code_box("Script", script.name, script.text))


def code_box(kind: str, name: str, text: str) -> Markup:
    """A script under a line with its name, its length, and the button."""
    lines = tag("span", counted(text.count("\n"), "line"), class_="vh-dim")
    button = tag("button", "Copy", type="button", class_="vh-copy", onclick=_COPY, title="Copy the script")
    shown = visible(text[:_MOST_SHOWN])
    parts = _lexed(name, shown) if len(shown) <= _MOST_LEXED else map(safe, shown.split("\n"))
    code = Markup("\n").join(tag("span", line, class_="vh-l") for line in parts)
    cut = f"{len(text) - _MOST_SHOWN:,} more characters are not shown: print() shows them"
    rest = tag("div", cut, class_="vh-dim") if len(text) > _MOST_SHOWN else ""
    pre = tag("pre", code, class_="vh-code", tabindex="0", aria_label=f"{kind} {name}")
    return tag("div", head(kind, name, lines, button), pre, rest, class_="vh-code-box")


def _lexed(name: str, text: str) -> list[Markup]:
    """The lines of a script, each with its words in their colours."""
    kind = {"yaml": YamlLexer, "yml": YamlLexer, "py": PythonLexer}.get(name.rpartition(".")[2], BashLexer)
    lines: list[list[Markup]] = [[]]
    for token, value in lex(text.removesuffix("\n"), kind(stripnl=False, ensurenl=False)):
        look = next((look for of, look in _LOOKS if token in of), "") if token is not Token.Text else ""
        if token in Comment and value.startswith(("#SBATCH", "#PBS")):
            look = "b"
        for place, piece in enumerate(value.split("\n")):
            if place:
                lines.append([])
            if piece:
                lines[-1].append(tag("span", piece, class_=f"vh-{look}") if look else safe(piece))
    return [join(line) for line in lines]
