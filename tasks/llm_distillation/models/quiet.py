"""Keeps the model libraries silent: no progress bars and no advice between the lines of a run."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr


@contextmanager
def quiet() -> Iterator[None]:
    """Inside, transformers and the hub draw no progress bar and warn of nothing; what they were told before holds
    after.

    The bar over the tensors of a GGUF file obeys no setting, so nothing is written to standard error either.
    """
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging

    level, hub_level, bars = logging.get_verbosity(), hub.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    hub.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        hub.set_verbosity(hub_level)
        if bars:
            logging.enable_progress_bar()
