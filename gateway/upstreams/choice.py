"""Which of a model's targets is asked: the less busy of two, among those that are fit."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from random import SystemRandom

from adapters.base import Task
from gateway.upstreams.target import Target


def choose(targets: Sequence[Target], task: Task, *, but: Collection[Target] = ()) -> Target | None:
    """Return the fittest target that is none of `but`, None if no other is worth a try.

    Targets of a later priority are taken when none of the earlier ones is fit, one whose model
    is loading when no other's is ready, or when it should be by now.
    """
    fit = [one for one in _by_priority(targets) if one not in but and one.may_be_asked(task)]
    ready = [one for one in fit if one.cold_start.may_be_asked]
    for candidates in (ready, fit):
        for _, tier in groupby(candidates, attrgetter("priority")):
            return less_busy(list(tier))
    return None


def least_unfit(targets: Sequence[Target]) -> Target:
    """Return a target though none is fit: better tried in vain than not at all."""
    _, tier = next(groupby(_by_priority(targets), attrgetter("priority")))
    return less_busy(list(tier))


def less_busy(targets: Sequence[Target]) -> Target:
    """Return, of two drawn by weight, the one that has less to answer for its weight."""
    if len(targets) == 1:
        return targets[0]
    first = _drawn(targets)
    second = _drawn([target for target in targets if target is not first])
    return min(first, second, key=lambda target: target.outstanding / target.weight)


def _drawn(targets: Sequence[Target]) -> Target:
    weights = [target.weight for target in targets]
    return SystemRandom().choices(targets, weights)[0]


def _by_priority(targets: Iterable[Target]) -> list[Target]:
    return sorted(targets, key=attrgetter("priority"))
