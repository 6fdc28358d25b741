"""Preparation of a job from a request."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path, PurePath, PurePosixPath

from himl_cli.core.errors import BadUsage
from himl_cli.core.files import home_folder, is_same_place
from himl_cli.core.jobs import Entry, EntryKind, JobSpec, SnapshotReport, check_placeholders
from himl_cli.core.patterns import lazy_pattern
from himl_cli.core.sweeps import SWEPT, with_search_space
from himl_cli.services.submission.data import parse_data
from himl_cli.services.submission.git import changes_of, with_untracked
from himl_cli.services.submission.request import (
    PreparedJob,
    SubmitRequest,
    check_names,
    check_values,
    job_of_options,
    near_path,
    refuse,
    without_idle_options,
)
from himl_cli.services.submission.snapshot import find_snapshot_root, ignored_remarks, take_snapshot
from himl_cli.services.submission.sweeps import (
    OF_RECORD,
    copies_remarks,
    goal_remarks,
    primary_tags,
    requested_sweep,
    single_sweep_option,
    sweep_arguments,
    sweep_remarks,
    sweep_text,
    with_seed,
)

ENTRY_KINDS = {".py": EntryKind.script, ".sh": EntryKind.shell}
SHEBANG = lazy_pattern(r"#!\s*(?:\S*/env\s+(?:-S\s*)?)?(?P<program>\S+)\s*(?P<options>.*)")
SHELLS = ("bash", "sh", "dash", "ash", "ksh")
LONGEST_FIRST_LINE = 256  # bytes, as in Linux
_PUBLIC_KEYS = lazy_pattern(r"((ssh|ecdsa|sk)-\S+[ \t]+[A-Za-z0-9+/]+=*([ \t][^\r\n]*)?[\r\n]*)+")


def prepare_job(request: SubmitRequest) -> PreparedJob:
    """Check the request and list the snapshot, without network access or changes to files. Raises BadUsage or
    NotFound."""
    check_values(request)
    request, remarks = without_idle_options(request)
    sweep, arguments, tags = None, request.arguments, {}
    if request.ready_sweep is not None or any(map(request.is_set, OF_RECORD)):
        request = single_sweep_option(request)
        sweep, arguments = requested_sweep(request), sweep_arguments(request)
    if sweep is not None:
        sweep = with_seed(sweep, on_azure=bool(request.on_azure), sdk=request.sdk)
        if request.command:  # the command may contain placeholders
            arguments = with_search_space([request.command, *arguments], sweep.space)[1:]
        remarks += [*sweep_remarks(sweep, arguments), *goal_remarks(sweep, request)]
        tags[SWEPT] = sweep_text(sweep)
    else:
        tags |= primary_tags(request)
    entry, start, root, file = _find_entry(request)
    if sweep is not None:
        from himl_cli.services.submission.script_options import with_forms  # needs a parser of Python

        sweep, form_remarks = with_forms(sweep, entry, file, request.arguments)
        remarks += form_remarks
    if request.snapshot_root is None and not request.in_place:
        check_root(root, file if request.module else start)
    name = _named_by(entry.target) if entry.kind is EntryKind.command else entry.target
    spec, naming_remarks = job_of_options(request, name, root, os.environ, tags, has_snapshot=not request.in_place)
    distribution, processes = _distribution(request)
    spec = replace(
        spec,
        entry=entry,
        arguments=arguments,
        sweep=sweep,
        distribution=distribution,
        processes=processes,
    )
    if request.inputs or request.outputs:
        inputs, outputs = parse_data("input", request.inputs), parse_data("output", request.outputs)
        spec = replace(spec, inputs=inputs, outputs=outputs)
    remarks += naming_remarks
    check_placeholders(replace(spec, arguments=[*spec.arguments, request.command or ""]))
    if request.on_azure or request.is_mirrored:
        check_names(spec, request.tags)
    if request.on_azure:
        spec, cluster_remarks = _for_cluster(spec, request, start, file)
        remarks += cluster_remarks
    if request.in_place:
        return PreparedJob(spec, None, remarks, request.checkpoint)
    # A local input at its own target becomes a link, also if git tracks a file in it
    if request.ready_snapshot is not None:
        spec = replace(spec, snapshot=request.ready_snapshot)
        return PreparedJob(spec, SnapshotReport(spec.snapshot, {}, ""), remarks, request.checkpoint)
    linked = [item for item in spec.inputs if item.local and item.target and not request.on_azure]
    linked = [item for item in linked if is_same_place(root / str(item.target), request.cwd / str(item.local))]
    at_target = [str(root / str(item.target)) for item in linked]
    report = take_snapshot(root, [*request.ignored_folders, *at_target], request.include_secret)
    if entry.kind in ENTRY_KINDS.values() and entry.target not in report.snapshot.files:
        downloaded = next((each for each in report.downloads if f"{entry.target}/".startswith(f"{each}/")), None)
        why = f"himl downloaded '{downloaded}'. Copy the script"
        raise BadUsage(
            f"'{entry.target}' is excluded from the snapshot of '{root}'.",
            hint=f"{why if downloaded else f'Check its {report.ignore_file}'}, or use another --snapshot_root.",
        )
    remarks += ignored_remarks([report])
    if sweep and not request.on_azure:
        remarks += copies_remarks(sweep, report.snapshot.size, request)
    spec = replace(spec, snapshot=report.snapshot, tags=with_untracked(spec.tags, request.tags, [report]))
    changes = changes_of(spec.tags, [report])
    return PreparedJob(spec, report, [*remarks, *changes.remarks], request.checkpoint, changes.text)


def _find_entry(request: SubmitRequest) -> tuple[Entry, Path, Path, Path | None]:
    """The entry point, the script's path (the current folder for a module or a command), the snapshot's root, and the
    Python file of the entry point: None for a shell script, a command, or a module outside the root."""
    start = folder = request.cwd
    if request.target:
        start = request.cwd / request.target
        if start.suffix not in ENTRY_KINDS or not start.exists() or start.is_dir():
            _refuse_script(start, request.target)
        folder = start.parent.resolve()
        start = folder / start.name
    root = find_snapshot_root(folder)
    if request.snapshot_root is not None:
        root = (request.cwd / request.snapshot_root).resolve()
        if not root.is_dir():
            raise BadUsage(f"--snapshot_root '{request.snapshot_root}' is not a folder.")
    if request.module:
        _check_module(request.module, root)
        module = root.joinpath(*request.module.split("."))
        candidates = (module.with_name(f"{module.name}.py"), module / "__main__.py")
        return Entry(EntryKind.module, request.module), start, root, next(filter(Path.is_file, candidates), None)
    if request.command:
        return Entry(EntryKind.command, request.command), start, root, None
    if not start.is_relative_to(root):
        raise BadUsage(
            f"'{request.target}' is outside the snapshot root '{root}'.",
            hint="Use a --snapshot_root that contains the script.",
        )
    entry = _entry_of(start, start.relative_to(root).as_posix())
    return entry, start, root, root / entry.target if entry.kind is EntryKind.script else None


def _entry_of(script: Path, name: str) -> Entry:
    """The entry point of *script*. himl obeys the first line of a shell script that names another program than a plain
    `bash` or `sh`: `#!/usr/bin/env python3`, `#!/bin/zsh`, `#!/bin/bash -e`."""
    kind = ENTRY_KINDS[script.suffix]
    with script.open("rb") as file:
        first = file.readline(LONGEST_FIRST_LINE).decode("utf-8", "replace").rstrip()
    if kind is not EntryKind.shell or not (found := SHEBANG.fullmatch(first)):
        return Entry(kind, name)
    program = PurePosixPath(found["program"]).name
    if re.fullmatch(r"python[\d.]*", program):
        return Entry(EntryKind.script, name)
    if program in SHELLS and not found["options"]:
        return Entry(kind, name)
    words = [found["program"], *found["options"].split(), f"./{name}" if name.startswith("-") else name]
    return Entry(EntryKind.command, shlex.join(words))


def _refuse_script(path: Path, shown: str) -> None:
    """Raise BadUsage for a path that is no script."""
    folder = path if path.is_dir() else path.parent
    scripts = sorted(each.name for ending in ENTRY_KINDS for each in folder.glob(f"*{ending}"))
    if path.is_dir():
        name = "train.py" if "train.py" in scripts else "".join(scripts[:1])
        problem, hint = "is a folder, not a script", "There is no .py or .sh script in it."
        if name:
            hint = f"Name the script in it: himl submit {shlex.quote(Path(shown, name).as_posix())}"
    elif not path.exists():
        raise BadUsage(f"There is no script '{shown}'.", hint=near_path(shown, scripts))
    elif path.suffix == ".ipynb":
        problem = "is a notebook, not a script"
        hint = f"Convert it: jupyter nbconvert --to script {shlex.quote(shown)}"
    else:
        problem = "is neither a .py nor a .sh script"
        hint = "Name a script, or a module: himl submit -m package.module"
    raise BadUsage(f"'{shown}' {problem}.", hint=hint)


def _check_module(name: str, root: Path) -> None:
    """Raise BadUsage for an invalid module name, and for a module that is missing from a package of the project. Other
    modules may be installed."""
    # Python also runs modules whose names are no identifiers, such as `2_app.train`
    if not re.fullmatch(r"\w[\w-]*(\.[\w-]+)*", name) or name.endswith(".py"):
        raise BadUsage(f"-m '{name}' is not a module name.", hint="Write it with dots, without .py: -m package.module")
    top, *below = name.split(".")
    place = root.joinpath(top, *below)
    is_there = (place / "__main__.py").is_file() or any(place.parent.glob(f"{place.name}.*"))
    if is_there or not (root / top / "__init__.py").is_file():
        return
    what, prefix, folder = f"There is no module '{name}'", name.rpartition(".")[0], place.parent
    if place.is_dir():
        what, prefix, folder = f"'{name}' is a package without __main__.py", name, place
    names = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("__"))
    near = get_close_matches(place.name, names, n=1) or names[:1]
    hint = f"Did you mean -m {prefix}.{near[0]}?" if near else f"Create '{place}.py', or correct the name."
    raise BadUsage(f"{what} in '{root}'.", hint=hint)


def _named_by(command: str) -> str:
    """The name that the experiment's default name comes from: the first script or module in *command*, else its
    program."""
    words = [word.strip("'\"") for word in command.split()]
    for before, word in zip(["", *words], words, strict=False):
        if word.endswith(tuple(ENTRY_KINDS)) or before in ("-m", "--module"):
            return word
    return f"{PurePath(words[0]).name}.sh" if words else ""


def check_root(root: Path, script: Path | None) -> None:
    """Raise BadUsage for a default snapshot root that is too large to be intended: the home folder, a whole disk, or a
    folder above the repository of *script*."""
    root, home = root.resolve(), home_folder()
    above = script.resolve().parents if script is not None else ()
    repository = next((folder for folder in above if (folder / ".git").exists()), root)
    own_folder = "Move the script to its own folder, or name the folder to use: --snapshot_root DIR"
    refuse(
        "The snapshot would be ",
        (root.parent == root, f"all of '{root}'.", own_folder),
        (home is not None and root == home.resolve(), f"all of your home folder, '{root}'.", own_folder),
        (
            root in repository.parents,
            f"'{root}', a folder above the repository of '{script}'.",
            f"Choose the folder: --snapshot_root {shlex.quote(str(repository))}, or --snapshot_root "
            f"{shlex.quote(str(root))} for all of it.",
        ),
    )


def _distribution(request: SubmitRequest) -> tuple[str, int | None]:
    """The distribution (`pytorch`, `mpi`, or empty for a plain process) and the processes per node (None for no ranks).

    A local job with ranks gets PyTorch's variables. On a cluster, the default is PyTorch for several processes if
    their number per node is set, and MPI for several nodes without that number and for one process, as in hi-ml.
    """
    processes = request.processes_per_node
    if not request.on_azure:
        return request.distribution or "pytorch", processes or (1 if request.num_nodes > 1 else None)
    usual = "mpi" if processes is None else "pytorch"
    if request.num_nodes * (processes or 1) == 1:
        usual = "" if request.no_mpi_single_node else "mpi"
    chosen = request.distribution or usual
    return chosen, (processes or 1) if chosen else None


def _for_cluster(spec: JobSpec, request: SubmitRequest, start: Path, file: Path | None) -> tuple[JobSpec, list[str]]:
    wanted = {"vscode": request.vscode, "jupyterlab": request.jupyter, "tensorboard": request.tensorboard_logs}
    services = {name: "" if value is True else str(value) for name, value in wanted.items() if value and not spec.sweep}
    if request.ssh_key and not spec.sweep:
        services["ssh"] = _public_keys(request.cwd, request.ssh_key)
    idle = [f"--{name}" for name in ("vscode", "jupyter", "ssh_key", "tensorboard_logs") if request.is_typed(name)]
    offered = "Azure ML offers these for single jobs only"
    remarks = [f"Ignored, because {offered}: {', '.join(idle)}."] if idle and spec.sweep else []
    for kind, items in (("input", spec.inputs), ("output", spec.outputs)):
        for item in items:
            if not item.name:
                raise BadUsage(
                    f"--{kind} {item.key}: local= is a folder on this machine, which a cluster cannot read.",
                    hint=f"Name the data: --{kind} {item.key}=NAME",
                )
    from himl_cli.services.submission.environment import choose_environment, folders_up_to
    from himl_cli.services.submission.environment_checks import MODULE, environment_remarks

    root, folder = spec.snapshot.root, start.parent if request.target else start
    environment, found_remarks = request.ready_environment, list[str]()
    if environment is None:
        environment, found_remarks = choose_environment(request, folder, root)
    asked = [option for option in ("vscode", "jupyter", "ssh_key") if request.is_typed(option) and not spec.sweep]
    remarks += [*found_remarks, *environment_remarks(environment, file, folders_up_to(folder, root), asked)]
    if spec.entry.kind is EntryKind.module and file is None and spec.entry.target != MODULE:
        remarks.append(f"Module '{spec.entry.target}' is not in '{root}', so the job's environment must provide it.")
    return replace(spec, services=services, environment=environment), remarks


def _public_keys(cwd: Path, given: str) -> str:
    text, problem = given, "is not a public SSH key."
    if not _PUBLIC_KEYS.fullmatch(given.strip()):
        try:
            text = (cwd / Path(given).expanduser()).read_text(encoding="utf-8")
        except (OSError, ValueError, RuntimeError):
            problem = "is neither a public key nor a readable file."
    if "PRIVATE KEY" in text:
        problem = "is a private key, which must not leave this machine."
    if "PRIVATE KEY" in text or not _PUBLIC_KEYS.fullmatch(text.strip()):
        hint = "Use the public key, a file that ends in .pub: --ssh_key ~/.ssh/id_ed25519.pub"
        raise BadUsage(f"--ssh_key '{'...' if 'PRIVATE KEY' in given else given}' {problem}", hint=hint)
    return text.strip()


# Resuming
