"""Each step as one job of a Ray cluster, through dagster-ray, with the CPUs and GPUs it needs.

Beside what dagster-ray does: resources differ by pool, a job that was stopped from outside fails its step (it would
wait for ever), and a step whose job died without a word (a lost machine, out of memory) is tried again, while an error
that the step itself reports is not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.events import DagsterEvent
from dagster._core.execution.plan.objects import StepRetryData
from dagster._core.execution.retries import RetryMode, get_retries_config
from dagster._core.executor.step_delegating import CheckStepHealthResult, StepDelegatingExecutor, StepHandlerContext
from dagster_ray.core.executor import RayStepHandler

from common.errors import InputError

_CHECK_HEALTH_S = 5  # dagster's own 20 s would leave a machine idle for that long after each lost step


@dataclass(frozen=True)
class RayOptions:
    """What a step asks the cluster for, and what it is given."""

    cpus: float
    gpus: float
    retries: int
    gpu_steps: frozenset[str]
    environment: tuple[str, ...]


class RaySteps(RayStepHandler):
    """Submits a step as a job, and tells whether that job lives."""

    def __init__(self, client: Any, options: RayOptions) -> None:
        super().__init__(
            client=client,
            env_vars=list(options.environment),
            runtime_env=None,
            num_cpus=options.cpus,
            num_gpus=None,
            memory=None,
            resources=None,
        )
        self._options = options

    def launch_step(self, step_handler_context: StepHandlerContext) -> Iterator[DagsterEvent]:
        """Submit the step, with GPUs where it is one that the pool `gpu` limits."""
        needs_gpu = self._get_step_key(step_handler_context) in self._options.gpu_steps
        self.num_gpus = self._options.gpus if needs_gpu and self._options.gpus else None
        yield from super().launch_step(step_handler_context)

    def check_step_health(self, step_handler_context: StepHandlerContext) -> CheckStepHealthResult:
        """Tell whether the step's job lives or ended as it should."""
        from ray.job_submission import JobStatus

        health = super().check_step_health(step_handler_context)
        if not health.is_healthy:
            return health
        job = self._get_ray_job_submission_id(step_handler_context)
        if self.client.get_job_status(job) == JobStatus.STOPPED:
            return CheckStepHealthResult.unhealthy(reason=f"Ray job {job} was stopped from outside of Dagster.")
        return health


class RayStepsExecutor(StepDelegatingExecutor):
    """Runs steps on Ray and tries again what was lost without a word."""

    def __init__(self, steps: RaySteps, retries: RetryMode, lost: int) -> None:
        super().__init__(
            steps, retries=retries, check_step_health_interval_seconds=_CHECK_HEALTH_S, should_verify_step=True
        )
        self._lost = lost

    def log_failure_or_retry_event_after_error(self, step_context: Any, err_info: Any, known_state: Any) -> Any:
        """Try a step again whose job died; the step's own errors never come here."""
        attempts = known_state.get_retry_state().get_attempt_count(step_context.step.key)
        if attempts >= self._lost or step_context.retry_mode.disabled:
            return super().log_failure_or_retry_event_after_error(step_context, err_info, known_state)
        retry = StepRetryData(error=err_info, seconds_to_wait=1)  # type: ignore[no-untyped-call]
        return DagsterEvent.step_retry_event(step_context, retry)


def ray_steps_executor(options: RayOptions) -> dg.ExecutorDefinition:
    """Return the executor for a job's definitions; the cluster is that of `RAY_ADDRESS`, or the one on this machine."""
    schema: Any = {"retries": get_retries_config()}  # type: ignore[no-untyped-call]

    @dg.executor(name="ray", config_schema=schema, requirements=multiple_process_executor_requirements())
    def ray(init_context: Any) -> RayStepsExecutor:
        retries = RetryMode.from_config(init_context.executor_config["retries"]) or RetryMode.ENABLED
        return RayStepsExecutor(RaySteps(_client(), options), retries, options.retries)

    return ray


def _client() -> Any:
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient()
    except (ConnectionError, RuntimeError) as error:
        raise InputError(
            f"no Ray cluster answers ({str(error).splitlines()[0]}); start one with `ray start --head`, "
            "or name the address of its dashboard: RAY_ADDRESS=http://HOST:8265"
        ) from error
