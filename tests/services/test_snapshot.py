"""What goes into a snapshot: ignore files as git reads them, and what is never sent."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import LARGE_SNAPSHOT_BYTES
from himl_cli.services.submission.snapshot import find_snapshot_root, ignored_remarks, take_snapshot
from tests.support.running import write_files


def sent(root: Path, ignored: tuple[str, ...] = ()) -> set[str]:
    return set(take_snapshot(root, ignored).snapshot.files)


def test_count_and_size_are_those_of_the_files(project: Path) -> None:
    write_files(project, {"train.py": "x" * 10, "lib/net.py": "y" * 5})
    report = take_snapshot(project)
    assert (list(report.snapshot.files), report.snapshot.size) == (["lib/net.py", "train.py"], 15)
    assert report.largest()[:1] == [("train.py", 10)]


def test_ignore_files_match_what_git_itself_would_list(project: Path, git: Callable[..., str]) -> None:
    write_files(
        project,
        {
            ".gitignore": "*.log\n!keep.log\n/data/\nbuild\ndoc/**/*.tmp\n",
            "nested/.gitignore": "!special.log\nsecret*\n",
            **dict.fromkeys(["a.log", "keep.log", "data/x", "nested/data/x", "build/x", "nested/build", "nested/special.log", "nested/other.log"], ""),
            **dict.fromkeys(["nested/secret.txt", "nested/deep/secrets", "doc/a/b/c.tmp", "doc/c.tmp", "doc/readme", "src/ä ö.py", "src/#x.py"], ""),
        },
    )
    git(project, "init", "-q")
    listed = git(project, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    assert sent(project) == {name for name in listed if name}


def test_rules_of_the_repository_above_the_root_hold(project: Path) -> None:
    write_files(project, {".git/HEAD": "", ".gitignore": "*.bin\nsub/skip/\n", "sub/a.bin": "", "sub/skip/x": "", "sub/train.py": ""})
    assert sent(project / "sub") == {"train.py"}


def test_git_exclude_and_parent_gitignore_files_are_applied(project: Path) -> None:
    ignores = {".git/info/exclude": "*.own\n!b.mid\n", ".gitignore": "*.top\n", "mid/.gitignore": "!a.top\n*.mid\n", "mid/sub/.gitignore": "*.low\n"}
    write_files(project, {**ignores, **dict.fromkeys([f"mid/sub/{name}" for name in ("a.own", "a.top", "b.top", "b.mid", "c.low", "train.py")], "")})
    assert sent(project / "mid" / "sub") == {".gitignore", "a.top", "train.py"}


def test_gitignore_above_root_is_ignored_outside_repository(project: Path) -> None:
    write_files(project, {".gitignore": "*\n", "sub/train.py": ""})
    assert sent(project / "sub") == {"train.py"}


def test_a_root_that_is_itself_ignored_is_sent(project: Path) -> None:
    write_files(project, {".git/HEAD": "", ".gitignore": "scratch/\n", "scratch/train.py": ""})
    assert sent(project / "scratch") == {"train.py"}


def test_rules_that_are_no_patterns_do_no_harm(project: Path) -> None:
    write_files(project, {".gitignore": "\\\n[\n!!\n*.log\n", "a.log": "", "train.py": ""})
    assert sent(project) == {".gitignore", "train.py"}


def test_an_amlignore_takes_the_place_of_gitignore_at_all_levels(project: Path) -> None:
    write_files(
        project,
        {
            ".amlignore": "data/\n",
            ".gitignore": "*.txt\n",
            "a.txt": "",
            "data/x": "",
            "sub/.gitignore": "*\n",
            "sub/b.py": "",
            "sub/.amlignore": "c.py\n",
            "sub/c.py": "",
        },
    )
    assert sent(project) == {".amlignore", ".gitignore", "a.txt", "sub/.gitignore", "sub/b.py", "sub/.amlignore"}


def test_what_is_never_sent(project: Path) -> None:
    results = ["outputs/best.ckpt", "logs/events", "most_recent_run.txt", "sub/most_recent_run.txt", "data/.himl-transfer.json", "data/.a.ckpt.himl-part"]
    others = [".git/config", ".himl/workspace.db", "__pycache__/a.pyc", "venv/pyvenv.cfg", "venv/lib/x.py"]
    write_files(project, dict.fromkeys([*results, *others, "train.py", "lib/outputs/kept.txt", "lib/logs/kept.py"], ""))
    assert sent(project) == {"train.py", "lib/outputs/kept.txt", "lib/logs/kept.py"}


SECRETS = ["himl.private.toml", ".env", ".env.local", "prod.env", ".envrc", "InnerEyePrivateSettings.yml", "InnerEyeTestVariables.txt", "settings_private.yml"]


@pytest.mark.parametrize("name", [*SECRETS, "HIML.Private.TOML"])
def test_files_of_secrets_are_never_sent_whatever_the_rules_say(project: Path, name: str) -> None:
    write_files(project, {name: "secret", f"sub/{name}": "secret", ".gitignore": "!*\n", "train.py": ""})
    assert sent(project) == {".gitignore", "train.py"}


PEM = "-----BEGIN %sPRIVATE KEY-----\nMIIE\n"
PRIVATE = {
    **dict.fromkeys([".ssh/id_rsa", ".ssh/config", "keys/id_ed25519", ".aws/credentials", ".AWS/config", ".azure/msal_token_cache.json"], "x"),
    **dict.fromkeys([".netrc", "_netrc", ".git-credentials", ".kube/config", ".kube/cache/a", ".docker/config.json", ".config/gcloud/a/b.db"], "x"),
    **dict.fromkeys([".config/gh/hosts.yml", ".config/hub", ".pypirc", ".pgpass", ".my.cnf", ".htpasswd", ".vault-token", "kaggle.json"], "x"),
    **dict.fromkeys([".cache/huggingface/token", ".huggingface/token", "infra/.terraform/x/y", "infra/terraform.tfstate", ".gnupg/a.gpg"], "x"),
    **dict.fromkeys([".bash_history", ".python_history", ".psql_history", ".lesshst", "a.pfx", "a.P12", "b.ppk", "c.jks", ".keystore", "d.kdbx"], "x"),
    "server.pem": PEM % "",
    "a/server.key": PEM % "RSA ",
    "deploy_key": PEM % "OPENSSH ",
    "both.crt": "-----BEGIN CERTIFICATE-----\n" + PEM % "EC ",
    "account.json": '{\n  "type": "service_account",\n  "private_key": "x"\n}',
    ".npmrc": "//registry.npmjs.org/:_authToken=x\n",
    "pip.conf": "[global]\nextra-index-url = https://me:pass@host/simple\n",
    "wandb/settings": "[default]\napi_key = x\n",
    "token.json": '{"refresh_token": "x"}',
}
HARMLESS = {
    **dict.fromkeys([".ssh/id_rsa.pub", "known.pub", "config", "config.json", "token", "credentials.py", "id_rsa.py", "tokenizer.json"], "x"),
    **dict.fromkeys(["lib/.docker/Dockerfile", ".config/lint.toml", "secret_files.py", "history.txt", "gcloud/train.py", "azure.py"], "x"),
    "chain.pem": "-----BEGIN CERTIFICATE-----\nMIIE\n",
    "pub.key": "-----BEGIN PUBLIC KEY-----\nMIIE\n",
    "primary_key": "id",
    "labels.json": '{"type": "polygon"}',
    ".npmrc": "save-exact=true\n",
    "pip.conf": "[global]\nindex-url = https://host/simple\n",
    "wandb/settings": "[default]\nentity = lab\n",
    "token.json": '{"cls": 0}',
}


@pytest.mark.parametrize("rules", [".gitignore", ".amlignore"])
def test_credential_files_are_not_sent_whatever_the_rules(project: Path, rules: str) -> None:
    write_files(project, {**PRIVATE, rules: "!*\n", "train.py": ""})
    report = take_snapshot(project)
    assert (set(report.snapshot.files), set(report.secrets)) == ({rules, "train.py"}, set(PRIVATE))


def test_public_keys_and_files_named_like_secrets_are_sent(project: Path) -> None:
    write_files(project, HARMLESS)
    report = take_snapshot(project)
    assert (set(report.snapshot.files), report.secrets) == (set(HARMLESS), [])


def test_what_the_rules_leave_out_anyway_is_not_told(project: Path) -> None:
    write_files(project, {".env": "", ".aws/credentials": "", "train.py": "", ".gitignore": ".env\n.aws/\n"})
    assert take_snapshot(project).secrets == []


@pytest.mark.parametrize(
    ("globs", "left_out"),
    [
        (("id_rsa",), {".ssh/config", "lib/.env"}),
        ((".ssh/",), {"lib/.env"}),
        (("*.env", "/.ssh/*"), set()),
        (("/.env", "config.json"), {".ssh/id_rsa", ".ssh/config", "lib/.env"}),
    ],
)
def test_a_secret_is_sent_on_purpose(project: Path, globs: tuple[str, ...], left_out: set[str]) -> None:
    write_files(project, dict.fromkeys([".ssh/id_rsa", ".ssh/config", "lib/.env", "train.py"], ""))
    assert set(take_snapshot(project, (), globs).secrets) == left_out


@pytest.mark.skipif(os.name == "nt", reason="making links needs privileges on Windows")
def test_links_to_a_private_folder_and_into_one_lead_to_secrets(project: Path) -> None:
    write_files(project.parent, {"home2/.aws/credentials": "x", "home2/.aws/sso/cache.json": "x"})
    write_files(project, {"train.py": ""})
    (project / "cloud").symlink_to(project.parent / "home2" / ".aws")
    (project / "plain").symlink_to(project.parent / "home2" / ".aws" / "credentials")
    assert sent(project) == {"train.py"}


def test_samples_and_programs_are_no_secrets(project: Path) -> None:
    write_files(project, dict.fromkeys([".env.example", "prod.env.sample", "environment.yml", "env.py", ".env/readme", "settings.yml"], ""))
    assert sent(project) == {".env.example", "prod.env.sample", "environment.yml", "env.py", ".env/readme", "settings.yml"}


def test_innereye_s_settings_are_known_by_their_form(project: Path) -> None:
    innereye = "# for all\nvariables:\n  tenant_id: 't'\n  subscription_id: 's'\n  cluster: 'gpu'\n"
    pipeline = "trigger: main\nvariables:\n  resource_group: x\n"
    write_files(
        project,
        {"InnerEye/settings.yml": innereye, "other.yaml": innereye.replace("\n", "\r\n"), "azure-pipelines.yml": pipeline, "config.yml": "tenant_id: x"},
    )
    assert sent(project) == {"azure-pipelines.yml", "config.yml"}


@pytest.mark.parametrize(
    "content",
    [
        "variables:\n  datasets_account_key: 'x'\n",
        "variables:\n  subscription_id: 's'\n  application_key: k\n",
        "variables: {cluster: gpu, APPLICATION_KEY: k}\n",
        "'variables': # ours\n  \"service_principal_password\" : k\n",
    ],
)
def test_settings_with_a_key_or_a_password_are_known_too(project: Path, content: str) -> None:
    harmless = "variables:\n  cluster: gpu\n  primary_key: id\n  cache_key: a\n"
    write_files(project, {"q.yml": content, "harmless.yml": harmless, "plain.yml": content.replace("variables", "values")})
    assert sent(project) == {"harmless.yml", "plain.yml"}


@pytest.mark.skipif(os.name == "nt", reason="making links needs privileges on Windows")
def test_a_link_to_a_file_of_secrets_is_one(project: Path) -> None:
    write_files(project, {".env": "KEY=secret", "train.py": ""})
    (project / "settings.txt").symlink_to(".env")
    (project / "linked.py").symlink_to("train.py")
    assert sent(project) == {"train.py", "linked.py"}


def test_ignored_folders_by_name_and_by_path(project: Path) -> None:
    write_files(project, dict.fromkeys(["a/data/x", "b/data/x", "b/c/x", "c", "train.py"], ""))
    assert sent(project, ("data", "b/c/")) == {"c", "train.py"}


def test_ignored_folders_accept_absolute_and_parent_paths(project: Path) -> None:
    write_files(project, dict.fromkeys(["data/x", "lib/data/x", "raw/x", "train.py"], ""))
    outside = project.with_name("elsewhere")
    (outside / "lib").mkdir(parents=True)
    report = take_snapshot(project, (f"../{project.name}/data", str(project / "raw"), "../elsewhere/lib"))
    assert (set(report.snapshot.files), report.missed) == ({"lib/data/x", "train.py"}, ["../elsewhere/lib"])


@pytest.mark.skipif(os.name == "nt", reason="making links needs privileges on Windows")
def test_an_ignored_folder_by_another_name_of_the_way_there(project: Path) -> None:
    write_files(project, dict.fromkeys(["data/x", "train.py"], ""))
    other = project.with_name("other")
    other.symlink_to(project)
    assert sent(project, (str(other / "data"),)) == sent(other, (str(project / "data"),)) == {"train.py"}


def test_ignored_folders_that_are_not_there_are_told(project: Path) -> None:
    write_files(project, {".gitignore": "skipped/\n", **dict.fromkeys(["data/raw/x", "lib/deep/y", "skipped/a/x", "train.py"], "")})
    present = ("data/raw", "./data", "deep", "skipped/a", "outputs", "__pycache__", ".")
    report = take_snapshot(project, (*present, "dta", "raw/x", "train.py", str(project.parent)))
    assert report.missed == ["dta", "raw/x", "train.py", str(project.parent)]
    told = f"warning: nothing is left out for --ignored_folders 'dta', 'raw/x', 'train.py', '{project.parent}': what is sent has no folder of such a name."
    assert ignored_remarks([report]) == [told]
    assert ignored_remarks([report, take_snapshot(project / "data", ["dta"])]) == [told.replace(f", 'raw/x', 'train.py', '{project.parent}'", "")]
    assert ignored_remarks([report, take_snapshot(project, present)]) == ignored_remarks([]) == []


@pytest.mark.skipif(os.name == "nt", reason="making links and sockets needs privileges on Windows")
def test_links_loops_sockets_and_pipes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(project, {"train.py": "", "lib/net.py": ""})
    (project / "loop").symlink_to(project)
    (project / "lib" / "up").symlink_to("..")
    (project / "linked").symlink_to("lib")
    (project / "dangling").symlink_to("nowhere")
    os.mkfifo(project / "pipe")
    monkeypatch.chdir(project)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        files = sent(project)
    assert files >= {"train.py", "lib/net.py", "linked/net.py"}
    assert not {name for name in files if name.startswith(("loop", "pipe", "s", "dangling"))}


@pytest.mark.skipif(os.name == "nt", reason="making links needs privileges on Windows")
def test_ignored_broken_and_circular_links_are_skipped(project: Path) -> None:
    write_files(project, {".gitignore": "ignored*\n", "train.py": ""})
    (project / "ignored").symlink_to("nowhere")
    (project / "ignored_loop").symlink_to(".")
    (project / "self").symlink_to("self")
    (project / "a").symlink_to("b")
    (project / "b").symlink_to("a")
    assert sent(project) == {".gitignore", "train.py"}


def test_a_folder_that_cannot_be_read_is_named(project: Path) -> None:
    write_files(project, {"train.py": ""})
    with pytest.raises(BadUsage, match="nowhere"):
        take_snapshot(project / "nowhere")


def test_a_large_snapshot_names_what_is_large(project: Path) -> None:
    write_files(project, {"train.py": "", "data/small": "s"})
    with (project / "data" / "big.bin").open("wb") as stream:
        stream.truncate(LARGE_SNAPSHOT_BYTES + 1)
    report = take_snapshot(project)
    assert report.is_large
    assert report.largest()[:1] == [("data", LARGE_SNAPSHOT_BYTES + 2)]


@pytest.mark.parametrize("marker", ["pyproject.toml", "environment.yml", ".git/HEAD"])
def test_root_is_nearest_folder_with_project_marker(project: Path, marker: str) -> None:
    write_files(project, {marker: "", "a/b/train.py": ""})
    assert find_snapshot_root(project / "a" / "b") == project


def test_without_a_project_the_root_is_the_script_s_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    assert find_snapshot_root(folder) == folder
