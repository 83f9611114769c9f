"""The style that all cards share: scoped by the prefix ``vh-``, light and dark, without files of its own.

A page may say which of the two it is (JupyterLab, VS Code, Colab, Sphinx); where it does not, the system does.
"""

from __future__ import annotations

_LIGHT = (
    "--vh-bg:#fff;--vh-fg:#1f2328;--vh-dim:#59636e;--vh-line:#d1d9e0;--vh-soft:#f3f5f7;--vh-ok:#1a7f37;--vh-run:#0969da;"
    "--vh-wait:#8a5a00;--vh-bad:#c4212d;--vh-code:#8250df;--vh-text:#0a5a9c;color-scheme:light"
)
_DARK = (
    "--vh-bg:#16191f;--vh-fg:#e2e6eb;--vh-dim:#9aa4b0;--vh-line:#3a424d;--vh-soft:#20252d;--vh-ok:#4ac26b;--vh-run:#58a6ff;"
    "--vh-wait:#e0ad3f;--vh-bad:#ff7b72;--vh-code:#d2a8ff;--vh-text:#a5d6ff;color-scheme:dark"
)
_LIGHT_PAGES = ('[data-jp-theme-light="true"]', ".vscode-light", ".vscode-high-contrast-light", '[data-theme="light"]')
_DARK_PAGES = (
    '[data-jp-theme-light="false"]', ".vscode-dark", ".vscode-high-contrast:not(.vscode-high-contrast-light)",
    '[data-theme="dark"]', 'html[theme="dark"]',
)  # fmt: skip


def _on(pages: tuple[str, ...], colours: str) -> str:
    return ",".join(f"{page} .vh-card" for page in pages) + "{" + colours + "}"


_RULES = """
.vh-card{background:var(--vh-bg);color:var(--vh-fg);border:1px solid var(--vh-line);border-radius:8px;padding:10px 14px;
 margin:4px 0;max-width:960px;box-sizing:border-box;font:13px/1.5 var(--jp-ui-font-family,system-ui,sans-serif);
 overflow-wrap:anywhere;text-align:left}
.vh-card *{box-sizing:border-box}
.vh-card .vh-head{display:flex;flex-wrap:wrap;align-items:baseline;gap:2px 10px;margin:0 0 6px}
.vh-card .vh-name{font-size:15px;font-weight:600;unicode-bidi:isolate}
.vh-card .vh-kind,.vh-card .vh-dim,.vh-card .vh-foot{color:var(--vh-dim)}
.vh-card .vh-foot{font-size:12px;margin-top:6px}
.vh-card bdi{unicode-bidi:isolate}
.vh-card .vh-pill{border:1px solid currentColor;border-radius:1em;padding:0 9px;font-size:12px;font-weight:600;
 white-space:nowrap}
.vh-card .vh-ok{color:var(--vh-ok)}.vh-card .vh-run{color:var(--vh-run)}.vh-card .vh-wait{color:var(--vh-wait)}
.vh-card .vh-bad{color:var(--vh-bad)}.vh-card .vh-none{color:var(--vh-dim)}
.vh-card .vh-bar{display:flex;height:10px;border-radius:5px;overflow:hidden;margin:4px 0 6px;
 background:var(--vh-soft);border:1px solid var(--vh-line)}
.vh-card .vh-bar.vh-tall{height:18px}
.vh-card .vh-bar>span{height:100%;flex:none}
.vh-card .vh-f-ok{background:var(--vh-ok)}.vh-card .vh-f-run{background:var(--vh-run)}
.vh-card .vh-f-bad{background:var(--vh-bad)}.vh-card .vh-f-wait{background:var(--vh-wait)}
.vh-card .vh-f-code{background:var(--vh-code)}.vh-card .vh-f-dim{background:var(--vh-dim)}
.vh-card .vh-f-text{background:var(--vh-text)}.vh-card .vh-f-free{background:transparent}
.vh-card .vh-key{display:inline-block;width:10px;height:10px;border-radius:2px;border:1px solid var(--vh-line);
 margin-right:5px}
.vh-card .vh-row{display:flex;flex-wrap:wrap;gap:2px 18px;margin:2px 0}
.vh-card .vh-sect{font-weight:600;margin:10px 0 2px}
.vh-card ul.vh-list{margin:2px 0;padding-left:20px}
.vh-card details{margin:6px 0 0}.vh-card summary{cursor:pointer;color:var(--vh-dim)}
.vh-card .vh-said{border-left:3px solid currentColor;padding:2px 10px;margin:6px 0}
.vh-card .vh-said>bdi{color:var(--vh-fg);white-space:pre-wrap}
.vh-card .vh-wide{overflow-x:auto}
.vh-card table.vh-t{border-collapse:collapse;margin:4px 0;font-size:12.5px;border:0;color:inherit;table-layout:auto}
.vh-card table.vh-t tr,.vh-card table.vh-t tbody tr,.vh-card table.vh-t tbody tr:hover{background:transparent}
.vh-card table.vh-t td,.vh-card table.vh-t th{padding:2px 14px 2px 0;text-align:left;vertical-align:baseline;border:0;
 border-bottom:1px solid var(--vh-line);max-width:26em;color:inherit;white-space:nowrap}
.vh-card table.vh-t .vh-long{white-space:normal;min-width:9em;overflow-wrap:anywhere}
.vh-card table.vh-t th{color:var(--vh-dim);font-weight:500;white-space:nowrap}
.vh-card table.vh-t .vh-num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.vh-card .vh-nodes{display:flex;flex-wrap:wrap;gap:8px;align-items:center;margin:4px 0}
.vh-card .vh-nodes svg{max-width:100%;height:auto;display:block}
.vh-card .vh-nodes .vh-more{border:1px dashed var(--vh-line);border-radius:6px;padding:8px 12px;color:var(--vh-dim)}
.vh-card svg text{font-family:inherit;fill:var(--vh-fg)}
.vh-card svg .vh-node{fill:var(--vh-soft);stroke:var(--vh-line)}
.vh-card svg .vh-cell{stroke:var(--vh-line)}
.vh-card pre.vh-code{margin:4px 0 0;padding:8px 0;max-height:26em;overflow:auto;background:var(--vh-soft);
 border:1px solid var(--vh-line);border-radius:6px;font:12px/1.5 var(--jp-code-font-family,ui-monospace,monospace);
 color:var(--vh-fg);white-space:pre;overflow-wrap:normal;counter-reset:vh-line;tab-size:4;direction:ltr}
.vh-card pre.vh-code .vh-l::before{counter-increment:vh-line;content:counter(vh-line);display:inline-block;width:3.5em;
 padding-right:1.2em;text-align:right;color:var(--vh-dim);user-select:none}
.vh-card pre.vh-code.vh-wrap{white-space:pre-wrap;overflow-wrap:anywhere;padding:8px 12px}
.vh-card .vh-c{color:var(--vh-dim)}.vh-card .vh-s{color:var(--vh-text)}
.vh-card .vh-k{color:var(--vh-bad)}.vh-card .vh-v{color:var(--vh-code)}.vh-card .vh-b{color:var(--vh-run)}
.vh-card button.vh-copy{margin-left:auto;font:inherit;font-size:12px;color:var(--vh-fg);background:var(--vh-soft);
 border:1px solid var(--vh-line);border-radius:6px;padding:1px 10px;cursor:pointer}
.vh-card .vh-path{font-family:var(--jp-code-font-family,ui-monospace,monospace);font-size:12px}
"""


def _hues() -> str:
    """Eight colours of replicas, which let the page's own shine through and leave text readable on both."""
    hues = (210, 30, 140, 285, 55, 340, 180, 100)
    return "".join(f".vh-card svg .vh-r{n}{{fill:hsl({hue} 75% 50%/.33)}}" for n, hue in enumerate(hues))


STYLE = (
    f".vh-card{{{_LIGHT}}}@media (prefers-color-scheme:dark){{.vh-card{{{_DARK}}}}}"
    + _on(_LIGHT_PAGES, _LIGHT)
    + _on(_DARK_PAGES, _DARK)
    + _RULES.strip().replace("\n ", "")
    + _hues()
)
HUES = 8
