"""Masks secrets in process arguments and other text before anything is sealed.

A secret is known by the name before it (`--password x`, `TOKEN=x`), by the tool that takes it (`mysql -px`),
or by its own shape (`ghp_...`). In doubt more is masked: that costs a little evidence, a leak costs a key.
"""

import re
from collections.abc import Callable

from agent.masking.flags import NO_TOOL, TOOLS
from agent.masking.names import is_secret_name, mask_pairs
from agent.masking.shapes import MASK, mask_shapes

_SPACE = re.compile(r"\s")
_PIECES = re.compile(r"\s+|\S+")
_QUOTES = "\"'"
_LONG_FLAG = re.compile(r"--[A-Za-z][\w-]*+(?:=|$)")
_FLAG = re.compile(r"--?[A-Za-z][\w.-]*+")
_ASSIGNMENT = re.compile(r"([\w.:/-]{1,128}+)=")
# What follows is a whole command, for a shell.
_COMMAND_FLAG = re.compile(r"-[a-z]{0,4}c")
_AFTER_NAME = re.compile(r"[:,%]")


def mask_arguments(arguments: list[str]) -> list[str]:
    """The arguments of a program, the program first, with `***` in place of every recognised secret."""
    return _mask_words(arguments, mask_text)


def mask_text(text: str) -> str:
    """A text, such as a URL, a header or a shell command, with `***` in place of every recognised secret."""
    text = mask_shapes(mask_pairs(text))
    if not _SPACE.search(text):
        return text
    # It may be a command: its words get the same treatment as arguments, whatever quotes stand around them.
    pieces = _PIECES.findall(text)
    places = [place for place, piece in enumerate(pieces) if not piece.isspace()]
    words = [pieces[place].strip(_QUOTES) for place in places]
    open_quote = ""
    for place, word, masked in zip(places, words, _mask_words(words, str), strict=True):
        piece = pieces[place]
        if open_quote:
            # The secret began in a quoted word before this one and goes on to the closing quote.
            pieces[place] = MASK
            open_quote = "" if open_quote in piece else open_quote
        elif masked != word:
            pieces[place] = piece.replace(word, masked, 1)
            open_quote = _left_open(piece)
    return "".join(pieces)


def _left_open(piece: str) -> str:
    """The quote that a word opens and leaves open; empty when there is none."""
    if piece.endswith(tuple(_QUOTES)):
        return ""
    return next((quote for quote in _QUOTES if piece.count(quote) % 2), "")


def _mask_words(words: list[str], mask_rest: Callable[[str], str]) -> list[str]:
    """Masks by flag, by assignment and by tool; what none of them knows goes to `mask_rest`."""
    masked = []
    tool = NO_TOOL
    # How to mask the word after this one, when this one announces a secret.
    announced: Callable[[str], str] | None = None
    is_command = False
    for word in words:
        mask_next, announced = announced, None
        if mask_next is not None and not _LONG_FLAG.match(word):
            masked.append(mask_next(word))
            continue
        tool = TOOLS.get(word.rpartition("/")[2], tool)
        assignment = None if is_command else _ASSIGNMENT.match(word)
        is_command = _COMMAND_FLAG.fullmatch(word) is not None
        if flag := tool.attached_flag(word):
            mask_value = _mask_after_name if flag in tool.userinfo else _mask_all
            masked.append(flag + mask_value(word[len(flag) :]))
        elif assignment is not None and is_secret_name(assignment.group(1)):
            masked.append(assignment.group() + _mask_all(word[assignment.end() :]))
        elif assignment is not None and assignment.group(1) in tool.userinfo:
            masked.append(assignment.group() + _mask_after_name(word[assignment.end() :]))
        elif word in tool.userinfo:
            announced = _mask_after_name
            masked.append(word)
        elif word in tool.separate or (_FLAG.fullmatch(word) and is_secret_name(word)):
            announced = _mask_all
            masked.append(word)
        else:
            masked.append(mask_rest(word))
    return masked


def _mask_all(value: str) -> str:
    return MASK if value.strip(_QUOTES) not in ("", MASK) else value


def _mask_after_name(value: str) -> str:
    """`name:secret`, with one of the separators that tools use; a name alone is no secret."""
    separator = _AFTER_NAME.search(value)
    return value[: separator.end()] + MASK if separator else value
