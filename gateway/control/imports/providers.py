"""Providers by the names that other gateways give them, and where each is asked. A table and pure functions.

Providers with a dialect of their own are asked in it; all others speak OpenAI's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from gateway.config.yaml_file import Tree
from gateway.domain.address import parse_base_url
from gateway.domain.backend import Dialect


@dataclass(frozen=True, slots=True)
class Provider:
    """Where a provider is asked unless a file says so itself."""

    base_url: str | None
    """None: only the file can know."""
    key: str | None
    """The environment variable that its own SDK reads; None asks for no key."""
    header: str | None = None
    """The header that takes the key, when it is not a bearer."""
    maker: str | None = None
    """Who runs or licenses the models, when that is one and known."""
    dialect: Dialect = "openai"


PROVIDERS: Final[Mapping[str, Provider]] = {
    "openai": Provider("https://api.openai.com/v1", "OPENAI_API_KEY", maker="openai"),
    "azure": Provider(None, "AZURE_API_KEY", header="api-key", maker="openai"),
    "anthropic": Provider(
        "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", "x-api-key", maker="anthropic", dialect="anthropic"
    ),
    "bedrock": Provider(None, None, dialect="bedrock"),
    "gemini": Provider(
        "https://generativelanguage.googleapis.com/v1beta", "GEMINI_API_KEY", "x-goog-api-key", "google", "gemini"
    ),
    "gemini_openai": Provider(
        "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", maker="google"
    ),
    "vertex": Provider(None, None, maker="google", dialect="gemini"),
    "nvidia_nim": Provider("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY", maker="nvidia"),
    "groq": Provider("https://api.groq.com/openai/v1", "GROQ_API_KEY", maker="groq"),
    "mistral": Provider("https://api.mistral.ai/v1", "MISTRAL_API_KEY", maker="mistral"),
    "deepseek": Provider("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", maker="deepseek"),
    "openrouter": Provider("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", maker="openrouter"),
    "together_ai": Provider("https://api.together.xyz/v1", "TOGETHERAI_API_KEY", maker="together"),
    "fireworks_ai": Provider("https://api.fireworks.ai/inference/v1", "FIREWORKS_AI_API_KEY", maker="fireworks"),
    "perplexity": Provider("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY", maker="perplexity"),
    "xai": Provider("https://api.x.ai/v1", "XAI_API_KEY", maker="xai"),
    "cerebras": Provider("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY", maker="cerebras"),
    "sambanova": Provider("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY", maker="sambanova"),
    "deepinfra": Provider("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY", maker="deepinfra"),
    "cohere": Provider("https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY", maker="cohere"),
    "moonshot": Provider("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY", maker="moonshot"),
    "zai": Provider("https://api.z.ai/api/paas/v4", "ZAI_API_KEY", maker="zhipu"),
    "dashscope": Provider(
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY", maker="alibaba"
    ),
    "huggingface": Provider("https://router.huggingface.co/v1", "HF_TOKEN", maker="huggingface"),
    "ollama": Provider("http://localhost:11434/v1", None),
    "server": Provider(None, None),
}

ALIASES: Final[Mapping[str, str]] = {
    # LiteLLM's prefixes
    "azure_text": "azure", "text-completion-openai": "openai", "custom_openai": "server", "openai_like": "server",
    "hosted_vllm": "server", "vllm": "server", "lm_studio": "server", "llamafile": "server", "xinference": "server",
    "litellm_proxy": "server", "ollama_chat": "ollama", "bedrock_converse": "bedrock", "vertex_ai": "vertex",
    "vertex_ai_beta": "vertex", "cohere_chat": "cohere", "google_ai_studio": "gemini",
    # Portkey's names
    "azure-openai": "azure", "google": "gemini", "vertex-ai": "vertex", "mistral-ai": "mistral", "x-ai": "xai",
    "together-ai": "together_ai", "fireworks-ai": "fireworks_ai", "perplexity-ai": "perplexity", "nvidia": "nvidia_nim",
    "aws-bedrock": "bedrock", "open-ai": "openai",
}  # fmt: skip

GUESSES: Final = (
    (re.compile(r"gpt-|o[0-9](-|$)|chatgpt|text-embedding-"), "openai"),
    (re.compile(r"claude"), "anthropic"),
    (re.compile(r"gemini"), "gemini"),
    (re.compile(r"mistral|codestral"), "mistral"),
    (re.compile(r"command"), "cohere"),
)
"""Who serves a model that stands there without a provider."""


def provider_named(name: str) -> str | None:
    """Our name of a provider; None for one that is not known here."""
    canonical = ALIASES.get(name, name)
    return canonical if canonical in PROVIDERS else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a file says of one deployment, in words common to all of them."""

    provider: str
    """One of `PROVIDERS`."""
    model: str
    base_url: str | None = None
    credential: Tree = None
    """As our configuration writes it; None when the file names no key."""
    api_version: str | None = None
    region: str | None = None
    project: str | None = None
    profile: str | None = None
    embeds: bool = False
    """Whether it makes embeddings."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is asked, in our words."""

    backend: dict[str, Tree]
    """A backend's fields, without its models."""
    model: str
    quirks: dict[str, Tree] = field(default_factory=dict)


class NoPlace(Exception):
    """Raised when a deployment cannot be expressed; the message is the end of a sentence about it."""


def place(wish: Wish) -> Place:
    """Where the deployment is asked. Raises NoPlace."""
    provider = PROVIDERS[wish.provider]
    if wish.embeds and provider.dialect != "openai":
        raise NoPlace("is not carried: embeddings are asked for in OpenAI's dialect alone")
    match wish.provider:
        case "azure":
            return _azure(wish, provider)
        case "bedrock":
            return _bedrock(wish, provider)
        case "vertex":
            return _vertex(wish, provider)
        case _:
            url = wish.base_url or provider.base_url
            if url is None:
                raise NoPlace("is not carried: nothing says at which address it is served")
            if wish.provider in {"ollama", "anthropic"} and not urlsplit(url).path.strip("/"):
                url = url.rstrip("/") + "/v1"  # There, the version is not part of the address.
            return Place(_backend(url, wish, provider), wish.model)


def _azure(wish: Wish, provider: Provider) -> Place:
    """The deployment stands in the path where the API has a date, and in the body in the v1 API."""
    if wish.base_url is None:
        raise NoPlace("is not carried: nothing names the Azure resource")
    url = wish.base_url.rstrip("/")
    version = wish.api_version
    if url.endswith("/openai/v1") or version in {"v1", "preview", "latest"}:
        url = url if url.endswith("/openai/v1") else f"{url.removesuffix('/openai')}/openai/v1"
        return Place(_backend(url, wish, provider), wish.model)
    path = f"/deployments/{{model}}{{path}}?api-version={version or '2024-10-21'}"
    return Place(_backend(f"{url.removesuffix('/openai')}/openai", wish, provider), wish.model, {"path": path})


def _bedrock(wish: Wish, provider: Provider) -> Place:
    if wish.region is None:
        raise NoPlace("is not carried: nothing names its AWS region")
    url = wish.base_url or f"https://bedrock-runtime.{wish.region}.amazonaws.com"
    access: dict[str, Tree] = {"region": wish.region}
    if wish.profile:
        access["profile"] = wish.profile
    backend = _backend(url, wish, provider)
    backend["credential"] = wish.credential or {"aws": access}
    backend["domains"] = {"provider": "aws", "cloud": "aws", "region": wish.region}
    return Place(backend, wish.model.removeprefix("converse/").removeprefix("invoke/"))


def _vertex(wish: Wish, provider: Provider) -> Place:
    """Each publisher has a door of its own, which speaks the publisher's dialect."""
    if wish.project is None:
        raise NoPlace("is not carried: nothing names its Google project")
    location = wish.region or "global"
    host = "aiplatform.googleapis.com" if location == "global" else f"{location}-aiplatform.googleapis.com"
    publishers = f"https://{host}/v1/projects/{wish.project}/locations/{location}/publishers"
    is_claude = wish.model.startswith("claude")
    backend = _backend(f"{publishers}/{'anthropic/models' if is_claude else 'google'}", wish, provider)
    backend["credential"] = wish.credential or {"google": {}}
    if is_claude:
        backend |= {"dialect": "anthropic", "domains": {"provider": "anthropic"}}
    return Place(backend, wish.model, {"raw_predict": True} if is_claude else {})


def _backend(url: str, wish: Wish, provider: Provider) -> dict[str, Tree]:
    backend: dict[str, Tree] = {"dialect": provider.dialect, "base_url": url}
    if is_private(url):
        backend["allow_private"] = True
    if wish.credential is not None:
        backend["credential"] = wish.credential
    if provider.maker is not None and (wish.base_url is None or provider.base_url is None):
        backend["domains"] = {"provider": provider.maker}
    return backend


def is_private(url: str) -> bool:
    """Whether only the operator's word opens this address. Raises NoPlace for a URL that no word opens."""
    try:
        parse_base_url(url, allow_private=False)
    except ValueError:
        try:
            parse_base_url(url, allow_private=True)
        except ValueError as error:
            raise NoPlace(f"is not carried: its address {error}") from None
        return True
    return False
