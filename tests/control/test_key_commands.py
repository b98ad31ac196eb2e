"""`gateway keys …` through the admin API: keys that a whole fleet honours. On the key store, see the command line's."""

import httpx
import pytest

from tests.control.operator import Shell


def knows(shell: Shell, key: str) -> bool:
    """Whether the gateway accepts the key."""
    headers = {"authorization": f"Bearer {key}"}
    return httpx.get(f"{shell.running.base_url}/models", headers=headers, trust_env=False).status_code == 200


def test_a_key_is_made_rotated_and_revoked(shell: Shell) -> None:
    """The secret alone is on stdout, once; the list has the key and where it was made."""
    doors = ("--endpoints", "messages,chat")
    made = shell("keys", "create", "acme", "--name", "ci", "--models", "assistant", "--expires", "2099-01-31", *doors)
    secret = made.stdout.strip()
    public_id = secret.split("-")[2]
    assert (made.stdout, secret in made.stderr) == (f"{secret}\n", False)
    assert knows(shell, secret)

    (row,) = [row for row in shell.table("keys", "list") if row[0] == public_id]
    assert row[1:5] == ["acme", "ci", "assistant", "chat,messages"]
    assert row[-4:] == ["2099-01-31", "never", "api", "active"]
    assert {row[-2] for row in shell.table("keys", "list")} == {"api", "store"}
    assert secret not in shell("keys", "list", "--json").stdout

    successor = shell("keys", "rotate", public_id, "--overlap", 0, "--admin", shell.url).stdout.strip()
    assert (knows(shell, secret), knows(shell, successor)) == (False, True)
    shell("keys", "revoke", successor.split("-")[2])
    assert not knows(shell, successor)
    states = {each["id"]: each["revoked_at"] is not None for each in shell.json("keys", "list")}
    assert (states[public_id], states[successor.split("-")[2]]) == (False, True)


def test_a_tenant_is_made_suspended_resumed_and_deleted(shell: Shell) -> None:
    """Its key follows; what exists is not made again."""
    shell("tenants", "create", "newcomer", "--policy", "acme", "--metadata", "region=eu")
    assert "Say which state you change" in shell("tenants", "create", "newcomer", "--policy", "acme", code=1).stderr
    assert "metadata: {region: eu}" in shell("tenants", "show", "newcomer").stdout
    key = shell("keys", "create", "newcomer").stdout.strip()
    assert knows(shell, key)
    for _ in range(2):
        shell("tenants", "suspend", "newcomer")
    assert ["newcomer", "acme", "api", "suspended"] in shell.table("tenants", "list")
    assert not knows(shell, key)
    shell("tenants", "resume", "newcomer")
    assert shell.json("tenants", "show", "newcomer") == {"policy": "acme", "metadata": {"region": "eu"}}
    assert knows(shell, key)
    told = shell.json("tenants", "suspend", "newcomer")
    assert told == {"id": "newcomer", "suspended": True}
    assert shell.json("tenants", "delete", "newcomer") == {"id": "newcomer", "deleted": True}
    assert shell.json("tenants", "create", "another", "--policy", "acme")["source"] == "api"
    made = shell.json("keys", "create", "another")
    assert made["secret"].split("-")[2] == made["id"]
    made = shell.json("keys", "rotate", made["id"])
    assert shell.json("keys", "revoke", made["id"]) == {"id": made["id"], "tenant": "another", "revoked": True}
    assert not knows(shell, key)
    assert "newcomer" not in shell("tenants", "list").stdout


def test_a_store_that_is_named_goes_before_an_api_of_the_environment(shell: Shell) -> None:
    """And both named are a contradiction."""
    store = ["--store", shell.running.store_url]
    made = shell("keys", "create", "acme", *store)
    assert "kept as a digest in" in made.stderr
    assert {each["source"] for each in shell.json("keys", "list", *store)} == {"store"}
    assert "leave --admin or --store out" in shell("keys", "list", *store, "--admin", shell.url, code=1).stderr
    assert "use --admin" in shell("keys", "rotate", "abc", *store, code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["create", "nobody"], "no tenant `nobody`"),
        (["create", "acme", "--models", "nothing"], "nothing"),
        (["create", "acme", "--expires", "2020-01-01"], "expired already"),
        (["create", "acme", "--config", "policies"], "leave --config out"),
        (["revoke", "abc"], "there is no key `abc`"),
        (["rotate", "abc"], "there is no key `abc`"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_what_cannot_be_done_with_a_key_is_told(shell: Shell, arguments: list[str], reason: str) -> None:
    """One sentence on stderr, nothing on stdout."""
    done = shell("keys", *arguments, code=1)
    assert done.stdout == ""
    assert reason in done.stderr
