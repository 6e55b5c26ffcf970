"""``shadowset providers``: what makes the shadow copies."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from shadowset.requester.cli.options import Commands, add_command, add_json

if TYPE_CHECKING:
    from shadowset.vss.requester_protocol import ProviderInfo


def register(commands: Commands) -> None:
    """Add the commands of this module."""
    providers = add_command(
        commands,
        "providers",
        run_providers,
        "list the providers, which make the shadow copies",
        "List the registered providers: id, type, version, what each can do, and how many shadow copies it has.\n"
        "Providers of installed packages are registered by themselves, unless they were left out.",
        "shadowset providers\nshadowset providers --unregister 3c9f…\nshadowset providers --register btrfs",
    )
    change = providers.add_mutually_exclusive_group()
    change.add_argument("--register", metavar="NAME", help="take in the provider that an installed package offers")
    change.add_argument("--unregister", metavar="ID", help="leave a provider without shadow copies out")
    add_json(providers)


def run_providers(options: argparse.Namespace) -> int:
    """List the providers, after the change that is asked for."""
    from shadowset.requester.administration import Administration
    from shadowset.requester.cli.output import answer

    with Administration(client="shadowset providers") as administration:
        if options.register:
            administration.register_provider(options.register)
        if options.unregister:
            administration.unregister_provider(options.unregister)
        providers = administration.list_providers()
    answer(options.json, providers, "\n\n".join(map(provider_text, providers)))
    return 0


def provider_text(provider: ProviderInfo) -> str:
    """One provider with all fields."""
    from shadowset.requester.sentences import fields
    from shadowset.vss.enums import ProviderCapability

    return fields(
        [
            ("Provider name", provider.name),
            ("Provider ID", provider.provider_id),
            ("Provider type", provider.type.name.lower()),
            ("Version", provider.version),
            ("Version ID", provider.version_id),
            ("Class ID", provider.class_id),
            (
                "Capabilities",
                ", ".join(
                    each.name.lower() for each in ProviderCapability if each.name and provider.capabilities & each
                ),
            ),
            ("Not offered", ", ".join(provider.lacks) or "-"),
            ("Shadow copies", str(provider.copies)),
        ]
    )
