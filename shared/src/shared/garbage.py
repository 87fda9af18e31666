"""Settings of Python's garbage collector for long-running processes."""

import gc

#: Young objects that trigger a collection: more than one batch allocates. Python's default is 700.
YOUNG_OBJECTS_MAX = 200_000


def tune_garbage_collector() -> None:
    """Raises the collector's thresholds and freezes the objects that exist. Call once all modules are loaded.

    A batch or a request allocates thousands of objects that are in no reference cycle. With Python's default thresholds
    the collector scanned each of the ledger's batches dozens of times without finding anything, which took more than
    half of the batch's time. Modules stay loaded, so scanning their objects finds nothing either.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, 20, 20)
