"""The contract a method fulfils: what every task imports of the engine, and all it imports.

A task is a class. Its class methods *plan*: they run in the driver, before anything starts, and are
cheap. An instance *computes*: it lives in one worker, loads once, and makes one shard after another.

    describe(config, inputs)        what the artifact will be; refuses what can be known to be wrong
    memory(config, facts, needs)    what a worker holds, where that can be known
    shards(config, facts)           the independent pieces of work
    Task(config, inputs, facts, context)   loads data, inputs, networks: once a worker
    compute(shard, context)         one shard's output
    close(...)                      turns the shards into summary metrics, tables and pictures

A shard's bytes may depend on the seed, the settings, the inputs and the shard's identity; never on
order, worker, path or time. Take every random number from `context.seed(...)`.

A task with `gang = True` lets several processes compute one shard together, one rank each: `Task(...)` and
`compute` are called on every rank. How many there are is the user's choice and in no key, so the result
may differ by rounding alone.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

Json = Any
Facts = Mapping[str, Json]


class Settings(BaseModel):
    """Base of every Config: frozen, strict, keyword-only; each field carries a docstring with its unit."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


@dataclass(frozen=True)
class Input:
    """Marks a field that names another artifact: `experts: Annotated[str, Input("trajectories")]`."""

    kind: str


class Role(Enum):
    """Marks a field that a shard does not read, so that changing it recomputes no shard."""

    PLAN = "plan"
    """Decides only which shards there are: `experts: Annotated[int, Role.PLAN]`."""
    CLOSING = "closing"
    """Read by the closing step alone; part of the stage's key, not of a shard's."""


@runtime_checkable
class Digested(Protocol):
    """A setting that is known by its content, such as a dataset: its digest stands in the key, not its path."""

    def content_digest(self) -> str: ...


@dataclass(frozen=True)
class Needs:
    """What one worker of a task asks for, unless the stage's `resources` says otherwise; in a gang, each rank."""

    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float = 1.0
    threads: int = 1
    ranks: int = 1
    """Processes that compute one shard together."""


@dataclass(frozen=True)
class Memory:
    """What one worker, or each rank of a gang, holds at once: an estimate, before anything starts."""

    main_gb: float
    """In main memory."""
    gpu_gb: float = 0.0
    """On its GPU."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """What it is made of, in GB by name; told where it is too much."""
    advice: str = "run where there is more"
    """What to do then."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One independent piece of work."""

    identity: Mapping[str, Json]
    """What tells it from its siblings (which expert, which cell). Part of its key and its random stream."""
    ignores: frozenset[str] = frozenset()
    """Config fields, inputs among them, that this shard does not read; left out of its key."""
    disk_bytes: int = 0
    """Estimated size of its output."""

    @property
    def label(self) -> str:
        return ",".join(f"{name}={value}" for name, value in self.identity.items())


@dataclass(frozen=True)
class Output:
    """What a shard or a closing step makes. Names carry no suffix; each becomes one file of the artifact."""

    tensors: Mapping[str, Mapping[str, "Tensor"]] = field(default_factory=dict)
    """File name to named tensors; written as safetensors."""
    tables: Mapping[str, "pa.Table"] = field(default_factory=dict)
    """File name to table; written as Parquet. A closing table named `summary` is shown to the user."""
    mapped: Mapping[str, "pa.Table"] = field(default_factory=dict)
    """File name to table; written as an uncompressed Arrow file, which `Files.table` maps into memory instead of
    reading it: for large tables of which single rows are asked for."""
    documents: Mapping[str, Json] = field(default_factory=dict)
    """File name to JSON document."""
    facts: Facts = field(default_factory=dict)
    """Small facts, readable without opening a file."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Final metrics under stable dotted names; fractions lie between 0 and 1."""


@dataclass(frozen=True)
class Progress:
    """The state inside a long shard from which it can go on to the same result."""

    tensors: Mapping[str, "Tensor"]
    """By name. In a gang each rank hands over its own ones, with names that no other rank has."""
    facts: Facts
    """In a gang those of rank 0 count."""


class Files(Protocol):
    """Read-only view of what a shard or a closing step made."""

    @property
    def facts(self) -> Facts: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def names(self) -> Sequence[str]:
        """File names with suffix, such as `weights.safetensors`."""
        ...

    def tensors(self, name: str, rows: Sequence[int] | None = None) -> "dict[str, Tensor]":
        """The tensors of `name` (without suffix); with `rows` only these indices of each first axis, in
        that order, read without loading the rest."""
        ...

    def table(self, name: str) -> "pa.Table":
        """The table `name`; one of `Output.mapped` takes memory only for what is touched of it."""
        ...

    def document(self, name: str) -> Json: ...


class ShardFiles(Files, Protocol):
    """Read-only view of one finished shard."""

    @property
    def identity(self) -> Mapping[str, Json]: ...


class Artifact(Files, Protocol):
    """Read-only view of a finished artifact; its own files are those of its closing step."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def shards(self) -> Sequence[ShardFiles]: ...


class Context(Protocol):
    """What a task may ask of its worker."""

    @property
    def device(self) -> str:
        """A torch device name: `cpu`, `cuda`."""
        ...

    @property
    def rank(self) -> int:
        """Which of the processes that compute this shard it is; 0 outside a gang."""
        ...

    @property
    def world_size(self) -> int:
        """How many processes compute this shard together; where it is above 1, torch.distributed is set up."""
        ...

    def seed(self, *path: str | int, item: Mapping[str, Json] | None = None) -> int:
        """A 63-bit seed from the experiment's seed, the task, the shard's identity and `path`; no state.

        With `item` it is what a shard of that identity would get: a shard that holds several items gives
        each of them the random stream that it would have alone.
        """
        ...

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Adds to the curves of this shard. A value that is not finite ends the shard: nothing is published.

        In a gang the values of rank 0 are kept; those of every rank are checked.
        """
        ...

    def preview(self, name: str, png: bytes, step: int = 0) -> None:
        """Shows a PNG picture while the shard runs; in a gang that of rank 0."""
        ...

    def save_progress(self, make: Callable[[], Progress]) -> None:
        """Call it at every point one could go on from. `make` is called only when a save is due.

        In a gang it is a collective call: every rank makes it at the same points, and where rank 0 finds a
        save due, `make` is called on all of them (and may itself use collective calls). It costs one
        broadcast of a number; once a step is often enough. All ranks' tensors are published as one.
        """
        ...

    def load_progress(self) -> Progress | None:
        """What an earlier, unfinished attempt at this shard saved last.

        In a gang every rank gets the tensors of all ranks, whatever number of them saved.
        """
        ...


@dataclass(frozen=True)
class Choices:
    """Settings that the user left open, to be measured on the device at hand before the first shard."""

    depends_on: Facts
    """What the outcome depends on; it is measured once for each and pinned in the store."""
    settings: Sequence[Mapping[str, Json]]
    """What to try, as settings of the task, from the smallest on; the first is what stands unmeasured."""


@dataclass(frozen=True)
class Rows:
    """What a model is given, or gives back: an array of rows, or a list of texts."""

    dtype: str
    """A name of numpy's such as `uint8`, or `string`."""
    shape: tuple[int, ...] = ()
    """Of one row; of a text nothing."""


@dataclass(frozen=True)
class Served:
    """What an artifact is when it is asked as a model."""

    kind: str
    """For people: `classifier`."""
    takes: Rows
    gives: Rows


ConfigT = TypeVar("ConfigT", bound=Settings)


class Task(ABC, Generic[ConfigT]):
    """A method. See the module's docstring for who calls what, where and when."""

    version: ClassVar[int]
    """Raise it whenever the same settings would give other bytes: keys change and nothing old is reused."""
    makes: ClassVar[str]
    """The kind of artifact it makes."""
    Config: ClassVar[type[Settings]]
    needs: ClassVar[Needs] = Needs()
    gang: ClassVar[bool] = False
    """Whether several ranks may compute one shard: each calls `compute`, and rank 0's Output is committed."""

    tolerant: ClassVar[bool] = False
    """Whether its closing step, and all that take the artifact, can do without shards that failed; without it
    `tolerate_failures` is refused."""

    @classmethod
    @abstractmethod
    def describe(cls, config: ConfigT, inputs: Mapping[str, Facts]) -> Facts:
        """The facts of the artifact to be, from the settings and the facts of its inputs (by field name).

        Raises ValueError (or OSError for a file) for everything that can be known to be wrong by now.
        """

    @classmethod
    @abstractmethod
    def shards(cls, config: ConfigT, facts: Facts) -> Sequence[Shard]:
        """The shards in their order; `facts` is what `describe` returned."""

    @classmethod
    def memory(cls, config: ConfigT, facts: Facts, needs: Needs) -> Memory | None:
        """What a worker with these `needs` holds, where it follows from the settings; None: what `needs` say.

        A stage that gives `resources.memory_gb` knows better.
        """
        return None

    @classmethod
    def choices(cls, config: ConfigT, facts: Facts, device: str) -> Choices | None:
        """What the settings leave to measurement on such a device (`cpu`, `cuda`); None where that is nothing."""
        return None

    @classmethod
    def pace(cls, config: ConfigT, facts: Facts, device: str) -> float:
        """Items a second of one worker under one of the choices, with the threads that torch is set to.

        Tried for about a second, without the data. Several workers do so side by side.
        """
        raise TypeError(f"{cls.__name__} offers choices, but no pace to choose by")

    @abstractmethod
    def __init__(
        self, config: ConfigT, inputs: Mapping[str, Artifact], facts: Facts, context: Context
    ) -> None: ...

    @abstractmethod
    def compute(self, shard: Shard, context: Context) -> Output: ...

    @classmethod
    @abstractmethod
    def close(
        cls,
        config: ConfigT,
        inputs: Mapping[str, Artifact],
        facts: Facts,
        shards: Sequence[ShardFiles],
        context: Context,
    ) -> Output:
        """Runs once, in a worker, after the last shard."""

    @classmethod
    def rows(cls, artifact: Artifact) -> "Iterator[pa.Table] | None":
        """The artifact as a dataset that other tools read, for `artifacts export --as hub`: tables of one schema,
        each to be a Parquet file, made from the artifact alone. What columns hold that Arrow has no type for
        (encoded images, names of classes) stands in the schema's metadata as Hugging Face has it. None where it
        is no dataset.
        """
        return None

    @classmethod
    def serves(cls, facts: Facts) -> Served | None:
        """What an artifact with these facts is when it is asked as a model; None where it is none."""
        return None

    @classmethod
    def asked(cls, artifact: Artifact) -> Callable[[Any], Any]:
        """The artifact, loaded on the CPU: from rows, as `serves` says it takes them, to as many that it gives."""
        raise TypeError(f"{cls.__name__} makes no models")


def derive_seed(*path: Json) -> int:
    """A 63-bit seed that depends on `path` alone: the same everywhere, with no state to keep."""
    digest = hashlib.sha256(json.dumps(path, sort_keys=True, separators=(",", ":")).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
