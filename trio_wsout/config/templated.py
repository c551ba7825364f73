"""The texts of a configuration that are expanded at every attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_wsout.config.templates import Template
from trio_wsout.config.unknown import known

if TYPE_CHECKING:
    from trio_wsout.config.sections import Config
    from trio_wsout.config.templates import Placeholder

__all__ = ["attempt_placeholders"]


def attempt_placeholders(config: Config) -> list[Placeholder]:
    """Every ``${…}`` of the url, headers, query and credentials, and of the key's password."""
    auth = config.auth
    secrets = [*auth.headers.values(), *auth.query.values()]
    texts = [config.url or "", *config.headers.values(), *config.query.values()]
    if auth.bearer_token is not None:
        secrets.append(auth.bearer_token)
    if config.tls.client_key_password is not None:
        secrets.append(config.tls.client_key_password)
    if auth.basic is not None:
        texts.append(auth.basic.username)
        secrets.append(auth.basic.password)
    texts += [secret.reveal() for secret in secrets]
    return [each for text in texts for each in Template.parse(known(text)).placeholders]
