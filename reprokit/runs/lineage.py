"""Lineage: the runs that a run or a version was made by, through their inputs; and those that used it. Reads only."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from reprokit.core.config import Config
from reprokit.core.refs import RESERVED, PackageRef, is_package_ref, is_run_id, parse_run
from reprokit.registry import Registry, open_registry
from reprokit.runs.store import RunStore
from reprokit.schema.record import DataFacts, Record

__all__ = ["Lineage", "RunNode", "Use", "lineage"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNode:
    """A run of the chain; one that is not in the registry has no name, and the status `absent`."""

    run_id: str
    name: str | None = None
    status: str = "absent"
    reproduces: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """Run `user` had this version as its input `name`; `maker` is the run that made it, if a run did.

    Attributes:
        within: The part of the version that was laid out; None for all of it.
        checkpoint: Which of the maker's checkpoints it is, such as `epoch=7`.
    """

    user: str
    name: str
    package: str
    top_hash: str
    within: str | None = None
    maker: str | None = None
    checkpoint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """A chain of runs as a graph: each run once, and each input of theirs.

    Attributes:
        run_id: The run that was asked for, or that made the version that was; None if no run did.
        package, top_hash: The version that was asked for; None if a run was.
    """

    run_id: str | None
    package: str | None
    top_hash: str | None
    forward: bool
    runs: tuple[RunNode, ...]
    uses: tuple[Use, ...]

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def lineage(ref: str, *, registry: Registry | str | None = None, forward: bool = False) -> Lineage:
    """Return what a run or a version was made from, and what made that, to the beginning; or what was made from it.

    Every run is looked at once, so a registry whose records go round in a circle does no harm.

    Args:
        ref: A run, one of its checkpoints (`RUN@best`), or a package version.
        forward: The runs that used what `ref` names or, of a run, anything that it made; and those that used theirs.
    Raises:
        NotFoundError: No such run, checkpoint, package or version.
        DataMismatchError: A record is corrupt.
    """
    if registry is None or isinstance(registry, str):
        registry = open_registry(Config.load(registry=registry).registry)
    runs = RunStore(registry)
    version: tuple[str, str] | None = None
    if is_package_ref(ref):
        parsed = PackageRef.parse(ref)
        version = parsed.name, registry.resolve(parsed)
    else:
        named = parse_run(ref)
        run = runs.load(named.run)
        if named.selector is not None:
            chosen = runs.select(run, named.selector)
            version = chosen.package, chosen.top_hash
    if version is None:
        run_id: str | None = run.record.run_id
    else:
        run_id = runs.maker(*version)
        if version[0].startswith(f"{RESERVED}/"):
            version = None  # the record of a run stands for the run
    walk = _Walk(runs)
    if forward:
        walk.forward(run_id, version)
    else:
        walk.back(run_id)
    return Lineage(
        run_id=run_id,
        package=version and version[0],
        top_hash=version and version[1],
        forward=forward,
        runs=tuple(walk.nodes.values()),
        uses=tuple(walk.uses),
    )


class _Walk:
    """Breadth first over the runs of a registry; each record is read once."""

    def __init__(self, runs: RunStore) -> None:
        self._runs = runs
        self._records: dict[str, Record | None] = {}
        self.nodes: dict[str, RunNode] = {}
        self.uses: list[Use] = []

    def back(self, run_id: str | None) -> None:
        pending = deque([run_id] if run_id else [])
        while pending:
            user = pending.popleft()
            if user in self.nodes:
                continue
            record = self._visit(user)
            for facts in record.data if record is not None else ():
                use = self._use(user, facts)
                self.uses.append(use)
                if use.maker is not None:
                    pending.append(use.maker)

    def forward(self, run_id: str | None, version: tuple[str, str] | None) -> None:
        users = self._users()
        if version is not None:
            if run_id is not None:
                self._visit(run_id)
            pending = deque(self._follow({version}, users))
        else:
            pending = deque([run_id] if run_id else [])
        followed = set()
        while pending:
            maker = pending.popleft()
            if maker in followed:
                continue
            followed.add(maker)
            record = self._visit(maker)
            made = [record.initial, *record.checkpoints] if record is not None else []
            products = {(one.package, one.top_hash) for one in made if one is not None}
            products |= {pair for pair in users if pair[0] == f"{RESERVED}/{maker}"}
            pending.extend(self._follow(products, users))

    def _users(self) -> dict[tuple[str, str], list[str]]:
        """Return, for every version that is an input, the runs that have it; as headers say, oldest run first."""
        users: dict[tuple[str, str], list[str]] = {}
        for summary in self._runs.summaries():
            for pair in dict.fromkeys(summary.inputs):
                users.setdefault(pair, []).append(summary.run)
        return users

    def _follow(self, products: Iterable[tuple[str, str]], users: dict[tuple[str, str], list[str]]) -> list[str]:
        """Note every use of these versions; return the runs that had them, oldest first."""
        found = sorted({user for pair in products for user in users.get(pair, ())})
        for user in found:
            record = self._visit(user)
            for facts in record.data if record is not None else ():
                if (facts.package, facts.top_hash) in products:
                    self.uses.append(self._use(user, facts))
        return found

    def _visit(self, run_id: str) -> Record | None:
        if run_id not in self.nodes:
            record = self._runs.load(run_id).record if self._runs.has(run_id) else None
            self._records[run_id] = record
            self.nodes[run_id] = (
                RunNode(run_id=run_id)
                if record is None
                else RunNode(run_id=run_id, name=record.name, status=record.status, reproduces=record.reproduces)
            )
        return self._records[run_id]

    def _use(self, user: str, facts: DataFacts) -> Use:
        maker, _, checkpoint = (facts.run or "").partition("@")
        if not is_run_id(maker):
            maker, checkpoint = self._runs.maker(facts.package, facts.top_hash) or "", ""
        return Use(
            user=user,
            name=facts.name,
            package=facts.package,
            top_hash=facts.top_hash,
            within=facts.within,
            maker=maker or None,
            checkpoint=checkpoint or None,
        )
