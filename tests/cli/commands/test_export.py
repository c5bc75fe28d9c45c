"""One table says what `export` makes, and which option belongs to what."""

from __future__ import annotations

import pytest

from reprokit.cli.commands.export import export


@pytest.mark.parametrize(
    ("form", "option", "told"),
    [
        ("pylock", "--against", "--against is for --as report, not for pylock."),
        ("image", "--against", "--against is for --as report, not for image."),
        ("report", "--base", "--base is for --as image, not for report."),
    ],
)
def test_an_option_of_another_form_is_refused_by_name(project, form, option, told):
    done = project.reprokit("export", "latest", "--as", form, option, "x", expect=2)
    assert told in done.stderr


def test_the_help_says_what_each_form_is():
    as_ = next(parameter for parameter in export.params if parameter.name == "form")
    told = dict(part.split(": ", 1) for part in as_.help.rstrip(".").split("; "))
    assert list(told) == list(as_.type.choices)
    assert all(told.values())
