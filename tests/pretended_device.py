"""A device that is not there: its tensors compute on the CPU, and refuse to meet tensors that stayed behind.

A test without a GPU runs training on it. Every operation must then find all its tensors on one device, as on
a GPU, and every number must come out as on the CPU.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("pretended")
DEVICE = torch.device("pretended", 0)
_MOVES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
"""what `.to` and `load_state_dict` do: operations that may meet tensors of two devices"""


class DeviceTensor(Tensor):
    """Says it lies on the device; the numbers are in `held`, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "DeviceTensor":
        """Wrap a CPU tensor; for the C++ side it has no memory."""
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Without the mode nothing may be computed on the device."""
        return PretendedDevice().compute(func, args, kwargs or {})

    def __getitem__(self, index: Any) -> Any:
        """Move lists among the indices to the device first, as torch does inside for a device of its own."""
        parts = index if isinstance(index, tuple) else (index,)
        moved = tuple(torch.tensor(part).to(DEVICE) if isinstance(part, list) else part for part in parts)
        return super().__getitem__(moved)

    def untyped_storage(self) -> torch.UntypedStorage:
        """The memory, whose address safetensors wants to know."""
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        """To the host, as on a GPU; torch itself refuses this for subclasses."""
        return self.held.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        """The numbers, and where they pretend to be."""
        return f"{self.held!r} on {DEVICE}"


class PretendedDevice(TorchDispatchMode):
    """While it is entered, `device="pretended"` works; `n_operations` counts what ran there."""

    def __init__(self) -> None:
        super().__init__()
        self.n_operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation where its tensors are."""
        return self.compute(func, args, kwargs or {})

    def compute(self, func: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """On the CPU; the result lies on the device where the arguments do, or where it was asked for."""
        tensors = _tensors((args, kwargs))
        there = [t for t in tensors if isinstance(t, DeviceTensor)]
        behind = [t for t in tensors if not isinstance(t, DeviceTensor) and t.dim() > 0]
        if there and behind and func not in _MOVES:
            raise AssertionError(f"{func}: {len(behind)} of {len(tensors)} tensors stayed on the CPU")
        asked = kwargs.get("device")
        on_device = bool(there) if asked is None else torch.device(asked).type == DEVICE.type
        if func is torch.ops.aten.copy_.default:
            on_device = isinstance(args[0], DeviceTensor)
        if not there and not on_device:
            return func(*args, **kwargs)
        self.n_operations += on_device
        held_args, held_kwargs = tree_map_only(DeviceTensor, lambda t: t.held, (args, kwargs))
        if asked is not None:
            held_kwargs["device"] = torch.device("cpu")
        result = func(*held_args, **held_kwargs)
        if not on_device:
            return result
        result = tree_map_only(Tensor, DeviceTensor, result)
        return return_and_correct_aliasing(func, args, kwargs, result)


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, value)
    return found
