"""Preparation of a job from a request, its submission to a workspace, and the resumption of a run."""

from __future__ import annotations

import os
import platform
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from difflib import get_close_matches
from functools import partial
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory

from himl_cli.core.errors import BadUsage, HimlError, Interrupted, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import LATEST_RUN_FILE, home_folder, is_same_place, remove_tree, write_atomic
from himl_cli.core.jobs import Entry, EntryKind, JobSpec, NewCode, SnapshotReport, check_placeholders
from himl_cli.core.redaction import is_masked, mask_arguments, redact
from himl_cli.core.runs import (
    CHANGES,
    RECORDED_FROM,
    RECORDED_IN,
    STUDIO,
    Run,
    RunQuery,
    RunSelection,
    attempt_of,
    new_run_id,
)
from himl_cli.core.sweeps import MANY, SWEPT, with_search_space
from himl_cli.core.text import named
from himl_cli.core.webhook import NOTIFICATION
from himl_cli.services.runs.follow import watching
from himl_cli.services.runs.logs import MAIN_LOG
from himl_cli.services.runs.lookup import find_runs
from himl_cli.services.runs.mirror_state import MirrorFile, MirrorState, SentRun
from himl_cli.services.submission.data import parse_data
from himl_cli.services.submission.git import DIRTY, changes_of, git_facts, with_untracked
from himl_cli.services.submission.request import (
    PreparedJob,
    SubmitRequest,
    check_choices,
    check_names,
    check_values,
    command_line,
    job_of_options,
    job_words,
    near_path,
    refuse,
    shorten_tags,
    webhook_of,
    without_idle_options,
)
from himl_cli.services.submission.snapshot import find_snapshot_root, ignored_remarks, take_snapshot
from himl_cli.services.submission.sweeps import (
    KINDS_OF_OPTION,
    SWEEP_KINDS,
    copies_remarks,
    requested_sweep,
    single_sweep_option,
    sweep_arguments,
    sweep_remarks,
    sweep_text,
    with_seed,
    without_seed,
)
from himl_cli.workspaces.base import FolderWorkspace, JobRunner, RunRecorder, Workspace

ENTRY_KINDS = {".py": EntryKind.script, ".sh": EntryKind.shell}
# Options that apply to a resumed run
RESUME_OPTIONS = ("max_concurrent", "max_failures", "env_vars", "notify", "notify_format")
# Options that may be repeated for a resumed run, if they agree with its record
OF_RECORD = (*SWEEP_KINDS, *KINDS_OF_OPTION)
_PUBLIC_KEYS = re.compile(r"((ssh|ecdsa|sk)-\S+[ \t]+[A-Za-z0-9+/]+=*([ \t][^\r\n]*)?[\r\n]*)+")


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
        remarks += sweep_remarks(sweep, arguments)
        tags[SWEPT] = sweep_text(sweep)
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
        remarks += copies_remarks(sweep, report.snapshot.size)
    spec = replace(spec, snapshot=report.snapshot, tags=with_untracked(spec.tags, request.tags, [report]))
    changes = changes_of(spec.tags, [report])
    return PreparedJob(spec, report, [*remarks, *changes.remarks], request.checkpoint, changes.text)


def submit_prepared(workspace: JobRunner, job: PreparedJob, *, notify: Notify) -> Run:
    """Start the job, and store the changes of its code with the run. Raises the errors of `JobRunner.submit`. A failure
    to store them is a notice."""
    run = workspace.submit(job.spec, notify=notify)
    if job.temporary is not None:
        with suppress(OSError):
            remove_tree(job.temporary)
    store_changes(workspace, run, job.changes, notify)
    return run


def store_changes(workspace: Workspace, run: Run, changes: bytes, notify: Notify) -> None:
    """Store the *changes* of the code of a job that has started, if there are any. A failure is a notice."""
    if not changes:
        return
    from himl_cli.services.runs.writing import store_files

    with watching(run.id), TemporaryDirectory(prefix="himl-") as folder:
        file = Path(folder, "changes.diff")
        try:
            file.write_bytes(changes)
            store_files(workspace.run_files(run.id), {CHANGES: file})
        except (HimlError, OSError) as err:
            notify(Notice(f"Cannot store the changes of the code with run '{run.id}': {err}"))


def submit_with_changes(workspace: Workspace, submit: Callable[..., Run], changes: bytes, *, notify: Notify) -> Run:
    """Call *submit*, and store the *changes* of the code with its run."""
    run = submit(notify=notify)
    store_changes(workspace, run, changes, notify)
    return run


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
    entry = Entry(ENTRY_KINDS[start.suffix], start.relative_to(root).as_posix())
    return entry, start, root, root / entry.target if entry.kind is EntryKind.script else None


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


def start_and_note(start: Callable[..., Run], cwd: Path, notify: Notify) -> Run:
    """The run that *start*, a workspace's method with its job, starts, stored as the latest run of *cwd*. If *start*
    raises an error, nothing runs. Raises Interrupted, naming the run, after the start."""
    run = start(notify=notify)
    with watching(run.id):
        note_latest(run, cwd, notify)
    return run


def note_latest(run: Run, cwd: Path, notify: Notify) -> None:
    """Store *run* as the latest one of *cwd*. A failure to write is a notice."""
    try:
        write_atomic(cwd / LATEST_RUN_FILE, f"{run.recovery_id}\n")  # survives a crash of the machine
    except OSError as err:
        notify(Notice(f"Cannot write {LATEST_RUN_FILE} in '{cwd}': {err.strerror}."))


# Resuming


def resume_run(
    workspace: Workspace,
    wanted: str,
    request: SubmitRequest,
    notify: Notify,
    given: Mapping[str, tuple[str, Sequence[str]]],
    takes_new_code: bool,
) -> tuple[Run, int]:
    """Resume the run *wanted*, with the present code of its project if it *takes_new_code*. Returns it with the offset
    in its log, in bytes, at which new output begins.

    `env_vars`, `max_concurrent`, `max_failures` and `notify` of *request* apply. Its other options must agree with the
    run's record. Secrets that are masked there come from the command lines and arguments *given* (`FolderWorkspace`).
    Raises RunNotFound, and BadUsage for a run that cannot be resumed or that was a different job.
    """
    (run,) = find_runs(workspace, RunSelection(runs=(wanted,), is_exact=True), cwd=request.cwd, notify=notify)
    home = workspace.home_of(run.id)
    if not isinstance(home, FolderWorkspace):
        raise BadUsage(
            f"Run '{run.id}' is in {home.label}, where runs cannot be resumed.",
            hint="Submit it again. Azure ML restarts preempted jobs.",
        )
    _check_agrees(run, request)
    # A sweep or a pipeline appends to its log, but each attempt of a job has a new log
    log = workspace.run_files(run.id).stat(MAIN_LOG) if MANY in run.tags else None
    check_choices(request)
    webhook = webhook_of(request)
    if webhook is None and NOTIFICATION in run.tags:
        notify(Notice("himl sends no notification, because it does not store the address. Pass it again: --notify URL"))
    limits = {name: getattr(request, name) for name in ("max_concurrent", "max_failures")}
    code = _new_code(home, run) if takes_new_code else None
    changed = [] if takes_new_code else [name for _, names in home.code_of(run.id) for name in names]
    start = partial(home.resume, env=request.env_vars, limits=limits, webhook=webhook)
    resumed = start(run.id, code=code, given=given, notify=notify)
    if changed:
        how = f"For the new code: himl submit --resume {run.id} --new_code"
        notify(Notice(f"The code of the submission runs, which lacks changes of {named(changed)}. {how}"))
    note_latest(resumed, Path(request.cwd), notify)
    return resumed, log.size if log else 0


def _new_code(home: FolderWorkspace, run: Run) -> NewCode:
    """New snapshots for the jobs of *run*. Raises BadUsage."""
    snapshots, changed, commits = {}, list[str](), list[str]()
    for old, names in home.code_of(run.id):
        if old.source not in snapshots:
            root = Path(old.source)
            if not root.is_dir():
                raise BadUsage(f"The folder of the code, '{root}', does not exist.", hint="Omit --new_code.")
            report = take_snapshot(root, old.ignored_folders, old.include_secret)
            snapshots[old.source] = report.snapshot
            git = git_facts(root)
            state = {"true": " with changes", "false": ""}.get(with_untracked(git, {}, [report]).get(DIRTY, ""))
            commit = git.get("build_source_id", "")[:10]
            commits += [f"commit {commit}{' perhaps with changes' if state is None else state}"] if commit else []
            changed += [*names, *sorted({*report.snapshot.files} - {*old.files})]
    if not snapshots:
        raise BadUsage(f"Run '{run.id}' has no copy of its code, and runs the present one.", hint="Omit --new_code.")
    begin = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    begin = begin if MANY in run.tags else f"attempt {attempt_of(run) + 1}"
    return NewCode(snapshots, ", ".join([f"from {begin}: {named(changed) or 'unchanged'}", *commits]))


def _check_agrees(run: Run, request: SubmitRequest) -> None:
    leave_out = f": himl submit --resume {run.id}"
    made_by = run.tags.get("command_line", run.command)
    words = [""]
    with suppress(ValueError):  # the command line of another client
        words = shlex.split(made_by)
    target, arguments = job_words(request)
    if request.target or request.module or request.command:
        if not _agree(words, [*target, *arguments]):
            raise BadUsage(
                f"Run '{run.id}' was started as '{made_by}', not as '{command_line(request)}'.",
                hint=f"Omit the script{leave_out}",
            )
    elif arguments and not _agree(words[2 if words[0] in ("-m", "--command") else 1 :], arguments):
        raise BadUsage(
            f"Run '{run.id}' has the arguments of '{made_by}', not '{shlex.join(mask_arguments(arguments))}'.",
            hint=f"Omit them{leave_out}",
        )
    if any(map(request.is_typed, OF_RECORD[: len(SWEEP_KINDS)])):
        of_settings = [name for name in SWEEP_KINDS if not request.is_typed(name)]
        again = requested_sweep(single_sweep_option(request.without("max_concurrent", "max_failures", *of_settings)))
        text, made = sweep_text(again) if again else "a single run", run.tags.get(SWEPT, "")
        if text not in (made, without_seed(made)):
            was = made or ("a pipeline" if run.tags.get(MANY) == "pipeline" else "a single run")
            raise BadUsage(f"Run '{run.id}' is '{was}', not '{text}'.", hint=f"Omit these options{leave_out}")


def _agree(made: Sequence[str], given: Sequence[str]) -> bool:
    """Whether the words *made*, in which secrets are masked, are *given*."""
    return len(made) == len(given) and all(map(is_masked, made, given))


def submit_mirrored(
    source: FolderWorkspace,
    target: RunRecorder,
    spec: JobSpec,
    cwd: Path,
    place: Mapping[str, str],
    start_mirror: Callable[[Path, str], None],
    notify: Notify,
) -> tuple[Run, Run]:
    """Start the run in *target*, the mirror process, and the local job. Returns both runs, which have the same id.

    *place* identifies *target* for the mirror. *start_mirror* starts the process for a run of the workspace in a
    folder. If the run in *target* cannot start, nothing starts. If the job does not start, the mirror marks the run in
    *target* as failed. It starts before the job, so that it can do so even if this process is killed. Raises the errors
    of both workspaces.
    """
    run_id = new_run_id(spec.experiment)
    try:  # a cheap request finds most problems before anything is created
        next(iter(target.runs(RunQuery(spec.experiment, limit=1))), None)
    except (NotAllowed, NotFound, ServiceFailed) as err:
        hint = "Nothing was started. To record the job in the local workspace only, omit --record_in azure."
        err.hint = f"{err.hint} {hint}".strip()
        raise
    source.prepare(notify)
    file, state = MirrorFile(source.folder, run_id), MirrorState(run_id, place, is_starting=True)
    file.begin(state)
    try:
        recovery = {"run_recovery_id": f"{spec.experiment}:{run_id}"}
        machine = {RECORDED_FROM: platform.node() or "another machine"}
        tags = {**shorten_tags(spec.tags), **recovery, **machine}
        new = Run(
            run_id,
            spec.experiment,
            display_name=spec.display_name,
            description=spec.description,
            tags=tags,
            command=spec.entry.target,
        )
        state.runs[run_id] = SentRun(tags={**spec.tags, **recovery})
        mirrored = _start_mirrored(target, new, file, state, start_mirror)
        start_mirror(source.folder, run_id)
        tags = {**spec.tags, RECORDED_IN: target.label, STUDIO: mirrored.url}
        try:
            run = start_and_note(partial(source.submit, replace(spec, run_id=run_id, tags=tags)), cwd, notify)
        except BaseException as err:
            state.failure = redact(f"the job did not start{f': {err}' if isinstance(err, HimlError) else ''}")
            raise
        finally:
            state.is_starting = False
            file.write(state)
        return run, mirrored
    finally:
        file.release()


def _start_mirrored(
    target: RunRecorder, new: Run, file: MirrorFile, state: MirrorState, start_mirror: Callable[[Path, str], None]
) -> Run:
    try:
        return target.start_run(new)
    except BaseException as err:
        if isinstance(err, HimlError) and not (isinstance(err, ServiceFailed) and not err.is_lasting):
            file.remove()
            raise
        # The run may exist even though no answer arrived, so the mirror process ends it
        interrupted = "himl submit was interrupted before the job began"
        state.is_starting, state.failure = False, redact(str(err)) if isinstance(err, HimlError) else interrupted
        file.write(state)
        start_mirror(file.path.parent.parent, new.id)
        if isinstance(err, KeyboardInterrupt):
            message = (
                f"Interrupted before the job began. Run '{new.id}' may exist in {target.label} and ends as Failed."
            )
            raise Interrupted(message) from err
        raise
