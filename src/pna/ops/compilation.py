"""Compilation by numba, with the machine code kept on disk where there is a place for it."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compile_for(signature: Any) -> Callable[[Function], Function]:
    """Compile a function for one signature, without the interpreter's lock.

    numba keeps the code beside the module or in the user's cache folder. Where neither can be
    written (a package installed by another user, no home folder), it is compiled in each process.

    Args:
        signature: numba's, such as `types.void(types.float32[:, ::1])`.
    """

    def compile_function(function: Function) -> Function:
        options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
        try:
            compiled: Function = njit(signature, cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            compiled = njit(signature, **options)(function)
        return compiled

    return compile_function
