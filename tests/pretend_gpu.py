"""A pretend GPU: tensors that compute on the CPU, report another device, and refuse what CUDA refuses.

It is torch's private-use backend in Python. What makes a GPU wait for the host is counted by name in `reads` (the host
asks for a value, or for a shape that depends on values) and `uploads` (the host sends one). As on CUDA, CPU tensors
without dimensions may meet those of the device, and CPU index tensors may index them, which is an upload.

The backend is registered once per process, for good, and before its first backward pass: `PretendMachine` is a process
of its own, to which a test sends work.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable

import pytest
import torch
from recbole.config import Config
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "pretend"
DEVICE = f"{NAME}:0"
reads: list[str] = []
uploads: list[str] = []
_generators: set[int] = set()  # addresses of those of the device

aten = torch.ops.aten
_COPIES = {aten._to_copy.default, aten.copy_.default, aten._copy_from.default}
_INDEXED = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}  # fmt: skip
_READING = {
    aten._local_scalar_dense.default, aten.nonzero.default, aten._unique2.default, aten.unique_consecutive.default,
    aten.unique_dim.default, aten.masked_select.default, aten.equal.default, aten.bincount.default,
    aten._coalesce.default,
}  # fmt: skip


class PretendTensor(torch.Tensor):
    """A tensor of the pretend GPU; `raw` is the one on the CPU."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> PretendTensor:
        layout = {"layout": raw.layout}
        if raw.layout is torch.strided:
            layout = {"strides": raw.stride(), "storage_offset": raw.storage_offset()}
        made = torch.Tensor._make_wrapper_subclass(cls, raw.size(), dtype=raw.dtype, device=DEVICE, **layout)
        made.raw = raw
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        self.raw = value.raw

    def tolist(self):
        reads.append("tolist")
        return self.raw.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError(f"can't convert {DEVICE} device type tensor to numpy")

    __array__ = numpy

    def __repr__(self):
        return f"PretendTensor({self.raw})"

    def __reduce_ex__(self, protocol):
        return self.raw.detach().__reduce_ex__(protocol)


class _Generator(torch.Generator):
    """A generator that may be of the device."""

    def __new__(cls, device="cpu"):
        made = super().__new__(cls)
        if torch.device(device).type == NAME:
            _generators.add(made._cdata)
        return made

    def __init__(self, device="cpu"):
        super().__init__()


class _Everywhere(TorchDispatchMode):
    """Also runs what names the device without having a tensor of it, such as `torch.zeros(3, device=DEVICE)`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
    here = [each for each in tensors if isinstance(each, PretendTensor)]
    device = kwargs.get("device")
    to_here = torch.device(device).type == NAME if device is not None else bool(here)
    _refuse(func, args, kwargs, here, [each for each in tensors if not isinstance(each, PretendTensor)], to_here)
    _count(func, args, kwargs, here, to_here)
    raw_args, raw_kwargs = tree_map(lambda x: x.raw if isinstance(x, PretendTensor) else x, (args, kwargs))
    if device is not None:
        raw_kwargs = {**raw_kwargs, "device": torch.device("cpu")}
    raw_kwargs.pop("pin_memory", None)
    out = func(*raw_args, **raw_kwargs)
    if not to_here:
        return out
    same = {id(each.raw): each for each in here}  # what is changed in place stays the tensor that it is

    def wrapped(x):
        return (same[id(x)] if id(x) in same else PretendTensor(x)) if isinstance(x, torch.Tensor) else x

    return tree_map(wrapped, out)


def _refuse(func, args, kwargs, here, there, to_here) -> None:
    """Raise for what CUDA raises for: tensors of two devices, and a generator of the other one."""
    if here and func not in _COPIES:
        wrong = [each for each in there if each.dim() > 0]
        if func in _INDEXED:
            if not isinstance(args[0], PretendTensor):
                raise RuntimeError(f"{func}: a cpu tensor indexed from {DEVICE}")
            wrong = [each for each in wrong if not any(each is index for index in args[1])]
        if wrong:
            raise RuntimeError(f"{func}: tensors on {DEVICE} and on cpu, of shapes {[tuple(x.shape) for x in wrong]}")
    generator = kwargs.get("generator")
    if generator is not None and to_here and generator._cdata not in _generators:
        raise RuntimeError(f"{func}: a cpu generator for a tensor on {DEVICE}")


def _count(func, args, kwargs, here, to_here) -> None:
    """Count what a GPU and its host wait for each other at."""
    if func in _COPIES:
        from_here = isinstance(args[1 if func is aten.copy_.default else 0], PretendTensor)
        into_here = isinstance(args[0], PretendTensor) if func is aten.copy_.default else to_here
        if from_here != into_here:
            (reads if from_here else uploads).append(str(func))
    elif here and (
        func in _READING
        or (func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None)
        or (func in _INDEXED and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]))
    ):
        reads.append(str(func))
    elif here and func in _INDEXED and any(i is not None and not isinstance(i, PretendTensor) for i in args[1]):
        uploads.append(str(func))


class _Module(getattr(backend_registration, "_DummyBackendModule", object)):
    """What torch asks a kind of device for."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]

    def synchronize(self, device=None):
        pass

    def get_rng_state(self, device=None):
        return torch.zeros(1, dtype=torch.uint8)

    def set_rng_state(self, state, device=None):
        pass


def install() -> None:
    """Register the backend in this process, and let RecBole's `Config` choose it where it would choose a GPU."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    for name in ("tensor", "as_tensor"):  # these copy to a device below the level that is seen here
        setattr(torch, name, _copied_afterwards(getattr(torch, name)))
    torch.Generator = _Generator
    original = Config._init_device

    def _init_device(self):
        original(self)
        if self.final_config_dict["gpu_id"]:
            self.final_config_dict["device"] = torch.device(DEVICE)

    Config._init_device = _init_device
    _Everywhere().__enter__()


def _copied_afterwards(make: Callable) -> Callable:
    def made(data, *args, device=None, **kwargs):
        tensor = make(data, *args, **kwargs)
        return tensor if device is None else tensor.to(device)

    return made


class PretendMachine:
    """A process that has the pretend GPU, from its start on; it does what it is sent, one after the other."""

    def __init__(self) -> None:
        if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
            pytest.skip("this torch has no private-use backend in Python")
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, work: Callable, *arguments):
        """What ``work(*arguments)``, a function of an importable module, returns there; a failure there is one here."""
        self._pipe.send((os.getcwd(), work, arguments))
        result, failure = self._pipe.recv()
        if failure:
            pytest.fail(failure, pytrace=False)
        return result

    def stop(self) -> None:
        self._pipe.close()
        self._process.join(10)


def _serve(pipe) -> None:
    sys.modules["ray"] = None  # importing it fails: a bare machine with a GPU has none, and what runs here needs none
    install()
    while True:
        try:
            folder, work, arguments = pipe.recv()
        except EOFError:
            return
        try:
            os.chdir(folder)
            reads.clear()
            uploads.clear()
            pipe.send((work(*arguments), None))
        except BaseException:
            pipe.send((None, traceback.format_exc()))
