"""Places that serve models, and facts about what they serve. The structs are the configuration's own shape."""

import datetime as dt
import math
from decimal import Decimal
from typing import Annotated, Final, Literal, get_args

import msgspec

from gateway.domain.limits import Limits
from gateway.domain.names import ModelName
from gateway.domain.usage import NANO_PER_USD, PriceTable

Capability = Literal["tools", "json_schema", "vision", "audio", "logprobs", "seed", "stop", "embeddings"]
"""What a request may need beyond plain text; routing keeps only targets that accept it."""
Accepted = Literal["tools", "json_schema", "vision", "audio", "logprobs", "seed", "stop", "embeddings", "prefill"]
"""What a model may take. `prefill`: it goes on with a last message of the assistant's, as vLLM does for
`continue_final_message`."""

Dialect = Literal["openai", "anthropic", "bedrock", "gemini"]
"""A wire format that backends speak."""

PriceName = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,39}/[A-Za-z0-9._:/@-]{1,128}$")]
PathTemplate = Annotated[
    str,
    msgspec.Meta(pattern=r"^(/([A-Za-z0-9._~-]+|\{model\}))*\{path\}(\?[A-Za-z0-9._~=&-]{1,200})?$", max_length=400),
]
Price = Annotated[Decimal, msgspec.Meta(ge=0, le=1_000_000)]


IN_HOUSE: Final = "in-house"
"""The provider of what we run ourselves."""


class Domains(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A backend's failure domains: what it has in common with others when something breaks."""

    provider: str | None = None
    """Who runs or licenses the model, for example `openai`. Azure's OpenAI models have the provider `openai` too.
    `in-house` says that we do: the latency then tells how much it bears at once, and it is told of a request's caller
    how urgent it is and which prompts it may see cached."""
    cloud: str | None = None
    """Whose data centre, for example `aws`."""
    accelerator: str | None = None
    """The chip, for example `trainium` or `nvidia`."""
    region: str | None = None


class Prices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices in USD per million tokens."""

    input: Price
    output: Price
    cached_input: Price | None = None
    """Prompt tokens read from the backend's cache; the price of `input` when absent."""
    cache_write: Price | None = None
    """Prompt tokens written to the backend's cache; the price of `input` when absent."""
    reasoning: Price | None = None
    """Generated tokens of thought; the price of `output` when absent."""
    long_prompt: "LongPrompt | None" = None
    """What holds instead, for the whole request, when its prompt is long."""

    def table(self, label: str = "", *, until: float = math.inf, following: PriceTable | None = None) -> PriceTable:
        """The same prices as whole nano-dollars per million tokens, with a version that changes with any of them.

        `label` says where they stand, for people; `following` holds from `until` on.
        """
        parts = [self.input, self.cached_input, self.cache_write, self.output]
        amounts = [int((self.input if part is None else part) * NANO_PER_USD) for part in parts]
        if self.reasoning is not None and self.reasoning != self.output:
            amounts.append(int(self.reasoning * NANO_PER_USD))
        prices = "-".join(f"{amount:x}" for amount in amounts)
        beyond = self.long_prompt.prices.table() if self.long_prompt is not None else None
        over = self.long_prompt.over if self.long_prompt is not None else 0
        if beyond is not None:
            prices += f"~{over:x}~{beyond.version}"
        return PriceTable(
            input=amounts[0],
            cached_input=amounts[1],
            cache_write=amounts[2],
            output=amounts[3],
            reasoning=amounts[-1],
            version=f"{label}:{prices}" if label else prices,
            until=until,
            following=following,
            long_over=over,
            long=beyond,
        )


class LongPrompt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices that begin at a length of the prompt."""

    over: Annotated[int, msgspec.Meta(ge=1)]
    """Tokens of the prompt, with what is read from and written to the cache: a longer one has these prices."""
    prices: Prices


PriceList = dict[dt.date, Prices]
"""What a provider asks for one model: the prices from each day (UTC) on. Those of the first day hold before it too."""


def listed_prices(name: str, prices: PriceList, today: dt.date) -> PriceTable:
    """The prices that hold today, followed by those that the list knows to come. `prices` is not empty."""
    *earlier, last = sorted(prices)
    day, table = last, prices[last].table(f"{name}@{last}")
    while earlier and day > today:
        begins_at = dt.datetime.combine(day, dt.time(), dt.UTC).timestamp()
        day = earlier.pop()
        table = prices[day].table(f"{name}@{day}", until=begins_at, following=table)
    return table


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How much a model is to think before it answers."""
EFFORTS: Final[tuple[Effort, ...]] = get_args(Effort)
"""From least to most."""


class Quirks(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ways in which a server departs from its dialect. The defaults are the dialect's own."""

    max_tokens_field: Literal["keep", "max_tokens", "max_completion_tokens"] = "keep"
    """The name under which the server takes the output limit of a chat; `keep` sends the client's own."""
    reports_stream_usage: bool = True
    """Whether the server understands `stream_options: {include_usage: true}`."""
    takes_developer: bool = True
    """Whether the server knows messages of the role `developer`; where not, they are sent as `system`, which they were
    called before."""
    requires_finish_reason: bool = True
    """Whether a stream without a finish_reason is cut short. Some servers never send one, only `[DONE]`."""
    path: PathTemplate | None = None
    """Where below the base URL the model is asked, when that is not the endpoint's own path: `{path}` stands for that
    one (`/chat/completions`), `{model}` for the model's name. Azure's classic API, for example:
    `/deployments/{model}{path}?api-version=2024-10-21`."""
    serves_responses: bool = False
    """Whether the server has `/responses`, which then answers clients of that endpoint in its own words."""
    chat_by_responses: Literal["never", "tools_with_effort", "always"] = "never"
    """Which chats are asked at `/responses` because the model refuses them at `/chat/completions`. `tools_with_effort`:
    those with tools and a `reasoning_effort` other than `none`."""
    efforts: tuple[Effort, ...] = ()
    """The `reasoning_effort`s that the model takes. A translated request asks for the nearest of them; without any it
    asks for none, because a model that does not reason would refuse it."""
    takes_sampling: bool = True
    """Whether a model behind another dialect takes `temperature`, `top_p` and `top_k`. Where not (Claude from 4.7 on),
    they are left out and named in `x-gateway-dropped`."""
    thinks_by: Literal["nothing", "effort", "budget"] = "nothing"
    """How a model behind another dialect is told `reasoning_effort`: not at all, by a word, or in tokens."""
    anthropic_version: Literal["2023-06-01", "2026-10-21"] | None = None
    """What a backend of the Anthropic dialect is told as the API's version, whatever the client's is; some know one
    only. None tells the client's own, or 2023-06-01 where it has none."""
    raw_predict: bool = False
    """Whether a backend of the Anthropic dialect takes requests as Vertex AI does: the model's name in the path, the
    version in the body."""
    caches_prompts: bool = True
    """Whether a model behind Bedrock takes cache points. Where not, `cache_control` is left out and named in
    `x-gateway-dropped`."""
    signs_calls: bool = True
    """Whether a model behind the Gemini dialect wants the signature back with a call, as all do from Gemini 3 on. Where
    the client lost it, a word that Google takes instead is sent."""
    fetches_images: bool = True
    """Whether a backend of the Gemini dialect fetches an image that is told by its address."""
    extra_fields: Literal["none", "anthropic"] = "none"
    """Whose own words a model behind Bedrock takes besides Bedrock's. `anthropic`: it can be told `top_k`,
    `parallel_tool_calls: false` and a budget to think with."""


_TRANSLATED: Final[tuple[Dialect, ...]] = ("anthropic", "bedrock", "gemini")
QUIRKS_READ_BY: Final[dict[str, tuple[Dialect, ...]]] = {
    "efforts": ("openai", *_TRANSLATED),
    "takes_sampling": _TRANSLATED,
    "thinks_by": _TRANSLATED,
    "anthropic_version": ("anthropic",),
    "raw_predict": ("anthropic",),
    "caches_prompts": ("bedrock",),
    "extra_fields": ("bedrock",),
    "signs_calls": ("gemini",),
    "fetches_images": ("gemini",),
}
"""In which dialects a quirk means anything; those that are not named are OpenAI's."""


class ServedModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Facts about one model at one backend."""

    context: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Tokens that prompt and answer may have together; None when unknown, which excludes nothing."""
    max_output_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """What a request without a limit of its own asks for at most, in dialects that want one said; 4096 unless told."""
    prices: Prices | None = None
    """What holds for this backend alone, whatever the list says. Without these and those the model counts as free."""
    priced_as: PriceName | None = None
    """Where its prices stand in the list, the section `prices`: `openai/gpt-4.1-mini`."""
    accepts: tuple[Accepted, ...] = ("tools", "json_schema", "vision", "audio", "logprobs", "seed", "stop")
    """What the model takes beyond plain text. A model that makes embeddings says so: `[embeddings]`."""
    weights: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    """A name for its weights, the same wherever the same ones are served, in the same precision: only there may an
    answer that broke off be continued."""
    quirks: Quirks = Quirks()


class BearerCredential(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sent as `Authorization: Bearer …`."""

    bearer: str
    """A reference: `env:NAME` or `file:PATH`. Never the secret itself."""


class HeaderValue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A header that carries a secret."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,64}$")]
    value: str
    """A reference: `env:NAME` or `file:PATH`. Never the secret itself."""


class HeaderCredential(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Sent as a header of the backend's own choosing."""

    header: HeaderValue


class AwsAccess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How requests to AWS are signed."""

    region: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,40}$")]
    profile: Annotated[str, msgspec.Meta(min_length=1, max_length=128)] | None = None
    """A profile of AWS's own files; absent asks the whole chain: environment, web identity, container, instance."""
    service: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,40}$")] = "bedrock"
    """The service that signatures are made for: `bedrock` for bedrock-runtime, `bedrock-mantle` for its other door."""


class AwsCredential(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests are signed by AWS's Signature Version 4. A Bedrock API key is not this but a `bearer`."""

    aws: AwsAccess


GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class GoogleAccess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How Google's access tokens are got."""

    service_account: str | None = None
    """A reference to the JSON key of a service account, `file:PATH`; absent asks Application Default Credentials."""
    scopes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=16)] = (GOOGLE_SCOPE,)


class GoogleCredential(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An access token of Google's, sent as a bearer."""

    google: GoogleAccess


class AzureAccess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How Entra's access tokens are got. Tenant, client and secret are given together, or all left out."""

    tenant: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9.-]{1,128}$")] | None = None
    """The directory: its id or its domain."""
    client_id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,128}$")] | None = None
    """The application; alone, the user-assigned managed identity that is meant."""
    client_secret: str | None = None
    """A reference, `env:NAME` or `file:PATH`. Absent asks the environment, workload identity and managed identity."""
    scope: Annotated[str, msgspec.Meta(pattern=r"^(https|api)://[A-Za-z0-9._/-]{1,200}$")] = (
        "https://cognitiveservices.azure.com/.default"
    )
    """What the token is for: Foundry's own doors ask for `https://ai.azure.com/.default`."""


class AzureCredential(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An access token of Entra's, sent as a bearer. An API key of Azure's is not this but a `header`."""

    azure: AzureAccess


class OciAccess(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How requests to Oracle's cloud are signed: with the key that a profile of its own configuration file names."""

    profile: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_. -]{1,128}$")] = "DEFAULT"
    file: str | None = None
    """A reference to the configuration file, `file:PATH`; absent is ~/.oci/config."""
    compartment: Annotated[str, msgspec.Meta(pattern=r"^ocid1\.[A-Za-z0-9._-]{1,240}$")] | None = None
    """Who pays there; sent as `opc-compartment-id`."""


class OciCredential(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Requests are signed by Oracle's scheme. A Generative AI API key is not this but a `bearer`."""

    oci: OciAccess


Credential = BearerCredential | HeaderCredential | AwsCredential | GoogleCredential | AzureCredential | OciCredential


class Backend(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A place that serves models."""

    dialect: Dialect
    """The wire format it speaks."""
    base_url: str
    """`http(s)://host[:port]/path`, up to and including the version: `http://127.0.0.1:8090/v1`."""
    models: dict[ModelName, ServedModel]
    """The backend's own model names."""
    credential: Credential | None = None
    allow_private: bool = False
    """Whether the address may be private or loopback. Only the operator's word opens these."""
    limits: Limits | None = None
    """What it grants us, all our tenants together. Taken for each try; beyond it the next target is asked. A burst is
    10 seconds' worth unless told."""
    domains: Domains = Domains()
