"""An operator's shell: the commands as they are typed, with the admin API's address and key in the environment."""

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest.mock import patch

from gateway.__main__ import main
from tests.running.gateway import CLEAN, RunningGateway

OWNER = "an-owners-key"


class Done(NamedTuple):
    """What a command said."""

    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class Shell:
    """A shell on one gateway."""

    running: RunningGateway

    def __call__(self, *arguments: object, code: int = 0, key: str = OWNER) -> Done:
        """Run a command, which has to end with this code. In this process: a Python that starts is most of its time."""
        held, err = io.BytesIO(), io.StringIO()
        out = io.TextIOWrapper(held, "utf-8")
        environ = CLEAN | {"GATEWAY_ADMIN_URL": self.url, "GATEWAY_ADMIN_KEY": key}
        with patch.dict(os.environ, environ, clear=True), redirect_stdout(out), redirect_stderr(err):
            try:
                ended = main(list(map(str, arguments)))
            except SystemExit as end:
                ended = int(end.code or 0)
        out.flush()
        done = Done(held.getvalue().decode(), err.getvalue())
        assert ended == code, (arguments, done)
        return done

    @property
    def url(self) -> str:
        """The admin API's, as `--admin` takes it."""
        return f"http://127.0.0.1:{self.running.admin_port}"

    def json(self, *arguments: object) -> Any:
        """What a command prints for programs."""
        return json.loads(self(*arguments, "--json").stdout)

    def table(self, *arguments: object) -> list[list[str]]:
        """The words of each line of what a command prints for people, without the head."""
        return [line.split() for line in self(*arguments).stdout.splitlines()[1:]]
