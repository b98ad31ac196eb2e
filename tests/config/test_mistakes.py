"""Every mistake of a configuration is named in one run, with its file and its place."""

from pathlib import Path
from typing import get_args

import pytest

from gateway.config.policies import load
from gateway.config.problems import ConfigurationError
from gateway.domain.backend import Dialect, PathTemplate, ServedModel
from gateway.domain.wire import OWN_HEADERS

SOUND = """
version: 1
backends:
  worker:
    dialect: openai
    base_url: http://127.0.0.1:8090/v1
    allow_private: true
    models: {small: {context: 2048}}
policies:
  standard:
    models:
      assistant:
        targets:
          - {backend: worker, model: small}
tenants:
  acme: {policy: standard}
"""

NEEDS = "expected one of `tools`, `json_schema`, `vision`, `audio`, `logprobs`, `seed`, `stop`, `embeddings`"
NOBODY_CONTINUES = "no target accepts `prefill` and has the same `weights` as another: nobody could continue"

FIVE = """
version: 1
backends:
  worker:
    dialect: openai
    base_url: http://127.0.0.1:8090/v1
    models: {small: {context: -1}}
  cloud:
    dialect: openai
    base_url: https://api.example.com/v1
    credential: {bearer: sk-live-0123456789}
    models: {big: {acepts: [seed]}}
policies:
  standard:
    models:
      assistant:
        targets: [{backend: nim, model: small}]
tenants:
  acme: {policy: standard}
"""
FIVE_EXPECTED = [
    "$.backends.worker.models.small.context: expected a whole number ≥ 1, got -1",
    "$.backends.cloud.models.big.acepts: unknown field `acepts`; did you mean `accepts`?",
    "$.backends.worker.base_url: points to a private or loopback address; say `allow_private: true` if that is meant",
    "$.backends.cloud.credential.bearer: is not a reference; write env:NAME or file:PATH, never the secret itself",
    "$.policies.standard.models.assistant.targets[0].backend: names backend `nim`, which is not in `backends`",
]

BACKEND, MODEL = "$.backends.worker", "$.backends.worker.models.small"
POLICY, ROUTE, TENANT = "$.policies.standard", "$.policies.standard.models.assistant", "$.tenants.acme"
COUNT = "expected a whole number ≥ 1 and ≤ 1000000000000"
WEIGHT = "expected a whole number ≥ 1 and ≤ 1000000"
PRICE = "expected a number ≥ 0 and ≤ 1000000"
PRICE_NAME = "^[a-z0-9][a-z0-9-]{0,39}/[A-Za-z0-9._:/@-]{1,128}$"
PATH = get_args(PathTemplate)[1].pattern
LIST = '$.prices["a/b"]'
DAY = f"{LIST}.2026-02-28"
MODEL_FIELDS = ", ".join(ServedModel.__struct_fields__)
DIALECTS = ", ".join(f"`{name}`" for name in get_args(Dialect))
BACKEND_FIELDS = "dialect, base_url, models, credential, allow_private, limits, domains"
SHA = "ab" * 32
TARGET = "          - {backend: worker, model: small}\n"
OTHER_TENANT = f"\n  zeta: {{policy: standard, keys: [{{name: x, sha256: {SHA}}}]}}"
DOWN = "on_exceed: downgrade, downgrade_to: small"
ZONE = "write an IANA name such as Europe/Berlin"


ENTRY = "expected `backend: …` or `model: …` or `targets: …`"
MODES = "one of `priority`, `weighted`, `latency`, `least_busy`, `cost`, `conditional`"


def conditional(*conditions: str) -> str:
    """An entry with so many targets under conditions."""
    inner = ", ".join(f"{{backend: worker, model: small, {each}}}" for each in conditions)
    return f"          - {{strategy: {{mode: conditional}}, targets: [{inner}]}}\n"


def unsupported(path: str, name: str) -> str:
    return f"{path}: `{name}` is not supported by this version"


def key(fields: str) -> str:
    return f"{{policy: standard, keys: [{{{fields}}}]}}"


CAPPED = """independence: {max_share_of: {provider: {worker: 0.5, nim: 0.5}}}
    models:
      assistant:
        single_provider_ack: true
"""


# In SOUND, the first is replaced by the second and makes the one mistake that the third is.
IN_BACKENDS = [
    ("version: 1", "version: 2", "$.version: expected `1`, got a number"),
    ("version: 1", "version: true", "$.version: expected `1`, got a truth value"),
    ("version: 1", "", "$: `version` is missing"),
    (
        "version: 1",
        "version: 1\nplugins: []",
        "$.plugins: unknown field `plugins`; known here: version, backends, policies, tenants, prices",
    ),
    ("dialect: openai", "dialect: smtp", f"{BACKEND}.dialect: expected one of {DIALECTS}, got text"),
    ("dialect: openai", "", f"{BACKEND}: `dialect` is missing"),
    (
        "dialect: openai",
        "dialect: openai\n    limits: {concurrency: 9, on_exceed: reject}",
        f"{BACKEND}.limits.on_exceed: beyond a backend's limits the next target is asked, whatever the policy",
    ),
    (
        "dialect: openai",
        "dialect: openai\n    headers: {}",
        f"{BACKEND}.headers: unknown field `headers`; known here: {BACKEND_FIELDS}",
    ),
    ("allow_private: true", "allow_private: yes", f"{BACKEND}.allow_private: expected true or false, got text"),
    (
        "base_url: http://127.0.0.1:8090/v1",
        "base_url: 8090",
        f"{BACKEND}.base_url: expected text, got a number; put it in quotes",
    ),
    (
        "http://127.0.0.1:8090/v1",
        "http://127.0.0.1:22/v1",
        f"{BACKEND}.base_url: has the port 22, which belongs to another service",
    ),
    (
        "http://127.0.0.1:8090/v1",
        "http://169.254.169.254/v1",
        f"{BACKEND}.base_url: points to an address that is never dialled (a metadata service)",
    ),
    ("{context: 2048}", "{context: 0}", f"{MODEL}.context: expected a whole number ≥ 1, got 0"),
    ("{context: 2048}", "{context: 2048.5}", f"{MODEL}.context: expected a whole number ≥ 1, got a fraction"),
    ("{context: 2048}", "{context: '2048'}", f"{MODEL}.context: expected a whole number ≥ 1, got text"),
    ("{context: 2048}", "{context: true}", f"{MODEL}.context: expected a whole number ≥ 1, got a truth value"),
    (
        "{context: 2048}",
        "{quirks: {takes_sampling: false}}",
        f"{MODEL}.quirks.takes_sampling: is read in the dialect `anthropic`, `bedrock`, `gemini` only",
    ),
    ("{context: 2048}", "{quirks: {path: /v1/chat}}", f"{MODEL}.quirks.path: does not have the form {PATH}"),
    ("{context: 2048}", "{quirks: {path: '/../{path}'}}", f"{MODEL}.quirks.path: does not have the form {PATH}"),
    (
        SOUND[SOUND.index("dialect:") : SOUND.index("policies:")],
        "dialect: gemini\n    base_url: https://a.example\n    models: {small: {quirks: {path: '/x{path}'}}}\n",
        f"{MODEL}.quirks.path: is read in the dialect `openai` only",
    ),
    ("{context: 2048}", "{weights: ''}", f"{MODEL}.weights: expected 1 to 128 characters"),
    ("{context: 2048}", "{prices: {input: 1}}", f"{MODEL}.prices: `output` is missing"),
    ("{context: 2048}", "{prices: {input: -1, output: 1}}", f"{MODEL}.prices.input: {PRICE}, got -1"),
    ("{context: 2048}", "{prices: {input: 1e7, output: 1}}", f"{MODEL}.prices.input: {PRICE}, got 1e+07"),
    ("{context: 2048}", "{priced_as: gpt}", f"{MODEL}.priced_as: does not have the form {PRICE_NAME}"),
    ("{context: 2048}", "{priced_as: a/b}", f"{MODEL}.priced_as: names `a/b`, which is not in `prices`"),
    (
        "version: 1",
        "version: 1\nprices: {a/b: {2026-02-30: {input: 1, output: 1}}}",
        f"{LIST}.2026-02-30: `2026-02-30` is not a day of the calendar",
    ),
    ("version: 1", "version: 1\nprices: {a/b: {2026-02-28: {input: 1}}}", f"{DAY}: `output` is missing"),
    ("{context: 2048}", "x", f"{MODEL}: expected fields ({MODEL_FIELDS}), got text"),
    (
        "{small: {",
        '{"sm all": {}, small: {',
        '$.backends.worker.models["sm all"]: does not have the form ^[A-Za-z0-9._:/@-]{1,128}$',
    ),
]
IN_POLICIES = [
    (
        "model: small}",
        "model: big}",
        f"{ROUTE}.targets[0].model: names model `big`, which backend `worker` does not list",
    ),
    ("model: small}", "model: small, weight: -1}", f"{ROUTE}.targets[0].weight: {WEIGHT}, got -1"),
    ("model: small}", "model: small, weight: 0}", f"{ROUTE}.targets[0].weight: {WEIGHT}, got 0"),
    ("model: small}", "model: small, weight: .nan}", f"{ROUTE}.targets[0].weight: {WEIGHT}, got text"),
    (TARGET, "          []\n", f"{ROUTE}.targets: is empty; at least one entry is needed"),
    (TARGET, TARGET * 2, f"{ROUTE}.targets[1]: stands here twice; give one entry the whole weight"),
    (TARGET, TARGET * 65, f"{ROUTE}.targets: holds 65 entries; at most 64 are allowed"),
    (
        "        targets:",
        "        context_fallback: long\n        targets:",
        unsupported(f"{ROUTE}.context_fallback", "context_fallback"),
    ),
    (
        "        targets:",
        "        strategy: {mode: latency, gamma: 2}\n        targets:",
        f"{ROUTE}.strategy.gamma: is read by `cost` only, and the strategy is `latency`",
    ),
    (
        "        targets:",
        "        strategy: {mode: cost, gamma: 4}\n        targets:",
        f"{ROUTE}.strategy.gamma: expected a number ≥ 1 and ≤ 3, got 4",
    ),
    (
        "        targets:",
        "        affinity: prefix\n        targets:",
        f"{ROUTE}.affinity: has nothing to choose from; it is read with `latency`, `least_busy`, `weighted` only",
    ),
    (
        "        targets:",
        "        strategy: {mode: latency, fill: 0.5}\n        targets:",
        f"{ROUTE}.strategy.fill: is read by `priority` only, and the strategy is `latency`",
    ),
    (
        "        targets:",
        "        on_midstream_failure: continue\n        targets:",
        f"{ROUTE}.on_midstream_failure: {NOBODY_CONTINUES}",
    ),
    (TARGET, "          - {}\n", f"{ROUTE}.targets[0]: {ENTRY}, got other fields"),
    (TARGET, "          - worker\n", f"{ROUTE}.targets[0]: {ENTRY}, got text"),
    (TARGET, "          - {targets: []}\n", f"{ROUTE}.targets[0].targets: is empty; at least one entry is needed"),
    (
        TARGET,
        f"{TARGET}          - {{weight: 2, targets: [{{backend: nim, model: x}}]}}\n",
        f"{ROUTE}.targets[1].targets[0].backend: names backend `nim`, which is not in `backends`",
    ),
    (
        TARGET,
        f"{TARGET}          - {{targets: [{{targets: [{{backend: worker, model: small}}]}}]}}\n",
        f"{ROUTE}.targets[1]: stands here twice; give one entry the whole weight",
    ),
    (
        TARGET,
        "          - {strategy: {mode: random}, targets: [{backend: worker, model: small}]}\n",
        f"{ROUTE}.targets[0].strategy.mode: expected {MODES}, got text",
    ),
    (
        TARGET,
        "          - {backend: worker, model: small, targets: []}\n",
        f"{ROUTE}.targets[0].targets: unknown field `targets`; known here: backend, model, weight, when",
    ),
    (
        "model: small}",
        "model: small, when: {stream: true}}",
        f"{ROUTE}.targets[0].when: is read by `conditional` only, and the strategy is `priority`",
    ),
    (
        TARGET,
        conditional("when: {stream: true}", "when: {stream: false}"),
        f"{ROUTE}.targets[0].targets[1].when: the last entry takes what the others leave; it has no condition",
    ),
    (
        TARGET,
        conditional("weight: 1", "weight: 1"),
        f"{ROUTE}.targets[0].targets[0]: takes every request, so that those after it get none; only the last may",
    ),
    (
        TARGET,
        conditional("when: {}", "weight: 1"),
        f"{ROUTE}.targets[0].targets[0].when: says nothing; leave it out, or name what the request must be like",
    ),
    (
        TARGET,
        conditional("when: {tenants: [acme, zeta]}", "weight: 1"),
        f"{ROUTE}.targets[0].targets[0].when.tenants[1]: names tenant `zeta`, which is not in `tenants`",
    ),
    (
        TARGET,
        conditional("when: {needs: [prefill]}", "weight: 1"),
        f"{ROUTE}.targets[0].targets[0].when.needs[0]: {NEEDS}, got text",
    ),
    (
        TARGET,
        conditional("when: {prompt_tokens_over: -1}", "weight: 1"),
        f"{ROUTE}.targets[0].targets[0].when.prompt_tokens_over: expected a whole number ≥ 0, got -1",
    ),
    (
        "        targets:",
        "        strategy: {mode: fastest}\n        targets:",
        f"{ROUTE}.strategy.mode: expected {MODES}, got text",
    ),
    ("standard:\n", "standard:\n    budget: {usd: 1}\n", f"{POLICY}.budget: `per` is missing"),
    (
        "standard:\n",
        "standard:\n    budget: {per: day}\n",
        f"{POLICY}.budget: says nothing; name `usd`, `tokens` or both",
    ),
    (
        "standard:\n",
        "standard:\n    budget: {usd: 0, per: day}\n",
        f"{POLICY}.budget.usd: expected a number > 0 and ≤ 9000000, got 0",
    ),
    (
        "standard:\n",
        "standard:\n    budget: {usd: 1, per: day, timezone: Mars/Olympus}\n",
        f"{POLICY}.budget.timezone: `Mars/Olympus` is no time zone that this machine knows; {ZONE}",
    ),
    (
        "standard:\n",
        "standard:\n    budget: {usd: 1, per: day, on_exceed: downgrade}\n",
        f"{POLICY}.budget: `on_exceed: downgrade` needs `downgrade_to`, a model of the same policy",
    ),
    (
        "standard:\n",
        "standard:\n    budget: {usd: 1, per: day, on_exceed: downgrade, downgrade_to: small}\n",
        f"{POLICY}.budget.downgrade_to: names model `small`, which policy `standard` does not offer",
    ),
    (
        "standard:\n",
        "standard:\n    limits: {downgrade_to: assistant}\n",
        f"{POLICY}.limits.downgrade_to: is read with `on_exceed: downgrade` only",
    ),
    (
        "        targets:",
        "        limits: {on_exceed: downgrade, downgrade_to: assistant}\n        targets:",
        f"{ROUTE}.limits.downgrade_to: names the model itself",
    ),
    (
        "standard:\n",
        "standard:\n    independence: {max_share: {provider: 1.5}}\n",
        f"{POLICY}.independence.max_share.provider: expected a number > 0 and ≤ 1, got 1.5",
    ),
    (
        "models:\n      assistant:\n",
        CAPPED,
        f"{POLICY}.independence.max_share_of.provider.nim: no backend has the provider `nim`",
    ),
    (
        "  acme: {policy: standard}",
        "  acme: {policy: standard}\n  gateway-probe: {policy: standard}",
        "$.tenants.gateway-probe: is the name of the gateway's own requests; take another one",
    ),
    (
        "standard:\n",
        "standard:\n    retries: {budget: 1.1}\n",
        f"{POLICY}.retries.budget: expected a number ≥ 0 and ≤ 1, got 1.1",
    ),
    (
        "standard:\n",
        "standard:\n    retries: {attempts: 4}\n",
        f"{POLICY}.retries.attempts: expected a whole number ≥ 1 and ≤ 3, got 4",
    ),
    (
        "standard:\n",
        "standard:\n    timeouts: {total: 0}\n",
        f"{POLICY}.timeouts.total: expected a number > 0 and ≤ 3600, got 0",
    ),
    (
        "standard:\n",
        "standard:\n    limits: {on_exceed: wait}\n",
        f"{POLICY}.limits.on_exceed: expected one of `reject`, `queue`, `next_target`, `downgrade`, got text",
    ),
    ("standard:\n", "standard:\n    limits: {concurrency: 0}\n", f"{POLICY}.limits.concurrency: {COUNT}, got 0"),
    (
        "standard:\n",
        "standard:\n    limits: {concurrency: 9223372036854775808}\n",
        f"{POLICY}.limits.concurrency: {COUNT}, got 9.22337e+18",
    ),
]
IN_TENANTS = [
    (
        "{policy: standard}",
        f"{{policy: standard, budget: {{usd: 1, per: month, {DOWN}}}}}",
        f"{TENANT}.budget.downgrade_to: names model `small`, which policy `standard` does not offer",
    ),
    (
        "{policy: standard}",
        key(f"name: ci, sha256: {SHA}, limits: {{{DOWN}}}"),
        f"{TENANT}.keys[0].limits.downgrade_to: names model `small`, which policy `standard` does not offer",
    ),
    ("tenants:\n  acme: {policy: standard}", "tenants: []", "$.tenants: expected entries by name, got a list"),
    ("acme:", "Acme:", "$.tenants.Acme: does not have the form ^[a-z0-9][a-z0-9-]{0,39}$"),
    (
        "{policy: standard}",
        "{policy: standrad}",
        f"{TENANT}.policy: names policy `standrad`, which is not in `policies`",
    ),
    ("{policy: standard}", "{}", f"{TENANT}: `policy` is missing"),
    (
        "{policy: standard}",
        key(f"name: ci, sha256: {SHA.upper()}"),
        f"{TENANT}.keys[0].sha256: does not have the form ^[0-9a-f]{{64}}$",
    ),
    ("{policy: standard}", key(f"name: '', sha256: {SHA}"), f"{TENANT}.keys[0].name: expected 1 to 64 characters"),
    (
        "{policy: standard}",
        key(f"name: ci, sha256: {SHA}, expires: 2027-02-30"),
        f"{TENANT}.keys[0].expires: `2027-02-30` is not a day of the calendar",
    ),
    (
        "{policy: standard}",
        key(f"name: ci, sha256: {SHA}, expires: soon"),
        f"{TENANT}.keys[0].expires: expected a date such as 2030-01-31, got text",
    ),
    (
        "{policy: standard}",
        key(f"name: ci, sha256: {SHA}, models: [gpt]"),
        f"{TENANT}.keys[0].models[0]: names model `gpt`, which policy `standard` does not offer",
    ),
    (
        "{policy: standard}",
        key(f"name: ci, sha256: {SHA}") + OTHER_TENANT,
        "$.tenants.zeta.keys[0].sha256: is also a key of `acme`",
    ),
]
ONE = IN_BACKENDS + IN_POLICIES + IN_TENANTS

LITERAL = "is not a reference; write env:NAME or file:PATH, never the secret itself"
KINDS = " or ".join(f"`{kind}: …`" for kind in ("bearer", "header", "aws", "google", "azure", "oci"))
CREDENTIALS = [
    ("sk-live-0123456789", f": expected {KINDS}, got text"),
    ("{bearer: sk-live-0123456789}", f".bearer: {LITERAL}"),
    ("{bearer: 'env:sk-live-0123456789'}", f".bearer: {LITERAL}"),
    ("{bearer: $KEY}", f".bearer: {LITERAL}"),
    ("{sk-live-0123456789: x}", f": expected {KINDS}, got other fields"),
    ("{header: {name: x-api-key, value: sk-live-0123456789}}", f".header.value: {LITERAL}"),
    ("{header: {name: X-Api-Key, value: env:HOME}}", ".header.name: does not have the form ^[a-z0-9-]{1,64}$"),
    ("{aws: {}}", ".aws: `region` is missing"),
    ("{aws: {region: us-east-1.evil.example/}}", ".aws.region: does not have the form ^[a-z0-9-]{1,40}$"),
    ("{google: {service_account: sk-live-0123456789}}", f".google.service_account: {LITERAL}"),
    ("{azure: {client_secret: sk-live-0123456789, tenant: t, client_id: c}}", f".azure.client_secret: {LITERAL}"),
    (
        "{azure: {client_secret: env:HOME, tenant: t}}",
        ".azure: needs `tenant`, `client_id` and `client_secret` together; `client_id` alone is a managed identity",
    ),
    ("{oci: {file: /home/a/.oci/config}}", f".oci.file: {LITERAL}"),
]


def mistakes(*files: Path) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(files)
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def write(folder: Path, text: str, name: str = "x.yaml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_five_mistakes_of_five_kinds_are_named_in_one_run(tmp_path: Path) -> None:
    """A wrong value, an unknown field, a private address, a literal secret and a dangling reference."""
    assert sorted(mistakes(write(tmp_path, FIVE))) == sorted(FIVE_EXPECTED)


def test_each_mistake_reads_file_path_message(tmp_path: Path) -> None:
    """As compilers write it, so that editors can jump there."""
    file = write(tmp_path, FIVE)
    with pytest.raises(ConfigurationError) as caught:
        load([file])
    assert {str(problem) for problem in caught.value.problems} == {f"{file}: {line}" for line in FIVE_EXPECTED}


@pytest.mark.parametrize(("old", "new", "expected"), ONE, ids=[f"{case[1].strip()[:40]}" for case in ONE])
def test_a_mistake_is_named_once_with_its_place(tmp_path: Path, old: str, new: str, expected: str) -> None:
    """One thing is wrong: one line says so."""
    assert old in SOUND
    assert mistakes(write(tmp_path, SOUND.replace(old, new, 1))) == [expected]


@pytest.mark.parametrize(("credential", "expected"), CREDENTIALS)
def test_a_secret_in_the_file_is_refused_and_not_shown(tmp_path: Path, credential: str, expected: str) -> None:
    """Only references may stand there; what stands instead is not repeated."""
    text = SOUND.replace("dialect: openai", f"dialect: openai\n    credential: {credential}")
    found = mistakes(write(tmp_path, text))
    assert found == [f"{BACKEND}.credential{expected}"]
    assert "0123456789" not in str(found)


@pytest.mark.parametrize(
    ("credential", "missing", "extra"),
    [
        ("aws: {region: us-east-1}", "botocore", "aws"),
        ("google: {}", "google.auth", "google"),
        ("google: {}", "requests", "google"),
        ("azure: {}", "azure.identity", "azure"),
        ("oci: {}", "cryptography", "oci"),
    ],
)
def test_a_credential_whose_library_is_absent_names_the_extra_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, credential: str, missing: str, extra: str
) -> None:
    """Clouds' libraries are large; who needs none installs none."""
    text = SOUND.replace("dialect: openai", f"dialect: openai\n    credential: {{{credential}}}")
    load([write(tmp_path, text)])

    def find_spec(module: str) -> object:
        if module == missing and "." in module:
            raise ModuleNotFoundError(module)  # Its parent is absent too.
        return None if module == missing else object()

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    message = f"needs the extra `{extra}`; run: pip install 'llm-gateway[{extra}]'"
    assert mistakes(write(tmp_path, text)) == [f"{BACKEND}.credential.{credential.partition(':')[0]}: {message}"]


@pytest.mark.parametrize("name", sorted(name.decode() for name in OWN_HEADERS))
def test_a_credential_cannot_replace_a_header_of_ours(tmp_path: Path, name: str) -> None:
    """security.md H8."""
    credential = f"credential: {{header: {{name: {name}, value: env:PATH}}}}"
    text = SOUND.replace("dialect: openai", f"dialect: openai\n    {credential}")
    expected = f"{BACKEND}.credential.header.name: `{name}` is a header that the gateway writes itself, or never sends"
    assert mistakes(write(tmp_path, text)) == [expected]


def test_the_same_name_in_two_files_is_a_mistake_that_names_both(tmp_path: Path) -> None:
    """Files are merged by name; which of two should win is not guessed."""
    write(tmp_path, SOUND, "a.yaml")
    write(tmp_path, "version: 1\ntenants: {acme: {policy: standard}}", "b.yaml")
    with pytest.raises(ConfigurationError) as caught:
        load([tmp_path])
    assert [str(problem) for problem in caught.value.problems] == [
        f"{tmp_path / 'b.yaml'}: $.tenants.acme: stands in {tmp_path / 'a.yaml'} too"
    ]


def test_a_file_that_cannot_be_read_does_not_make_references_dangle(tmp_path: Path) -> None:
    """The backend may well stand in the broken file: one mistake, not a flood."""
    policies, tenants = SOUND.split("policies:")[1], "version: 1\npolicies:"
    good = write(tmp_path, tenants + policies, "good.yaml")
    broken = write(tmp_path, "version: 1\nbackends: [", "broken.yaml")
    with pytest.raises(ConfigurationError) as caught:
        load([good, broken])
    assert [problem.file for problem in caught.value.problems] == [str(broken)]


def test_paths_that_hold_nothing_are_mistakes(tmp_path: Path) -> None:
    """No path, a missing one, a folder without files, a file that is not fields."""
    (tmp_path / "empty").mkdir()
    text = write(tmp_path, "- 1", "list.yaml")
    with pytest.raises(ConfigurationError) as caught:
        load([tmp_path / "missing.yaml", tmp_path / "empty", text])
    assert sorted(problem.message for problem in caught.value.problems) == [
        "cannot be read (No such file or directory)",
        "expected fields (version, backends, policies, tenants, prices)",
        "holds no *.yaml file",
    ]
    assert mistakes() == [": no path was given; use --config or GATEWAY_CONFIG"]


@pytest.mark.parametrize(
    ("one", "other", "is_sound"),
    [
        ("{weights: w}", "{weights: w, accepts: [prefill]}", True),
        ("{weights: w, accepts: [prefill]}", "{weights: w}", True),
        ("{weights: w}", "{weights: w}", False),
        ("{weights: w}", "{weights: v, accepts: [prefill]}", False),
        ("{}", "{accepts: [prefill]}", False),
    ],
)
def test_an_answer_is_continued_only_where_somebody_could(
    tmp_path: Path, one: str, other: str, *, is_sound: bool
) -> None:
    """Two targets with the same weights, one of which takes a beginning."""
    text = SOUND.replace("{small: {context: 2048}}", f"{{small: {one}, same: {other}}}").replace(
        "        targets:\n          - {backend: worker, model: small}",
        "        on_midstream_failure: continue\n"
        "        targets:\n          - {backend: worker, model: small}\n          - {backend: worker, model: same}",
    )
    file = write(tmp_path, text)
    if is_sound:
        load([file])
    else:
        assert mistakes(file) == [f"{ROUTE}.on_midstream_failure: {NOBODY_CONTINUES}"]
