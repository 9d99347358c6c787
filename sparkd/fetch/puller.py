# SPDX-License-Identifier: Apache-2.0
"""Download of the weights and files of a model.

A destination, a directory of weights or one file, appears under its name only when it is whole and
verified (`fetch.staging`); until then nothing of it is seen by a start. A pull looks what is there,
asks the hub what there is, checks the disk, and only then fetches, several files at a time. Of two
pulls of one destination the second is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sparkd.adapters.hub import Hub
from sparkd.core.engine.arguments import option_value
from sparkd.core.errors import FetchFailed, FetchInterrupted, HostError, Misconfigured
from sparkd.core.model import HostFile, ModelSpec, Weights
from sparkd.core.names import Layout
from sparkd.core.quantities import readable_size
from sparkd.core.weights import hub as hubs
from sparkd.core.weights.hub import Algorithm, Digest, Listing
from sparkd.core.weights.weight_set import choose
from sparkd.fetch import staging
from sparkd.fetch.staging import MismatchError, PartialFile, Staging
from sparkd.lifecycle.leases import Leases

_AT_ONCE = 4
"""One connection rarely fills the line; more of them only anger the hub."""
_PAUSES_S = (1.0, 2.0, 4.0, 8.0)
"""Between tries in which nothing came; progress starts the row again."""
_LONGEST_PAUSE_S = 900.0
"""Windows of Hugging Face's limits have 300 s; a longer pause is an error, not a wait."""
_PROGRESS_BYTES = 1 << 18
"""A hub that breaks off sooner, again and again, gets no new row of tries."""
_UNTOLD_BYTES = 1 << 30
"""The most of a file whose size neither the entry nor the server tells."""


class Watcher(Protocol):
    """Who is told how a pull goes on."""

    def planned(self, count: int, total_bytes: int | None) -> None:
        """So many files with so many bytes are to be fetched; None if unknown."""

    def progressed(self, name: str, done_bytes: int, total_bytes: int | None) -> None:
        """So much of a file is there; less than before if it begins again."""

    def retrying(self, name: str, why: str, pause_s: float) -> None: ...

    def noted(self, text: str) -> None:
        """One line on the repository: a part that is left out, or a new name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """How one destination ended."""

    path: Path
    source: str
    commit: str | None
    fetched_bytes: int
    """0 if all of it was there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """One file to be fetched."""

    name: str
    address: str
    digest: Digest
    size_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One destination that is not as it should be."""

    store: Staging
    source: str
    listing: Listing | None
    """None for a single file."""
    commit: str | None
    files: tuple[_Wanted, ...]

    def missing(self) -> list[_Wanted]:
        return [file for file in self.files if not self.store.has(file.digest)]

    def missing_bytes(self) -> int:
        return sum(
            max(0, (file.size_bytes or 0) - self.store.part_bytes(file.digest))
            for file in self.missing()
        )


@dataclass(frozen=True, slots=True)
class Puller:
    layout: Layout
    leases: Leases
    hub: Hub
    watcher: Watcher

    async def pull(self, spec: ModelSpec) -> list[Pulled]:
        """Bring all that a model needs to its place.

        Raises FetchFailed, HostError (the disk), Misconfigured (nothing says where from), or Busy.
        """
        for weights in spec.all_weights:
            if weights.repo is None and not staging.has_content(weights.path):
                raise Misconfigured(
                    f"the entry of {spec.model_id!r} says where its weights are, not where from",
                    hint=f"put them at {weights.path}, or add repo: ORG/NAME",
                )
        async with contextlib.AsyncExitStack() as stack:
            for path in self._destinations(spec):
                stack.enter_context(self.leases.pull(path))
            return await self._pull(spec)

    def _destinations(self, spec: ModelSpec) -> list[Path]:
        """In one order for all processes, though each is only tried."""
        paths = [self.layout.host_path(f.path) for f in spec.files if f.url or f.repo]
        paths += [weights.path for weights in spec.all_weights if weights.repo]
        return sorted({path.resolve() for path in paths})

    async def _pull(self, spec: ModelSpec) -> list[Pulled]:
        jobs: list[_Job] = []
        done: list[Pulled] = []
        async for found in self._look(spec):
            if isinstance(found, _Job):
                jobs.append(found)
            else:
                done.append(found)
        _check_space(jobs)
        missing = [(job.store, file) for job in jobs for file in job.missing()]
        sizes = [file.size_bytes for _, file in missing]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        self.watcher.planned(len(missing), total)
        counts = {id(job): job.missing_bytes() for job in jobs}
        for job in jobs:
            job.store.prepare()
        await self._fetch_all(missing)
        for job in jobs:
            if job.listing is not None:
                await asyncio.to_thread(job.store.place_tree, job.listing)
            else:
                job.store.place_file(job.files[0].digest)
            done.append(
                Pulled(
                    path=job.store.destination,
                    source=job.source,
                    commit=job.commit,
                    fetched_bytes=counts[id(job)],
                )
            )
        return done

    async def _look(self, spec: ModelSpec) -> AsyncIterator[_Job | Pulled]:
        """Each destination: what is to be done, or that it is as it should be."""
        for weights in spec.all_weights:
            if weights.repo is not None:
                yield await self._look_at_weights(spec, weights, weights.repo)
        for file in spec.files:
            if file.url or file.repo:
                yield await self._look_at_file(file)

    async def _look_at_weights(self, spec: ModelSpec, weights: Weights, repo: str) -> _Job | Pulled:
        path, revision = weights.path, weights.revision or hubs.MAIN
        listing = await self._listing(repo, revision)
        chosen = choose(
            repo,
            listing.files,
            include=weights.include,
            exclude=weights.exclude,
            mistral_format=_wants_mistral_format(spec.args),
        )
        if chosen.note:
            self.watcher.noted(f"{repo}: {chosen.note}")
        named = listing.named
        listing = Listing(repo=repo, commit=listing.commit, files=chosen.files)
        if not listing.files:
            raise FetchFailed(f"{repo} at {revision} has no files")
        destination = path.resolve()
        source = f"{repo}@{listing.commit[:12]}"
        before = staging.fetched(destination)
        if before == listing:
            return Pulled(path=path, source=source, commit=listing.commit, fetched_bytes=0)
        ours = (destination / hubs.RECORD_NAME).exists()
        if not ours and staging.has_content(destination):
            raise HostError(
                f"{path} is there and was not fetched by sparkctl",
                hint=f"leave it if it is right, or move it away: sudo mv {path} {path}.old",
            )
        store = Staging(destination)
        if before is not None:
            wanted = {file.digest for file in listing.files}
            store.prepare()
            for file in before.files:
                if file.digest in wanted:
                    store.adopt(destination / file.path, file.digest)
        files = {
            file.digest: _Wanted(
                name=file.path,
                address=self.hub.address(named, listing.commit, file.path),
                digest=file.digest,
                size_bytes=file.size_bytes,
            )
            for file in listing.files
        }
        return _Job(
            store=store,
            source=source,
            listing=listing,
            commit=listing.commit,
            files=tuple(files.values()),
        )

    async def _look_at_file(self, file: HostFile) -> _Job | Pulled:
        commit = None
        if file.url is not None and file.sha256 is not None:
            name = file.url.partition("?")[0].rpartition("/")[2]
            wanted = _Wanted(
                name=name,
                address=file.url,
                digest=Digest(Algorithm.SHA256, file.sha256),
                size_bytes=None,
            )
            source = file.url.partition("?")[0]
        else:
            assert file.repo is not None
            assert file.file is not None
            listing = await self._listing(file.repo, hubs.MAIN)
            found, commit = listing.find(file.file), listing.commit
            if found is None:
                raise FetchFailed(
                    f"{file.repo} has no file {file.file!r}",
                    hint="sparkctl check; it must be its path in the repository",
                    code="hub_not_found",
                )
            wanted = _Wanted(
                name=file.file,
                address=self.hub.address(listing.named, listing.commit, file.file),
                digest=found.digest,
                size_bytes=found.size_bytes,
            )
            source = f"{file.repo}@{listing.commit[:12]}/{file.file}"
        path = self.layout.host_path(file.path)
        if await asyncio.to_thread(staging.verified, path, wanted.digest):
            return Pulled(path=path, source=source, commit=commit, fetched_bytes=0)
        store = Staging(path.resolve())
        return _Job(store=store, source=source, listing=None, commit=commit, files=(wanted,))

    async def _fetch_all(self, missing: Iterable[tuple[Staging, _Wanted]]) -> None:
        """Several at a time; the first that fails ends the others, whose parts stay."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def fetch(store: Staging, file: _Wanted) -> None:
            async with places:
                await self._fetch(store, file)

        try:
            async with asyncio.TaskGroup() as group:
                for store, file in missing:
                    group.create_task(fetch(store, file))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _fetch(self, store: Staging, file: _Wanted) -> None:
        """One file, to the end or to an error that no further try would change."""
        part = await asyncio.to_thread(PartialFile, store, file.digest, file.size_bytes)
        patience, left_earlier = _Patience(self.watcher, file.name), part.bytes > 0
        try:
            while True:
                before_bytes = part.bytes
                try:
                    if part.bytes != file.size_bytes:
                        await self._receive(part, file)
                    return part.finish(file.name)
                except FetchInterrupted as error:
                    if part.bytes >= before_bytes + _PROGRESS_BYTES:
                        patience = _Patience(self.watcher, file.name)
                    await patience.wait(error)
                except MismatchError:
                    # What an earlier run left may have been harmed on the disk; once.
                    if not left_earlier:
                        raise
                    left_earlier = False
                    self.watcher.retrying(file.name, "its checksum is wrong", 0)
        finally:
            part.close()

    async def _receive(self, part: PartialFile, file: _Wanted) -> None:
        async with self.hub.transfer(file.address, part.bytes, what=file.name) as transfer:
            if transfer.offset != part.bytes:
                part.restart()
            total = transfer.size_bytes if file.size_bytes is None else file.size_bytes
            limit = _UNTOLD_BYTES if total is None else total
            if file.size_bytes is None and total is not None:
                part.check_room(total)
            self.watcher.progressed(file.name, part.bytes, total)
            async for chunk in transfer.chunks:
                if part.bytes + len(chunk) > limit:
                    part.restart()
                    raise MismatchError(f"{file.name}: longer than {limit} bytes")
                part.write(chunk)
                self.watcher.progressed(file.name, part.bytes, total)
        if file.size_bytes is not None and part.bytes < file.size_bytes:
            raise FetchInterrupted(
                f"{file.name}: {part.bytes} bytes came instead of {file.size_bytes}"
            )

    async def _listing(self, repo: str, revision: str) -> Listing:
        patience = _Patience(self.watcher, repo)
        while True:
            try:
                listing = await self.hub.listing(repo, revision)
                if listing.named != repo:
                    self.watcher.noted(f"{repo} is {listing.named} now; write that as its repo")
                return listing
            except FetchInterrupted as error:
                await patience.wait(error)


class _Patience:
    """How often one thing is tried again, and after which pauses."""

    def __init__(self, watcher: Watcher, name: str) -> None:
        self._watcher, self._name, self._pauses_s = watcher, name, list(_PAUSES_S)

    async def wait(self, error: FetchInterrupted) -> None:
        """Wait before another try; raises the error when there have been enough."""
        if not self._pauses_s or (error.retry_after_s or 0) > _LONGEST_PAUSE_S:
            raise error
        pause_s = max(self._pauses_s.pop(0), error.retry_after_s or 0)
        self._watcher.retrying(self._name, error.message, pause_s)
        await asyncio.sleep(pause_s)


def _wants_mistral_format(args: Sequence[str]) -> bool:
    """Whether vLLM reads `consolidated*.safetensors` and not the shards beside them."""
    options = (("load-format", "load-f"), ("config-format", "config-f"))
    return any(option_value(args, option, shortest) == "mistral" for option, shortest in options)


def _check_space(jobs: Sequence[_Job]) -> None:
    """Refuse what cannot fit before a byte of it is fetched."""
    needed: defaultdict[int, int] = defaultdict(int)
    paths: dict[int, Path] = {}
    for job in jobs:
        device = staging.device_of(job.store.directory)
        needed[device] += job.missing_bytes()
        paths[device] = job.store.destination.parent
    for device, size in needed.items():
        free = staging.free_bytes(paths[device])
        if size > free:
            raise HostError(
                f"{readable_size(size)} are to be fetched, {readable_size(free)} are free in "
                f"{paths[device]}",
                hint=f"df -h {paths[device]}",
                code="disk_full",
            )
