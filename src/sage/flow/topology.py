"""The order of steps: each behind those that it takes its input from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sage.flow.step import Input, Step


def topological(inputs: Mapping[str, Sequence[Input]]) -> list[str]:
    """The steps, each behind those it takes its input from, otherwise in the given order; those in and behind a circle
    are left out."""
    before = {name: {source.step for source in sources} & inputs.keys() for name, sources in inputs.items()}
    behind: dict[str, list[str]] = {}
    for name, sources in before.items():
        for source in sources:
            behind.setdefault(source, []).append(name)
    open_inputs = {name: len(sources) for name, sources in before.items()}
    ready = [name for name, count in open_inputs.items() if count == 0]
    for name in ready:  # grows
        for target in behind.get(name, ()):
            open_inputs[target] -= 1
            if open_inputs[target] == 0:
                ready.append(target)
    return ready


def cycle(steps: Sequence[Step]) -> list[str]:
    """The names of steps that wait for one another in a circle; empty if there is none."""
    inputs = {step.name: step.inputs for step in steps}
    waiting = inputs.keys() - topological(inputs)
    if not waiting:
        return []
    walk = [min(waiting)]
    while (back := min(source.step for source in inputs[walk[-1]] if source.step in waiting)) not in walk:
        walk.append(back)
    return [back, *reversed(walk[walk.index(back) :])]
