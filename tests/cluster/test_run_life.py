"""The life of a run at a URI, step by random step: whatever happens, what was acknowledged is there once.

Two machines and a reader share a bucket. A machine plays, copies, ends, is killed before any durable step, or
loses its power; the bucket fails, or loses what was written last; the other machine takes the run up, also
in the middle of a copy. After each step the invariants of docs/dataset.md are looked at.
"""

import asyncio
import logging
import os
import random
import shutil
import tempfile
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cluster.config import RunConfig
from cluster.dataset import claims, manifest
from cluster.dataset.claims import RunTakenUp
from cluster.dataset.dataset import Dataset
from cluster.dataset.manifest import load_manifest, manifest_path
from cluster.dataset.remote import RemoteFolder, local_folder, open_uri
from cluster.dataset.reserve import Reserve
from cluster.dataset.run_folder import Target
from cluster.dataset.shards import iterate_episodes
from cluster.errors import ClusterError
from cluster.observe.summary import summarise_run
from tests.cluster.synthetic import episode, failed_episode, result
from tests.helpers.failing_storage import SCHEME, Bucket, Disk, Killed

PLANNED = 12
URI = f"{SCHEME}://bucket/run"
CONFIG = RunConfig.model_validate({"environment": {"id": "e"}, "policy": {"kind": "oracle"}})
MACHINES = st.sampled_from(["here", "there"])
MOMENTS = st.none() | st.integers(0, 45)
LOSSES = st.sampled_from(["nothing", "unsynced", "first page", "middle"])


def rows(folder: Path) -> Counter[str]:
    """Episode ids in a run folder, each as often as it is there."""
    counted: Counter[str] = Counter()
    for table in iterate_episodes(folder, ("episode_id",)):
        counted.update(table["episode_id"].to_pylist())
    return counted


def lose(kind: str, content: bytes, synced: int) -> bytes:
    """What a loss of power leaves of a file, of which so many bytes were synced."""
    kept, unsynced = content[:synced], content[synced:]
    third = len(unsynced) // 3
    match kind:
        case "unsynced":
            return kept
        case "first page":
            return kept + bytes(third) + unsynced[third:]
        case "middle":
            return kept + unsynced[:third] + bytes(third) + unsynced[2 * third :]
    return content


class Session:
    """A process at work on the run."""

    def __init__(self, target: Target, stack: ExitStack, dataset: Dataset) -> None:
        self.target = target
        self.stack = stack
        self.dataset = dataset


class RunLife(RuleBasedStateMachine):
    """Plays a run's life, and looks at what must hold after each step."""

    can_fail = True
    """Whether the bucket is one that fails on demand; another one only loses its writers."""

    def __init__(self) -> None:
        super().__init__()
        self.uri = self.new_uri()
        self.logger = logging.getLogger("cluster")
        self.level = self.logger.level
        self.logger.setLevel(logging.CRITICAL)
        Bucket.clear()
        shared = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None, prefix="run-life-"))
        self.loop = asyncio.new_event_loop()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(claims, "_CLAIM_TIMEOUT", 0.0)
        # A reserve of disk space in memory would be copied at each kill.
        self.patch.setattr(Reserve, "hold", lambda reserve, size: reserve._file.touch())
        ids = random.Random(0)
        self.patch.setattr(manifest.secrets, "token_hex", lambda size: ids.randbytes(size).hex())
        self.disks: dict[str, Disk] = {}
        self.sessions: dict[str, Session] = {}
        self.locks: dict[str, list[IO[bytes]]] = {}
        self.held: dict[str, set[str]] = {"here": set(), "there": set()}
        """Episodes that each machine has acknowledged, or fetched."""
        self.copied: set[str] = set()
        """Episodes that a copy said it had brought into the bucket."""
        self.played: set[str] = set()
        self.history: list[tuple[dict[str, object], set[str]]] = []
        for name in self.held:
            self.disks[name] = Disk(self.root / name)
            self.disks[name].folder.mkdir()

    def new_uri(self) -> str:
        """Where the run is."""
        return URI

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            for name in list(self.sessions):
                self.abandon(name)
            self.patch.undo()
            self.logger.setLevel(self.level)
            Bucket.clear()
            pending = asyncio.all_tasks(self.loop)
            for task in pending:
                task.cancel()
            with suppress(BaseException):
                self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            self.loop.close()
            shutil.rmtree(self.root, ignore_errors=True)

    # What the machines do.

    @contextmanager
    def on(self, name: str):
        before = os.environ.get("KUMITE_CACHE")
        os.environ["KUMITE_CACHE"] = str(self.root / name)
        try:
            yield
        finally:
            if before is None:
                del os.environ["KUMITE_CACHE"]
            else:
                os.environ["KUMITE_CACHE"] = before

    def do(self, name: str, work, kill_at: int | None = None, power: str = "nothing") -> BaseException | None:
        """Has a machine do something, perhaps up to the step at which it is killed."""
        disk, failure = self.disks[name], None
        disk.steps_left = kill_at if self.can_fail else None
        with self.on(name), disk.watched():
            try:
                work()
            except (Killed, ClusterError, OSError) as error:
                failure = error
            except Exception as error:
                if not disk.is_dead:
                    raise
                failure = error
        disk.steps_left = None
        if disk.is_dead:
            self.abandon(name)
            disk.come_back(lambda content, synced: lose(power, content, synced))
            return Killed()
        return failure

    def abandon(self, name: str) -> None:
        """What is left of a process that was killed: the kernel closes its files."""
        session = self.sessions.pop(name, None)
        for lock in self.locks.pop(name, []):
            lock.close()
        if session is not None:
            if session.dataset._journal._owner is not None and not self.loop.is_running():
                session.dataset._journal._owner.cancel()
            session.dataset._lock.close()
            session.dataset._thread.shutdown(wait=True)
            session.dataset._journal._thread.shutdown(wait=True)

    def note_bucket(self, what: str, path: str) -> None:
        self.history.append((dict(Bucket.store), set(self.copied)))

    def begin(self, name: str, retry: bool = False) -> None:
        remote = RemoteFolder(self.uri)
        local = manifest_path(remote.local).exists()
        if remote.holds_run() or local:
            target = Target.resumed(self.uri, retry)
            # Others may be of a process that was killed before it had synced or acknowledged them.
            self.held[name] |= set(rows(target.folder)) & self.copied
        else:
            target = Target.new(CONFIG, self.uri)
        stack = ExitStack()
        try:
            stack.enter_context(target.held(CONFIG))
            if target._hold.lock is not None:
                self.locks[name] = [target._hold.lock]
            dataset = self.loop.run_until_complete(target.open_dataset())
            self.sessions[name] = Session(target, stack, dataset)
            self.loop.run_until_complete(self.prepare(name, dataset, retry))
        except BaseException:
            if self.disks[name].is_dead:
                for lock in [target._hold.lock]:
                    if lock is not None:
                        lock.close()
                target._hold.lock = None
            elif name not in self.sessions:
                stack.close()
            raise
        self.held[name] |= set(rows(target.folder))

    async def prepare(self, name: str, dataset: Dataset, retry: bool) -> None:
        await dataset.set_planned(PLANNED)
        statuses = await dataset.statuses()
        again = {i for i, status in statuses.items() if status == "failed"} if retry else set()
        if again:
            for place in (*self.held.values(), self.copied):
                place -= again
            for _, copied in self.history:
                copied -= again
            await dataset.forget(again)

    async def append(self, name: str, count: int, together: bool) -> None:
        dataset = self.sessions[name].dataset
        there = await dataset.episode_ids()
        missing = [n for n in range(PLANNED) if f"{n:016x}" not in there][:count]

        async def one(number: int) -> None:
            record = (failed_episode if number % 5 == 1 else episode)(number, worker_id=name)
            self.played.add(record.episode_id)
            await dataset.append(result(record, {"base": "{}"}))
            if not self.disks[name].is_dead:
                self.held[name].add(record.episode_id)

        if together:
            done = await asyncio.gather(*(one(number) for number in missing), return_exceptions=True)
            for outcome in done:
                if isinstance(outcome, BaseException):
                    raise outcome
        else:
            for number in missing:
                await one(number)
        if dataset._compaction is not None:
            await dataset._compaction

    def copy(self, name: str, *, check: bool = False) -> None:
        remote = self.sessions[name].target.remote
        assert remote is not None
        remote.copy(check=check)
        if not self.disks[name].is_dead:
            self.copied |= set(rows(remote.local))

    def end(self, name: str) -> None:
        session = self.sessions[name]
        self.loop.run_until_complete(session.dataset.commit(wall_seconds=1.0))
        try:
            self.copy(name, check=True)
        finally:
            if not self.disks[name].is_dead:
                self.loop.run_until_complete(session.dataset.close())
                session.stack.close()
                del self.sessions[name]

    # The steps.

    @initialize()
    def start(self) -> None:
        Bucket.before = self.note_bucket

    def at_work(self, name: str) -> str:
        """That machine, if the run is at work there, else the other one."""
        return name if name in self.sessions else next(iter(self.sessions))

    @precondition(lambda self: len(self.sessions) < 2)
    @rule(name=MACHINES, retry=st.booleans(), kill_at=MOMENTS, power=LOSSES)
    def take_up(self, name: str, retry: bool, kill_at: int | None, power: str) -> None:
        if name in self.sessions:
            name = "there" if name == "here" else "here"
        failure = self.do(name, lambda: self.begin(name, retry), kill_at, power)
        if failure is not None and not isinstance(failure, Killed):
            raise failure

    @precondition(lambda self: self.sessions)
    @rule(
        name=MACHINES,
        count=st.integers(1, 5),
        together=st.booleans(),
        kill_at=MOMENTS,
        power=LOSSES,
    )
    def play(self, name: str, count: int, together: bool, kill_at: int | None, power: str) -> None:
        name = self.at_work(name)
        play = self.append(name, count, together)
        failure = self.do(name, lambda: self.loop.run_until_complete(play), kill_at, power)
        if failure is not None and not isinstance(failure, Killed):
            raise failure

    @precondition(lambda self: self.sessions)
    @rule(name=MACHINES, kill_at=MOMENTS)
    def bring_up_to_date(self, name: str, kill_at: int | None) -> None:
        name = self.at_work(name)
        self.may_be_taken_up(name, self.do(name, lambda: self.copy(name), kill_at))

    @precondition(lambda self: self.sessions)
    @rule(name=MACHINES, kill_at=MOMENTS, power=LOSSES)
    def finish(self, name: str, kill_at: int | None, power: str) -> None:
        name = self.at_work(name)
        self.may_be_taken_up(name, self.do(name, lambda: self.end(name), kill_at, power))

    @precondition(lambda self: self.sessions)
    @rule(name=MACHINES, power=LOSSES)
    def kill(self, name: str, power: str) -> None:
        name = self.at_work(name)
        self.disks[name].die()
        self.abandon(name)
        self.disks[name].come_back(lambda content, synced: lose(power, content, synced))

    @precondition(lambda self: self.can_fail and self.sessions)
    @rule(name=MACHINES, ending=st.booleans(), after=st.integers(0, 12), done=st.booleans())
    def fail_in_the_middle(self, name: str, ending: bool, after: int, done: bool) -> None:
        """A copy of which one change of the bucket is refused, or is not heard to have come."""
        name = self.at_work(name)
        left = [after]

        def refuse(what: str, path: str) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise ConnectionResetError("the bucket does not answer")

        if done:
            Bucket.after = refuse
        else:
            Bucket.before = lambda what, path: (self.note_bucket(what, path), refuse(what, path))
        try:
            failure = self.do(name, lambda: (self.end if ending else self.copy)(name))
        finally:
            Bucket.before, Bucket.after = self.note_bucket, None
        if not isinstance(failure, OSError):
            self.may_be_taken_up(name, failure)

    @precondition(lambda self: self.can_fail and self.sessions)
    @rule(name=MACHINES, at=st.integers(0, 14), what=st.sampled_from(["read", "take up", "play"]))
    def meanwhile(self, name: str, at: int, what: str) -> None:
        """Between two changes that a copy makes, somebody else reads, or takes the run up, or plays."""
        name = self.at_work(name)
        other = "there" if name == "here" else "here"
        if what != "read" and (what == "take up") == (other in self.sessions):
            return
        left, outcome = [at], []

        def interrupt(kind: str, path: str) -> None:
            self.note_bucket(kind, path)
            left[0] -= 1
            if left[0] == -1:
                Bucket.before = self.note_bucket
                if what == "read":
                    self.look_at_the_bucket()
                elif what == "take up":
                    outcome.append(self.do(other, lambda: self.begin(other)))
                else:
                    outcome.append(self.do(other, lambda: self.copy(other)))

        Bucket.before = interrupt
        try:
            failure = self.do(name, lambda: self.copy(name))
        finally:
            Bucket.before = self.note_bucket
        self.may_be_taken_up(name, failure)
        for found in outcome:
            if found is not None and not isinstance(found, RunTakenUp):
                raise found

    @precondition(lambda self: self.history)
    @rule(steps=st.integers(1, 6))
    def lose_what_the_bucket_had_last(self, steps: int) -> None:
        store, copied = self.history[-min(steps, len(self.history))]
        self.history = self.history[: -min(steps, len(self.history))]
        Bucket.store.clear()
        Bucket.store.update(store)
        self.copied = self.copied & copied

    @rule(name=MACHINES)
    def lose_a_machine(self, name: str) -> None:
        if name in self.sessions:
            self.abandon(name)
        shutil.rmtree(self.disks[name].folder)
        self.disks[name].folder.mkdir()
        self.held[name] = set()

    def may_be_taken_up(self, name: str, failure: BaseException | None) -> None:
        """A process that finds that another one has taken the run up ends, and says so."""
        if failure is None or isinstance(failure, Killed):
            return
        if not isinstance(failure, RunTakenUp):
            raise failure
        session = self.sessions.pop(name, None)
        if session is not None:
            with self.on(name):
                self.loop.run_until_complete(session.dataset.close())
                session.stack.close()

    # What must hold.

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        self.look_at_the_bucket()
        for name, held in self.held.items():
            with self.on(name):
                local = RemoteFolder(self.uri).local
            found: Counter[str] = Counter()
            for folder in [local, *local.parent.glob(f"{local.name}.aside-*")]:
                if manifest_path(folder).exists():
                    found |= rows(folder)
                    if folder == local:
                        assert not [i for i, n in found.items() if n > 1], "an episode is there twice"
            assert held <= found.keys(), f"gone from {name}: {held - found.keys()}"

    def look_at_the_bucket(self) -> None:
        before, Bucket.before = Bucket.before, None
        try:
            with self.on("reader"):
                if not RemoteFolder(self.uri).holds_run():
                    assert not self.copied
                    return
                folder = local_folder(self.uri)
        finally:
            Bucket.before = before
        found = rows(folder)
        assert not [i for i, n in found.items() if n > 1], "an episode is in the bucket twice"
        assert found.keys() <= self.played
        assert self.copied <= found.keys(), f"gone from the bucket: {self.copied - found.keys()}"
        summary, planned = summarise_run(folder), load_manifest(folder).planned
        assert summary.finished + summary.failed + summary.cancelled <= (planned or PLANNED)

    def settle(self) -> None:
        """In the end, each machine takes the run up in turn; then all is there, once, for anybody."""
        Bucket.before = Bucket.after = None
        for name in list(self.sessions):
            self.may_be_taken_up(name, self.do(name, lambda name=name: self.end(name)))
        for name in ("here", "there", "here"):
            for work in (
                lambda name=name: self.begin(name),
                lambda name=name: self.loop.run_until_complete(self.append(name, PLANNED, True)),
                lambda name=name: self.end(name),
            ):
                if (failure := self.do(name, work)) is not None:
                    raise failure
        self.nothing_is_lost_or_doubled()
        with self.on("reader"):
            assert len(rows(local_folder(self.uri))) == PLANNED
        bucket, root = open_uri(self.uri)
        bucket.invalidate_cache()
        ids: list[str] = []
        for path in bucket.find(f"{root}/episodes"):
            with bucket.open(path, "rb") as file:
                ids += pq.read_table(file)["episode_id"].to_pylist()
        assert len(ids) == len(set(ids)) == PLANNED, "others read an episode twice, or not at all"
        for path in bucket.find(f"{root}/journal"):  # of a writer that was killed with its first record
            assert b"\n" not in bucket.cat_file(path)


QUIET: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "stateful_step_count": 10,
}


@pytest.mark.slow
@pytest.mark.timeout(1800)  # it takes half a minute where nothing else runs
class TestRunLife(RunLife.TestCase):
    settings = settings(max_examples=100, **QUIET)


@pytest.mark.exhaustive
@pytest.mark.timeout(0)
class TestRunLifeExhaustively(RunLife.TestCase):
    settings = settings(max_examples=10_000, **QUIET)
