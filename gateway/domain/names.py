"""What the things of a configuration may be called."""

from typing import Annotated

import msgspec

Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
"""Of a backend, a policy or a tenant. Without colons and braces: names stand in the keys of limits."""
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
"""What a tenant's metadata says under a name."""
ModelName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:/@-]{1,128}$")]
