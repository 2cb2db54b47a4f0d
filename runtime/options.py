"""What a user may choose of device and precision; apart from `compute`, so that reading it costs no PyTorch."""

from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "bf16", "fp32"]
