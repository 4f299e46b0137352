"""Text from outside is shown letter by letter: it is no markup, and no terminal obeys it."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

import kilter
from kilter.screen import Screen, _patient, many, plain, screen_of, styled

OUTSIDE = st.text().filter(lambda text: "\t" not in text or text.isascii()) | st.sampled_from(
    [
        *("[/INST]", "[bold]x[/bold]", "[/]", "\\", "a[", "[link=file:///etc]x[/link]", "\\[/]", ":smile:"),
        *("\x1b]0;title\x07", "\x1b[2J", "\x9b2J", "a\rb", "\u202etxt.exe"),
    ]
)


def shown(put) -> str:
    """What a wide terminal receives, without the styles that are ours."""
    file = io.StringIO()
    put(Screen(file=file, width=4000, force_terminal=True, color_system="standard", legacy_windows=False))
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())


@settings(max_examples=200, deadline=None)
@given(OUTSIDE)
def test_what_is_printed_is_the_text_itself(text):
    one = plain(text)
    assert shown(lambda s: s.print(text, soft_wrap=True)) == f"{one}\n".expandtabs(8)
    both = styled("[bold red]{}[/]: {}", "x", text)
    assert shown(lambda s: s.print(both, soft_wrap=True)) == f"x: {one}\n".expandtabs(8)


@settings(max_examples=200, deadline=None)
@given(OUTSIDE)
def test_no_escape_sequence_reaches_the_terminal(text):
    def put(screen):
        table = Table("column", text)
        table.add_row("a", text)
        screen.print(table)
        screen.rule(text)
        screen.print(text, styled("[dim]{}", text))

    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", shown(put).replace("\n", ""))


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text())
def test_a_template_styles_itself_and_not_its_values(first, second):
    assert styled("[bold]{}[/] and {}", first, second).plain == f"{plain(first)} and {plain(second)}"


def test_styles_of_a_text_within_stay():
    found = styled("{}: {}", "a", styled("[bold]b[/]"))
    assert found.plain == "a: b"
    assert [str(span.style) for span in found.spans] == ["bold"]


def test_a_console_of_the_callers_becomes_a_screen():
    file = io.StringIO()
    screen_of(Console(file=file, width=120)).print("[/INST] [bold]x[/bold]")
    assert file.getvalue() == "[/INST] [bold]x[/bold]\n"


@pytest.mark.parametrize("what", ["Console(", "from_markup", "markup="])
def test_no_other_file_decides_what_is_markup(what):
    root = Path(kilter.__file__).parent
    files = {
        str(p.relative_to(root))
        for p in root.rglob("*.py")
        if re.search(rf"(?<!\w){re.escape(what)}", p.read_text())
    }
    quiet = {"Console(": {"recipe.py", "pipeline/plan.py", "cli/help.py"}, "markup=": {"progress.py"}}
    assert files <= {"screen.py"} | quiet.get(what, set())


def test_whoever_reads_along_may_stop(tmp_path):
    import subprocess
    import sys

    code = "from kilter.screen import Screen; s = Screen(); [s.print('x' * 99) for _ in range(9999)]; print('end')"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("words", [["train", "--help"], ["bogus"]], ids=" ".join)
def test_a_reader_who_leaves_changes_no_exit_code(words):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "kilter", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == (2 if words == ["bogus"] else 0)
    assert "Traceback" not in done.stderr and "Broken" not in done.stderr


@pytest.mark.parametrize("at_once", [False, True])
def test_what_nobody_reads_goes_nowhere(at_once):
    reader, writer = os.pipe()
    os.close(reader)
    with io.TextIOWrapper(open(writer, "wb", 0), encoding="ascii", write_through=at_once) as stream:
        patient = _patient(stream)
        print("x" * 100_000, file=patient)
        print("y", file=patient, flush=True)
        assert (patient.encoding, patient.write_through) == ("ascii", at_once)


@pytest.mark.parametrize(
    ("count", "nouns", "said"),
    [(0, "rows", "0 rows"), (1, "rows", "1 row"), (2, "rows", "2 rows"), (1, "distinct", "1 distinct")],
)
def test_a_count_agrees_with_its_noun(count, nouns, said):
    assert many(count, nouns) == said
    assert many(1234, "labelled pairs", ",") == "1,234 labelled pairs"
