"""The page of the command line says what the commands say."""

from __future__ import annotations

from conftest import REPOSITORY

from xdiff.cli import VERBS, markdown

PAGE = REPOSITORY / "workflow" / "docs" / "cli.md"


def test_the_page_is_in_step_with_the_help() -> None:
    """But for line breaks, which versions of argparse set differently."""
    made = markdown()
    assert PAGE.read_text().split() == made.split(), f"python -m xdiff.cli --markdown > {PAGE.relative_to(REPOSITORY)}"
    for verb in VERBS:
        assert f"## xdiff {verb}\n\n```\nusage: xdiff {verb} " in made
    assert "### xdiff data preprocess\n\n```\nusage: xdiff data preprocess " in made
