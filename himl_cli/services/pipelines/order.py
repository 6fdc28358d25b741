"""Which step reads whose output, and an order in which they can run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from himl_cli.core.errors import BadUsage
from himl_cli.core.pipelines import StepOutput
from himl_cli.services.pipelines.schema import PipelineFile, Step

INPUT_NAMES = ("input_datareference_name", "input_dataset_name")


def output_key(name: str) -> str:
    """The name of an output as variables and placeholders take it; the same name is the same key."""
    key = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{key}" if key[0].isdigit() else key


def makers(file: PipelineFile) -> dict[str, str]:
    """The key of the step that makes each output, by the output's name. Raises BadUsage where two make the same."""
    made: dict[str, str] = {}
    keys: dict[str, str] = {}
    for step in file.steps:
        if not step.output:
            continue
        if step.output in made:
            raise file.wrong(
                step.key,
                "output",
                f"'{step.output}' is made by {made[step.output]} already.",
                hint="Give each output a name of its own.",
            )
        other = keys.setdefault(output_key(step.output), step.output)
        if other != step.output:
            raise file.wrong(
                step.key,
                "output",
                f"'{step.output}' and '{other}' are the same name to variables.",
                hint="Use letters, digits and _.",
            )
        made[step.output] = step.key
    return made


def output_read(file: PipelineFile, step: Step, made: Mapping[str, str]) -> StepOutput | None:
    """The output that feeds *step*; None where its input is data. Raises BadUsage where it names outputs of two
    steps."""
    found = {name: getattr(step, name) for name in INPUT_NAMES if getattr(step, name) in made}
    if len(set(found.values())) > 1:
        first, second = found.values()
        raise file.wrong(
            step.key,
            "input_dataset_name",
            f"'{second}' and 'input_datareference_name' '{first}' are two outputs.",
            hint="A step reads one of them.",
        )
    output = next(iter(found.values()), None)
    return StepOutput(made[output], output_key(output)) if output is not None else None


def passed_on(file: PipelineFile, reads: Mapping[str, StepOutput]) -> dict[str, StepOutput]:
    """What steps that name no input read, as in DeepSeismic: the output of the step before them in the file, if it
    makes one.

    Not where that step waits, by what others read (*reads* has what the file says), for the step itself.
    """
    found: dict[str, StepOutput] = {}
    for before, step in zip(file.steps, file.steps[1:], strict=False):
        names_none = not (step.input_datareference_name or step.input_dataset_name or step.input_datareference_path)
        if names_none and before.output and not _waits_for(before.key, step.key, {**reads, **found}):
            found[step.key] = StepOutput(before.key, output_key(before.output))
    return found


def _waits_for(step: str, other: str, reads: Mapping[str, StepOutput]) -> bool:
    """Whether *step* reads from *other*, be it by steps in between."""
    seen: set[str] = set()
    while step in reads and step not in seen:
        seen.add(step)
        step = reads[step].step
        if step == other:
            return True
    return False


def in_order(file: PipelineFile, reads: Mapping[str, StepOutput]) -> Sequence[Step]:
    """The steps so that each comes behind the one it reads from, else as in the file. Raises BadUsage for a cycle,
    naming its steps."""
    steps = {step.key: step for step in file.steps}
    try:
        return [steps[key] for key in data_order(list(steps), {key: [output.step] for key, output in reads.items()})]
    except CycleFound as err:
        raise _cycle(file, steps, err.way) from None


class CycleFound(Exception):
    """Steps of which each waits for the next, and the last for the first, are in `way`."""

    def __init__(self, way: Sequence[str]) -> None:
        super().__init__(" <- ".join([*way, way[0]]))
        self.way = way


def data_order(keys: Sequence[str], waits: Mapping[str, Sequence[str]]) -> Sequence[str]:
    """*keys* so that each comes behind those that it *waits* for, else as they are. Raises CycleFound."""
    done: dict[str, None] = {}
    for start in keys:
        way = [start]
        while way:
            current = way[-1]
            ahead = next((key for key in waits.get(current, ()) if key not in done), None)
            if ahead is None:
                done[way.pop()] = None
            elif ahead in way:
                raise CycleFound(way[way.index(ahead) :])
            else:
                way.append(ahead)
    return list(done)


def _cycle(file: PipelineFile, steps: Mapping[str, Step], way: Sequence[str]) -> BadUsage:
    """The error about steps of which each reads from the next, and the last from the first."""
    first, read = steps[way[0]], steps[way[1] if len(way) > 1 else way[0]]
    key = next(name for name in INPUT_NAMES if getattr(first, name) == read.output)
    if len(way) == 1:
        return file.wrong(
            first.key,
            key,
            f"names '{first.output}', the step's own output.",
            hint="Name data that exists, or the output of another step.",
        )
    round_trip = " <- ".join([*way, way[0]])
    return file.wrong(
        first.key,
        key,
        f"closes a cycle: {round_trip}.",
        hint="Each reads what the next makes; one of them has to read other data.",
    )
