"""How long to wait before something that failed is tried again."""

import random

LONGEST_S = 60.0


def backoff_s(first_s: float, failures: int) -> float:
    """Return the seconds to wait after so many failures in a row, 1 or more.

    The wait begins at `first_s` and doubles with each failure, up to a minute, less a random part
    of up to half: no two ask in step.
    """
    return min(first_s * 2.0 ** min(failures - 1, 30), LONGEST_S) * random.uniform(0.5, 1.0)
