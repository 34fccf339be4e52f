"""A learner and pods of which any may end and begin again at any moment, and what must hold for each pod. Knows no fault of Redis."""

from __future__ import annotations

import random
import shutil
import threading
from collections import Counter
from pathlib import Path

import numpy as np

from liveloop.errors import HeadConflict, Unavailable, WeightsRefused
from liveloop.weights import open_store
from liveloop.weights.channels import Channel
from liveloop.weights.directory import DirectoryStore
from liveloop.weights.manifest import HeadKey, head_key
from liveloop.weights.mirror import Mirror
from liveloop.weights.patch import Bits
from liveloop.weights.publisher import Publisher
from liveloop.weights.state import FlatState, chunk_of
from liveloop.weights.subscriber import Subscriber, Update
from tests.chaos.faults import FaultyStore, Killed
from tests.weight_samples import KEY, bundle, finite_bits

_PATIENCE = 30.0


class Ledger:
    """The digest of every version, by the epoch of the heads that name it. Written before a head can name it."""

    def __init__(self) -> None:
        self._digests: dict[tuple[int, int], bytes] = {}

    def note(self, epoch: int, version: int, digest: bytes) -> None:
        """`version` is the state of this digest, in heads of this epoch."""
        assert self._digests.setdefault((epoch, version), digest) == digest

    def succeed(self, before: int, epoch: int, current: int) -> None:
        """A learner of a new `epoch` goes on from version `current` of the epoch `before`."""
        for (old, version), digest in list(self._digests.items()):
            if old == before and version <= current:
                self.note(epoch, version, digest)

    def assert_holds(self, epoch: int, version: int, bits: Bits) -> None:
        """A state is the version that heads from this epoch on name so."""
        digest = FlatState(bits.copy()).digest
        published = [known for (later, number), known in list(self._digests.items()) if number == version and later >= epoch]
        assert digest in published, f"version {version} of epoch {epoch} is not what was published"


class Learner:
    """Publishes to a directory and mirrors that to Redis; another may take over from it, or it may be put back to a backup."""

    def __init__(self, folder: Path, url: str, ledger: Ledger, rng: np.random.Generator, *, total: int, frozen: int) -> None:
        self._folder, self._url, self._ledger, self._rng = folder, url, ledger, rng
        self._moving = np.arange(frozen, total)
        with Publisher.first(DirectoryStore(folder / "1"), KEY, bundle(total, frozen), finite_bits(total=total)) as publisher:
            ledger.note(1, 1, publisher.state.digest)
        self.epoch, self._backup = 1, (0, 0)
        self._open(folder / "1")

    @property
    def current(self) -> int:
        """The newest version."""
        return self._publisher.head.current

    @property
    def key(self) -> HeadKey:
        """Of the newest head."""
        return head_key(self._publisher.head)

    def publish(self, changes: int) -> None:
        """The next version, with about so many values changed."""
        bits = self._publisher.state.bits.copy()
        positions = self._moving[self._rng.integers(0, len(self._moving), changes)]
        bits[positions] += self._rng.choice(np.array([1, 2, 65_535], np.uint16), changes)
        staged, version = self._publisher.stage(bits), self.current + int(self._rng.integers(1, 3))
        self._ledger.note(self.epoch, version, staged.digest)
        self._publisher.publish(staged, version=version, step=version, included=[float(version)], created_at=1e9 + version)
        self._mirror.notify()

    def bless(self) -> None:
        """The newest version passed."""
        self._publisher.bless(self.current)
        self._mirror.notify()

    def collect(self) -> None:
        """Keep the last blessed version alone."""
        self._publisher.collect([])

    def back_up(self) -> None:
        """Copy the directory as it is."""
        self._publisher.close()
        shutil.rmtree(self._folder / "backup", ignore_errors=True)
        shutil.copytree(self._folder / str(self._number), self._folder / "backup")
        self._backup = self.epoch, self.current

    def go_back(self) -> None:
        """The directory was lost: a learner goes on from the backup, under a new epoch, with versions that have old numbers."""
        if (self._folder / "backup").exists():
            self.close()
            self.epoch += 1
            epoch, current = self._backup
            self._ledger.succeed(epoch, self.epoch, current)
            folder = self._folder / str(self._number + 1)
            (self._folder / "backup").rename(folder)
            self._open(folder)

    def hand_over(self) -> None:
        """Another learner takes over; this one wakes up and publishes once more."""
        sleeping, mirror = self._publisher, self._mirror
        self.epoch += 1
        self._ledger.succeed(self.epoch - 1, self.epoch, self.current)
        self._open(self._folder / str(self._number))
        bits = sleeping.state.bits.copy()
        bits[-1] ^= 1
        try:
            sleeping.publish(sleeping.stage(bits), version=sleeping.head.current + 1, step=1, included=[], created_at=0.0)
        except HeadConflict:
            pass
        else:
            raise AssertionError("a learner with an old epoch published")
        mirror.close(_PATIENCE)
        sleeping.close()

    def close(self) -> None:
        """End."""
        self._mirror.close(_PATIENCE)
        self._publisher.close()

    def _open(self, folder: Path) -> None:
        self._number = int(folder.name)
        store = DirectoryStore(folder)
        self._publisher = Publisher(store, KEY, epoch=self.epoch, canary_share=0.1 if self.epoch % 2 else 1.0)
        self._mirror = Mirror(store, open_store(self._url))
        self._mirror.start()


class Pod:
    """A thread that follows Redis and checks after every step what it holds. It can be killed at any call to a store, and begins again."""

    def __init__(self, folder: Path, url: str, ledger: Ledger, rng: random.Random, *, share: float) -> None:
        self._folder, self._url, self._ledger, self._rng, self._share = folder, url, ledger, rng, share
        self._stores: list[FaultyStore] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"pod {folder.name}", daemon=True)
        self.served: HeadKey = (0, 0)
        self.version = 0
        self.failure: BaseException | None = None
        self.trouble = ""  # what it met last
        self.seen: Counter[str] = Counter()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        self._thread.join(_PATIENCE)

    def kill(self) -> None:
        """Die within the next few calls to a store."""
        for store in self._stores:
            store.calls_left = self._rng.randrange(12)

    def set_share(self, share: float) -> None:
        """From now on `share` of its calls go wrong."""
        self._share = share
        for store in self._stores:
            store.share = share

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._live()
            except Killed:
                self.seen["killed"] += 1
                if self._rng.random() < 0.3:
                    shutil.rmtree(self._folder, ignore_errors=True)
            except BaseException as error:  # noqa: BLE001  the test raises it
                self.failure = error
                return

    def _live(self) -> None:
        """One life: start, follow, keep a copy now and then."""
        copy = DirectoryStore(self._folder)
        self._stores = [FaultyStore(open_store(self._url), self._rng, share=self._share), FaultyStore(copy, self._rng, share=0.0)]
        store, local = self._stores
        with store:
            subscriber = Subscriber(store, KEY.public_key(), local=local)
            self._highest: HeadKey = (0, 0)
            self._touched = True  # since the last check the state may have been written
            while not self._started(subscriber):
                if self._stopping.wait(0.02):
                    return
            shadows = {channel: held.state.bits.copy() for channel, held in subscriber.served.items()}
            self._check(subscriber)
            while not self._stopping.is_set():
                self._follow(subscriber, shadows)
                self._check(subscriber)
                if self._rng.random() < 0.1:
                    self._keep(subscriber)

    def _started(self, subscriber: Subscriber) -> bool:
        try:
            subscriber.start()
        except (WeightsRefused, Unavailable) as error:
            self._met(error)
            return False
        return True

    def _follow(self, subscriber: Subscriber, shadows: dict[Channel, Bits]) -> None:
        self._touched = True
        try:
            update = subscriber.next(0.1)
        except (WeightsRefused, Unavailable) as error:
            self._met(error)
            self._stopping.wait(0.01)
        else:
            self._touched = update is not None
            if update is not None:
                self._widen(subscriber, shadows, update)

    def _widen(self, subscriber: Subscriber, shadows: dict[Channel, Bits], update: Update) -> None:
        """What a replica does: write what the update names, and no more."""
        bits = subscriber.served[update.channel].state.bits
        if update.chunks is None:
            shadows[update.channel] = bits.copy()
            self.seen["keyframe"] += 1
        else:
            for chunk in update.chunks:
                chunk_of(shadows[update.channel], chunk)[:] = chunk_of(bits, chunk)
            self.seen["patches"] += 1
        self.seen[update.channel.name] += 1
        assert np.array_equal(shadows[update.channel], bits), (
            f"an update of {update.channel.name} to version {update.version} did not name all that changed"
        )

    def _keep(self, subscriber: Subscriber) -> None:
        try:
            subscriber.keep_local()
        except (WeightsRefused, Unavailable):
            self.seen["no copy"] += 1

    def _met(self, error: WeightsRefused | Unavailable) -> None:
        self.seen[type(error).__name__] += 1
        self.trouble = error.reason

    def _check(self, subscriber: Subscriber) -> None:
        """What is served is what was published, and no older than before; bits of a head that were checked already are not hashed again."""
        key = head_key(subscriber.head)
        if key == self._highest and not self._touched:
            return
        assert key >= self._highest, f"a pod went back from {self._highest} to {key}"
        for held in subscriber.served.values():
            self._ledger.assert_holds(key[0], held.version, held.state.bits)
        self._highest, self.served, self.version = key, key, subscriber.version
