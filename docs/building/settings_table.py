"""Every setting and every flag, with its default and what it is: read from the code, as one Markdown page."""

import ast
import importlib.util
import inspect
import io
import tokenize
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from absl import flags
from ml_collections import config_flags

from tweedie_diffusion import program  # defines no flag of its own, but loads absl.app, which does
from tweedie_diffusion.training import config

PROGRAMS = Path(program.__file__).parent
INTRODUCTION = """# Settings and flags

Made from the code when these pages are built: the comments of `tweedie_diffusion/training/config.py` and the help of
each program.
"""
ABOUT_SETTINGS = """## Settings of a run

Any of them is changed on the command line, as `--config.KEY=VALUE`, or in a config file. Noise levels are standard
deviations in units of images in [−1, 1].
"""
ABOUT_FLAGS = """## Flags of the programs

Each program is started as `python -m tweedie_diffusion.NAME`, and says the same by `--help`.
"""


class Setting(NamedTuple):
    """A key of the config, e.g. data.sigma_tn."""

    key: str
    default: Any
    description: str


class Flag(NamedTuple):
    """A flag of a program. `kind` is that of its absl definition: string, integer, enum, …"""

    name: str
    kind: str
    default: Any
    description: str
    choices: tuple[str, ...] = ()


def settings() -> list[Setting]:
    """All keys of the default config, in the order of the code; the comment beside each is its description."""
    comments, defaults = _comments_of_keys(Path(config.__file__).read_text()), config.flatten(config.default_config())
    order = [key for key in comments if key in defaults]  # a comment may lean on the one above it
    order += [key for key in defaults if key not in comments]
    return [Setting(key, defaults[key], comments.get(key, "")) for key in order]


def _comments_of_keys(code: str) -> dict[str, str]:
    """{'data.sigma_tn': 'noise of the training images', …}, from lines like `c.sigma_tn = 0.5  # noise of …`.

    `config.data = _data()` in the code says which function holds the keys of `data`.
    """
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    functions = [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    found, sections = {}, {}
    for function in functions:
        for node in function.body:
            if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)):
                continue
            name, value = node.targets[0].attr, node.value
            if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
                sections[value.func.id] = name
            else:
                found[function.name, name] = comments.get(node.end_lineno or 0, "")
    return {
        f"{sections[function]}.{name}" if function in sections else name: comment
        for (function, name), comment in found.items()
    }


def programs() -> dict[str, list[Flag]]:
    """{name: its flags} of every program that has a `main`."""
    paths = [path for path in sorted(PROGRAMS.glob("*.py")) if "program.run(main)" in path.read_text()]
    return {path.stem: flags_of(path) for path in paths}


def flags_of(path: Path) -> list[Flag]:
    """The flags that a program defines: they are recorded and not made, so that programs may share names."""
    found: list[Flag] = []
    with ExitStack() as stack:
        for module in (flags, config_flags):
            for name in [n for n in dir(module) if n.startswith("DEFINE_")]:
                stack.enter_context(mock.patch.object(module, name, _recorder(getattr(module, name), found)))
        spec = importlib.util.spec_from_file_location(f"flags_of_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return found


def _recorder(definition, found: list[Flag]):
    signature = inspect.signature(definition)

    def define(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        words = given.get("help") or given.get("help_string") or ""
        kind = definition.__name__.removeprefix("DEFINE_")
        found.append(Flag(given["name"], kind, given.get("default"), words, tuple(given.get("enum_values", ()))))
        return mock.Mock()

    return define


def page() -> str:
    """The page: a table for each section of the config, and one for each program."""
    parts = [INTRODUCTION, ABOUT_SETTINGS]
    sections: dict[str, list[Setting]] = {}
    for setting in settings():
        sections.setdefault(setting.key.rpartition(".")[0], []).append(setting)
    for section, rows in sections.items():
        parts.append(f"### {section or 'The run itself'}\n")
        parts.append(_table("setting", [(row.key, row.default, row.description) for row in rows]))
    parts.append(ABOUT_FLAGS)
    for name, found in programs().items():
        summary = (ast.get_docstring(ast.parse((PROGRAMS / f"{name}.py").read_text())) or "").split("\n")[0]
        what, start, command = summary.partition("python -m")
        parts.append(f"### {name}\n\n{_cell(what)}\n")
        parts += [f"```bash\n{start}{command.rstrip('.')}\n```\n"] if start else []
        rows = [(f"--{f.name}", f.default, _sentence(f.description, f.choices)) for f in found]
        parts.append(_table("flag", rows) if rows else "It has no flags.\n")
    return "\n".join(parts)


def _sentence(words: str, choices) -> str:
    return f"{words} One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else words


def _table(name: str, rows) -> str:
    lines = [f"| {name} | default | |", "|---|---|---|"]
    lines += [f"| `{key}` | {_default(value)} | {_cell(words)} |" for key, value, words in rows]
    return "\n".join(lines) + "\n"


def _default(value) -> str:
    """A default as one would type it; nothing for a flag that has none, and for an empty text."""
    if value is None or value == "":
        return ""
    text = f"{value:.4g}" if len(str(value)) > 6 and isinstance(value, float) else str(value)
    return f"`{text}`".replace("|", "\\|")


def _cell(words: str) -> str:
    """Text in a cell of a Markdown table; what stands between backticks is code."""
    parts = " ".join(words.split()).split("`")
    for i in range(0, len(parts), 2):
        for character in "\\*<[|":
            parts[i] = parts[i].replace(character, "\\" + character)
    return "`".join(parts)


def setup(app) -> dict[str, Any]:
    """As an extension of Sphinx: write the page before the pages are read."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir) / "reference" / "settings.md", page()))
    return {"parallel_read_safe": True}


def write(path: Path, text: str) -> None:
    """Write a page unless it says that already: what is unchanged is not built again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)
