"""What the edge takes for granted of uvicorn's protocol class, which promises none of it.

Fails when an upgrade changes it. Then read `uvicorn/protocols/http/httptools_impl.py` again before moving the pin.
"""

import ast
import inspect
import textwrap
from importlib.metadata import version

import uvicorn.server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.api.edge import EdgeProtocol
from gateway.api.edge_request import EdgeRequest

FOR_THEIR_MESSAGES = {"on_headers_complete", "on_body", "on_message_complete"}
"""Callbacks that the edge calls for messages only that uvicorn serves."""
OURS = {"data_received", "timeout_keep_alive_handler"}
"""What the edge does by itself throughout."""
ASKED_OF_A_CYCLE = {"response_complete", "keep_alive", "disconnected", "message_event"}


def methods(of: type) -> dict[str, ast.AST]:
    """The class's methods as syntax trees."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(of)))
    assert isinstance(tree.body[0], ast.ClassDef)
    return {item.name: item for item in tree.body[0].body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}


def asked_of(name: str, tree: ast.AST) -> set[str]:
    """Attributes of `self.<name>` that the tree touches."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == f"self.{name}"
    }


def own_attributes(tree: ast.AST) -> set[str]:
    """Attributes of `self` that the tree touches."""
    return {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
    }


def test_the_version_is_the_one_that_was_read() -> None:
    assert version("uvicorn").split(".")[:2] == ["0", "54"]


def test_uvicorn_asks_of_a_request_nothing_that_ours_has_not() -> None:
    """In whatever it does while a request of ours is the connection's current one."""
    asked: set[str] = set()
    for name, tree in methods(HttpToolsProtocol).items():
        if name not in FOR_THEIR_MESSAGES | OURS:
            asked |= asked_of("cycle", tree)
    assert asked == ASKED_OF_A_CYCLE
    assert asked <= set(dir(EdgeRequest))


def test_uvicorns_callbacks_ask_whether_the_one_before_is_answered_and_no_more() -> None:
    """A request of theirs may follow one of ours."""
    source = inspect.getsource(HttpToolsProtocol.on_headers_complete)
    assert "existing_cycle.response_complete" in source
    assert source.count("existing_cycle") == 3


def test_the_connection_has_what_the_edge_uses() -> None:
    made = set[str]().union(*map(own_attributes, methods(HttpToolsProtocol).values())) | set(dir(HttpToolsProtocol))
    used = {
        "app", "config", "cycle", "expect_100_continue", "flow", "headers", "loop", "parser", "pipeline",
        "server_state", "timeout_keep_alive", "timeout_keep_alive_task", "transport", "url",
        "connection_lost", "connection_made", "data_received", "on_body", "on_header", "on_headers_complete",
        "on_message_begin", "on_message_complete", "on_response_complete", "pause_writing", "resume_writing",
        "shutdown", "timeout_keep_alive_handler", "_unset_keepalive_if_required",
    }  # fmt: skip
    assert used <= made
    assert {"response_started", "response_complete", "keep_alive"} <= own_attributes(
        methods(RequestResponseCycle)["__init__"]
    )


def test_a_message_begins_by_forgetting_what_the_edge_has_kept() -> None:
    """It is called late, for messages that are handed over: all it does is set these."""
    assert own_attributes(methods(HttpToolsProtocol)["on_message_begin"]) == {
        "url", "expect_100_continue", "headers", "scope",
        "asgi_version", "server", "client", "scheme", "root_path", "app_state",
    }  # fmt: skip


def test_a_connection_that_is_lost_leaves_the_servers_set() -> None:
    """A worker tells the others then that it has one less."""
    assert "self.connections.discard(self)" in inspect.getsource(HttpToolsProtocol.connection_lost)
    assert "server_state.connections" in inspect.getsource(HttpToolsProtocol.__init__)


def test_the_server_asks_of_a_connection_only_to_shut_down() -> None:
    source = inspect.getsource(uvicorn.server.Server.shutdown)
    assert "connection.shutdown()" in source
    assert "shutdown" not in vars(EdgeProtocol)  # It is theirs, and knows of our request by `cycle` alone.
