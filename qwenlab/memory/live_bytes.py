"""Which bytes are alive, operation by operation, on real or on fake tensors.

Every tensor is a view of a *storage*. `LiveBytes` watches each operation that PyTorch dispatches, notes storages it has
not seen, and is told by weak references when one is freed. That is what an allocator would hold, without its rounding,
caching and the scratch memory inside kernels.

The same idea is in `torch.distributed._tools.mem_tracker`, which insists on models whose parameters all train.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


@dataclass(eq=False)
class Storage:
    """A piece of memory: its bytes, the phase in which it appeared, and the operation that made it."""

    bytes: int
    kind: str
    origin: str
    born: int  # number of the event
    died: int | None = None


@dataclass
class Record:
    """What a watched program held, event by event (an event is a storage that appears or goes)."""

    storages: list[Storage] = field(default_factory=list)
    live: list[int] = field(default_factory=list)  # bytes after each event
    phases: dict[str, int] = field(default_factory=dict)  # name -> event at which the phase begins

    @property
    def peak(self) -> int:
        """The most bytes alive at once."""
        return max(self.live, default=0)

    def at_peak(self) -> dict[str, int]:
        """Bytes of each kind that are alive at the first event that reaches the peak, the largest first."""
        totals: dict[str, int] = defaultdict(int)
        for storage in self.alive_at_peak():
            totals[storage.kind] += storage.bytes
        return dict(sorted(totals.items(), key=lambda item: -item[1]))

    def alive_at_peak(self) -> list[Storage]:
        """The storages alive at the peak, the largest first."""
        event = int(np.argmax(self.live))
        alive = [s for s in self.storages if s.born <= event and (s.died is None or s.died > event)]
        return sorted(alive, key=lambda storage: -storage.bytes)

    def by_kind(self) -> dict[str, np.ndarray]:
        """Bytes of each kind after each event, arrays of (events,) int64 that sum to `live`."""
        changes: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(self.live), np.int64))
        for storage in self.storages:
            changes[storage.kind][storage.born] += storage.bytes
            if storage.died is not None:
                changes[storage.kind][storage.died] -= storage.bytes
        return {kind: change.cumsum() for kind, change in changes.items()}


class LiveBytes(TorchDispatchMode):
    """A context in which `record` follows the bytes alive on one kind of device.

    Tensors made before are unknown until an operation returns them: `add` them, with a kind such as "weights". The
    record ends with the context.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device, self.kind = device, "other"
        self.record = Record()
        self._known: weakref.WeakKeyDictionary[torch.UntypedStorage, Storage] = weakref.WeakKeyDictionary()
        self._now, self._over = 0, False

    def add(self, tensors: object, kind: str) -> None:
        """Note the storages of tensors (any nesting) as of this kind; those already known change their kind."""
        for tensor in tree_iter(tensors):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor, kind, kind)
                if (known := self._known.get(tensor.untyped_storage())) is not None:
                    known.kind = kind

    @contextlib.contextmanager
    def phase(self, name: str, kind: str) -> Iterator[None]:
        """Within the block new storages are of `kind`; the record remembers where the phase begins."""
        self.record.phases[name] = len(self.record.live)
        before, self.kind = self.kind, kind
        try:
            yield
        finally:
            self.kind = before

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._over = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor, self.kind, func)
        return result

    def _see(self, tensor: torch.Tensor, kind: str, origin: object) -> None:
        if tensor.device.type != self.device:
            return
        storage = tensor.untyped_storage()
        if storage in self._known:
            return
        name = f"{origin} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        piece = Storage(storage.nbytes(), kind, name, len(self.record.live))
        self._known[storage] = piece
        self.record.storages.append(piece)
        self._count(piece.bytes)
        weakref.finalize(storage, self._gone, piece).atexit = False

    def _gone(self, piece: Storage) -> None:
        if self._over:
            return
        piece.died = len(self.record.live)
        self._count(-piece.bytes)

    def _count(self, change: int) -> None:
        self._now += change
        self.record.live.append(self._now)
