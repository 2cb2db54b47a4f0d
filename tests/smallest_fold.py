"""Settings of the smallest fold that has every stage, on a miniature EMIDEC; its trainings take seconds."""

_TRAINED = ("localiser", "pix2pix", "attention_res_unet", "halsr_net")


def smallest_settings(steps: int) -> list[str]:
    """Return the overrides of the profile `tiny`, with so many steps a training."""
    return [
        "device=cpu",
        "precision=fp32",
        "processes=1",
        "region.size_px=64",
        "training_slices=24",
        "quality.slices=10",
        "attention_res_unet.network={name: attention_res_unet, widths: [4, 4, 4], bottleneck: 4, dropout: [0]}",
        "halsr_net.network={name: halsr_net, widths: [4, 8], bottleneck: 8, module_width: 4, dropout: [0, 0, 0]}",
        *(f"{name}.{setting}" for name in _TRAINED for setting in (f"steps={steps}", "validate_every=1", "batch=2")),
        *(f"{name}.crop_px=64" for name in ("pix2pix", "halsr_net")),
    ]
