"""Modules of PyTorch that know no file: generator, discriminator, tissue reader, and pretrained features."""
