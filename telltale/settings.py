"""Configuration: environment variables with the prefix TELLTALE_, frozen and checked by name."""

import os
import sys
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from telltale.errors import ConfigurationError, InvalidInput
from telltale.naming import patterns

_S = TypeVar("_S", bound="Settings")


def _parse_patterns(text: object) -> object:
    if not isinstance(text, str):
        return text
    try:
        return patterns(text)
    except InvalidInput as wrong:
        raise ValueError(str(wrong)) from None


# Names or patterns of products, such as `servers.cpu,servers.disk_*`.
Patterns = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_patterns)]


class Settings(BaseSettings):
    """Base of every process's settings. Each field is the variable TELLTALE_<FIELD>."""

    model_config = SettingsConfigDict(env_prefix="TELLTALE_", frozen=True, extra="ignore")

    @classmethod
    def read(cls: type[_S]) -> _S:
        """Reads the environment; raises ConfigurationError naming every variable that is missing or wrong."""
        try:
            return cls()
        except ValidationError as refused:
            problems = [
                f"TELLTALE_{'__'.join(str(part) for part in error['loc']).upper()}: {error['msg'].lower()}"
                for error in refused.errors()
            ]
            raise ConfigurationError("; ".join(problems)) from None


class IdentitySettings(Settings):
    """Who a process is and whom it believes."""

    mesh: str = Field("telltale.internal", description="Name of the mesh; trust domains lie below it.")
    state: Path = Field(description="Directory of this process: its key, certificate, spool or log.")
    trust: Path = Field(
        description="Directory with root.pem, and <trust domain>.jwks.json and .bundle.pem of each; followed."
    )
    authority: str = Field(description="host:port of the authority of this process's trust domain.")
    enrollment: str | None = Field(
        None, description="host:port of that authority's enrolment port; needed to join."
    )
    join_token_file: Path | None = Field(
        None, description="File with the join token for the first start; deleted after use."
    )
    certificate_file: Path | None = Field(
        None, description="Certificate of another PKI, leaf first, in PEM: instead of joining; followed."
    )
    key_file: Path | None = Field(None, description="Private key of that certificate, P-256, in PEM.")


def describe(settings: type[Settings]) -> str:
    """The variables of a process as text, one a line: name, default, meaning."""
    lines = []
    for name, field in settings.model_fields.items():
        lines.append(f"TELLTALE_{name.upper()}  ({default_of(field)})  {field.description or ''}")
    return "\n".join(lines)


def default_of(field: FieldInfo) -> str:
    """The default of a setting, as somebody would write it into the variable."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None or value in ((), [], {}):
        return "not set"
    return f"default {','.join(map(str, value)) if isinstance(value, list | tuple) else value}"


def read_or_exit(settings: type[_S], purpose: str) -> _S:
    """The settings of a process's main module; prints help or one line on what is wrong, and ends."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(f"{purpose}\n\nConfigured by environment variables:\n{describe(settings)}")
        raise SystemExit(0)
    try:
        return settings.read()
    except ConfigurationError as wrong:
        program = os.path.basename(os.path.dirname(sys.argv[0])) or "telltale"
        print(f"{program}: {wrong}", file=sys.stderr)
        raise SystemExit(2) from None
