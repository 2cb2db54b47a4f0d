"""From the figures of two arms to intervals and verdicts."""
