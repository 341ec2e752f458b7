"""What the user named -> SourceFiles: decides which source is asked, in which order, and with which notices.

A path on this machine comes first, then the Hub, then the Hub's local cache, then the bundled catalogue. A source that
stands in for another one says so in a notice. An explicit revision is never answered by the catalogue, which has none.
An adapter is followed to its base model, once: an adapter on an adapter is refused. Where it names none, itself, or one
that cannot be had, the model that its own repository holds is the base, if there is one.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inspector.errors import ModelUnavailableError, UnsupportedModelError, UsageError, one_line, quoted
from inspector.records.checkpoint import StoredCheckpoint
from inspector.records.notice import Notice
from inspector.records.source import ServedFrom, SourceFiles
from inspector.runtime.confinement import takes_local_paths
from inspector.source import catalogue, hub, hub_client, listing, local
from inspector.source.hub_client import Cause, HubError
from inspector.source.recognize.address import looks_like_address, read_address
from inspector.source.recognize.nearest import list_near_ids

__all__ = ["explain_failure", "locate", "locate_adapter"]

_BESIDE = "the model that its own repository holds is taken for it"
_LOG_IN = "set HF_TOKEN or run 'hf auth login'"

Progress = Callable[[str], None]


def locate(
    name: str, *, revision: str | None = None, offline: bool = False, progress: Progress = lambda _stage: None
) -> SourceFiles:
    """Return the files of the model or adapter that `name` stands for: a path, a directory or a Hub id.

    `revision` is a branch, tag or commit on the Hub. With `offline`, or HF_HUB_OFFLINE, no request is made. `progress`
    is called with what takes time. Raises ModelUnavailableError where no source has the model, UnsupportedModelError
    where its files are malformed.
    """
    found = _find_files(name, revision, offline, progress)
    if not found.adapter_alone:
        return found
    base = _find_base(found, offline, progress, lambda: _find_beside(found, revision, offline, progress))
    return dataclasses.replace(
        base,
        adapter_config=found.adapter_config,
        adapter_id=found.adapter_id,
        notices=(*found.notices, *base.notices),
    )


def locate_adapter(
    name: str, *, offline: bool = False, progress: Progress = lambda _stage: None
) -> Mapping[str, Any] | None:
    """Return the adapter_config.json of the adapter that `name` stands for, None where that is a model.

    Raises what `locate` does; the base of the adapter is not looked for.
    """
    return _find_files(name, None, offline, progress).adapter_config


def _find_files(name: str, revision: str | None, offline: bool, progress: Progress) -> SourceFiles:
    """Return the files by that name; of an adapter, those of the adapter alone."""
    if not name.strip():
        raise ModelUnavailableError("No model was named; name a Hub id, a directory or a config.json.")
    files = local.find_files(name)
    if files is not None:
        files = local.add_checkpoint(files, progress)
        if revision is None:
            return files
        return _add_notice(files, "revision-ignored", _explain_ignored_revision(name, revision))
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+/", name):  # an id with a slash behind it; there is no such folder
        name = name.rstrip("/")
    if local.is_path_like(name) and not looks_like_address(name):
        raise ModelUnavailableError(
            f"The path {quoted(name)} is not here; name a directory, a config.json or a Hub id (org/name)."
        )
    hub_client.load_client(talks=not offline)
    address = read_address(name, hub_client.get_endpoint())
    if address is not None:
        name, revision = address.id, _choose_revision(name, address.revision, revision)
    if not hub_client.is_valid_id(name):
        raise ModelUnavailableError(_explain_invalid_id(name))
    return _add_catalogue_facts(_find_on_hub(name, revision or None, offline, progress))


def _choose_revision(name: str, written: str | None, asked: str | None) -> str | None:
    """Return the revision of an address, or the one that was asked for beside it."""
    if written is not None and asked is not None and written != asked:
        raise UsageError(
            f"{quoted(name)} names the revision {quoted(written, 60)}, and `revision` {quoted(asked, 60)} another: "
            "drop one."
        )
    return asked if written is None else written


def _find_base(
    adapter: SourceFiles, offline: bool, progress: Progress, find_beside: Callable[[], SourceFiles | None]
) -> SourceFiles:
    """Return the files of the base model that an adapter names, or of the one beside it where that one is not there."""
    fields = adapter.adapter_config or {}
    where = f"{local.ADAPTER_FILE} of {quoted(adapter.adapter_id)}"
    name, revision = fields.get("base_model_name_or_path"), fields.get("revision")
    if not isinstance(name, str) or not name.strip():
        beside = find_beside()
        if beside is not None:
            return _add_notice(beside, "base-beside-adapter", f"{where} names no base model; {_BESIDE}.")
        raise UnsupportedModelError(
            f"{where} names no base model: write its id or path into base_model_name_or_path, or name it here: "
            f"{_spell_way_out(adapter)}."
        )
    if name == adapter.adapter_id:
        beside = find_beside()
        if beside is not None:
            return beside
    if revision is not None and not isinstance(revision, str):
        raise UnsupportedModelError(f"{where}: revision must be a string, not {quoted(revision, 60)}; correct it.")
    try:
        base = _find_files(name, revision or None, offline, progress)
    except ModelUnavailableError as error:
        beside = find_beside()
        if beside is not None:
            return _add_notice(beside, "base-beside-adapter", f"The base model that {where} names: {error} {_BESIDE}.")
        raise ModelUnavailableError(
            f"The base model that {where} names: {error} To name another base: {_spell_way_out(adapter)}."
        ) from error
    if base.adapter_config is not None:
        raise UnsupportedModelError(
            f"The base model {quoted(name)} that {where} names is itself an adapter; merge it into its own base."
        )
    return base


def _find_beside(adapter: SourceFiles, revision: str | None, offline: bool, progress: Progress) -> SourceFiles | None:
    """Return the files of the model in an adapter's own repository, or None where it holds none."""
    if adapter.served_from is ServedFrom.LOCAL:  # a directory that holds one is a model
        return None
    try:
        return _find_on_hub(adapter.id, revision or None, offline, progress, (local.CONFIG_FILE,))
    except ModelUnavailableError:
        return None


def _find_on_hub(
    name: str, revision: str | None, offline: bool, progress: Progress, wanted: Sequence[str] = hub.EITHER_FILE
) -> SourceFiles:
    if offline or hub_client.is_offline():
        found = _find_without_hub(name, revision, wanted)
        if found is None:
            raise ModelUnavailableError(
                f"Offline, and {_explain_no_stand_in(name, revision)}; drop `offline` or unset HF_HUB_OFFLINE to ask "
                "the Hub."
            )
        return found
    if hub_client.is_commit(revision):
        found = hub.read_cache(name, revision, wanted)
        if found is not None and (found.checkpoint is not None or found.adapter_config is not None):
            return found
    try:
        return hub.ask_hub(name, revision, progress, wanted)
    except HubError as failure:
        found = _find_without_hub(name, revision, wanted) if failure.cause is not Cause.REVISION else None
        if found is None:
            raise ModelUnavailableError(explain_failure(name, revision, failure)) from failure
        if failure.stored is not None and (found.checkpoint is None or found.checkpoint.tensors is None):
            found = dataclasses.replace(found, checkpoint=failure.stored)
        return _add_notice(found, failure.cause.value, _describe_stand_in(name, revision, found, failure))


def _find_without_hub(name: str, revision: str | None, wanted: Sequence[str]) -> SourceFiles | None:
    """Return what the cache or, when no revision was asked for, the catalogue has."""
    found = hub.read_cache(name, revision, wanted)
    if found is None:
        return catalogue.load_model(name) if revision is None else None
    if found.checkpoint is None and found.adapter_config is None:  # the cache has the configuration alone
        return dataclasses.replace(found, checkpoint=StoredCheckpoint())
    return found


def _add_catalogue_facts(files: SourceFiles) -> SourceFiles:
    """Add what the catalogue knows about the same model, when the published count or the configuration is equal."""
    known = catalogue.load_model(files.id) if files.adapter_config is None else None
    if known is None or known.published is None:
        return files
    if files.published is None and files.config == known.config:
        files = dataclasses.replace(files, published=known.published)
    elif files.published is not None and files.published.parameters == known.published.parameters:
        published = dataclasses.replace(files.published, explanation=known.published.explanation)
        files = dataclasses.replace(files, published=published)
    else:
        return files
    return dataclasses.replace(files, checkpoint_dtype=files.checkpoint_dtype or known.checkpoint_dtype)


# --- messages ---------------------------------------------------------------------------------------------------------


def _add_notice(files: SourceFiles, code: str, message: str) -> SourceFiles:
    return dataclasses.replace(files, notices=(*files.notices, Notice(code=code, message=message)))


def _spell_way_out(adapter: SourceFiles) -> str:
    """Return the command that puts an adapter on a base that the user names."""
    if adapter.served_from is ServedFrom.LOCAL:
        return f'inspect BASE `peft="{one_line(adapter.adapter_id)}"`'
    return f'inspect BASE `peft="FILE"`, where FILE is {local.ADAPTER_FILE} downloaded from there'


def _explain_ignored_revision(name: str, revision: str) -> str:
    return f"{quoted(name)} is a path on this machine and has no revisions; {quoted(revision)} was ignored."


def _explain_invalid_id(name: str) -> str:
    other = re.match(r"(?:https?://[^/]+/)?(dataset|space)s/[\w.-]+/[\w.-]+", name)
    if other:
        return f"{quoted(name)} is a {other[1]}, not a model; name a model by its Hub id: 'org/name'."
    url = re.match(r"https?://[^/]+/([\w.-]+/[\w.-]+)", name)
    if url:
        unknown = f"{quoted(name)} is an address of no Hub that is known here"
        return f"{unknown}; name the model by its Hub id: {quoted(url.group(1))}."
    return (
        f"{quoted(name)} is neither a path on this machine nor a Hub id; "
        "name one: 'org/name', of letters, digits, '-', '_' and '.'."
    )


def _explain_no_stand_in(name: str, revision: str | None) -> str:
    if revision is None:
        near = list_near_ids(name, catalogue.list_ids())
        meant = f" (which has {quoted(near[0])})" if near else ""
        return f"{quoted(name)} is neither in the Hugging Face cache nor in the bundled catalogue{meant}"
    return (
        f"revision {quoted(revision)} of {quoted(name)} is not in the Hugging Face cache "
        "(the bundled catalogue has no revisions)"
    )


def _describe_cause(name: str, revision: str | None, failure: HubError) -> str:
    address = hub_client.describe_endpoint()
    return {
        Cause.NETWORK: f"No network or no usable answer ({failure.detail})",
        Cause.REFUSED: f"The Hub refused {quoted(name)} ({failure.detail}); check the token: {_LOG_IN}",
        Cause.GATED: f"{quoted(name)} is gated: accept its terms at {address}/{name}, then {_LOG_IN}",
        Cause.NOT_FOUND: f"{address} has no public model {quoted(name)}",
        Cause.REVISION: f"{quoted(name)} has no revision {quoted(revision)}",
    }[failure.cause]


def _describe_stand_in(name: str, revision: str | None, found: SourceFiles, failure: HubError) -> str:
    place = "the Hugging Face cache" if found.served_from is ServedFrom.CACHE else "the bundled catalogue"
    return f"{_describe_cause(name, revision, failure)}; meanwhile, the configuration is that of {place}."


def explain_failure(name: str, revision: str | None, failure: HubError) -> str:
    """Say why the Hub has not delivered a model, and what to do."""
    cause = _describe_cause(name, revision, failure)
    if failure.cause is Cause.REVISION:
        near = " or ".join(quoted(known, 60) for known in listing.list_near_revisions(name, str(revision)))
        return f"{cause}{f' (it has {near})' if near else ''}; name a branch, a tag or a commit that it has."
    if failure.cause is Cause.GATED:
        return f"{cause}."
    if failure.cause is Cause.NOT_FOUND:
        other = listing.find_other_kind(name)
        if other is not None:
            return f"{quoted(name)} is a {other} on the Hub, not a model; name the model that you mean."
        near = " or ".join(quoted(known) for known in list_near_ids(name, catalogue.list_ids()))
        meant = f" Did you mean {near}?" if near else ""
        return f"{cause}.{meant} A private repository needs a token: {_LOG_IN}."
    otherwise = " or name a local directory or config.json" if takes_local_paths() else ""
    return f"{cause}, and {_explain_no_stand_in(name, revision)}; try again{otherwise}."
