"""``@task.guard``: a user's own function that yields findings, guarded like any other check."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.decorator import DecoratedOperator, TaskDecorator, determine_kwargs, task_decorator_factory
from airflow.sdk.exceptions import AirflowException

from airflow_pipesec.errors import PipesecError
from airflow_pipesec.findings import Finding
from airflow_pipesec.guards.base import Guard, GuardOperator, withheld

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["GuardDecoratedOperator", "guard_task"]


class GuardDecoratedOperator(DecoratedOperator, GuardOperator):
    """The operator behind ``@task.guard``. The function yields (or returns) findings; none at all is a failure.

    :param threats: ids of the threats of the catalogue that the function answers, such as ``("drift",)``, for coverage. Not
        templated: what a guard answers does not depend on the run.
    """

    custom_operator_name = "@task.guard"
    template_fields = (*DecoratedOperator.template_fields, *Guard.template_fields)

    op_args: Any
    op_kwargs: Any
    python_callable: Callable[..., Iterable[Finding]]

    def __init__(self, *, threats: Collection[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.threats = threats

    def findings(self, context: Context) -> Iterable[Finding]:
        """Call the function with its arguments and those context variables that its signature names."""
        offered: Mapping[str, Any] = {**context, **self.op_kwargs}
        arguments = determine_kwargs(self.python_callable, self.op_args, offered)
        return _without_words(self.python_callable, self.op_args, arguments)

    def execute(self, context: Context) -> None:
        """Guard: DecoratedOperator comes first for its argument binding, and its own execute is not meant here."""
        GuardOperator.execute(self, context)


def _without_words(
    function: Callable[..., Iterable[Finding]], arguments: Sequence[Any], named: Mapping[str, Any]
) -> Iterable[Finding]:
    """Call the author's function; of an exception only the type and the place go on, now and while its findings are taken."""
    try:
        found = function(*arguments, **named)
    except (AirflowException, PipesecError):
        raise
    except Exception as error:
        raise withheld(function.__name__, error) from None
    if not isinstance(found, Iterator):
        return found

    def items() -> Iterator[Finding]:
        with closing(found) if isinstance(found, Generator) else nullcontext():
            try:
                yield from found
            except (AirflowException, PipesecError):
                raise
            except Exception as error:
                raise withheld(function.__name__, error) from None

    return items()


def guard_task(python_callable: Callable[..., Iterable[Finding]] | None = None, **kwargs: Any) -> TaskDecorator:
    """Turn a function that yields findings into a guard task. Use it as ``@task.guard`` or ``@task.guard(policy=…)``.

    ``threats=("drift",)`` says what the function answers, see :class:`GuardDecoratedOperator`.
    """
    return task_decorator_factory(
        python_callable=python_callable,
        decorated_operator_class=GuardDecoratedOperator,
        **kwargs,
    )
