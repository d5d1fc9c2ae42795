"""How a process that moves frames all the time asks the C library for memory.

Apart from what every process does: an agent loads no foreign functions.
"""

import ctypes

# glibc's numbers for mallopt.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Frames and payloads have up to 8 MiB; glibc takes no larger bound than this.
_LARGEST_KEPT = 32 << 20
_MOST_KEPT = 64 << 20


def keep_freed_buffers() -> None:
    """Uses the memory of freed buffers again instead of giving it back to the kernel.

    Otherwise every frame gets pages anew, which the kernel clears: that costs more than all copying.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Other C libraries than glibc have no such choice.
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)
