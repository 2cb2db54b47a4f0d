"""How long OpenMP's threads spin before they sleep: training steps of the quick profile alone, and beside another.

A thread that spins starts the next operation at once, and takes the core from whatever else runs meanwhile. Prints
milliseconds a step (bf16, channels_last) for each length, in turns of `GOMP_SPINCOUNT`; `ever` is OpenMP's default.

    python -m benchmarks.thread_waiting [--steps 8]
"""

import argparse
import os
import subprocess
import sys
import time

import pandas as pd

from segmentation.networks.table import NETWORKS

LENGTHS = ("0", "1000", "10000", "100000", "ever")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--network", choices=NETWORKS, help=argparse.SUPPRESS)  # measure it in this process
    options = parser.parse_args()
    if options.network:
        print(step_ms(options.network, options.steps))
        return
    rows = [
        {"spins": spins, "network": network}
        | {f"{beside} at once, ms": beside_each_other(network, spins, options.steps, beside) for beside in (1, 2)}
        for network in NETWORKS
        for spins in LENGTHS
    ]
    print(pd.DataFrame(rows).round().to_string(index=False))


def beside_each_other(network: str, spins: str, steps: int, processes: int) -> float:
    """Return the mean milliseconds a step of processes that train beside each other."""
    command = [sys.executable, "-m", "benchmarks.thread_waiting", "--network", network, "--steps", str(steps)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_WAIT", "GOMP_"))}
    if spins != "ever":
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": spins}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    return sum(float(process.communicate()[0]) for process in running) / processes


def step_ms(name: str, steps: int) -> float:
    """Return the milliseconds of a training step of a network as the quick profile has it."""
    import torch

    from engine.settings import load_settings
    from segmentation.networks.table import build_network

    config = getattr(load_settings("quick", (), ()), name)
    network = build_network(config.network).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(network.parameters())
    images = torch.rand(config.batch, 1, config.crop_px, config.crop_px).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = network(images).logits.float().square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps * 1000


if __name__ == "__main__":
    main()
