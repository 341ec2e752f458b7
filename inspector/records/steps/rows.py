"""How documents share the rows of a batch: what `packing` says, checked."""

from __future__ import annotations

import re

from inspector.checks import check_count, describe_value
from inspector.errors import UsageError

__all__ = ["lay_out_documents"]

_AS_TEXT = re.compile(r"\s*([0-9]{1,9})\s*(?:[xX×*]\s*([0-9]{1,9}))?\s*")
# The sequence length of a recipe that names none.
_DEFAULT_LENGTH = 1024


def lay_out_documents(packing: object, seq_len: int | None, padding: bool | None) -> dict[str, object]:
    """Return `packing` as the documents of a sequence, and `seq_len` where it says how long they are.

    Raises UsageError where it is neither a count nor COUNTxLENGTH, or contradicts the other two.
    """
    laid: dict[str, object] = {"seq_len": seq_len}
    if isinstance(packing, str):
        match = _AS_TEXT.fullmatch(packing)
        if match is None:
            raise UsageError(
                f"`packing` is {describe_value(packing)}; give COUNTxLENGTH, as 4x1024 for 4 documents of 1,024 tokens."
            )
        count = check_count("packing", int(match[1]))
        if match[2] is not None:
            tokens = check_count("packing", count * check_count("packing", int(match[2])))
            if seq_len not in (tokens, _DEFAULT_LENGTH):
                raise UsageError(
                    f"`packing` {count}x{match[2]} is a sequence of {tokens} tokens, and `seq_len` is {seq_len}: drop "
                    "one."
                )
            laid["seq_len"] = tokens
    else:
        count = check_count("packing", packing)
    if padding:
        raise UsageError("`packing` concatenates documents without padding: drop `padding`, or `packing`.")
    length = laid["seq_len"]
    if isinstance(length, int) and count > length:
        raise UsageError(
            f"`packing` {count:,}: a sequence of {length:,} tokens has no room for as many documents; give fewer, or a "
            "larger `seq_len`."
        )
    return {"packing": count, **laid}
