"""Each step of a pipeline's JSON file as a job."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Event, Notice
from himl_cli.core.jobs import DataSpec, Entry, EntryKind, EnvironmentSpec, JobSpec, SnapshotReport, check_placeholders
from himl_cli.core.pipelines import StepOutput, StepSpec
from himl_cli.services.pipelines.order import in_order, makers, output_key, output_read, passed_on
from himl_cli.services.pipelines.places import StepFiles, step_files
from himl_cli.services.pipelines.prepared import INPUT, DataInput
from himl_cli.services.pipelines.schema import MPI_STEP, PipelineFile, Step
from himl_cli.services.snapshot import take_snapshot
from himl_cli.services.submission import SubmitRequest


class StepMaker:
    """Makes jobs of the steps of one file; what it notices on the way is in `remarks`, data to be found in `data`."""

    def __init__(self, file: PipelineFile, request: SubmitRequest, common: JobSpec) -> None:
        self.file = file
        self.request = request
        self.common = common
        self.remarks: list[str] = []
        self._noted: dict[str, tuple[int, list[str]]] = {}
        self.data: dict[str, DataInput] = {}
        self._snapshots: dict[Path, SnapshotReport] = {}

    @property
    def reports(self) -> Sequence[SnapshotReport]:
        return list(self._snapshots.values())

    def steps(self) -> Sequence[StepSpec]:
        """All steps, each to run behind the one before it: in the file's order, unless their data wants another. Raises
        BadUsage naming step and key."""
        made = makers(self.file)
        reads = {
            step.key: output for step in self.file.steps if (output := output_read(self.file, step, made)) is not None
        }
        implied = passed_on(self.file, reads)
        reads |= implied
        ordered = in_order(self.file, reads)
        self.remarks += [
            f"{key} names no input, so it reads what {output.step}, the step before it, makes (--input_data)."
            for key, output in implied.items()
        ]
        before = [None, *(step.key for step in ordered)]
        return [self._step(step, reads, [last] if last else []) for step, last in zip(ordered, before, strict=False)]

    def _step(self, step: Step, reads: Mapping[str, StepOutput], waits_for: Sequence[str]) -> StepSpec:
        files = step_files(self.file, step, self.request.cwd)
        source = reads.get(step.key)
        data = DataSpec(INPUT, source.output) if source else self._data(step)
        outputs = [DataSpec(output_key(step.output), "")] if step.output else []
        arguments = [*step.arguments, *(("--input_data", f"${{{{inputs.{INPUT}}}}}") if data else ())]
        arguments += [text for output in outputs for text in ("--output", f"${{{{outputs.{output.key}}}}}")]
        is_mpi = step.type == MPI_STEP
        job = replace(
            self.common,
            entry=Entry(EntryKind.script, files.script),
            snapshot=self._snapshot(step, files).snapshot,
            arguments=arguments,
            distribution="mpi" if is_mpi else "" if self.common.cluster else "pytorch",
            processes=step.processes_per_node if is_mpi else None,
            nodes=step.node_count if is_mpi else 1,
            display_name=step.name,
            inputs=[self._mounted(data)] if data else [],
            outputs=outputs,
            environment=self._environment(step, files) if self.common.cluster else None,
        )
        self._check(step, job)
        return StepSpec(step.key, step.name, job, {INPUT: source} if source else {}, waits_for)

    def _data(self, step: Step) -> DataSpec | None:
        """The input of a step that reads no other's output; None where it has none."""
        self._check_inside(step)
        if step.input_datareference_path:
            names = (step.input_dataset_name, step.input_datareference_name, self.file.steps[0].input_dataset_name)
            datastores = [*dict.fromkeys(name for name in names if name)]
            self.data[step.key] = DataInput("input_datareference_path", step.input_datareference_path, True, datastores)
            return DataSpec(INPUT, step.input_datareference_path.strip("/") or "/")
        field = next((name for name in ("input_dataset_name", "input_datareference_name") if getattr(step, name)), None)
        if field is None:
            return None
        self.data[step.key] = DataInput(field, getattr(step, field))
        return DataSpec(INPUT, getattr(step, field))

    def _check_inside(self, step: Step) -> None:
        """Raises BadUsage for data that would lie outside its datastore."""
        for key in ("input_datareference_path", "input_dataset_name", "input_datareference_name"):
            if ".." in re.split(r"[/\\]", getattr(step, key)):
                raise self.file.wrong(
                    step.key, key, f"'{getattr(step, key)}' leaves the datastore.", hint="Name a folder inside it."
                )

    def _mounted(self, item: DataSpec) -> DataSpec:
        """The input as DeepSeismic's steps had it on a cluster: mounted."""
        return replace(item, mode="mount") if self.common.cluster else item

    def _snapshot(self, step: Step, files: StepFiles) -> SnapshotReport:
        if files.source not in self._snapshots:
            self._snapshots[files.source] = take_snapshot(
                files.source, self.request.ignored_folders, self.request.include_secret
            )
        report = self._snapshots[files.source]
        if files.script not in report.snapshot.files:
            raise self.file.wrong(
                step.key,
                "script",
                f"'{step.script}' is left out of the snapshot.",
                hint=f"Look in '{files.source / report.ignore_file}'.",
            )
        return report

    def _note(self, key: str, text: str) -> None:
        """A remark about the step; what holds for several is said once, with their names."""
        place, keys = self._noted.setdefault(text, (len(self.remarks), []))
        keys.append(key)
        self.remarks[place : place + 1] = [f"{', '.join(keys)}: {text}"]

    def _environment(self, step: Step, files: StepFiles) -> EnvironmentSpec:
        """The step's own environment, else the one of the options, else that of a conda file beside the script."""
        from himl_cli.services.environments.choose import EnvironmentRequest, environment_spec

        def note(event: Event) -> None:
            if isinstance(event, Notice):
                self._note(step.key, event.text)

        asked = self.request
        wanted = EnvironmentRequest(
            asked.cwd,
            () if step.requirements else asked.conda_env,
            str(files.requirements) if files.requirements else asked.requirements,
            None if step.requirements or step.base_image else asked.environment,
            step.base_image or asked.docker_image,
            asked.pip_extra_index_url,
            asked.private_wheel,
            may_be_bare=True,
        )
        try:
            return environment_spec(wanted, (files.source / files.script).parent, files.source, note)
        except BadUsage as err:
            told = str(err).replace("--requirements", "'requirements'").replace("--docker_image", "'base_image'")
            raise self.file.wrong(step.key, "", told, hint=err.hint) from err

    def _check(self, step: Step, job: JobSpec) -> None:
        """Refuse placeholders that name nothing, and say what is passed over."""
        try:
            check_placeholders(job)
        except BadUsage as err:
            raise self.file.wrong(
                step.key, "arguments", f"{err}", hint="--input_data and --output are added by themselves."
            ) from err
        idle = [*step.passed_over]
        if job.processes is None:
            idle += [name for name in ("node_count", "processes_per_node") if getattr(step, name) > 1]
        if step.input_datareference_path and step.key not in self.data:
            idle.append("input_datareference_path")
        if idle:
            self.remarks.append(f"{step.key}: passed over, since it has no meaning for this step: {', '.join(idle)}.")
        if not job.cluster and job.nodes > 1:
            self.remarks.append(f"{step.key}: one node here in place of {job.nodes}.")
