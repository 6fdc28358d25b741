"""Tests of projects: snapshots, the installation checks of `himl doctor`, and other tools' files that `himl init`
reads.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.files import atomic_replacement
from himl_cli.core.installation import install_command
from himl_cli.core.jobs import LARGE_SNAPSHOT_BYTES
from himl_cli.core.text import parse_dotenv
from himl_cli.core.workspaces import Check, CheckState
from himl_cli.services.doctor import installation_checks, requirements
from himl_cli.services.project_setup import TakenSettings, read_settings
from himl_cli.services.submission.snapshot import (
    find_snapshot_root,
    ignored_remarks,
    parse_rules,
    take_snapshot,
    verdict,
)
from himl_cli.services.transfer.state import TransferState
from tests.guards.test_work import calls_of
from tests.support.hostile_texts import SECONDS, within
from tests.support.running import write_files
from tests.support.secret_cases import HARMLESS_FILES, SECRET_FILES, files_of

LINKS = pytest.mark.skipif(os.name == "nt", reason="making links and sockets needs privileges on Windows")


def ignore(_: str) -> None:
    pass


def make(root: Path, names: set[str], rules: dict[str, str]) -> None:
    for name in sorted(names):
        path = root / name
        if not any(above.is_file() for above in path.parents) and not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    for folder, text in rules.items():
        if (root / folder).is_dir():
            (root / folder / ".gitignore").write_bytes(text.encode())


RULES = {".": "*.log\n!keep.log\n/data/\nbuild\ndoc/**/*.tmp\n", "nested": "!special.log\nsecret*\n"}
FILES = {
    "a.log",
    "keep.log",
    "data/x",
    "nested/data/x",
    "build/x",
    "nested/build",
    "nested/special.log",
    "nested/other.log",
    "nested/secret.txt",
}
FILES |= {"nested/deep/secrets", "doc/a/b/c.tmp", "doc/c.tmp", "doc/readme", "src/ä ö.py", "src/#x.py"}


def test_ignore_files_match_what_git_itself_lists(project: Path, git: Callable[..., str]) -> None:
    git(project, "init", "-q")
    git(project, "config", "core.ignorecase", "false")  # as on Linux, on any disk
    examples: list[tuple[set[str], str, dict[str, str]]] = [
        (FILES, RULES["."], {"nested": RULES["nested"]}),
        ({"a/x.py", "a/b/x.py", "b.log"}, "/*\n!/a\n/a/*\n!/a/b\n", {}),
        ({"a/x.py", "a/b", "data/x.py"}, "*\n!*/\n!*.py\n", {"data": "*.py"}),
        ({"ab", "a/b", "data/a/b", "ä.txt"}, "\\\n[\n**/a/**\n?.txt\n", {}),
        ({"a/x.py", "a/b/data", "b.log"}, "*\n!a/\n!a/**\n/a/*/\n", {}),
        (
            {"#c", "!d", "e f", "f[1]", "a/e f", "b/f[1]", "x.py"},
            "\\#c\n#c\n\\!d\ne\\ f  \nb/f\\[1]\n",
            {"a": "!e f\r\n"},
        ),
        ({"a", "b", "ab/a", "data/ab", "data/b/x"}, "[ab]\n[!a]b\n**b\nd*a/**\n!/data/b/\n", {"data": "a**\n[]-]\n"}),
        (
            {"a/b/ab", "b/a", "ab", "data/x.py/a"},
            "a**a?\n**/b/*\n*[!a]*/a/\n[c-a]\n a\n",
            {"b": "/a\t\n", "a/b": "??\n"},
        ),
    ]
    chance = random.Random(58)
    pieces = ["a", "b", "ab", "x.py", "*", "**", "?", "[ab]", "[!a]", "/", "*", "a*b", "\\a", "."]
    for _ in range(15):  # rules of every form together, of which one file may match several
        lines = [
            "!" * (chance.random() < 0.3) + "".join(chance.choices(pieces, k=chance.randint(1, 5))) for _ in range(8)
        ]
        examples.append(
            (
                {"/".join(chance.choices(["a", "b", "ab", "aab", "x.py", "data"], k=3)) for _ in range(20)},
                "\n".join(lines),
                {"a": lines[0]},
            )
        )
    for names, top, nested in examples:
        for left in project.iterdir():
            if left.name != ".git":
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        make(project, names, {".": top, **nested})
        listed = git(project, "ls-files", "-z", "--others", "--exclude-standard").split("\0")
        assert sent(project) == {name for name in listed if name}, top


def test_files_that_git_tracks_are_sent_despite_ignore_rules(project: Path, git: Callable[..., str]) -> None:
    """As git lists them, for a folder, one below it, a worktree and a submodule. A list of himl's own has
    precedence.
    """
    rules = {".gitignore": "data/\n*.cfg\n!a.cfg\nlink\nlibs\n", "lib/.gitignore": "*\n"}
    tracked = [
        "data/__init__.py",
        "data/deep/x.cfg",
        "b.cfg",
        "lib/net.py",
        "src/train.py",
        "src/x.cfg",
        "outputs/old.py",
        ".env",
    ]
    others = ["data/raw.bin", "data/deep/raw.bin", "data/new/x.py", "c.cfg", "lib/own.py", "src/y.cfg"]
    for root in (project / "main", project / "libs"):
        write_files(root, {**rules, **dict.fromkeys(tracked, root.name), "a.cfg": ""})
        git(root, "init", "-q")
        git(root, "add", "--force", ".")
        git(root, "commit", "-qm", "First")
    git(
        project / "main",
        "-c",
        "protocol.file.allow=always",
        "submodule",
        "--quiet",
        "add",
        "--force",
        str(project / "libs"),
        "libs/net",
    )
    git(project / "main", "commit", "-qm", "Submodule")
    git(project / "main", "worktree", "add", "-q", str(project / "tree"))
    for root in (project / "main", project / "main/src", project / "main/libs/net", project / "tree"):
        write_files(root, dict.fromkeys(others, ""))
        listed = git(root, "ls-files", "-z", "--others", "--exclude-standard").split("\0")
        listed += git(root, "ls-files", "-z", "--recurse-submodules").split("\0")
        never = {"", "outputs/old.py", ".env", "libs/net/.env", "libs/net"}
        assert sent(root) == {name for name in listed if name} - never, root
    assert {name.partition("/")[0] for name in sent(project / "main", ("src", "data"))} == {
        ".gitignore",
        ".gitmodules",
        "a.cfg",
        "b.cfg",
        "lib",
        "libs",
    }
    write_files(project / "main", {".amlignore": "data/\nlibs/\n"})
    assert sent(project / "main") & {"data/__init__.py", "libs/net/b.cfg", "b.cfg", "c.cfg"} == {"b.cfg", "c.cfg"}


@pytest.mark.parametrize("place", ["setting", "default", "info", "worktree"])
def test_ignore_rules_outside_of_the_folder_apply(
    project: Path, git: Callable[..., str], tmp_path: Path, place: str
) -> None:
    write_files(project, {"train.py": "", "a.bin": "", ".gitignore": "!keep.bin\n", "keep.bin": ""})
    git(project, "init", "-q")
    files = {
        "setting": tmp_path / "mine",
        "default": Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "git/ignore"),
    }
    rules = files.get(place, project / ".git/info/exclude")
    write_files(rules.parent, {rules.name: "*.bin\n"})
    if place == "setting":
        git(project, "config", "core.excludesFile", str(rules))
    if place == "worktree":
        git(project, "commit", "-qm", "First", "--allow-empty")
        git(project, "worktree", "add", "-q", str(tmp_path / "tree"))
        shutil.copytree(project, tmp_path / "tree", ignore=shutil.ignore_patterns(".git"), dirs_exist_ok=True)
        project = tmp_path / "tree"
    assert sent(project) == {"train.py", ".gitignore", "keep.bin"}


def test_unlisted_files_of_git_are_reported_if_rules_exclude_any(
    project: Path, git: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(project, {"train.py": "", ".gitignore": "*.cfg\n"})
    git(project, "init", "-q")
    monkeypatch.setenv("PATH", str(project))
    assert (take_snapshot(project).has_untracked, ignored_remarks([take_snapshot(project)])) == (None, [])
    write_files(project, {"a.cfg": ""})
    (remark,) = ignored_remarks([take_snapshot(project)])
    assert "because git does not list them: git is not installed. To choose" in remark


def test_folder_in_which_himl_is_downloading_keeps_tracked_files(project: Path, git: Callable[..., str]) -> None:
    write_files(project, {"train.py": "", "pkg/net.py": ""})
    git(project, "init", "-q")
    git(project, "add", ".")
    write_files(project, {"pkg/part.bin": "", "pkg/deep/part.bin": ""})
    with TransferState(project / "pkg", ignore):
        report = take_snapshot(project)
    assert (set(report.snapshot.files), report.downloads) == ({"train.py", "pkg/net.py"}, ["pkg"])
    assert len(take_snapshot(project).snapshot.files) == 4


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root can read all files")
@pytest.mark.parametrize("name", ["weights.bin", ".gitignore", "lib"])
def test_unreadable_files_are_errors_unless_excluded(project: Path, name: str) -> None:
    write_files(project, {"train.py": "", "weights.bin": "", ".gitignore": "", "lib/net.py": ""})
    (project / name).chmod(0)
    with pytest.raises(BadUsage, match=f"Cannot read '{project / name}' for the snapshot: Permission denied"):
        take_snapshot(project)
    (project / name).chmod(0o700)


@pytest.mark.parametrize(("rules", "name", "excluded"), [
    *((line.encode(), "a", None) for line in ["# a", "", "   ", "!", "/", "!/", "\\", "a\\", "[a", "[b-a]",
        "[[:none:]]"]),
    (b"\xef\xbb\xbfa\n", "a", True),
    (b"a \n", "a", True),
    (b"a\\ \n", "a ", True),
    (b"\\#a", "#a", True),
    (b"!a", "a", False),
    (b"a\t\n", "a\t", True),
    ("à \n".encode(), "à", True),
    (b"*\n!*/\n", "a/b", True),
    (b"a/*[!b]\n", "a/c/d", None),
    (b"[!ba[c]*", "]^]", True),
    pytest.param(b"*.b\xffn", os.fsdecode(b"a.b\xffn"), True,
        marks=pytest.mark.skipif(os.name == "nt", reason="names are text on Windows")),
])  # fmt: skip
def test_marks_line_ends_and_escapes_of_rules(rules: bytes, name: str, excluded: bool | None) -> None:
    assert verdict(parse_rules(rules), name, is_folder=False) is excluded


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_name_is_compared_with_few_rules() -> None:
    forms = (
        "name_{}",
        "*.ext{}",
        "dir_{}/",
        "/path/x_{}",
        "a*b_{}",
        "**/foo_{}/bar",
        "tmp_{}*",
        "*cache{}*",
        "logs_{}/*",
        "a/**/gen_{}.py",
        "[n-z]*note{}*[y-z]",
    )
    names, calls = [f"package/{number}/module_{number}.py" for number in range(200)], list[int]()
    for count in (25, 50):
        rules = parse_rules("\n".join(form.format(number) for number in range(count) for form in forms).encode())
        verdict(rules, "a", is_folder=False)
        calls.append(calls_of(lambda: [verdict(rules, name, is_folder=False) for name in names]))  # noqa: B023
        like = [re.sub(r"\*|\[.-z\]", "z", form.format(7)).strip("/") for form in forms]
        assert [verdict(rules, name, is_folder=True) for name in like] == [True] * len(forms)
    assert calls[1] <= 1.1 * calls[0]


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize(
    "line",
    ["*a" * 25 + "b/c", "/".join(["**/a"] * 25) + "/b", "**/" * 10_000 + "b", "*[!b]" * 25 + "b", "*" * 50_000 + "b"],
)
def test_no_ignore_pattern_takes_long(line: str) -> None:
    with within(SECONDS):
        rules = parse_rules(f"{line}\n".encode())
        assert verdict(rules, "a" * 200, is_folder=False) is None
        assert verdict(rules, "a/" * 100 + "c", is_folder=False) is None


def sent(root: Path, ignored: tuple[str, ...] = ()) -> set[str]:
    return set(take_snapshot(root, ignored).snapshot.files)


def test_a_header_of_a_key_before_empty_lines_takes_no_time(project: Path) -> None:
    write_files(project, {"notes.txt": f"-----BEGIN PRIVATE KEY-----{chr(10) * 7_000}-----END PRIVATE KEY-----"})
    with within(SECONDS):
        assert sent(project) == {"notes.txt"}


def test_count_and_size_are_those_of_files(project: Path) -> None:
    write_files(project, {"train.py": "x" * 10, "lib/net.py": "y" * 5})
    report = take_snapshot(project)
    assert (list(report.snapshot.files), report.snapshot.size) == (["lib/net.py", "train.py"], 15)
    assert report.largest()[:1] == [("train.py", 10)]
    with (project / "lib" / "big.bin").open("wb") as stream:
        stream.truncate(LARGE_SNAPSHOT_BYTES + 1)
    report = take_snapshot(project)
    assert report.is_large
    assert report.largest()[:1] == [("lib", LARGE_SNAPSHOT_BYTES + 6)]
    with pytest.raises(BadUsage, match="nowhere"):
        take_snapshot(project / "nowhere")


def test_rules_of_all_levels_and_what_is_never_sent(project: Path) -> None:
    ignores = {
        ".gitignore": "*.top\nscratch/\nmid/sub/skip/\n",
        "mid/.gitignore": "!a.top\n*.mid\n",
        "mid/sub/.gitignore": "*.low\n",
    }
    write_files(
        project,
        {
            **ignores,
            **dict.fromkeys(
                [f"mid/sub/{name}" for name in ("a.own", "a.top", "b.top", "b.mid", "c.low", "train.py", "skip/x")], ""
            ),
        },
    )
    assert sent(project / "mid" / "sub") == {".gitignore", "a.own", "a.top", "b.top", "b.mid", "train.py", "skip/x"}
    write_files(project, {".git/info/exclude": "*.own\n!b.mid\n", ".git/HEAD": "", "scratch/train.py": ""})
    assert sent(project / "mid" / "sub") == {".gitignore", "a.top", "train.py"}
    assert sent(project / "scratch") == {"train.py"}
    rules = {".amlignore": "data/\n", ".gitignore": "*.txt\n", "sub/.gitignore": "*\n", "sub/.amlignore": "c.py\n"}
    write_files(project / "aml", {**rules, **dict.fromkeys(["a.txt", "data/x", "sub/b.py", "sub/c.py"], "")})
    assert sent(project / "aml") == {*rules, "a.txt", "sub/b.py"}
    results = [
        "outputs/best.ckpt",
        "logs/events",
        "most_recent_run.txt",
        "sub/most_recent_run.txt",
        "data/.himl-transfer.json",
        "data/.a.ckpt.himl-part",
    ]
    others = [
        ".git/config",
        ".himl/workspace.db",
        "__pycache__/a.pyc",
        "venv/pyvenv.cfg",
        "venv/lib/x.py",
        "env/conda-meta/history",
        "env/lib/x.py",
    ]
    write_files(
        project / "never",
        dict.fromkeys([*results, *others, "train.py", "lib/outputs/kept.txt", "lib/logs/kept.py"], ""),
    )
    assert sent(project / "never") == {"train.py", "lib/outputs/kept.txt", "lib/logs/kept.py"}


@pytest.mark.parametrize("name", ["most_recent_run.txt", "himl.private.toml"])
def test_temporary_files_of_killed_commands_are_never_sent(project: Path, name: str) -> None:
    write_files(project, {"train.py": ""})
    with atomic_replacement(project / name):
        assert len(list(project.iterdir())) == 2
        assert sent(project) == {"train.py"}


PRIVATE, HARMLESS = files_of(SECRET_FILES), files_of(HARMLESS_FILES)


def test_secret_files_are_never_sent_whatever_the_rules(project: Path) -> None:
    for rules in (".gitignore", ".amlignore"):
        write_files(project / rules, {**PRIVATE, rules: "!*\n", "train.py": ""})
        report = take_snapshot(project / rules)
        assert (set(report.snapshot.files), set(report.secrets)) == ({rules, "train.py"}, set(PRIVATE))
    write_files(project / "harmless", HARMLESS)
    report = take_snapshot(project / "harmless")
    assert (set(report.snapshot.files), report.secrets) == (set(HARMLESS), [])


def test_secrets_are_sent_on_purpose_or_left_out_by_rules(project: Path) -> None:
    write_files(project, dict.fromkeys([".ssh/id_rsa", ".ssh/config", "lib/.env", "train.py"], ""))
    for globs, left_out in (
        (("id_rsa",), {".ssh/config", "lib/.env"}),
        ((".ssh/",), {"lib/.env"}),
        (("*.env", "/.ssh/*"), set()),
        (("/.env", "config.json"), {".ssh/id_rsa", ".ssh/config", "lib/.env"}),
    ):
        assert set(take_snapshot(project, (), globs).secrets) == left_out
    write_files(project, {".gitignore": ".env\n.ssh/\n"})
    assert take_snapshot(project).secrets == [], "what the rules leave out is not reported"


@LINKS
def test_links_to_secrets_or_ignored_folders_are_such(project: Path) -> None:
    write_files(project.parent, {"home2/.aws/credentials": "x", "home2/.aws/sso/cache.json": "x"})
    write_files(project, {".env": "KEY=secret", "train.py": ""})
    for name, target in {
        "cloud": "../home2/.aws",
        "plain": "../home2/.aws/credentials",
        "settings.txt": ".env",
        "linked.py": "train.py",
    }.items():
        (project / name).symlink_to(target)
    assert sent(project) == {"train.py", "linked.py"}
    write_files(project, {"data/x": ""})
    other = project.with_name("other")
    other.symlink_to(project)
    assert sent(project, (str(other / "data"),)) == sent(other, (str(project / "data"),)) == {"train.py", "linked.py"}


def test_innereye_settings_are_known_by_content(project: Path) -> None:
    innereye = "# for all\nvariables:\n  tenant_id: 't'\n  subscription_id: 's'\n  cluster: 'gpu'\n"
    keys = [
        "variables:\n  datasets_account_key: 'x'\n",
        "variables:\n  subscription_id: 's'\n  application_key: k\n",
        "variables: {cluster: gpu, APPLICATION_KEY: k}\n",
        "'variables': # ours\n  \"service_principal_password\" : k\n",
    ]
    secrets = {
        "InnerEye/settings.yml": innereye,
        "other.yaml": innereye.replace("\n", "\r\n"),
        **{f"q{number}.yml": text for number, text in enumerate(keys)},
    }
    harmless = {f"plain{number}.yml": text.replace("variables", "values") for number, text in enumerate(keys)}
    harmless |= {
        "config.yml": "tenant_id: x",
        "harmless.yml": "variables:\n  cluster: gpu\n  primary_key: id\n  cache_key: a\n",
    }
    references = "$(PASSWORD)", "${{ secrets.PASSWORD }}", "'${PASSWORD}'", "", '""', "# none"
    harmless["azure-pipelines.yml"] = "trigger: main\nvariables:\n  resource_group: x\n" + "".join(
        f"  {number}_password: {value}\n  tenant_id: {value}\n" for number, value in enumerate(references)
    )
    write_files(project, {**secrets, **harmless})
    assert sent(project) == {*harmless}


def test_ignored_folders_are_left_out_and_missing_ones_reported(project: Path) -> None:
    write_files(project, dict.fromkeys(["a/data/x", "b/data/x", "b/c/x", "c", "raw/x", "train.py"], ""))
    assert sent(project, ("data", "b/c/")) == {"c", "raw/x", "train.py"}
    outside = project.with_name("elsewhere")
    (outside / "lib").mkdir(parents=True)
    report = take_snapshot(project, (f"../{project.name}/a", str(project / "raw"), "../elsewhere/lib"))
    assert (set(report.snapshot.files), report.missed) == ({"b/data/x", "b/c/x", "c", "train.py"}, ["../elsewhere/lib"])
    project = project / "other"
    write_files(
        project,
        {".gitignore": "skipped/\n", **dict.fromkeys(["data/raw/x", "lib/deep/y", "skipped/a/x", "train.py"], "")},
    )
    present = ("data/raw", "./data", "deep", "skipped/a", "outputs", "__pycache__", ".")
    report = take_snapshot(project, (*present, "dta", "raw/x", "train.py", str(project.parent)))
    assert report.missed == ["dta", "raw/x", "train.py", str(project.parent)]
    remark = (
        f"warning: --ignored_folders 'dta', 'raw/x', 'train.py', '{project.parent}' excludes nothing: the "
        "snapshot has no such folder."
    )
    assert ignored_remarks([report]) == [remark]
    assert ignored_remarks([report, take_snapshot(project / "data", ["dta"])]) == [
        remark.replace(f", 'raw/x', 'train.py', '{project.parent}'", "")
    ]
    assert ignored_remarks([report, take_snapshot(project, present)]) == ignored_remarks([]) == []


@LINKS
def test_loops_broken_links_sockets_and_pipes_are_skipped(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(project, {".gitignore": "ignored*\n", "train.py": "", "lib/net.py": ""})
    links = {
        "loop": str(project),
        "lib/up": "..",
        "linked": "lib",
        "dangling": "nowhere",
        "ignored": "nowhere",
        "ignored_loop": ".",
        "self": "self",
    }
    for name, target in {**links, "a": "b", "b": "a"}.items():
        (project / name).symlink_to(target)
    os.mkfifo(project / "pipe")
    monkeypatch.chdir(project)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        files = sent(project)
    assert files >= {".gitignore", "train.py", "lib/net.py", "linked/net.py"}
    assert {name.partition("/")[0] for name in files} == {".gitignore", "train.py", "lib", "linked"}


def test_root_is_nearest_folder_with_project_marker(project: Path) -> None:
    write_files(project, {"a/b/train.py": ""})
    assert find_snapshot_root(project / "a" / "b") == project / "a" / "b", "without a marker the folder of the script"
    for marker in ("pyproject.toml", "environment.yml", ".git/HEAD"):
        root = project / marker.partition("/")[0].strip(".")[:3]
        write_files(root, {marker: "", "a/train.py": ""})
        assert find_snapshot_root(root / "a") == root


def states(checks: Sequence[Check]) -> dict[str, CheckState]:
    return {check.name: check.state for check in checks}


def test_packages_that_metadata_names_are_checked() -> None:
    installed = states(list(installation_checks()))
    assert (installed["python"], installed["packages"]) == (CheckState.passed, CheckState.passed)
    lines = ["no-such-package (>=1)", "typer>=0.28", "rich>=999", "pytest<1", "absent-too; extra == 'plot'"]
    packages, extras = list(installation_checks(lines))[1:]
    assert packages.state is CheckState.failed
    assert packages.message.startswith("no-such-package is missing; rich ")
    assert " is not >=999; pytest " in packages.message
    assert packages.remedy == f"Install himl again: {sys.executable} -m {install_command(options='--upgrade')}"
    assert (extras.state, extras.message) == (CheckState.note, "Not installed: plot.")
    others = ["tomli<3,>=2; python_version < '3.0'", "certifi>=2024.2.2", "himl-cli[montage,plot]; extra == 'all'"]
    others += ["a.b_c[x]>=1 ; extra == 'y-z'", "azureml-core<2,>=1.61; 'v1' == extra"]
    found = [(one.name, str(one.specifier), extra) for one, extra in requirements(others)]
    assert found == [
        ("certifi", ">=2024.2.2", ""),
        ("himl-cli", "", "all"),
        ("a.b_c", ">=1", "y-z"),
        ("azureml-core", "<2,>=1.61", "v1"),
    ]


def taken(project: Path, files: dict[str, str], name: str = "settings.yml") -> TakenSettings:
    write_files(project, files)
    return read_settings(project / name, project, lambda path: {"workspace_name": path.name})


def innereye(**values: object) -> str:
    return "variables:\n" + "".join(f"  {key}: {value!r}\n" for key, value in values.items())


def test_innereye_settings_become_options(project: Path) -> None:
    values = {
        "cluster": "gpu",
        "azureml_datastore": "data",
        "max_run_duration": "3.5h",
        "node_count": 3,
        "experiment_name": "lungs",
    }
    assert taken(project, {"settings.yml": innereye(**values)}).public == {
        "submit": {
            "cluster": "gpu",
            "default_datastore": "data",
            "max_run_duration": "3.5h",
            "num_nodes": 3,
            "experiment": "lungs",
        }
    }
    got = taken(
        project,
        {
            "settings.yml": innereye(cluster="", node_count=1, tenant_id="$(tenant)", resource_group=" rg ")
            + "  wait_for_completion: false\n"
        },
    )
    assert (got.public, got.private, got.workspace, got.left_out) == ({}, {}, {"resource_group": "rg"}, [])
    for index in ("https://me:hunter2@index.example/simple", "https://index.example/simple?x=1"):
        got = taken(project, {"settings.yml": innereye(cluster="gpu", pip_extra_index_url=index)})
        assert (got.public, got.private) == ({"submit": {"cluster": "gpu"}}, {"submit": {"pip_extra_index_url": index}})


def test_values_not_taken_are_named_with_a_reason(project: Path) -> None:
    principal: list[tuple[dict[str, str], list[str]]] = [
        ({"tenant_id": "t", "application_id": "a"}, ["application_id"]),
        ({"application_id": "a", "application_key": "k"}, ["application_id", "application_key"]),
        ({"tenant_id": "t", "application_id": "a", "APPLICATION_KEY": "k"}, []),
    ]
    for parts, left in principal:
        got = taken(project, {"settings.yml": innereye(cluster="gpu", **parts)})
        assert [each.name for each in got.left_out] == left, "half a service principal is none"
        assert ("service_principal_id" in got.private.get("azure", {})) is (not left)
    values: dict[str, object] = {
        "cluster": ["a"],
        "tag": ["a", "b"],
        "extra": {"a": 1},
        "none": [],
        "nothing": {},
        "build_branch": "b",
        "model": "M",
    }
    values |= {"mystery": 1, "use_dataset_mount": True, "datasets_container": "d"}
    got = taken(project, {"settings.yml": innereye(**values) + "  day: 2020-01-01\n  null_: null\n"})
    assert {each.name: each.why for each in got.left_out if each.name in ("cluster", "tag")} == {
        "cluster": "it is not a single value",
        "tag": "set it for each run: --tag KEY=VALUE",
    }
    assert {each.name: each.why.split(":")[0] for each in got.left_out if each.name not in ("cluster", "tag")} == {
        **dict.fromkeys(("extra", "day", "mystery"), "himl has no such setting"),
        "build_branch": "set it for each run",
        "model": "write arguments of a script after '--'",
        "use_dataset_mount": "set it for each input",
        "datasets_container": (
            "register the storage account as a datastore in Azure ML, which provides access to it, and name "
            "that with --default_datastore"
        ),
    }
    assert got.public == {}


@pytest.mark.parametrize(("name", "content", "complaint"), [
    ("settings.yml", "variables: [a]\n", "no 'variables:'"),
    ("settings.yml", "variables:\n  a: 'x\n", "line"),
    ("settings.yml", innereye(node_count="many"), "'node_count'"),
    ("settings.yml", innereye(node_count=70000), "must be at most 65,000"),
    ("settings.yml", innereye(max_run_duration="soon"),
        "'max_run_duration' of InnerEye's settings 'soon' is not a duration"),
    ("settings.yml", innereye(docker_shm_size="much"), "'docker_shm_size' of InnerEye's settings 'much' is not a size"),
    ("settings.yml", innereye(wait_for_completion="maybe"), "'wait_for_completion'"),
    ("prod.env.sample", "SUBSCRIPTION_ID=s\n", "is not a supported kind of file"),
])  # fmt: skip
def test_unusable_settings_file_is_refused(project: Path, name: str, content: str, complaint: str) -> None:
    """Samples are part of the snapshot, so they must not hold settings."""
    with pytest.raises(BadUsage) as caught:
        taken(project, {name: content}, name)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dotenv_and_json_files_become_workspace_settings(project: Path) -> None:
    values = {
        "A=b": "b",
        "export A = b": "b",
        "A='b # c' # d": "b # c",
        'A="b"': "b",
        "A=b # c": "b",
        "A=b#c": "b#c",
        "A=": "",
        "A=b=c==": "b=c==",
    }
    values |= {
        "A= # c": "",
        "A=#c": "#c",
        "A='it\\'s'": "it's",
        'A="b\\n\\"c\\""': 'b\n"c"',
        "A='b\nc'": "b\nc",
        "B=b\nA=${B}/c": "b/c",
        "A=${HIML_NO:-d}": "d",
    }
    for lines in values:
        assert parse_dotenv(f"# comment\n\nC\n{lines}\r\n", Path(".env")).items() >= {"A": values[lines]}.items()
    with pytest.raises(BadUsage, match="line 4: not NAME=value") as caught:
        parse_dotenv("A=b\n\n\n'hunter2\n", Path(".env"))
    assert "hunter2" not in f"{caught.value}{caught.value.hint}"
    got = taken(
        project, {"prod.env": "RESOURCE_GROUP=rg\nBLOB_SUB_ID=s\nHIML_TENANT_ID=t\nOTHER=1\nEMPTY=\n"}, "prod.env"
    )
    assert got.workspace == {"resource_group": "rg"}
    assert [each.name for each in got.left_out] == ["BLOB_SUB_ID", "HIML_TENANT_ID", "OTHER"]
    assert taken(project, {"config.json": "{}"}, "config.json").workspace == {"workspace_name": "config.json"}
