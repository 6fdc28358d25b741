"""docs/performance.md is what the raw figures make, of all benchmarks, run in full; and what is made of figures."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from benchmarks.aims import AIMS, Aim, Of, judge
from benchmarks.all import BENCHES
from benchmarks.raw import RawError, Round, read_raw, recording
from benchmarks.report import DOCUMENT, NO_CAUSE, RESULTS, TEMPLATE, ReportError, read_results, render, verdicts

PARAMETERS = {"1", "1.61", "5", "10", "15", "16", "20", "30", "32", "40", "100", "200", "1500", "2000", "2,000"}
"""The numbers that the template may have: what is measured, not what came of it."""


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up figures of the benchmark `runs_list`."""
    folder = tmp_path_factory.mktemp("results")
    with recording("runs_list", folder / "runs_list.jsonl") as raw:
        for number, wall in enumerate((0.3, 0.2, 0.25), start=1):
            raw.add("2,000 runs", "himl runs list", number, wall=wall, memory=40_000_000 + number)
            raw.add("2,000 runs", "another", number, wall=2 * wall)
        raw.leave_out("a peer", "it cannot be had")
    return folder


@pytest.fixture
def results(tmp_path: Path, made_up: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(made_up, tmp_path / "results"))


def rendered(results: Path, text: str) -> str:
    template = results.parent / "template"
    template.write_text(text)
    return render(results, template)


def test_the_document_is_what_the_results_make() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render(RESULTS), "to write it anew: python -m benchmarks.report"


def test_machine_is_shown_once_and_several_with_their_benchmarks(results: Path) -> None:
    one = rendered(results, "{{machine}}")
    path = results / "runs_list.jsonl"
    path.with_name("tb.jsonl").write_text(path.read_text().replace('"bench":"runs_list"', '"bench":"tb"').replace('"cpu":"', '"cpu":"Other '))
    assert "`" not in one
    assert rendered(results, "{{machine}}") == f"{one} (`runs_list`); Other {one} (`tb`)"


def test_the_results_are_those_of_all_benchmarks_run_in_full() -> None:
    commands = {bench: raw.meta["command"] for bench, raw in read_results(RESULTS).items()}
    assert commands == {bench: f"python -m benchmarks.{bench}" for bench in BENCHES}


def test_every_aim_is_judged_and_missed_ones_have_a_cause() -> None:
    for verdict in verdicts(read_results(RESULTS)):
        assert verdict.value is not None, f"{verdict.aim.text}: {verdict.why}"
        assert verdict.is_kept or verdict.aim.cause, f"{verdict.aim.text}: {verdict.value}"


def test_nothing_measured_is_typed_by_hand() -> None:
    prose = re.sub(r"\{\{.*?\}\}|\]\(.*?\)", "", TEMPLATE.read_text(encoding="utf-8"))
    assert set(re.findall(r"\d[\d.,]*\d|\d", prose.replace("MD5", ""))) <= PARAMETERS


def test_every_aim_is_shown_with_its_benchmark() -> None:
    assert {aim.bench for aim in AIMS} == set(BENCHES)


@pytest.mark.parametrize("figure", ["0.2,", "0.25", "40000001"])
def test_a_tampered_figure_makes_another_document(results: Path, figure: str) -> None:
    before, path = render(results), results / "runs_list.jsonl"
    text = path.read_text()
    assert figure in text
    path.write_text(text.replace(figure, figure.replace("0", "1", 1), 1))
    assert render(results) != before


def test_a_table_has_medians_extremes_and_ratios(results: Path) -> None:
    assert rendered(results, "{{table runs_list | 2,000 runs}}") == (
        "| 2,000 runs | rounds | wall | least to most | peak memory | times himl runs list |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| himl runs list | 3 | 250 ms | 200 ms to 300 ms | 40 MB | 1.00 |\n"
        "| another | 3 | 500 ms | 400 ms to 600 ms | – | 2.00 |"
    )


def test_single_figures_and_what_was_left_out(results: Path) -> None:
    text = "{{wall runs_list | 2,000 runs | another}}, {{ratio wall | runs_list | 2,000 runs | another | himl runs list}}\n{{left_out}}"
    assert rendered(results, text) == "500 ms, 2.00\n- `runs_list`: a peer: it cannot be had."


def test_what_was_not_measured_is_said(results: Path) -> None:
    text = "{{wall tb | a | b}} {{cpu runs_list | 2,000 runs | another}} {{table tb | a}}"
    assert rendered(results, text) == "not measured not measured a: not measured."


@pytest.mark.parametrize("text", ["{{nothing}}", "{{wall tb}}", "{{machine a}}"])
def test_a_placeholder_that_there_is_none_of_is_refused(results: Path, text: str) -> None:
    with pytest.raises(ReportError, match=r"There is no placeholder|wrong arguments"):
        rendered(results, text)


def aim(limit: float, *, at_least: bool = False, minus: bool = False, numerator: str = "himl runs list") -> Aim:
    other = Of(("2,000 runs",), ("another",))
    return Aim(
        "runs_list",
        "a text",
        Of(("2,000 runs",), (numerator,)),
        limit,
        denominator=None if minus else other,
        minus=other if minus else None,
        at_least=at_least,
    )


def test_aims_are_judged_by_medians(results: Path) -> None:
    found = read_results(results)
    assert judge(aim(0.5), found).is_kept
    assert not judge(aim(0.49), found).is_kept
    assert judge(aim(0.5, at_least=True), found).is_kept
    assert not judge(aim(0.51, at_least=True), found).is_kept
    assert judge(aim(0.0, minus=True), found).value == -0.25


def test_aim_without_figures_is_not_kept_and_states_reason(results: Path) -> None:
    found = read_results(results)
    for numerator, why in (("a peer", "a peer, 2,000 runs: it cannot be had"), ("nobody", "nobody, 2,000 runs: not measured")):
        verdict = judge(aim(9.0, numerator=numerator), found)
        assert (verdict.value, verdict.is_kept, verdict.why) == (None, False, why)
    assert judge(aim(9.0), {}).why == "`runs_list` has no results"


def test_a_missed_aim_is_named_with_its_cause(results: Path) -> None:
    path = results / "runs_list.jsonl"
    path.write_text(path.read_text().replace('"wall":0.', '"wall":7.'))
    assert f"- **runs_list, `himl runs list` of 2,000 runs: at most 0.5 s.** Here: 7.25 s. {NO_CAUSE}" in render(results)


def test_raw_figures_are_read_as_they_were_written(results: Path) -> None:
    raw = read_raw(results / "runs_list.jsonl")
    assert raw.rounds[0] == Round("2,000 runs", "himl runs list", 1, wall=0.3, memory=40_000_001)
    assert raw.meta["missing"] == {"a peer": "it cannot be had"}
    assert json.loads((results / "runs_list.jsonl").read_text().splitlines()[0])["kind"] == "meta"
    assert str(results) not in (results / "runs_list.jsonl").read_text()


@pytest.mark.parametrize("line", ['{"kind":"round"}', '{"kind":"other","bench":"runs_list"}', "{", '{"kind":"round","bench":"a","scenario":"b"}'])
def test_a_file_with_another_line_is_refused(results: Path, line: str) -> None:
    path = results / "runs_list.jsonl"
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(RawError, match=r"runs_list\.jsonl"):
        read_raw(path)


def test_a_file_under_another_name_is_refused(results: Path) -> None:
    shutil.move(results / "runs_list.jsonl", results / "tb.jsonl")
    with pytest.raises(RawError, match=r"'tb\.jsonl' holds the figures of 'runs_list'"):
        render(results)
