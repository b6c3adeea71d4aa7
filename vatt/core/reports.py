"""Numbers that a stage reports while it runs, for whoever started it.

A person sees progress bars. Where Dagster started the stage, dagster-pipes carries the numbers to
it through a file, and it draws curves from them.
"""

from collections.abc import Mapping

from dagster_pipes import PipesEnvVarParamsLoader, open_dagster_pipes


def report_numbers(kind: str, step: int, numbers: Mapping[str, float | None]) -> None:
    """Report numbers of one kind, such as "curve" or "speed", at a step; nobody may be listening.

    Every process of a stage may call this, those that it started or forked included.
    """
    if PipesEnvVarParamsLoader().is_dagster_pipes_process():
        message = {"kind": kind, "step": step, **numbers}
        open_dagster_pipes().report_custom_message(message)
