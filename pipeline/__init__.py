"""What people start: Dagster's definitions, the command line, automation, both user interfaces.

What does not live here: how an asset is built (`engine`), and science.
"""
