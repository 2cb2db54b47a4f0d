"""Blocks that take longer than any test, for processes that are ended while they work."""

import time

PATIENCE_S = 300  # a machine may be busy; an idle one takes seconds


class SlowBlocks:
    blocks = 2

    def maker(self):
        return lambda _: time.sleep(PATIENCE_S)
