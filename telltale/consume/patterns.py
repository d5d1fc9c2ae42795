"""The type of a setting that says which products a consumer reads."""

from typing import Annotated

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from telltale.errors import InvalidInput
from telltale.naming import patterns


def _parse(text: object) -> object:
    if not isinstance(text, str):
        return text
    try:
        return patterns(text)
    except InvalidInput as wrong:
        raise ValueError(str(wrong)) from None


# Names or patterns of products; separated by commas in the environment.
Patterns = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse)]
