"""A path that a user types for what others have made."""

from pathlib import Path

from pydantic import field_validator, model_validator

from orchestrator.task import Settings


class ForeignPath(Settings):
    """What lies at a path; `PATH` is short for `{path: PATH}`. Who derives from it says what its digest is."""

    path: str
    """Where it lies; made absolute, because a worker may run in another folder than the user."""

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: object) -> object:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str) -> str:
        return str(Path(path).expanduser().absolute())
