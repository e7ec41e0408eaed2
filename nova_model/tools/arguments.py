"""The command lines of the tools: wrong options end with one line on standard error and exit status 2."""

from __future__ import annotations

import argparse
from typing import NoReturn


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose errors are a single line, without argparse's usage in front of it."""

    def error(self, message: str) -> NoReturn:
        """Ends the command."""
        tool = self.prog.rpartition(".")[2]  # "python -m nova_model.tools.bench" -> "bench"
        self.exit(2, f"{tool}: {message}; see {self.prog} --help\n")
