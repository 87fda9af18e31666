"""Raises the garbage collector's thresholds while a process loads. `__main__` imports this module first.

With Python's default thresholds the collector scans the loaded modules repeatedly, a tenth of the start-up time.
"""

import gc

from shared.garbage import YOUNG_OBJECTS_MAX

gc.set_threshold(YOUNG_OBJECTS_MAX, 20, 20)
