"""What Azure ML would refuse, said before it is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import DataSpec, JobSpec, check_placeholders
from himl_cli.services.submission.request import SubmitRequest

LONGEST_DISPLAY_NAME = 256
LONGEST_DESCRIPTION = 5000
MOST_TAGS = 50
LONGEST_TAG_KEY = 100
LONGEST_TAG_VALUE = 1000
OWN_TAGS = 1
"""The run's recovery id, which is added when the run has an id."""
_PUBLIC_KEYS = re.compile(r"((ssh|ecdsa|sk)-\S+[ \t]+[A-Za-z0-9+/]+=*([ \t][^\r\n]*)?[\r\n]*)+")
_PUBLIC_HINT = "Give the public one, whose file ends in .pub: --ssh_key ~/.ssh/id_ed25519.pub"


def check_for_cluster(spec: JobSpec, given_tags: Mapping[str, str]) -> None:
    """Raises BadUsage where names, tags or data of *spec* are more than the service takes. *given_tags* are the user's
    own."""
    check_names(spec, given_tags)
    for item in spec.inputs:
        _check_named("input", item)
    for item in spec.outputs:
        _check_named("output", item)
    check_placeholders(spec)


def check_names(spec: JobSpec, given_tags: Mapping[str, str]) -> None:
    """Raises BadUsage where names and tags of *spec* are more than the service takes."""
    for option, text, most in (
        ("--display_name", spec.display_name, LONGEST_DISPLAY_NAME),
        ("--description", spec.description, LONGEST_DESCRIPTION),
    ):
        if len(text) > most:
            raise BadUsage(f"{option} has {len(text):,} characters; Azure ML takes {most:,}.", hint="Shorten it.")
    _check_tags(given_tags, len(spec.tags) + OWN_TAGS)


def services_of(request: SubmitRequest) -> dict[str, str]:
    """What is to be used in the job while it runs, as JobSpec has it. Raises BadUsage for a key that is no public
    one."""
    wanted = {
        "vscode": request.vscode,
        "jupyterlab": request.jupyter,
        "tensorboard": request.tensorboard_logs,
        "ssh": request.ssh_key,
    }
    values = {
        "tensorboard": request.tensorboard_logs or "",
        "ssh": _public_keys(request.cwd, request.ssh_key) if request.ssh_key else "",
    }
    return {name: values.get(name, "") for name, value in wanted.items() if value}


def _public_keys(cwd: Path, given: str) -> str:
    """The public keys of SSH that *given* is, or that the file *given* holds."""
    text = given
    if not _PUBLIC_KEYS.fullmatch(given.strip()):
        try:
            text = (cwd / Path(given).expanduser()).read_text(encoding="utf-8")
        except (OSError, ValueError, RuntimeError) as err:
            shown = "..." if "PRIVATE KEY" in given else given
            raise BadUsage(
                f"--ssh_key '{shown}' is neither a public key nor a file that can be read.", hint=_PUBLIC_HINT
            ) from err
    if "PRIVATE KEY" in text:
        raise BadUsage(
            f"--ssh_key '{given}' holds a private key, which has to stay on this machine.", hint=_PUBLIC_HINT
        )
    if not _PUBLIC_KEYS.fullmatch(text.strip()):
        raise BadUsage(f"--ssh_key '{given}' holds no public key of SSH.", hint=_PUBLIC_HINT)
    return text.strip()


def shortened(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags that himl makes by itself, cut to what the service keeps."""
    return {
        key: value if len(value) <= LONGEST_TAG_VALUE else f"{value[: LONGEST_TAG_VALUE - 1]}…"
        for key, value in tags.items()
    }


def _check_tags(given: Mapping[str, str], count: int) -> None:
    for key, value in given.items():
        if len(key) > LONGEST_TAG_KEY:
            raise BadUsage(
                f"--tag: the key '{key[:30]}…' has {len(key)} characters; Azure ML takes {LONGEST_TAG_KEY}.",
                hint="Shorten it.",
            )
        if len(value) > LONGEST_TAG_VALUE:
            raise BadUsage(
                f"--tag {key}: the value has {len(value):,} characters; Azure ML takes {LONGEST_TAG_VALUE:,}.",
                hint="Shorten it.",
            )
    if count > MOST_TAGS:
        raise BadUsage(
            f"The run would have {count} tags; Azure ML takes {MOST_TAGS}.",
            hint=f"Give fewer; {count - len(given)} come by themselves.",
        )


def _check_named(kind: str, item: DataSpec) -> None:
    if not item.name:
        raise BadUsage(
            f"--{kind} {item.key}: local= is a folder of this machine, which a cluster cannot see.",
            hint=f"Name the data: --{kind} {item.key}=NAME",
        )
