"""How one asset is built: settings, workspace, cache record, outcome, locks, remote store.

Below it lie the worker that trains, what knows MLflow (`tracking`), and where steps run (`cluster`). What does not live
here: an asset, a command, and science.
"""
