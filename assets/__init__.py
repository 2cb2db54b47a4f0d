"""The asset graph, one module a stage: each asset reads, calls one function, writes, reports metadata.

What does not live here: arithmetic, training loops, MLflow, and the wiring of jobs and schedules.
"""
