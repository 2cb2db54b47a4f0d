"""The wiring: definitions, resources, jobs, schedules, tracking, command line, profiles.

What does not live here: science. `pipeline.workspace`, `.record`, `.settings` and `.tracking` sit below
`assets`; `pipeline.definitions` and `pipeline.cli` sit on top.
"""
