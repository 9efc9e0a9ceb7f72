"""A little of the CUDA driver library by ctypes: known work for a real GPU, without a framework.

Everything raises CudaError with the driver's number. Run as a program it writes to an address that no
allocation holds: an XID, and the end of that process's context alone.
"""

from __future__ import annotations

import ctypes
import sys

_PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry spin(.param .u64 nanoseconds) {
    .reg .u64 %t<4>;
    .reg .pred %more;
    ld.param.u64 %t0, [nanoseconds];
    mov.u64 %t1, %globaltimer;
    add.u64 %t2, %t1, %t0;
again:
    mov.u64 %t3, %globaltimer;
    setp.lt.u64 %more, %t3, %t2;
    @%more bra again;
    ret;
}
.visible .entry stray() {
    .reg .u64 %where;
    .reg .u32 %what;
    mov.u64 %where, 64;
    mov.u32 %what, 1;
    st.global.u32 [%where], %what;
    ret;
}
"""


class CudaError(RuntimeError):
    """A call that the driver refused."""


class NoDeviceError(CudaError):
    """There is nothing to test on."""


class Cuda:
    """The first GPU's primary context. Raises OSError without a driver library, NoDeviceError."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        device, context, module = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        try:
            self._do("cuInit", 0)
        except CudaError as error:
            raise NoDeviceError(str(error)) from None
        self._do("cuDeviceGet", ctypes.byref(device), 0)
        self._do("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._do("cuCtxSetCurrent", context)
        self._do("cuModuleLoadData", ctypes.byref(module), _PTX)
        self._module = module
        processors = ctypes.c_int()
        self._do("cuDeviceGetAttribute", ctypes.byref(processors), 16, device)
        #: Streaming multiprocessors.
        self.processors = processors.value

    def _do(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise CudaError(f"{name} answered {code}")

    def spin(self, seconds: float, blocks: int) -> None:
        """Keeps this many blocks of 32 threads resident, in kernels of 10 ms, and waits for the last."""
        nanoseconds = ctypes.c_uint64(10_000_000)
        function = self._function("spin")
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(nanoseconds))
        for _ in range(round(seconds * 100)):
            self._launch(function, blocks, parameters)
        self._do("cuCtxSynchronize")

    def stray(self) -> None:
        """Writes where no memory is. Raises CudaError."""
        self._launch(self._function("stray"), 1, None)
        self._do("cuCtxSynchronize")

    def copy(self, size: int, times: int, *, to_device: bool) -> None:
        """Copies this many bytes between pinned memory and the GPU, again and again."""
        there, here = ctypes.c_void_p(), ctypes.c_void_p()
        self._do("cuMemAlloc_v2", ctypes.byref(there), ctypes.c_size_t(size))
        self._do("cuMemHostAlloc", ctypes.byref(here), ctypes.c_size_t(size), 0)
        for _ in range(times):
            if to_device:
                self._do("cuMemcpyHtoD_v2", there, here, ctypes.c_size_t(size))
            else:
                self._do("cuMemcpyDtoH_v2", here, there, ctypes.c_size_t(size))
        self._do("cuMemFreeHost", here)
        self._do("cuMemFree_v2", there)

    def hold(self, size: int) -> ctypes.c_void_p:
        """Takes memory of the GPU until give() is told."""
        there = ctypes.c_void_p()
        self._do("cuMemAlloc_v2", ctypes.byref(there), ctypes.c_size_t(size))
        return there

    def give(self, held: ctypes.c_void_p) -> None:
        """Gives it back."""
        self._do("cuMemFree_v2", held)

    def _function(self, name: str) -> ctypes.c_void_p:
        function = ctypes.c_void_p()
        self._do("cuModuleGetFunction", ctypes.byref(function), self._module, name.encode())
        return function

    def _launch(self, function: ctypes.c_void_p, blocks: int, parameters: object) -> None:
        self._do("cuLaunchKernel", function, blocks, 1, 1, 32, 1, 1, 0, None, parameters, None)


if __name__ == "__main__":
    try:
        Cuda().stray()
    except CudaError as error:
        print(error)
        sys.exit(0)
    sys.exit(1)
