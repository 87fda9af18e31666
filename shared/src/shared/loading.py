"""Imported before anything else by a process of ours: what is being loaded is no garbage.

At Python's thresholds the collector walks over it again and again, which takes a tenth of a start.
"""

import gc

from shared.garbage import YOUNG_OBJECTS_MAX

gc.set_threshold(YOUNG_OBJECTS_MAX, 20, 20)
