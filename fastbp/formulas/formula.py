"""What makes a plain scalar function a formula."""

from numba.extending import register_jitable

# Decorator: compiled code of every device may call the function, and plain Python still can. It is inlined
# into its callers, because LLVM leaves the longest (softplus, gelu_backward, log_cosh) as calls, and a loop
# with a call in it does not become vector code.
# No wrapper for calls from C: Numba would spend a tenth of the compilation on it.
formula = register_jitable(forceinline=True, no_cfunc_wrapper=True)
