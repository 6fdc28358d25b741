"""How much of the disk slides of datastores may take, as the user set it."""

from __future__ import annotations

from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.services.montage.stored import GB, cache_limit
from tests.support.running import write_files


def test_cache_limit_variable_overrides_setting_and_default(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_limit(project) == 20 * GB
    write_files(project, {"himl.toml": "[montage]\ncache_gb = 1.5\n"})
    assert cache_limit(project) == 1_500_000_000
    monkeypatch.setenv("HIML_SLIDE_CACHE_GB", " 3 ")
    assert cache_limit(project) == 3 * GB
    monkeypatch.setenv("HIML_SLIDE_CACHE_GB", "0")
    assert cache_limit(project) == 0
    monkeypatch.setenv("HIML_SLIDE_CACHE_GB", "")
    assert cache_limit(project) == 1_500_000_000


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf", "20GB", "1e308", "1e300"])
def test_a_variable_that_is_no_number_is_refused(project: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIML_SLIDE_CACHE_GB", text)
    with pytest.raises(BadUsage, match=f"The variable HIML_SLIDE_CACHE_GB cannot be '{text}'"):
        cache_limit(project)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cache_gb = 'much'", "line 2: 'cache_gb' cannot be 'much'."),
        ("cache_gb = true", "line 2: 'cache_gb' cannot be True."),
        ("cache_gb = -1", "line 2: 'cache_gb' cannot be -1."),
        ("cache_gb = inf", "line 2: 'cache_gb' cannot be inf."),
        ("cache_gb = 1e300", "line 2: 'cache_gb' cannot be 1e+300."),
        (f"cache_gb = 1{'0' * 400}", "line 2: the number is too long."),
        ("cache_bg = 1", "line 2: 'cache_bg' is not known."),
    ],
)
def test_a_setting_that_is_wrong_is_refused_with_its_place(project: Path, line: str, said: str) -> None:
    write_files(project, {"himl.toml": f"[montage]\n{line}\n"})
    with pytest.raises(BadUsage) as caught:
        cache_limit(project)
    assert str(caught.value).endswith(said)
