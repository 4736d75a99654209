"""What the documentation shows is run: code a page at a time, commands, and the output they are said to have."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib.util
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from cli_runner import without_cluster
from click.testing import CliRunner

import dask_svcca
from dask_svcca import errors
from dask_svcca.cli._program import program

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
DOCS = ROOT / ".github" / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
COMPARED = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@dataclass(frozen=True)
class Block:
    """One fenced block of a page.

    A comment in the line above says where it is not run, ``<!-- not run: why -->`` or ``<!-- needs: module -->``; or
    that it is a file of that name, ``<!-- file: name -->``.
    """

    kind: str
    text: str
    line: int
    comment: str

    @property
    def obstacle(self) -> str:
        """Why it is not run here; empty if it is."""
        if self.comment.startswith("not run:"):
            return self.comment
        needed = self.comment.removeprefix("needs:").strip() if self.comment.startswith("needs:") else ""
        return f"no {needed}" if needed and importlib.util.find_spec(needed) is None else ""


def blocks(markdown: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    for match in re.finditer(r"(?:^<!-- (.*?) -->\n)?^```(\w+)\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL):
        line = markdown.count("\n", 0, match.start(3)) + 1
        yield Block(match[2], match[3], line, match[1] or "")


def commands(text: str) -> list[tuple[str, str]]:
    """Commands of a console block, and what follows them up to the next."""
    text = re.sub(r"\\\n *", "", text)
    return [(match[1], match[2]) for match in re.finditer(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)]


def check(page: str, line: int, expected: str, got: str) -> None:
    """Fail where the output is not the one shown."""
    if not doctest.OutputChecker().check_output(expected, got, COMPARED):
        pytest.fail(f"{page}, line {line} shows\n{expected}\nand puts out\n{got}")


def run_python(page: str, block: Block, namespace: dict[str, object]) -> str:
    """Run a block in the namespace of its page; line numbers in a traceback are those of the page."""
    tree = ast.parse(block.text, page)
    ast.increment_lineno(tree, block.line - 1)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(tree, page, "exec"), namespace)
    return out.getvalue()


# Each of its figures is drawn by the quick tests of `plot` too.
LONG = "how-to/figures.md"


@pytest.mark.parametrize("page", [pytest.param(page, marks=pytest.mark.slow if page == LONG else []) for page in PAGES])
def test_page__does_what_it_shows(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    without_cluster(monkeypatch)
    # Measures that a page registers are none for other tests.
    namespace: dict[str, object] = {"__name__": "__main__"}
    output = ""
    for block in blocks((DOCS / page).read_text("utf-8")):
        if block.obstacle:
            output = ""
        elif block.comment.startswith("file:"):
            Path(block.comment.removeprefix("file:").strip()).write_text(block.text, "utf-8")
        elif block.kind == "python":
            output = run_python(page, block, namespace)
        elif block.kind == "text" and output:
            check(page, block.line, block.text, output)
            output = ""
        elif block.kind == "console":
            for command, expected in commands(block.text):
                if command.startswith("dask-svcca"):
                    result = CliRunner().invoke(program, shlex.split(command)[1:])
                    assert result.exit_code == 0, f"{page}, line {block.line}: {command}\n{result.output}"
                    if expected:
                        check(page, block.line, expected, result.output)


@pytest.mark.parametrize("page", [*PAGES, "../../README.md"])
def test_page__commands_have_the_options_that_it_gives_them(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda self, value, param, ctx: value)  # the files are the reader's
    text = (DOCS / page).read_text("utf-8")
    # Those in tables stand between backticks.
    found = [command for block in blocks(text) if block.kind == "console" for command, _ in commands(block.text)]
    found += re.findall(r"`(dask-svcca [^`]*[^`.])`", text)
    for command in found:
        words = shlex.split(command)
        if words[:1] == ["dask-svcca"] and "..." not in words:
            parse(words[1:])


def parse(words: list[str]) -> None:
    """Have the command line parse a command, without running it."""
    context = click.Context(program)
    command: click.Command = program
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        command, context = found, click.Context(found, info_name=name, parent=context)
    if words and not set(words) & {"--help", "--version"}:
        # In the middle of a sentence, a command may stand without its arguments.
        with contextlib.suppress(click.MissingParameter):
            command.make_context(command.name, list(words))


def test_reference__lists_all_public_names() -> None:
    text = "".join(path.read_text("utf-8") for path in sorted((DOCS / "reference").glob("*.md")))
    listed = set(re.findall(r"^ {3}(\w+)$", text, re.MULTILINE))
    listed |= set(re.findall(r"^\.\. automodule:: dask_svcca\.(\w+)$", text, re.MULTILINE))
    missing = set(dask_svcca.__all__) - {"__version__"} - listed
    assert not missing, f"reference/api.md lacks {', '.join(sorted(missing))}"


def test_reference__lists_all_errors_and_warnings() -> None:
    text = (DOCS / "reference" / "errors.md").read_text("utf-8")
    parts = re.split(r"^## (\w+)$", text, flags=re.MULTILINE)
    listed = {}
    for title, part in zip(parts[1::2], parts[2::2], strict=True):
        listed[title] = re.findall(r"^ {3}(\w+)$", part, re.MULTILINE)
    own = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    assert listed["Warnings"] == [name for name, value in own.items() if issubclass(value, Warning)]
    assert listed["Errors"] == [name for name in own if name not in listed["Warnings"]]


def test_reference__lists_all_commands() -> None:
    text = (DOCS / "reference" / "cli.md").read_text("utf-8")
    assert re.findall(r"^   :prog: dask-svcca (\w+)$", text, re.MULTILINE) == list(program.commands)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```python\nx = 1\n```\n", [("python", "x = 1\n", 2, "")]),
        ("a\n<!-- not run: why -->\n```console\n$ b\n```\n", [("console", "$ b\n", 4, "not run: why")]),
        ("```text\na\n```\n\n```python\nb\n```\n", [("text", "a\n", 2, ""), ("python", "b\n", 6, "")]),
    ],
)
def test_blocks__kind_text_line_and_comment(text: str, found: list[tuple[str, str, int, str]]) -> None:
    assert list(blocks(text)) == [Block(*each) for each in found]


def test_check__other_output_fails() -> None:
    check("page", 1, "1.00\n", "1.00 \n")
    with pytest.raises(pytest.fail.Exception, match="line 1 shows"):
        check("page", 1, "1.00\n", "0.99\n")


def test_parse__an_unknown_option_fails() -> None:
    parse(["compare", "zoo.zarr", "comparison.zarr", "--measure", "cka"])
    with pytest.raises(click.NoSuchOption):
        parse(["compare", "zoo.zarr", "comparison.zarr", "--measures-of", "cka"])
