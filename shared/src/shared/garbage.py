"""Python's garbage collector, told what a busy process of ours is like."""

import gc

#: More than a batch leaves behind; Python's own is 700.
YOUNG_OBJECTS_MAX = 200_000


def tune_garbage_collector() -> None:
    """Call when all is loaded and before the work begins.

    A batch or a request makes thousands of values that are in no cycle. At Python's thresholds each batch of the ledger
    was walked over dozens of times for nothing, which took more than half of its time. And what is loaded stays: to
    walk over it finds nothing either.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, 20, 20)
